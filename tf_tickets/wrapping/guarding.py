"""Keeps Keras from replacing the kernels of layers while they are wrapped.

`quantize` replaces the variable of a kernel by others, and `enable_lora` adds weights
that no mask reaches. The masks would then be without effect, and nothing would say so.
"""

import weakref

import keras

from tf_tickets.wrapping import paths

_METHODS = ("quantize", "enable_lora")


class _Refusal:
    """Stands in for a method of a layer as long as `in_use` is true."""

    def __init__(self, layer, name, in_use):
        self.own = vars(layer).get(name)
        self.method = getattr(layer, name)
        self.name = name
        self.title = layer.name
        self.in_use = in_use

    def __call__(self, *args: object, **kwargs: object) -> object:
        if not self.in_use():
            return self.method(*args, **kwargs)
        raise ValueError(
            f"{self.title!r} is wrapped by tf_tickets, and its masks would no longer "
            f"reach its kernels after `{self.name}`. Nothing was changed. Strip the "
            "model first: plain = tf_tickets.strip(model). Then call "
            f"`{self.name}` of {_OF[self.name]}."
        )


_OF = {"quantize": "`plain`", "enable_lora": "its layers"}


def guard(layer: keras.layers.Layer, wrapper: keras.layers.Layer) -> None:
    """Makes a layer, with the layers inside, refuse `quantize` and `enable_lora`.

    Args:
        layer: The layer that is wrapped.
        wrapper: Its wrapper. The layers are free again when it no longer exists.

    Example:

    >>> layer = keras.layers.Dense(2, name="fc")
    >>> layer.build((None, 3))
    >>> wrapper = tt.layers.Prunable(layer)  # guards its layer
    >>> layer.quantize("int8")
    Traceback (most recent call last):
    ValueError: 'fc' is wrapped by tf_tickets, ...
    >>> release(layer)
    >>> layer.quantize("int8")
    >>> layer.kernel.dtype
    'int8'
    """
    for part in paths.walk(layer):
        _guard(part, wrapper)


def guard_model(model: keras.Model) -> None:
    """Makes a model refuse `quantize` as long as some of its layers are wrapped.

    Layers that are not wrapped may come first, and would be quantized already when a
    wrapped one refuses.
    """
    reference = weakref.ref(model)
    _set(model, "quantize", lambda: any(map(_is_guarded, paths.walk(reference())[1:])))


def release(layer: keras.layers.Layer) -> None:
    """Removes what `guard` has set on a layer and the layers inside."""
    for part in paths.walk(layer):
        for name in _METHODS:
            refusal = vars(part).get(name)
            if isinstance(refusal, _Refusal):
                _put_back(part, name, refusal.own)


def _guard(part, wrapper):
    reference = weakref.ref(wrapper)
    for name in _METHODS:
        if hasattr(part, name):
            _set(part, name, lambda: reference() is not None)


def _set(part, name, in_use):
    refusal = vars(part).get(name)
    if isinstance(refusal, _Refusal):
        refusal.in_use = in_use
    else:
        setattr(part, name, _Refusal(part, name, in_use))


def _is_guarded(part):
    refusal = vars(part).get("quantize")
    return isinstance(refusal, _Refusal) and refusal.in_use()


def _put_back(part, name, own):
    if own is None:
        delattr(part, name)
    else:
        setattr(part, name, own)
