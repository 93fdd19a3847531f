"""Compaction: the same model, physically smaller."""
