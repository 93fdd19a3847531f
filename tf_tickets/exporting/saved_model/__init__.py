"""Writes SavedModels for inference and training."""
