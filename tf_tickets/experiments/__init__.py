"""Data sets, networks and training recipes from the papers."""
