"""The state of a training: recorded, restored and checked."""
