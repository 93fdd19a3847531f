"""The registry of mask parametrizations."""

from collections.abc import Callable

import keras

from tf_tickets import arguments
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
        return _restored(identifier)
    if not arguments.is_one_of(identifier, _MASKS):
        raise ValueError(
            "Unknown mask parametrization. Received: "
            f"{arguments.shown(identifier)}. Expected one of {sorted(_MASKS)}, or an "
            "instance such as FixedMask()."
        )
    return _MASKS[str(identifier)]()


def _restored(config):
    mask = None
    if {"class_name", "config"} <= set(config):
        mask = keras.saving.deserialize_keras_object(config)
    if not isinstance(mask, Mask):
        raise ValueError(
            "A dict must be the serialized configuration of a mask, with the keys "
            f"'class_name' and 'config'. Received: {arguments.shown(config)}"
        )
    return mask
