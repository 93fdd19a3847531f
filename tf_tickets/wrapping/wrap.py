"""Whole models in and out: `wrap` puts Prunable around layers, `strip` undoes it.

Functional and Sequential models, nested ones too, are rebuilt around the same
layers; other models are changed in place, in the attributes that hold their
layers. In both cases the variables stay the same objects.
"""

import re
from collections.abc import Callable, Collection, Iterable

import keras
import numpy as np
from keras import ops

from tf_tickets import masks as masks_module
from tf_tickets import optimizers
from tf_tickets.masks.base import Mask
from tf_tickets.wrapping import paths, rebuilding
from tf_tickets.wrapping.kernels import (
    _kernel_rows,
    kernels,
    mask_layers,
    plain_paths,
    prunables,
    scales,
    units,
)
from tf_tickets.wrapping.prunable import Prunable, why_not

# A regular expression, a list of names or a function of the layer.
Filters = str | Collection[str] | Callable[[keras.layers.Layer], object] | None


def wrap(
    model: keras.Model,
    filters: Filters = None,
    embeddings: bool = False,
    mask: str | Mask = "fixed",
    verbose: bool = True,
    score_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
) -> keras.Model:
    """Makes the kernels of a built model prunable.

    Every trainable floating variable of rank 2 or more is a kernel, whatever its
    layer, apart from biases, normalization parameters and embeddings.
    `tf_tickets.summary` lists the kernels, and what was left alone and why.

    Args:
        model: A built Keras model: Sequential, functional or subclassed, with
            other models nested in it.
        filters: Which layers to wrap, as in `keras.Model.quantize`: a regular
            expression that is searched in the layer's name, a list of names, or
            a function of the layer. For layers inside a layer the name is the
            way there, such as "attention/query".
        embeddings: Whether embedding tables are kernels too. Their gradient
            becomes dense then, which makes a step slower.
        mask: The mask parametrization: "fixed" for 0/1 masks, "penalized" for those
            with a growing penalty, "soft", "stochastic" or "topk" for learned ones, or
            one of `tf_tickets.masks` as an instance.
        verbose: Whether to print one line on what was done.
        score_optimizer: The optimizer of a learned mask's scores, where `model` is
            compiled; by default a copy of the model's, without weight decay.

    Returns:
        The model of wrapped layers, sharing the variables of `model`, and compiled
        as `model` is, with its optimizer, beside which learned masks have one of
        their own (`tf_tickets.optimizers.with_scores`). A subclassed model is changed
        in place and returned; while it is wrapped, only its weights can be saved.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> wrapped = wrap(model)
    tf_tickets: 1 kernel of 12 weights is prunable; 1 variable of 4 weights is not.
    >>> type(wrapped.layers[0]).__name__
    'Prunable'
    """
    _check_model(model)
    mask = masks_module.get(mask)
    _check_score_optimizer(model, mask, score_optimizer)
    chosen = _choose(model, _filter(filters), embeddings)
    if not any(chosen.values()):
        raise ValueError(_nothing_to_prune(model, embeddings))
    _check_untied(chosen)
    wrapped = _wrap_chosen(model, chosen, mask, score_optimizer)
    if verbose:
        print(_one_line(wrapped))
    return wrapped


def wrap_kernels(
    model: keras.Model, variables: Iterable[keras.Variable], mask: str | Mask = "fixed"
) -> keras.Model:
    """Wraps precisely the layers of the given kernel variables.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> list(kernels(wrap_kernels(model, [model.layers[0].kernel])).values()) == [
    ...     model.layers[0].kernel]
    True
    """
    _check_model(model)
    wanted = {id(v) for v in variables}
    chosen = {
        id(unit): [
            (o.path, o.variable)
            for o in paths.variables_of(unit)
            if id(o.variable) in wanted
        ]
        for unit in units(model)
    }
    return _wrap_chosen(model, chosen, masks_module.get(mask))


def strip(model: keras.Model) -> keras.Model:
    """Takes the wrappers off and leaves the zeros in the kernels.

    Args:
        model: A wrapped model. Of learned masks it is the hard mask that counts,
            with its scale, and the model itself stays as it is.

    Returns:
        A plain Keras model that predicts the same and shares its variables with
        `model`, or where masks are learned or scale what they keep, has variables
        of its own. It is not compiled, so that its file holds the weights alone;
        compile it to evaluate or train it. A subclassed model is changed in place
        and returned.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> plain = strip(wrap(model, verbose=False))
    >>> type(plain.layers[0]).__name__
    'Dense'
    """
    wrapped = prunables(model)
    if not wrapped:
        raise ValueError(
            f"Model {model.name!r} has no Prunable layers, so there is nothing to "
            "strip. Received a plain model."
        )
    if scales(model) or any(mask.learned for mask in mask_layers(model).values()):
        return stripped_copy(model)
    for layer in wrapped:
        layer.release()
    return rebuilding.transform(model, _unwrap_layer)


