"""The registry of mask parametrizations."""

from collections.abc import Callable

import keras

from tf_tickets.masks.base import Mask
from tf_tickets.masks.budget import BudgetMask
from tf_tickets.masks.fixed import FixedMask
from tf_tickets.masks.penalized import PenalizedMask
from tf_tickets.masks.soft import SoftMask
from tf_tickets.masks.stochastic import StochasticMask
from tf_tickets.masks.topk import TopKMask

_MASKS: dict[str, Callable[[], Mask]] = {
    "fixed": FixedMask,
    "scaled": lambda: FixedMask(scaled=True),
    "penalized": PenalizedMask,
    "soft": SoftMask,
    "budget": BudgetMask,
    "stochastic": StochasticMask,
    "topk": TopKMask,
}


def get(identifier: str | dict | keras.layers.Layer) -> Mask:
    """Returns a mask parametrization from a name, configuration or instance.

    Example:

    >>> type(get("fixed")).__name__
    'FixedMask'
    """
    if isinstance(identifier, Mask):
        return identifier
    if isinstance(identifier, dict):
        return keras.saving.deserialize_keras_object(identifier)
    if identifier not in _MASKS:
        raise ValueError(
            f"Unknown mask parametrization. Received: {identifier!r}. Expected one of "
            f"{sorted(_MASKS)}, or an instance such as FixedMask()."
        )
    return _MASKS[identifier]()
