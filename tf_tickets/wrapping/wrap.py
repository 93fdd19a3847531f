"""Wraps the layers of whole models in Prunable, and strips the wrappers again.

Functional and Sequential models, nested ones included, are rebuilt around the same
layers. Subclassed models are changed in place, in the attributes that hold their
layers. In both cases the variables stay the same objects.
"""

import dataclasses
import warnings
from collections.abc import Iterable

import keras
import numpy as np
from keras import ops

from tf_tickets import arguments, augmentation, distribution, optimizers
from tf_tickets import masks as masks_module
from tf_tickets.masks.base import Mask
from tf_tickets.structures import registry as structures
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.wrapping import (
    channel_members,
    choosing,
    compiling,
    graphs,
    guarding,
    onednn,
    paths,
    rebuilding,
    transforming,
)
from tf_tickets.wrapping.choosing import Filters
from tf_tickets.wrapping.kernels import kernels, plain_paths, prunables
from tf_tickets.wrapping.prunable import Prunable


def wrap(
    model: keras.Model,
    filters: Filters = None,
    embeddings: bool = False,
    mask: str | Mask = "fixed",
    verbose: bool = True,
    score_optimizer: str | dict | keras.optimizers.Optimizer | None = None,
    keep_zeros: bool = False,
    depthwise: bool = False,
    structure: str | Structure = "unstructured",
) -> keras.Model:
    """Makes the kernels of a built model prunable.

    Every trainable floating variable of rank 2 or more is a kernel, whatever its
    layer, apart from biases, normalization parameters, embeddings and the kernels of
    depthwise convolutions. `tf_tickets.summary` lists the kernels, and what was left
    alone and why.

    Args:
        model: A built Keras model: Sequential, functional or subclassed, with
            other models nested in it.
        filters: Which layers to wrap, as in `keras.Model.quantize`: a regular
            expression searched in the layer's name, a list of names, or a function of
            the layer. A layer inside a layer is named by its path, such as
            "attention/query".
        embeddings: Whether embedding tables are kernels too. Their gradient becomes
            dense, which makes a step slower.
        mask: The mask parametrization: "fixed" for 0/1 masks, "penalized" for masks
            with a growing penalty, "soft", "stochastic" or "topk" for learned masks, or
            an instance of a class in `tf_tickets.masks`.
        verbose: Whether to print one line about the result.
        score_optimizer: The optimizer of a learned mask's scores if `model` is
            compiled; by default a copy of the model's optimizer, without weight decay.
        keep_zeros: Whether zeros in the kernels are pruned in the masks, as in a model
            that was pruned and stripped. A kernel of zeros only is kept whole. Requires
            masks that are not learned.
        depthwise: Whether all kernels of depthwise convolutions are kernels too. They
            have few weights, and global pruning can remove whole layers of them.
            `filters` selects them too: by a list of names, or by a regular expression
            other than one that excludes names (and so matches an empty name).
        structure: Which weights are kept or pruned together, in every search:
            "unstructured", "2:4" or `tf_tickets.NM(n, m)` to keep n of m weights along
            the inputs, "4x1" or `tf_tickets.Blocks(rows, columns)` for whole blocks,
            "channels" or `tf_tickets.Channels(round_to=8)` for whole outputs of layers.
            Kernels that cannot have the structure are left alone. Requires masks that
            are not learned. Channels are pruned with their biases, normalizations and
            readers, whatever `depthwise` is; kernels that `filters` exclude keep their
            outputs.

    Returns:
        The model of wrapped layers. It shares the variables of `model` and is compiled
        as `model` is. Learned masks get an optimizer of their own beside the model's
        (`tf_tickets.optimizers.with_scores`). A subclassed model is changed in place
        and returned; its class gets the methods that its `.keras` file needs. A
        functional model of a class with its own constructor, such as a task of
        KerasHub, is not changed: the wrapped model is a `keras.Model` of its layers.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> wrapped = wrap(model)
    tf_tickets: 1 kernel of 12 weights is prunable; 1 variable of 4 weights is not.
    >>> type(wrapped.layers[0]).__name__
    'Prunable'
    """
    _check_model(model)
    arguments.check_flags(embeddings=embeddings, depthwise=depthwise)
    arguments.check_flags(verbose=verbose, keep_zeros=keep_zeros)
    mask = masks_module.get(mask)
    structure = structures.get(structure)
    structures.check_mask(structure, mask)
    _check_score_optimizer(model, mask, score_optimizer)
    _check_keeps_zeros(mask, keep_zeros)
    depthwise = depthwise or choosing.names_layers(filters)
    chosen_by = filters, embeddings, depthwise, structure
    variables = choosing.choose(model, *chosen_by)
    unfit = choosing.unfit_kernels(model, *chosen_by) if verbose else {}
    members = None
    if isinstance(structure, Channels):
        reasons = choosing.why_left(model, embeddings, depthwise, structure)
        members = channel_members.find_members(model, structure, variables, reasons)
        rounding = channel_members.about_rounding(members)
        if rounding is not None:
            warnings.warn(rounding, stacklevel=2)
        variables = members.variables
    wrapped = _wrap_variables(model, variables, mask, structure, score_optimizer)
    if members is not None:
        _spare(wrapped, members.spared)
    if keep_zeros:
        _prune_zeros(wrapped)
    onednn.warn(wrapped)
    if verbose and members is not None:
        lines = [*channel_members.described(members), *_about_original(wrapped)]
        print("\n".join(lines))
    elif verbose:
        spared = choosing.depthwise_kernels(model, filters, structure)
        notes = [*_about_unfit(unfit), *_about_depthwise([] if depthwise else spared)]
        notes += _about_original(wrapped)
        print("\n".join([_one_line(wrapped), *notes]))
    return wrapped


