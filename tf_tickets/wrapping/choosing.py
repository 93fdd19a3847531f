"""Which variables of a model are kernels, and which of them filters choose."""

import re
from collections.abc import Callable, Collection

import keras

from tf_tickets import arguments
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.graphs import leaves

# A regular expression, a list of names or a function of the layer.
Filters = str | Collection[str] | Callable[[keras.layers.Layer], object] | None

_LORA = "lora_"
NOT_KERNELS = ("bias", "gamma", "beta", "alpha", _LORA)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
GROUPED = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)


def why_not(
    owned: paths.Owned,
    embeddings: bool = False,
    depthwise: bool = False,
    structure: Structure = Unstructured(),  # noqa: B008  frozen
) -> str | None:
    """Returns why a variable is not a prunable kernel, or None if it is one.

    A layer with a method `get_prunable_weights`, as custom layers for
    tensorflow-model-optimization have it, decides itself.
    """
    variable = owned.variable
    decides = getattr(owned.owner, "get_prunable_weights", None)
    if decides is None:
        reason = _why_no_kernel(owned)
    elif not any(weight is variable for weight in decides()):
        reason = "not among its get_prunable_weights()"
    else:
        reason = _why_not_trained(owned)
    if reason is not None:
        return reason
    reason = structure.why_not(owned.owner, variable)
    if reason is not None:
        return f"not for {structure.name}: {reason}"
    if decides is not None:
        return None
    if "embedding" in variable.name and not embeddings:
        return "an embedding: pass embeddings=True to prune it"
    if is_depthwise(owned) and not depthwise:
        return "a depthwise kernel: pass depthwise=True to prune it"
    return None


def _why_no_kernel(owned):
    variable = owned.variable
    if len(variable.shape) < 2:
        return f"rank {len(variable.shape)}"
    reason = _why_not_trained(owned)
    if reason is not None:
        return reason
    if _LORA in variable.name:
        return "a LoRA weight, which is added to a kernel"
    if any(word in variable.name for word in NOT_KERNELS):
        return "a bias, normalization or activation parameter"
    return None


def _why_not_trained(owned):
    if not owned.variable.trainable:
        mode = getattr(owned.owner, "quantization_mode", None)
        return f"quantized by Keras to {mode}" if mode else "frozen (not trainable)"
    if not keras.backend.is_float_dtype(owned.variable.dtype):
        return f"not floating point ({owned.variable.dtype})"
    return None


def is_depthwise(owned: paths.Owned) -> bool:
    """Returns whether each filter of a kernel sees a single channel.

    Example:

    >>> layer = keras.layers.SeparableConv1D(2, 3)
    >>> layer.build((None, 8, 2))
    >>> [o.path for o in paths.variables_of(layer) if is_depthwise(o)]
    ['depthwise_kernel']
    """
    layer, variable = owned.owner, owned.variable
    if "depthwise_kernel" in variable.name:
        return True
    if isinstance(layer, GROUPED):
        single = layer.groups > 1 and variable.shape[-2] == 1
        return single and variable.name == "kernel"
    return isinstance(layer, DEPTHWISE) and variable.name == "kernel"


def choose(
    model: keras.Model,
    filters: Filters,
    embeddings: bool,
    depthwise: bool,
    structure: Structure,
) -> list[keras.Variable]:
    """Returns the kernels of a model that filters choose.

    Args:
        model: A plain model.
        filters: As in `tf_tickets.wrap`.
        embeddings: As in `tf_tickets.wrap`.
        depthwise: As in `tf_tickets.wrap`.
        structure: What the kernels must be able to have.
    """
    accept = _filter(filters)
    chosen = {}
    for leaf in leaves(model):
        owned = paths.variables_of(leaf)
        chosen[id(leaf)] = [
            o.variable
            for o in owned
            if why_not(o, embeddings, depthwise, structure) is None
            and accept(leaf, _way(leaf, o))
        ]
    if not any(chosen.values()):
        settings = embeddings, depthwise, structure
        raise ValueError(_nothing_to_prune(model, filters, settings))
    _check_untied(chosen)
    return [variable for found in chosen.values() for variable in found]


