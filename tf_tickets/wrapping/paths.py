"""Where the layers and variables of a model are, and what they are called.

Keras lists the layers of a `Model` only; here any layer is walked, through its
attributes, lists and dicts, in the order in which they were made.
"""

import operator
import re
from collections.abc import Iterable
from typing import NamedTuple

import keras


class Owned(NamedTuple):
    """A variable, the layer that owns it, and the names of the way there."""

    path: str
    variable: keras.Variable
    owner: keras.layers.Layer


def children(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer holds directly, each once.

    Example:

    >>> block = keras.layers.TimeDistributed(keras.layers.Dense(2, name="fc"))
    >>> [child.name for child in children(block)]
    ['fc']
    """
    held = [layer.layers] if isinstance(layer, keras.Model) else []
    return _unique(_instances([*held, *_attributes(layer)], keras.layers.Layer))


def walk(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layer itself and all below it, each once, parents first.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(2, name="fc")], name="net")
    >>> [found.name for found in walk(model)]
    ['net', 'fc']
    """
    return [found for _, found in _walk(layer, (), set())]


def variables_of(layer: keras.layers.Layer) -> list[Owned]:
    """All variables of a layer with owner and path below the layer.

    The path is made of layer names and does not change when the layer is
    wrapped, moved into another model or loaded from a file.

    Example:

    >>> layer = keras.layers.Bidirectional(keras.layers.GRU(2, name="gru"))
    >>> layer.build((None, 3, 4))
    >>> [owned.path for owned in variables_of(layer)][:2]
    ['forward_gru/gru_cell/kernel', 'forward_gru/gru_cell/recurrent_kernel']
    """
    owners = {}
    for chain, found in _walk(layer, (), set()):
        for variable in _instances(_attributes(found), keras.Variable):
            owners[id(variable)] = (chain[1:], found)
    names: dict[str, int] = {}
    rows = []
    for variable in _unique(layer.variables):
        chain, owner = owners.get(id(variable), ((), layer))
        path = _numbered("/".join([*chain, variable.name]), names)
        rows.append(Owned(path, variable, owner))
    return rows


def plain_paths(
    variables: Iterable[keras.Variable], renamed: dict[str, str]
) -> dict[str, keras.Variable]:
    """The paths that variables have in the model without its wrappers.

    Args:
        variables: Variables of the model.
        renamed: Dict from the path of a layer that was built by its wrapper to its
            path without that wrapper.

    Returns:
        Dict from path to variable, in order. A second variable of the same path
        gets `#2`.
    """
    names: dict[str, int] = {}
    return {_numbered(_renamed(v.path, renamed), names): v for v in variables}


def _renamed(path, renamed):
    for old, new in renamed.items():
        if path.startswith(f"{old}/"):
            return new + path[len(old) :]
    return path


def match(wanted: Iterable[str], available: Iterable[str]) -> dict[str, str] | None:
    """Finds each wanted name among the available ones.

    Names made by Keras carry a running number (`dense_7`), another one each time
    a model is built, and a model that is loaded or cloned builds its layers apart,
    so that the first parts of a path are gone (`net/dense` becomes `dense`). Where
    not all names are equal, they are therefore compared in order, without their
    numbers, and then by their last parts.

    Returns:
        Dict from wanted to available name, or None where they do not fit.

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
        wanted, available, _ends_alike
    )


def _match_in_order(wanted, available, fits):
    bare = {name: _bare(name) for name in [*wanted, *available]}
    ends = {bare[name] for name in wanted}
    pool = [name for name in available if any(fits(end, bare[name]) for end in ends)]
    if len(pool) != len(wanted):
        return None
    pairs = dict(zip(wanted, pool, strict=True))
    return pairs if all(fits(bare[w], bare[a]) for w, a in pairs.items()) else None


def _ends_alike(one, other):
    short, long = sorted([one, other], key=len)
    return f"/{long}".endswith(f"/{short}")


def _bare(path):
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
    """The layers in an attribute's value, in its containers too.

    Example:

    >>> fc, out = keras.layers.Dense(2), keras.layers.Dense(1)
    >>> list(layers_in({"blocks": [fc], "head": out})) == [fc, out]
    True
    """
    return list(_instances([value], keras.layers.Layer))


def _attributes(layer):
    return list(vars(layer).values())


def _instances(values, kind):
    """Instances of `kind` among values and in their lists and dicts."""
    for value in values:
        if isinstance(value, kind):
            yield value
        elif isinstance(value, dict):
            yield from _instances(list(value.values()), kind)
        elif isinstance(value, list | tuple | set):
            yield from _instances(value, kind)


def _unique(items):
    return list({id(item): item for item in items}.values())
