"""Pruning criteria: functions that return a score for every weight.

Weights with high scores are kept. The arguments of a criterion are any of `weight` (the
trained kernel), `start` (the kernel at the start of the ticket) and `rng` (a
`numpy.random.Generator`). A criterion with the argument `model`, alone or with `rng`,
receives the wrapped model and returns the scores of all kernels as a dict by kernel
path. A registered criterion can be passed by name.

Criteria of weights work with every structure, which combines the scores of the weights
of a unit. A criterion with the argument `layout` scores units of channels. It may have
`weights` and `masks` (dicts by path), `model` and `rng` too, and returns a dict by
group.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import cast

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.structures.channels import ChannelLayout
from tf_tickets.structures.structure import Layout
from tf_tickets.wrapping import Kernels

__all__ = [
    "gamma",
    "get",
    "magnitude",
    "magnitude_increase",
    "movement",
    "random",
    "register",
    "serialize",
]

Criterion = Callable[..., np.ndarray | dict[str, np.ndarray]]

_CRITERIA: dict[str, Criterion] = {}
_INPUTS = ("weight", "start", "rng")
_INPUTS_OF_MODEL = ("model", "rng")
_INPUTS_OF_UNITS = ("layout", "weights", "masks", "model", "rng")
# The names of block criteria in version 0.1.0.
_BLOCKS = re.compile(r"(\w+) in (\d+x\d+) blocks")


def register(criterion: Criterion) -> Criterion:
    """Registers a criterion under the name of its function.

    Example:

    >>> @register
    ... def magnitude_in_the_beginning(start):
    ...     return np.abs(start)
    >>> get("magnitude_in_the_beginning") is magnitude_in_the_beginning
    True
    """
    _check_arguments(criterion)
    if not hasattr(criterion, "__name__"):
        raise TypeError(
            "`criterion` must have a name to be registered under. Received: "
            f"{arguments.shown(criterion)}. Define it with `def`."
        )
    _CRITERIA[criterion.__name__] = criterion
    return criterion


def get(identifier: str | Criterion) -> Criterion:
    """Returns a criterion from a name or function.

    Example:

    >>> get("magnitude")(np.array([-2.0, 1.0]))
    array([2., 1.])
    """
    if callable(identifier):
        _check_arguments(identifier)
        return identifier
    if not arguments.is_one_of(identifier, _CRITERIA):
        raise ValueError(
            f"Unknown criterion. Received: {arguments.shown(identifier)}. Expected one "
            f"of {sorted(_CRITERIA)}, or a function with arguments from {_INPUTS} or "
            f"{_INPUTS_OF_MODEL}.{_about_blocks(identifier)}"
        )
    return _CRITERIA[identifier]


def _about_blocks(identifier):
    """Returns what replaces names such as "magnitude in 4x1 blocks"."""
    blocks = _BLOCKS.fullmatch(identifier) if isinstance(identifier, str) else None
    if blocks is None:
        return ""
    return (
        f" Blocks are a structure: wrap(model, structure={blocks[2]!r}) and "
        f"criterion={blocks[1]!r}."
    )


def serialize(criterion: Criterion) -> str:
    """Returns the registered name of a criterion, which `get` accepts.

    Example:

    >>> serialize(magnitude)
    'magnitude'
    """
    identifier = name(criterion)
    if not callable(criterion):
        _check_arguments(criterion)
    if _CRITERIA.get(identifier) is not criterion:
        raise ValueError(
            f"Criterion {identifier!r} is not registered, so a configuration that "
            "contains it could not be loaded. Decorate it with "
            f"`tf_tickets.criteria.register`. Received: {arguments.shown(criterion)}"
        )
    return identifier


def score(
    criterion: Criterion,
    weight: np.ndarray,
    start: np.ndarray | None,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """Returns the scores of a kernel from a criterion.

    The criterion receives only the arguments in its signature.

    Args:
        criterion: Criterion of a kernel.
        weight: The trained kernel.
        start: The kernel at the start of the ticket.
        rng: Random generator for random criteria.

    Returns:
        Array of scores in the shape of the kernel.

    Example:

    >>> score(magnitude, np.array([-3.0]), start=None, rng=None)
    array([3.])
    """
    arguments = {"weight": weight, "start": start, "rng": rng}
    parameters = inspect.signature(criterion).parameters
    scores = np.asarray(criterion(**{key: arguments[key] for key in parameters}))
    _check_shape(criterion, scores, weight)
    return scores


def _check_shape(criterion, scores, weight):
    if scores.shape != np.shape(weight):
        raise ValueError(
            f"A criterion must return one score per weight. {name(criterion)} returned "
            f"shape {scores.shape} for a kernel of shape {np.shape(weight)}."
        )


def score_all(
    criterion: Criterion,
    model: keras.Model,
    weights: dict[str, np.ndarray],
    starts: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Returns the scores of all kernels of a model.

    Args:
        criterion: Criterion of a kernel or model.
        model: The wrapped model.
        weights: Dict from kernel path to the trained kernel.
        starts: Dict from kernel path to the kernel at the start of the ticket.
        rng: Random generator for random criteria.

    Returns:
        Dict from kernel path to its scores.

    Example:

    >>> weights = {"a": np.array([-3.0])}
    >>> score_all(magnitude, None, weights, weights, np.random.default_rng(0))
    {'a': array([3.])}
    """
    parameters = inspect.signature(criterion).parameters
    if "model" not in parameters:
        return {
            path: score(criterion, weight, starts[path], rng)
            for path, weight in weights.items()
        }
    arguments = {"model": model, "rng": rng}
    scores = criterion(**{key: arguments[key] for key in parameters})
    if set(scores) != set(weights):
        raise ValueError(
            f"A criterion of a model must score every kernel. {name(criterion)} "
            f"scored {sorted(scores)}. The kernels are {sorted(weights)}."
        )
    for path, weight in weights.items():
        _check_shape(criterion, np.asarray(scores[path]), weight)
    return {path: np.asarray(scores[path]) for path in weights}