def why_left(
    model: keras.Model, embeddings: bool, depthwise: bool, structure: Structure
) -> dict[int, str]:
    """Returns why variables are no prunable kernels, whatever the filters, by their id.

    Args:
        model: A plain model.
        embeddings: As in `tf_tickets.wrap`.
        depthwise: As in `tf_tickets.wrap`.
        structure: What the kernels must be able to have.
    """
    reasons = {
        id(o.variable): why_not(o, embeddings, depthwise, structure)
        for leaf in leaves(model)
        for o in paths.variables_of(leaf)
    }
    return {key: reason for key, reason in reasons.items() if reason is not None}


def _way(leaf, owned):
    """Returns the layer names from the leaf down to the variable's owner."""
    return [leaf.name, *owned.path.split("/")[:-1]]


def _filter(filters):
    if filters is None:
        return lambda leaf, way: True
    if isinstance(filters, str):
        arguments.check_pattern(filters=filters)
        return lambda leaf, way: re.search(filters, "/".join(way)) is not None
    if callable(filters):
        arguments.check_functions(1, filters=filters)
        return lambda leaf, way: bool(filters(leaf))
    if isinstance(filters, list | tuple | set):
        arguments.listed(str, filters=filters)
        return lambda leaf, way: any(name in filters for name in way)
    raise TypeError(
        "`filters` must be a regular expression, a list of layer names or a "
        f"function of the layer. Received: {arguments.shown(filters)}"
    )


def names_layers(filters: Filters) -> bool:
    """Returns whether `filters` names layers, rather than which ones to leave out."""
    if isinstance(filters, str):
        return re.search(filters, "") is None
    return isinstance(filters, list | tuple | set)


def _check_untied(chosen):
    owners: dict[int, int] = {}
    for leaf, found in chosen.items():
        for variable in found:
            if owners.setdefault(id(variable), leaf) != leaf:
                raise ValueError(
                    f"Kernel {variable.path!r} is used by two layers. It can be "
                    "masked in one place only: exclude the other layer, or both, "
                    "with `filters`."
                )


def _nothing_to_prune(model, filters, settings):
    excluded = "excluded by filters"
    rows = [
        (o.variable.path, why_not(o, *settings) or excluded)
        for leaf in leaves(model)
        for o in paths.variables_of(leaf)
    ]
    head = (
        f"Model {model.name!r} has nothing to prune. Received: filters="
        f"{arguments.shown(filters)}."
    )
    if any("quantized" in reason for _, reason in rows):
        head += " Prune first, then quantize the stripped model."
    return "\n".join(
        [f"{head} Its variables:", *(f"  {path}: {reason}" for path, reason in rows)]
    )


def depthwise_kernels(
    model: keras.Model,
    filters: Filters = None,
    structure: Structure = Unstructured(),  # noqa: B008  frozen
) -> list[keras.Variable]:
    """Returns the depthwise kernels that are left alone, though filters accept them."""
    accept = _filter(filters)
    return [
        o.variable
        for leaf in leaves(model)
        for o in paths.variables_of(leaf)
        if why_not(o, structure=structure) is not None
        and why_not(o, depthwise=True, structure=structure) is None
        and accept(leaf, _way(leaf, o))
    ]


def unfit_kernels(
    model: keras.Model,
    filters: Filters,
    embeddings: bool,
    depthwise: bool,
    structure: Structure,
) -> dict[str, list[keras.Variable]]:
    """Returns the kernels that a structure leaves alone, by the reason.

    Args:
        model: A plain model.
        filters: As in `tf_tickets.wrap`.
        embeddings: As in `tf_tickets.wrap`.
        depthwise: As in `tf_tickets.wrap`.
        structure: The structure.
    """
    accept = _filter(filters)
    found: dict[str, list[keras.Variable]] = {}
    for leaf in leaves(model):
        for o in paths.variables_of(leaf):
            is_kernel = why_not(o, embeddings, depthwise) is None
            reason = why_not(o, embeddings, depthwise, structure)
            if is_kernel and reason is not None and accept(leaf, _way(leaf, o)):
                found.setdefault(reason, []).append(o.variable)
    return found