def wrap_kernels(
    model: keras.Model,
    variables: Iterable[keras.Variable],
    mask: str | Mask = "fixed",
    structure: str | Structure = "unstructured",
    spared: Iterable[keras.Variable] = (),
) -> keras.Model:
    """Wraps exactly the layers that own the given kernel variables.

    Args:
        model: A built, plain model.
        variables: The kernels.
        mask: The mask parametrization.
        structure: Which weights are kept or pruned together.
        spared: With channels, those of the kernels whose outputs stay.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> wrapped = wrap_kernels(model, [model.layers[0].kernel])
    >>> len(tt.kernels(wrapped))
    1
    """
    _check_model(model)
    structure = structures.get(structure)
    wrapped = _wrap_variables(model, variables, masks_module.get(mask), structure)
    spared = list(spared)
    if spared:
        _spare(wrapped, spared)
    return wrapped


def strip(model: keras.Model) -> keras.Model:
    """Removes the wrappers and leaves the zeros in the kernels.

    Args:
        model: A wrapped model. Learned masks count as their hard masks, with their
            scale; a model with learned masks is not changed itself.

    Returns:
        A plain Keras model with the same predictions. It shares its variables with
        `model`, unless masks are learned or scale the kept weights: then it has its
        own. It is not compiled, which keeps the optimizer out of its file; compile it
        to evaluate or train it. A subclassed model is changed in place and returned.
        If the wrapped model was made from a class with its own constructor, such as a
        task of KerasHub, that model itself is returned, not compiled any more.
        Layers of `tf_tickets.augmentation` become `keras.layers.Identity`.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> plain = strip(wrap(model, verbose=False))
    >>> type(plain.layers[0]).__name__
    'Dense'
    """
    wrapped = kernels(model)
    if not wrapped:
        raise ValueError(
            f"Model {model.name!r} has no Prunable layers, so there is nothing to "
            "strip. Received a plain model."
        )
    masks = wrapped.mask_layers.values()
    if wrapped.scales or any(mask.learned for mask in masks):
        return stripped_copy(model)
    for layer in wrapped.layers:
        layer.release()
    guarding.release_models(model)
    plain = transforming.transform(model, _unwrap_layer)
    if isinstance(model, rebuilding.WrappedModel):
        # The optimizer is built for the order of variables in the wrapped model.
        plain.compiled, plain.optimizer = False, None
    return plain


def stripped_copy(model: keras.Model) -> keras.Model:
    """Returns a plain model with its own variables; the wrapped one does not change.

    Args:
        model: A wrapped model. A subclassed model is changed in place nevertheless.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    >>> model = wrap(model, verbose=False)
    >>> plain = stripped_copy(model)
    >>> len(prunables(model)), len(prunables(plain))
    (1, 0)
    """
    factors = {
        id(kernel.variable): kernel.mask_layer.value()
        * np.float32(kernel.mask_layer.kept_scale)
        for kernel in kernels(model).values()
    }
    if not graphs.is_graph(model):
        guarding.release_models(model)
    plain = transforming.transform(model, _unwrap_layer)
    shared = plain.variables
    if plain is not model:
        with distribution.scope(model):
            original, plain = plain, rebuilding.copy(plain)
        if type(plain) is not type(original):
            shared = graphs.graph_of(original).variables
    for old, new in zip(shared, plain.variables, strict=True):
        if id(old) in factors:
            new.assign(_scaled(new.value, factors[id(old)]))
    return plain


def _scaled(value, factor):
    """Multiplies and writes positive zeros, which compress better than -0.0."""
    scaled = value * ops.cast(factor, value.dtype)
    return ops.where(factor == 0, ops.zeros_like(value), scaled)


def _wrap_variables(model, variables, mask, structure, score_optimizer=None):
    with distribution.scope(model):
        wrapped = transforming.wrap_variables(model, variables, mask, structure)
        if model.compiled and mask.learned:
            compiling.compile_like(
                wrapped,
                model,
                lambda given: optimizers.with_scores(given, score_optimizer),
            )
        elif model.compiled and wrapped is not model:
            compiling.compile_like(wrapped, model)
    guarding.guard_models(model, wrapped, prunables(wrapped))
    return wrapped


