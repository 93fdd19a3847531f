"""Mask parametrizations: what a kernel is multiplied with on the forward pass.

They are the one thing in which the forward passes of the methods differ. Pass one to
`tf_tickets.wrap(model, mask=...)`, by name or as an instance; every kernel gets a copy.
`FixedMask` and `PenalizedMask` are set between steps, the others are learned.
"""

from tf_tickets.masks.base import Mask
from tf_tickets.masks.budget import BudgetMask
from tf_tickets.masks.fixed import FixedMask
from tf_tickets.masks.learned import LearnedMask
from tf_tickets.masks.penalized import PenalizedMask
from tf_tickets.masks.registry import get
from tf_tickets.masks.soft import SoftMask
from tf_tickets.masks.stochastic import StochasticMask
from tf_tickets.masks.topk import TopKMask

__all__ = [
    "BudgetMask",
    "FixedMask",
    "LearnedMask",
    "Mask",
    "PenalizedMask",
    "SoftMask",
    "StochasticMask",
    "TopKMask",
    "get",
]
