"""Exports models in smaller files and verifies them before they are returned."""
