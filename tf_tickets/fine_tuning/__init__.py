"""Prunes a trained model while it is fine-tuned, and measures it before and after."""
