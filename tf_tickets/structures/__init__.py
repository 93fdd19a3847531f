"""Structures: which weights of a model are kept or pruned together."""
