"""Keeps Keras from replacing the kernels of layers while they are wrapped.

`quantize` replaces the variable of a kernel by others, and `enable_lora` adds weights
that no mask reaches. The masks would then be without effect, and nothing would say so.
"""

import weakref
from collections.abc import Callable, Iterable

import keras

from tf_tickets.wrapping import paths

_METHODS = ("quantize", "enable_lora")


class _Refusal:
    """Stands in for a method of a layer as long as `in_use` is true."""

    def __init__(self, layer, name, in_use=None):
        self.own = vars(layer).get(name)
        self.method = getattr(layer, name)
        self.name = name
        self.title = layer.name
        self.owners: weakref.WeakSet[keras.layers.Layer] = weakref.WeakSet()
        self.in_use: Callable[[], bool] = in_use or (lambda: bool(self.owners))

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not self.in_use():
            return self.method(*args, **kwargs)
        raise ValueError(
            f"{self.title!r} is wrapped by tf_tickets, and its masks would no longer "
            f"reach its kernels after `{self.name}`. Nothing was changed. Strip every "
            "wrapped model of these layers first: plain = tf_tickets.strip(model). "
            f"Then call `{self.name}` of {_OF[self.name]}."
        )


_OF = {"quantize": "`plain`", "enable_lora": "its layers"}


def guard(layer: keras.layers.Layer, owner: keras.layers.Layer) -> None:
    """Makes a layer, with the layers inside, refuse `quantize` and `enable_lora`.

    Args:
        layer: The layer that is wrapped.
        owner: Its wrapper or a model of wrapped layers. The layer is free again when
            none of its owners exists.

    Example:

    >>> layer = keras.layers.Dense(2, name="fc")
    >>> layer.build((None, 3))
    >>> wrapper = tt.layers.Prunable(layer)  # guards its layer
    >>> layer.quantize("int8")
    Traceback (most recent call last):
    ValueError: 'fc' is wrapped by tf_tickets, ...
    >>> release(layer, wrapper)
    >>> layer.quantize("int8")
    >>> layer.kernel.dtype
    'int8'
    """
    for part in paths.walk(layer):
        for name in _METHODS:
            if hasattr(part, name):
                _refusal(part, name).owners.add(owner)


def release(layer: keras.layers.Layer, owner: keras.layers.Layer) -> None:
    """Ends the guard of a layer for one of its owners."""
    for part in paths.walk(layer):
        for refusal in _refusals(part):
            refusal.owners.discard(owner)
            if not refusal.in_use():
                _put_back(part, refusal)


def guard_models(
    plain: keras.Model, wrapped: keras.Model, wrappers: Iterable[keras.layers.Wrapper]
) -> None:
    """Lets a wrapped model own its layers instead of their wrappers.

    Layers without weights are shared with the plain model and remember the wrappers
    before them, so the wrappers exist longer than the wrapped model.

    Both models also refuse `quantize` as a whole, as do models inside them: a layer
    that is not wrapped may come first, and would be quantized already.

    Args:
        plain: The model that was wrapped.
        wrapped: The model of wrapped layers, perhaps the same.
        wrappers: The wrappers in it.
    """
    for model in _models(wrapped):
        inside = set(map(id, paths.walk(model)))
        for wrapper in wrappers:
            if id(wrapper) in inside:
                guard(wrapper.layer, model)
    for wrapper in wrappers:
        release(wrapper.layer, wrapper)
    for model in [*_models(plain), *_models(wrapped)]:
        _refuse_as_a_whole(model)


def release_models(model: keras.Model) -> None:
    """Ends all guards that belong to a wrapped model and the models inside it."""
    for owner in _models(model):
        release(model, owner)


def _models(model):
    return [part for part in paths.walk(model) if isinstance(part, keras.Model)]


def _refuse_as_a_whole(model):
    reference = weakref.ref(model)

    def in_use():
        parts = paths.walk(reference())
        return any(r.owners for part in parts for r in _refusals(part))

    if not isinstance(vars(model).get("quantize"), _Refusal):
        model.quantize = _Refusal(model, "quantize", in_use)


def _refusal(part, name):
    if not isinstance(vars(part).get(name), _Refusal):
        setattr(part, name, _Refusal(part, name))
    return vars(part)[name]


def _refusals(part):
    found = [vars(part).get(name) for name in _METHODS]
    return [one for one in found if isinstance(one, _Refusal)]


def _put_back(part, refusal):
    if refusal.own is None:
        delattr(part, refusal.name)
    else:
        setattr(part, refusal.name, refusal.own)
