"""Analyses of networks and tickets: how stable their training is."""

from tf_tickets.analysis.instability_result import Instability, Line
from tf_tickets.analysis.instability_runner import instability

__all__ = [
    "Instability",
    "Line",
    "instability",
]
