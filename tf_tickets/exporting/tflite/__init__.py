"""Writes sparsely encoded `.tflite` files."""
