"""Which weights to keep: plain functions from arrays to scores, high is kept.

A criterion names what it needs as its arguments, any of `weight` (the trained
kernel), `start` (the same kernel where the ticket starts from) and `rng` (a
`numpy.random.Generator`). One that names `model`, alone or with `rng`, scores all
kernels at once: it is given the wrapped model and gives a dict by kernel path.
Registering a criterion makes it available by name.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

__all__ = [
    "get",
    "in_blocks",
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
_BLOCKS = re.compile(r"(\w+) in (\d+)x(\d+) blocks")


def register(criterion: Criterion) -> Criterion:
    """Makes a criterion available by its function's name.

    Example:

    >>> @register
    ... def magnitude_in_the_beginning(start):
    ...     return np.abs(start)
    >>> get("magnitude_in_the_beginning") is magnitude_in_the_beginning
    True
    """
    _check_arguments(criterion)
    _CRITERIA[criterion.__name__] = criterion
    return criterion


def get(identifier: str | Criterion) -> Criterion:
    """A criterion by name, or the function itself.

    Example:

    >>> get("magnitude")(np.array([-2.0, 1.0]))
    array([2., 1.])
    """
    if callable(identifier):
        _check_arguments(identifier)
        return identifier
    blocks = _BLOCKS.fullmatch(str(identifier))
    if blocks and blocks[1] in _CRITERIA:
        return in_blocks(blocks[1], int(blocks[2]), int(blocks[3]))
    if identifier not in _CRITERIA:
        raise ValueError(
            f"Unknown criterion. Received: {identifier!r}. Known: "
            f"{sorted(_CRITERIA)}, and those in blocks, such as 'magnitude in 4x1 "
            f"blocks'. Or pass a function of any of {_INPUTS}, or of "
            f"{_INPUTS_OF_MODEL}."
        )
    return _CRITERIA[identifier]


def in_blocks(criterion: str | Criterion, rows: int = 4, columns: int = 1) -> Criterion:
    """A criterion by which neighbours stay or go together: a block has its mean score.

    Blocks lie in the last two axes of a kernel, inputs and outputs. Those of 4x1 are
    what TFLite files store and multiply as blocks. The number that is kept is exact, so
    that one block of a kernel may be kept in part. By name: "magnitude in 4x1 blocks".

    Args:
        criterion: What scores the weights.
        rows: Inputs of a block.
        columns: Outputs of a block.

    Example:

    >>> weight = np.array([[1.0], [3.0], [-6.0], [0.0]])
    >>> in_blocks("magnitude", 2, 1)(weight).ravel().tolist()
    [2.0, 2.0, 3.0, 3.0]
    """
    inner = get(criterion)
    for count in (rows, columns):
        if not isinstance(count, int) or count < 1:
            raise ValueError(
                "A block has 1 row and column or more. Received: "
                f"rows={rows!r}, columns={columns!r}"
            )

    # With the signature of what it wraps, by which arguments are given.
    @functools.wraps(inner)
    def pooled(*args: Any, **kwargs: Any) -> Any:
        found = inner(*args, **kwargs)
        if isinstance(found, dict):
            return {path: _pooled(a, rows, columns) for path, a in found.items()}
        return _pooled(np.asarray(found), rows, columns)

    pooled.__name__ = f"{name(inner)} in {rows}x{columns} blocks"
    return pooled


def _pooled(scores, rows, columns):
    """The mean of its block for each; blocks at the edge may be smaller."""
    if scores.ndim < 2:
        return scores
    found = np.asarray(scores, "float64")
    for axis, length in ((-2, rows), (-1, columns)):
        starts = np.arange(0, found.shape[axis], length)
        sizes = np.diff(starts, append=found.shape[axis])
        sums = np.add.reduceat(found, starts, axis)
        shape = [1] * found.ndim
        shape[axis] = -1
        found = np.repeat(sums / sizes.reshape(shape), sizes, axis)
    return found


def serialize(criterion: Criterion) -> str:
    """The name by which `get` finds the criterion again.

    Example:

    >>> serialize(magnitude)
    'magnitude'
    """
    found = name(criterion)
    blocks = _BLOCKS.fullmatch(found)
    if blocks and _CRITERIA.get(blocks[1]) is getattr(criterion, "__wrapped__", None):
        return found
    if _CRITERIA.get(found) is not criterion:
        raise ValueError(
            f"Criterion {found!r} is not registered, so a saved configuration "
            "could not find it again. Decorate it with "
            "`tf_tickets.criteria.register`."
        )
    return found


def score(
    criterion: Criterion,
    weight: np.ndarray,
    start: np.ndarray | None,
    rng: np.random.Generator | None,
) -> np.ndarray:
    """Calls a criterion with those of the three arguments that it names.

    Example:

    >>> score(magnitude, np.array([-3.0]), start=None, rng=None)
    array([3.])
    """
    given = {"weight": weight, "start": start, "rng": rng}
    wanted = inspect.signature(criterion).parameters
    scores = np.asarray(criterion(**{key: given[key] for key in wanted}))
    _check_shape(criterion, scores, weight)
    return scores


def _check_shape(criterion, scores, weight):
    if scores.shape != np.shape(weight):
        raise ValueError(
            f"A criterion must give one score a weight. "
            f"{name(criterion)} gave shape {scores.shape} for a kernel of "
            f"shape {np.shape(weight)}."
        )


def score_all(
    criterion: Criterion,
    model: keras.Model,
    weights: dict[str, np.ndarray],
    starts: dict[str, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """The scores of all kernels of a model, by kernel path.

    Args:
        criterion: A criterion of a kernel or of a model.
        model: The wrapped model.
        weights: Dict from kernel path to the trained kernel.
        starts: Dict from kernel path to the kernel where the ticket starts from.
        rng: Where random criteria draw.

    Example:

    >>> weights = {"a": np.array([-3.0])}
    >>> score_all(magnitude, None, weights, weights, np.random.default_rng(0))
    {'a': array([3.])}
    """
    wanted = inspect.signature(criterion).parameters
    if "model" not in wanted:
        return {
            path: score(criterion, weight, starts[path], rng)
            for path, weight in weights.items()
        }
    given = {"model": model, "rng": rng}
    scores = criterion(**{key: given[key] for key in wanted})
    if set(scores) != set(weights):
        raise ValueError(
            f"A criterion of a model must score every kernel. {name(criterion)} "
            f"scored {sorted(scores)}; the kernels: {sorted(weights)}."
        )
    for path, weight in weights.items():
        _check_shape(criterion, np.asarray(scores[path]), weight)
    return {path: np.asarray(scores[path]) for path in weights}


def _check_arguments(criterion):
    try:
        found = set(inspect.signature(criterion).parameters)
    except ValueError:  # some functions of NumPy tell nothing about themselves
        found = {"unknown arguments"}
    unknown = found - set(_INPUTS_OF_MODEL if "model" in found else _INPUTS)
    if unknown:
        raise ValueError(
            f"A criterion's arguments must be among {_INPUTS}, or {_INPUTS_OF_MODEL}. "
            f"Received: {name(criterion)} with {sorted(unknown)}. A function of other "
            "arguments can be called in one of these: lambda weight: f(weight)."
        )


def name(criterion: Criterion) -> str:
    """What a criterion is called in settings and messages.

    Example:

    >>> name(magnitude)
    'magnitude'
    """
    return getattr(criterion, "__name__", repr(criterion))


@register
def magnitude(weight: np.ndarray) -> np.ndarray:
    """|w|: the criterion of Han et al. and of iterative magnitude pruning.

    Example:

    >>> magnitude(np.array([-2.0, 0.5]))
    array([2. , 0.5])
    """
    return np.abs(weight)


@register
def magnitude_increase(weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """|w| - |w at the start| (Zhou et al. 2019).

    Example:

    >>> magnitude_increase(np.array([-2.0]), np.array([0.5]))
    array([1.5])
    """
    return np.abs(weight) - np.abs(start)


@register
def movement(weight: np.ndarray, start: np.ndarray) -> np.ndarray:
    """|w - w at the start| (Zhou et al. 2019).

    Example:

    >>> movement(np.array([-2.0]), np.array([0.5]))
    array([2.5])
    """
    return np.abs(weight - start)


@register
def random(weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uniform noise: the control for every other criterion.

    Example:

    >>> random(np.zeros(3), np.random.default_rng(0)).shape
    (3,)
    """
    return rng.random(np.shape(weight))
