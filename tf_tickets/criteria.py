"""Which weights to keep: plain functions from arrays to scores, high is kept.

A criterion names what it needs as its arguments, any of `weight` (the trained
kernel), `start` (the same kernel where the ticket starts from) and `rng` (a
`numpy.random.Generator`). Registering one makes it available by name.
"""

import inspect
from collections.abc import Callable

import numpy as np

Criterion = Callable[..., np.ndarray]

_CRITERIA: dict[str, Criterion] = {}
_INPUTS = ("weight", "start", "rng")


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
    if identifier not in _CRITERIA:
        raise ValueError(
            f"Unknown criterion. Received: {identifier!r}. Known: "
            f"{sorted(_CRITERIA)}. Or pass a function of any of {_INPUTS}."
        )
    return _CRITERIA[identifier]


def serialize(criterion: Criterion) -> str:
    """The name by which `get` finds the criterion again.

    Example:

    >>> serialize(magnitude)
    'magnitude'
    """
    name = _name(criterion)
    if _CRITERIA.get(name) is not criterion:
        raise ValueError(
            f"Criterion {name!r} is not registered, so a saved configuration "
            "could not find it again. Decorate it with "
            "`tf_tickets.criteria.register`."
        )
    return name


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
    scores = np.asarray(criterion(**{name: given[name] for name in wanted}))
    if scores.shape != np.shape(weight):
        raise ValueError(
            f"A criterion must give one score a weight. "
            f"{_name(criterion)} gave shape {scores.shape} for a kernel of "
            f"shape {np.shape(weight)}."
        )
    return scores


def _check_arguments(criterion):
    try:
        unknown = set(inspect.signature(criterion).parameters) - set(_INPUTS)
    except ValueError:  # some functions of NumPy tell nothing about themselves
        unknown = {"unknown arguments"}
    if unknown:
        raise ValueError(
            f"A criterion's arguments must be among {_INPUTS}. Received: "
            f"{_name(criterion)} with {sorted(unknown)}. A function of other "
            "arguments can be called in one of these: lambda weight: f(weight)."
        )


def _name(criterion):
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
