"""Ticket searches: one file a method, `rounds` is the engine they share."""