def scores_units(criterion: Criterion) -> bool:
    """Returns whether a criterion scores units of channels instead of weights.

    Example:

    >>> scores_units(gamma), scores_units(magnitude)
    (True, False)
    """
    return "layout" in inspect.signature(criterion).parameters


def check_layout(criterion: Criterion, layout: Layout) -> None:
    """Refuses a criterion of units for models without units.

    Args:
        criterion: A criterion.
        layout: The layout of the model's structure.
    """
    if scores_units(criterion) and not isinstance(layout, ChannelLayout):
        raise ValueError(
            f"Criterion {name(criterion)!r} scores whole units, which only a model "
            "wrapped with structure='channels' has. Received a model with another "
            "structure. Use 'magnitude', or wrap it as channels."
        )


def score_units(
    criterion: Criterion,
    kernels: Kernels,
    starts: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Returns the scores of all units of a model.

    "random" draws one number for each unit.

    Args:
        criterion: Criterion of a kernel, a model or of units.
        kernels: The prunable kernels of the model.
        starts: Dict from kernel path to the kernel at the start of the ticket.
        rng: Random generator for random criteria.

    Returns:
        Dict from the name of a table of the model's structure to its scores.

    Example:

    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="d")],
    ...                          name="net")
    >>> model.set_weights([np.array([[-3.0, 1.0]]), np.zeros(2)])
    >>> kernels = tt.kernels(tt.wrap(model, verbose=False))
    >>> score_units(magnitude, kernels, kernels.weights, np.random.default_rng(0))
    {'net/d/kernel': array([[3., 1.]], dtype=float32)}
    """
    layout, masks = kernels.layout, kernels.masks
    check_layout(criterion, layout)
    if criterion is random:
        units = layout.units(masks)
        return {name: rng.random(alive.shape) for name, alive in units.items()}
    weights = kernels.weights
    if not scores_units(criterion):
        model = kernels.model
        return layout.scores(score_all(criterion, model, weights, starts, rng), masks)
    given = {
        "layout": layout,
        "weights": weights,
        "masks": masks,
        "model": kernels.model,
        "rng": rng,
    }
    parameters = inspect.signature(criterion).parameters
    scores = cast(dict, criterion(**{key: given[key] for key in parameters}))
    shapes = {name: alive.shape for name, alive in layout.units(masks).items()}
    received = {name: np.shape(array) for name, array in scores.items()}
    if shapes != received:
        raise ValueError(
            f"A criterion of units must score every unit. {name(criterion)} returned "
            f"arrays of shapes {received}. The units: {shapes}."
        )
    return {name: np.asarray(scores[name]) for name in shapes}


def _check_arguments(criterion):
    if not callable(criterion) or inspect.isclass(criterion):
        raise TypeError(
            f"`criterion` must be a function with arguments from {_INPUTS} or "
            f"{_INPUTS_OF_MODEL}. Received: {arguments.shown(criterion)}"
        )
    try:
        parameters = set(inspect.signature(criterion).parameters)
    except ValueError:  # some NumPy functions have no signature
        parameters = {"unknown arguments"}
    known: tuple[str, ...] = _INPUTS
    if "layout" in parameters:
        known = _INPUTS_OF_UNITS
    elif "model" in parameters:
        known = _INPUTS_OF_MODEL
    unknown = parameters - set(known)
    if unknown:
        raise ValueError(
            f"The arguments of a criterion must be from {_INPUTS} or "
            f"{_INPUTS_OF_MODEL}. Received: {name(criterion)} with {sorted(unknown)}. "
            "Wrap a function with other arguments: lambda weight: f(weight)."
        )


def name(criterion: Criterion) -> str:
    """Returns the name of a criterion for settings and messages.

    Example:

    >>> name(magnitude)
    'magnitude'
    """
    return getattr(criterion, "__name__", repr(criterion))


@register
def magnitude(weight: np.ndarray) -> np.ndarray:
    """Scores weights by `|w|` (Han et al. 2015; iterative magnitude pruning).

    Example:

    >>> magnitude(np.array([-2.0, 0.5]))
    array([2. , 0.5])
    """
    return np.abs(arguments.array(weight=weight))


@register
def magnitude_increase(weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Scores weights by `|w| - |w_start|` (Zhou et al. 2019).

    Example:

    >>> magnitude_increase(np.array([-2.0]), np.array([0.5]))
    array([1.5])
    """
    _check_pair(weight, start)
    return np.abs(weight) - np.abs(start)


