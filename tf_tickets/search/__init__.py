"""Ticket searches: the shared engine, and one module per method in `methods`."""
