"""Criteria, allocations and schedules: which weights to prune, how many, and when."""