@register
def movement(weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Scores weights by `|w - w_start|` (Zhou et al. 2019).

    Example:

    >>> movement(np.array([-2.0]), np.array([0.5]))
    array([2.5])
    """
    _check_pair(weight, start)
    return np.abs(np.subtract(weight, start))


def _check_pair(weight, start):
    shapes = [arguments.array(weight=weight).shape, arguments.array(start=start).shape]
    if shapes[0] != shapes[1]:
        raise ValueError(
            "`weight` and `start` must have the same shape. Received arrays of shape "
            f"{shapes[0]} and {shapes[1]}"
        )


@register
def random(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores weights by uniform noise, as a control for other criteria.

    Example:

    >>> random(np.zeros(3), np.random.default_rng(0)).shape
    (3,)
    """
    arguments.check_type(np.random.Generator, rng=rng)
    return rng.random(arguments.array(weight=weight).shape)


@register
def gamma(
    layout: ChannelLayout, weights: dict[str, np.ndarray], masks: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Scores units by the size of gamma in the normalizations that read them.

    Units that no `BatchNormalization` reads have the scores of "magnitude", whose mean
    over a layer is 1. Use an L1 regularizer of gamma, as in network slimming (Liu et
    al. 2017), to make the differences clear.

    Args:
        layout: The units of the model.
        weights: Dict from path to weight.
        masks: Dict from path to mask.

    Example:

    >>> layers = [keras.layers.Dense(2, name="a"), keras.layers.BatchNormalization(),
    ...           keras.layers.Dense(1, name="b")]
    >>> model = keras.Sequential([keras.Input((1,)), *layers], name="net")
    >>> model.set_weights([np.ones((1, 2)), np.zeros(2), np.array([0.5, -2.0]),
    ...                    *model.get_weights()[3:]])
    >>> kernels = tt.kernels(tt.wrap(model, structure="channels", verbose=False))
    >>> gamma(kernels.layout, kernels.weights, kernels.masks)
    {'net/a/kernel': array([0.5, 2. ])}
    """
    arguments.check_type(ChannelLayout, layout=layout)
    _check_table(layout, weights=weights)
    _check_table(layout, masks=masks)
    # The last entry collects positions that stay.
    sums, counts = np.zeros(layout.size + 1), np.zeros(layout.size + 1)
    for row in layout.gammas:
        np.add.at(sums, row.ids, np.abs(weights[row.path]))
        np.add.at(counts, row.ids, 1)
    sizes = {path: np.abs(weight) for path, weight in weights.items()}
    others = layout.flat(layout.scores(sizes, masks))
    means = sums[:-1] / np.maximum(counts[:-1], 1)
    return layout.tables(np.where(counts[:-1] > 0, means, others))


def _check_table(layout, **tables):
    """Refuses what is no dict with an array for each variable of a layout."""
    for name, table in tables.items():
        arguments.check_type(Mapping, **{name: table})
        for row in layout.slices:
            array = table.get(row.path)
            if not isinstance(array, np.ndarray) or array.shape != row.shape:
                raise ValueError(
                    f"`{name}` must be a dict from path to array, with one of shape "
                    f"{row.shape} for {row.path!r}. Received: {arguments.shown(table)}"
                )