def without_augmentation(model: keras.Model) -> keras.Model:
    """Returns the model without layers that act only in training.

    Example:

    >>> layer = tt.augmentation.CropAndFlip(name="crop")
    >>> model = keras.Sequential([keras.Input((8, 8, 3)), layer])
    >>> type(without_augmentation(model).layers[0]).__name__
    'Identity'
    """
    has_any = any(map(_is_augmentation, graphs.leaves(model)))
    return transforming.transform(model, _unwrap_layer) if has_any else model


def _is_augmentation(layer):
    return isinstance(layer, augmentation.Augmentation)


def _unwrap_layer(layer):
    if _is_augmentation(layer):
        return keras.layers.Identity(name=layer.name, dtype=layer.dtype_policy.name)
    return layer.layer if isinstance(layer, Prunable) else layer


def _check_model(model):
    if not isinstance(model, keras.Model):
        kind = type(model)
        raise TypeError(
            "`model` must be a Keras 3 model (keras.Model). Received: "
            f"{model!r} of type {kind.__module__}.{kind.__name__}. For a single "
            "layer use tf_tickets.layers.Prunable(layer)."
        )
    _check_callable(model)
    missing = [part.name for part in [model, *graphs.leaves(model)] if not part.built]
    if missing:
        raise ValueError(
            f"Model {model.name!r} is not built, so kernels do not exist yet in "
            f"{missing}. Call it once on data, call model.build(input_shape), or "
            "begin it with keras.Input(shape)."
        )
    if prunables(model):
        raise ValueError(
            f"Model {model.name!r} is wrapped already. Pass a plain model, or call "
            "tf_tickets.strip(model) first."
        )
    graphs.check_rebuilds(model)


def _check_callable(model):
    """Refuses a model that only trains other models, such as a VAE or GAN."""
    has_call = type(model).call is not keras.Model.call
    if model.built or has_call or graphs.is_graph(model):
        return
    raise ValueError(
        f"Model {model.name!r} has no `call`, so it cannot be built. Wrap the models "
        "inside it instead, and make it from the wrapped ones. Its layers: "
        f"{[layer.name for layer in paths.children(model)]}."
    )


def _check_score_optimizer(model, mask, score_optimizer):
    if score_optimizer is not None:
        optimizers.get(score_optimizer)
    if score_optimizer is not None and not (mask.learned and model.compiled):
        raise ValueError(
            "`score_optimizer` is for a compiled model and a learned mask. Received: "
            f"mask={type(mask).__name__}, a model that is "
            f"{'' if model.compiled else 'not '}compiled. Compile before wrapping, or "
            "compile with tf_tickets.optimizers.with_scores(optimizer, scores=...)."
        )


def _check_keeps_zeros(mask, keep_zeros):
    if keep_zeros and mask.learned:
        raise ValueError(
            "`keep_zeros` requires masks that are not learned, since training would "
            f"bring the zeros back. Received: mask={type(mask).__name__}. Wrap with "
            'mask="fixed".'
        )


def _spare(wrapped, spared):
    """Notes in the structure which prunable variables are kernels that stay."""
    spared_ids = {id(variable) for variable in spared}
    variables = kernels(wrapped).variables.values()
    places = tuple(i for i, v in enumerate(variables) if id(v) in spared_ids)
    for layer in prunables(wrapped):
        if isinstance(layer.structure, Channels):
            layer.restructure(dataclasses.replace(layer.structure, spared=places))


def _prune_zeros(wrapped):
    prunable = kernels(wrapped)
    masks = {path: kernel != 0 for path, kernel in prunable.weights.items()}
    if isinstance(prunable.structure, Channels):
        units = prunable.layout.units(masks)
        some = {name: alive if alive.any() else ~alive for name, alive in units.items()}
        masks = prunable.layout.masks(some, prunable.masks)
    prunable.set_masks({path: mask for path, mask in masks.items() if mask.any()})


def _one_line(model):
    prunable = kernels(model)
    rest = [v for path, v in plain_paths(model).items() if path not in prunable]
    structured = prunable.structure != Unstructured()
    under = f" as {prunable.structure.name}" if structured else ""
    return (
        f"tf_tickets: {_count(prunable.variables.values(), 'kernel')} prunable{under}; "
        f"{_count(rest, 'variable')} not."
    )


def _about_unfit(kernels):
    """Returns a line about the kernels that each reason excludes."""
    return [
        f"tf_tickets: {_count(variables, 'kernel')} left alone, {reason}."
        for reason, variables in kernels.items()
    ]


def _about_depthwise(kernels):
    if not kernels:
        return []
    return [
        f"tf_tickets: {_count(kernels, 'depthwise kernel')} left alone; pass "
        "depthwise=True to prune them."
    ]


def _about_original(wrapped):
    """Returns a line about a wrapped model that is not of the class of the model."""
    original = rebuilding.original(wrapped)
    if original is None:
        return []
    unused = [layer.name for layer in wrapped.unused_layers]
    line = (
        f"tf_tickets: the wrapped model is a keras.Model of the layers of this "
        f"{type(original).__name__}. After training, tf_tickets.strip returns the "
        f"{type(original).__name__} itself, which is then sparse."
    )
    if unused:
        line += f" It is trained without {unused}: pass what a preprocessor returns."
    return [line]


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
