"""Traverses layers and variables and gives variables stable paths.

Keras lists the sublayers of a `Model` only. These functions traverse any layer through
its attributes, lists and dicts, in the order of their creation.
"""

import operator
import re
from collections.abc import Iterable
from typing import NamedTuple

import keras

from tf_tickets import keras_internals


class Owned(NamedTuple):
    """A variable with its path and the layer that owns it."""

    path: str
    variable: keras.Variable
    owner: keras.layers.Layer


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns the direct sublayers of a layer, without duplicates.

    Example:

    >>> block = keras.layers.TimeDistributed(keras.layers.Dense(2, name="fc"))
    >>> [child.name for child in children(block)]
    ['fc']
    """
    listed = [layer.layers] if isinstance(layer, keras.Model) else []
    return _unique(_instances([*listed, *_attributes(layer)], keras.layers.Layer))


def walk(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Returns a layer and all its sublayers, parents first and without duplicates.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(2, name="fc")], name="net")
    >>> [layer.name for layer in walk(model)]
    ['net', 'fc']
    """
    return [sublayer for _, sublayer in _walk(layer, (), set())]


def variables_of(layer: keras.layers.Layer) -> list[Owned]:
    """Returns all variables of a layer with their owners and relative paths.

    A path consists of layer names and the name of the variable, which is "variable" if
    the layer gives it none. It does not change when the layer is wrapped, moved
    into another model or loaded from a file.

    Example:

    >>> layer = keras.layers.Bidirectional(keras.layers.GRU(2, name="gru"))
    >>> layer.build((None, 3, 4))
    >>> [owned.path for owned in variables_of(layer)][:2]
    ['forward_gru/gru_cell/kernel', 'forward_gru/gru_cell/recurrent_kernel']
    """
    owners = {}
    for chain, sublayer in _walk(layer, (), set()):
        for variable in _instances(_attributes(sublayer), keras.Variable):
            owners[id(variable)] = (chain[1:], sublayer)
    names: dict[str, int] = {}
    rows = []
    for variable in _unique(layer.variables):
        chain, owner = owners.get(id(variable), ((), layer))
        path = _numbered("/".join([*chain, _name(variable)]), names)
        rows.append(Owned(path, variable, owner))
    return rows


def _name(variable):
    """Returns the name of a variable, without the process's number if it has none."""
    return "variable" if keras_internals.is_unnamed(variable) else variable.name


def plain_paths(
    variables: Iterable[keras.Variable], renamed: dict[str, str]
) -> dict[str, keras.Variable]:
    """Returns variables by their paths in the model without wrappers.

    Args:
        variables: Variables of the model.
        renamed: Dict from the path of a layer built by its wrapper to the path
            without that wrapper.

    Returns:
        Dict from path to variable, in order. A second variable with the same path
        gets the suffix `#2`.
    """
    names: dict[str, int] = {}
    return {_numbered(_renamed(v.path, renamed), names): v for v in variables}


def _renamed(path, renamed):
    for old, new in renamed.items():
        if path.startswith(f"{old}/"):
            return new + path[len(old) :]
    return path


def match(wanted: Iterable[str], available: Iterable[str]) -> dict[str, str] | None:
    """Matches names of one model with those of another build of the same model.

    Keras numbers its default names (`dense_7`) anew in every build of a model. Loaded
    and cloned models may lack the first parts of a path (`net/dense` becomes `dense`).
    If the exact names are not available, names are compared in order without their
    numbers, and finally by their last parts.

    Args:
        wanted: Names to look up.
        available: Names to search.

    Returns:
        Dict from wanted to available name, or None if they do not match.

    Example:

    >>> match(["dense_2/kernel"], ["dense_9/kernel"])
    {'dense_2/kernel': 'dense_9/kernel'}
    >>> match(["net/conv/kernel"], ["conv/kernel"])
    {'net/conv/kernel': 'conv/kernel'}
    >>> match(["conv/kernel"], ["dense/kernel"]) is None
    True
    """
    wanted, available = list(wanted), list(available)
    if set(wanted) <= set(available):
        return {name: name for name in wanted}
    return _match_in_order(wanted, available, operator.eq) or _match_in_order(
        wanted, available, is_suffix
    )


def _match_in_order(wanted, available, fits):
    numberless = {name: bare(name) for name in [*wanted, *available]}
    ends = {numberless[name] for name in wanted}
    pool = [n for n in available if any(fits(end, numberless[n]) for end in ends)]
    if len(pool) != len(wanted):
        return None
    pairs = dict(zip(wanted, pool, strict=True))
    fit = all(fits(numberless[w], numberless[a]) for w, a in pairs.items())
    return pairs if fit else None


def is_suffix(first: str, second: str) -> bool:
    """Returns whether one path consists of the last parts of the other.

    Example:

    >>> is_suffix("net/conv/kernel", "conv/kernel"), is_suffix("a/kernel", "ba/kernel")
    (True, False)
    """
    short, long = sorted([first, second], key=len)
    return f"/{long}".endswith(f"/{short}")


def bare(path: str) -> str:
    """Returns a path without the numbers that Keras adds to names.

    Example:

    >>> bare("net_1/dense_12/kernel#2")
    'net/dense/kernel'
    """
    return "/".join(re.sub(r"(_\d+)?(#\d+)?$", "", p) for p in path.split("/"))


def _numbered(name, seen):
    seen[name] = seen.get(name, 0) + 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"


def _walk(layer, chain, seen):
    if id(layer) in seen:
        return
    seen.add(id(layer))
    chain = (*chain, layer.name)
    yield chain, layer
    for child in children(layer):
        yield from _walk(child, chain, seen)


def layers_in(value: object) -> list[keras.layers.Layer]:
    """Returns the layers in the value of an attribute, including its containers.

    Example:

    >>> fc, out = keras.layers.Dense(2), keras.layers.Dense(1)
    >>> list(layers_in({"blocks": [fc], "head": out})) == [fc, out]
    True
    """
    return list(_instances([value], keras.layers.Layer))


def _attributes(layer):
    return list(vars(layer).values())


def _instances(values, kind):
    """Yields instances of `kind` from values and nested containers."""
    for value in values:
        if isinstance(value, kind):
            yield value
        elif isinstance(value, dict):
            yield from _instances(list(value.values()), kind)
        elif isinstance(value, list | tuple | set):
            yield from _instances(value, kind)


def _unique(items):
    return list({id(item): item for item in items}.values())
