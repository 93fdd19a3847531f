"""Sparsely encoded `.tflite` files."""
