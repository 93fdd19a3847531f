"""Pruning within one `fit`, without rounds."""
