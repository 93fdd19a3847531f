"""Pruning criteria: functions that return a score for every weight.

Weights with high scores are kept. The arguments of a criterion are any of `weight` (the
trained kernel), `start` (the kernel at the start of the ticket) and `rng` (a
`numpy.random.Generator`). A criterion with the argument `model`, alone or with `rng`,
receives the wrapped model and returns the scores of all kernels as a dict by kernel
path. A registered criterion can be passed by name.
"""

import inspect
import re
from collections.abc import Callable

import keras
import numpy as np

from tf_tickets import arguments

__all__ = [
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
    known = _INPUTS_OF_MODEL if "model" in parameters else _INPUTS
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
