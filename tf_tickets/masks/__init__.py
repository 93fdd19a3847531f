"""Mask parametrizations: the factors that multiply kernels in the forward pass.

The forward passes of the methods differ only in their masks. Pass a name or an instance
to `tf_tickets.wrap(model, mask=...)`; every kernel gets its own copy. `FixedMask` and
`PenalizedMask` are set between steps, the others are learned.
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
