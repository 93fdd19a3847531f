"""Prunes a trained model while it is fine-tuned, and measures what came of it."""
