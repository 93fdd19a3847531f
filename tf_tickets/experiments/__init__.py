"""Data sets, networks and recipes of the papers."""
