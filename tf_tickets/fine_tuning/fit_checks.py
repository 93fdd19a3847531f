"""Checks that data fit a model, before anything is trained."""

from tf_tickets.training.input_checks import check_inputs, fitted

__all__ = ["check_inputs", "fitted"]
