"""SavedModels for inference and for training."""