def stripped_copy(model: keras.Model) -> keras.Model:
    """A plain model with variables of its own; the wrapped one stays as it is.

    Args:
        model: A wrapped model. A subclassed one is changed in place all the same.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model = wrap(model, verbose=False)
    >>> plain = stripped_copy(model)
    >>> len(prunables(model)), len(prunables(plain))
    (1, 0)
    """
    factors = {
        id(variable): mask.value() * np.float32(mask.kept_scale)
        for _, variable, mask in _kernel_rows(model)
    }
    plain = rebuilding.transform(model, _unwrap_layer)
    shared = plain.variables
    if plain is not model:
        plain = rebuilding.copy(plain)
    for old, new in zip(shared, plain.variables, strict=True):
        if id(old) in factors:
            new.assign(_scaled(new.value, factors[id(old)]))
    return plain


def _scaled(value, factor):
    """With positive zeros, which are what files are compressed by."""
    scaled = value * ops.cast(factor, value.dtype)
    return ops.where(factor == 0, ops.zeros_like(value), scaled)


def _choose(model, accept, embeddings):
    """Dict from each unit's id to the (path, variable) pairs to prune in it."""
    chosen = {}
    for unit in units(model):
        owned = paths.variables_of(unit)
        chosen[id(unit)] = [
            (o.path, o.variable)
            for o in owned
            if why_not(o, embeddings) is None and accept(unit, _way(unit, o))
        ]
    return chosen


def _way(unit, owned):
    """Names of the layers from the unit down to the variable's owner."""
    return [unit.name, *owned.path.split("/")[:-1]]


def _filter(filters):
    if filters is None:
        return lambda unit, way: True
    if isinstance(filters, str):
        return lambda unit, way: re.search(filters, "/".join(way)) is not None
    if callable(filters):
        return lambda unit, way: bool(filters(unit))
    if isinstance(filters, list | tuple | set):
        return lambda unit, way: any(name in filters for name in way)
    raise TypeError(
        "`filters` must be a regular expression, a list of layer names or a "
        f"function of the layer. Received: {filters!r}"
    )


def _wrap_chosen(model, chosen, mask, score_optimizer=None):
    wrapped = rebuilding.transform(
        model, lambda layer: _wrap_layer(layer, chosen, mask)
    )
    if model.compiled and mask.learned:
        rebuilding.compile_like(
            wrapped, model, lambda given: optimizers.with_scores(given, score_optimizer)
        )
    elif model.compiled and wrapped is not model:
        rebuilding.compile_like(wrapped, model)
    return wrapped


def _wrap_layer(layer, chosen, mask):
    found = chosen.get(id(layer))
    if not found:
        return layer
    return Prunable(layer, kernels=[path for path, _ in found], mask=mask)


def _unwrap_layer(layer):
    return layer.layer if isinstance(layer, Prunable) else layer


def _check_model(model):
    if not isinstance(model, keras.Model):
        kind = type(model)
        raise TypeError(
            "`model` must be a Keras 3 model (keras.Model). Received: "
            f"{model!r} of type {kind.__module__}.{kind.__name__}. For a single "
            "layer use tf_tickets.layers.Prunable(layer)."
        )
    missing = [part.name for part in [model, *units(model)] if not part.built]
    if missing:
        raise ValueError(
            f"Model {model.name!r} is not built, so kernels do not exist yet in "
            f"{missing}. Call it once on data, call model.build(input_shape), or "
            "begin it with keras.Input(shape)."
        )
    if prunables(model):
        raise ValueError(f"Model {model.name!r} is wrapped already.")


def _check_score_optimizer(model, mask, score_optimizer):
    if score_optimizer is not None and not (mask.learned and model.compiled):
        raise ValueError(
            "`score_optimizer` is for a compiled model and a learned mask. Received: "
            f"mask={type(mask).__name__}, a model that is "
            f"{'' if model.compiled else 'not '}compiled. Compile before wrapping, or "
            "compile with tf_tickets.optimizers.with_scores(optimizer, scores=...)."
        )


def _check_untied(chosen):
    owners: dict[int, int] = {}
    for unit, found in chosen.items():
        for _, variable in found:
            if owners.setdefault(id(variable), unit) != unit:
                raise ValueError(
                    f"Kernel {variable.path!r} is used by two layers. It can be "
                    "masked in one place only: exclude the other layer, or both, "
                    "with `filters`."
                )


def _nothing_to_prune(model, embeddings):
    lines = [
        f"  {o.variable.path}: {why_not(o, embeddings) or 'excluded by filters'}"
        for unit in units(model)
        for o in paths.variables_of(unit)
    ]
    return "\n".join(
        [f"Model {model.name!r} has nothing to prune. Its variables:", *lines]
    )


def _one_line(model):
    table = plain_paths(model)
    found = kernels(model)
    rest = [v for path, v in table.items() if path not in found]
    return (
        f"tf_tickets: {_count(found.values(), 'kernel')} prunable; "
        f"{_count(rest, 'variable')} not."
    )


def _count(variables, noun):
    variables = list(variables)
    weights = sum(_size(v) for v in variables)
    one = len(variables) == 1
    return (
        f"{len(variables)} {noun}{'' if one else 's'} of {weights:,} weights "
        f"{'is' if one else 'are'}"
    )


def _size(variable):
    size = 1
    for n in variable.shape:
        size *= n
    return size
