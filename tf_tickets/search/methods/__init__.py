"""The searches, one module per paper."""
