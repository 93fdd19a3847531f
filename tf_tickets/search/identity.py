"""The identity of a search: only the same search resumes from a directory."""

import json
from typing import Any

import keras

from tf_tickets import wrapping
from tf_tickets.search.inputs import Pair
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.training import batches


def identity_of(
    search: TicketSearch,
    model: keras.Model,
    data: Any,
    parts: dict[str, Pair],
    seed: int,
    batch_size: int,
) -> dict:
    """Returns a dict that identifies a search.

    Args:
        search: The search.
        model: Its wrapped model.
        data: The data as they were given.
        parts: The data, split.
        seed: Seed of weights and data order.
        batch_size: Batch size.
    """
    identity = {
        **search.engine.origin(),
        "seed": seed,
        "batch_size": batch_size,
        "dataset": getattr(data, "name", None),
        "examples": {name: len(pair[0]) for name, pair in parts.items()},
        "data": {name: batches.digest(pair) for name, pair in parts.items()},
        "backend": keras.config.backend(),
        # Without their names, which differ in the next build.
        "kernels": [list(v.shape) for v in wrapping.kernels(model).variables.values()],
        "optimizer": optimizer_config(model),
    }
    return without_names(identity)


def optimizer_config(model: keras.Model) -> dict:
    """Returns the optimizer's configuration, as far as JSON can hold it."""
    config = keras.saving.serialize_keras_object(model.optimizer)["config"]
    return json.loads(json.dumps(config, default=str))


def without_names(content: dict) -> dict:
    """Returns a dict after a round trip through JSON, without names.

    Keras counts names up: `adam_3` is `adam_4` in the next build.

    Example:

    >>> without_names({"optimizer": {"name": "adam_3", "epsilon": 1e-7}})
    {'optimizer': {'epsilon': 1e-07}}
    """

    def drop_name(config):
        return {key: value for key, value in config.items() if key != "name"}

    return json.loads(json.dumps(content), object_hook=drop_name)


def differences(there: dict, here: dict, above: str = "") -> list[str]:
    """Returns what differs between two nested dicts, each with its path.

    Example:

    >>> differences({"settings": {"rate": 0.2}}, {"settings": {"rate": 0.3}})
    ['settings.rate: 0.2 there, 0.3 here']
    """
    rows = []
    for key in [*here, *(k for k in there if k not in here)]:
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            rows += differences(old, new, f"{above}{key}.")
        elif old != new:
            rows.append(f"{above}{key}: {old!r} there, {new!r} here")
    return rows
