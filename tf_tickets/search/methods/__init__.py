"""The searches, a module for each paper."""
