"""Records, restores and validates the state of a training run."""
