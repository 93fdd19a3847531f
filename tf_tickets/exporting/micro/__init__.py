"""Writes `.tflite` files for TensorFlow Lite Micro, with pruned weights compressed."""
