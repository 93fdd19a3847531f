"""`prune_low_magnitude` and `strip_pruning`, over `tf_tickets.wrap` and `strip`."""

from collections.abc import Sequence
from typing import Any

import keras

from tf_tickets import arguments, wrapping
from tf_tickets.structures.blocks import Blocks
from tf_tickets.structures.nm import NM
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.tfmot.pruning_policies import PruningPolicy
from tf_tickets.tfmot.pruning_schedules import ConstantSparsity, Schedule
from tf_tickets.tfmot.scheduled_mask import ScheduledMask
from tf_tickets.wrapping import choosing, compiling, paths
from tf_tickets.wrapping.prunable import Prunable

_HALF = ConstantSparsity(0.5, 0)
_POOLING = {"AVG": "mean", "MAX": "max"}
# The layers of Keras that have kernels, and those that contain other layers.
_WITH_KERNELS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.Embedding,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.RNN,
    keras.layers.LSTMCell,
    keras.layers.GRUCell,
    keras.layers.SimpleRNNCell,
    keras.layers.StackedRNNCells,
    keras.layers.Wrapper,
)


def prune_low_magnitude(
    to_prune: keras.Model | keras.layers.Layer | Sequence[keras.layers.Layer],
    pruning_schedule: Schedule = _HALF,
    block_size: Sequence[int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    """Makes a model, a layer or a list of layers prunable by magnitude.

    This is the function of tensorflow-model-optimization on Keras 3. Pass
    `UpdatePruningStep()` to `fit`; masks are then set before the same steps, with the
    same numbers of weights. `tf_tickets.wrap` and `GradualPruning` do the same without
    a schedule in the layers. What is different:

    - A pruned weight stays pruned, and gets no gradient. There, it gets the gradient
      of one step, and can come back at the next pruning.
    - Of equal weights, those with the lowest index are kept. There, all are kept.
    - If `block_size` does not divide a kernel, its last blocks are smaller. There, the
      scores of all blocks are shifted against their weights.
    - With `sparsity_m_by_n=(2, 4)`, a last group of two weights keeps one of them.
      There, it keeps both. Groups of Conv2DTranspose lie along its inputs, and not its
      outputs.
    - Convolutions can have blocks, and more layers are pruned: custom ones, Conv1D
      and higher transposed ones, Bidirectional, TimeDistributed, ConvLSTM. Subclassed
      models are changed in place. What a model keeps dense is printed.
    - Unknown arguments are refused, also for models.

    Args:
        to_prune: A built model, or layers, which may be built later.
        pruning_schedule: `schedule(step) -> (should_prune, sparsity)`. Each kernel has
            this sparsity. With `sparsity_m_by_n` it is not used.
        block_size: Numbers of inputs and outputs of the blocks that are pruned as a
            whole.
        block_pooling_type: The score of a block: "AVG" or "MAX" of the magnitudes.
        pruning_policy: Which layers are pruned; None for all.
        sparsity_m_by_n: `(m, n)` to prune m of every n weights along the inputs, once,
            at the first step; `(2, 4)` is `tf_tickets.NM(2, 4)`.
        **kwargs: Arguments of the wrapper, for layers only.

    Returns:
        A model that shares the variables of `to_prune` and is not compiled; a
        `tf_tickets.layers.Prunable`, or the layer itself if it has no kernel; a list of
        these.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> schedule = tt.tfmot.ConstantSparsity(0.75, begin_step=2, frequency=1)
    >>> model = prune_low_magnitude(model, schedule)
    tf_tickets: 1 kernel of 32 weights is prunable; 1 variable of 4 weights is not.
    >>> model.compile("adam", "mse")
    >>> x, y = np.ones((16, 8)), np.ones((16, 4))
    >>> pruning = tt.tfmot.UpdatePruningStep()
    >>> history = model.fit(x, y, batch_size=4, verbose=0, callbacks=[pruning])
    >>> int((strip_pruning(model).get_weights()[0] == 0).sum())
    24
    """
    structure = _structure(block_size, block_pooling_type, sparsity_m_by_n)
    mask = ScheduledMask(pruning_schedule)
    _check_policy(pruning_policy)
    how = mask, structure, pruning_policy
    if isinstance(to_prune, keras.layers.Layer):
        return _prune(to_prune, *how, **kwargs)
    if isinstance(to_prune, list | tuple):
        _check_no_arguments(kwargs)
        layers = arguments.listed(keras.layers.Layer, to_prune=to_prune)
        return [_prune(layer, *how) for layer in layers]
    raise TypeError(
        "`to_prune` must be a model, a layer or a list of layers of Keras 3. Received: "
        f"{arguments.shown(to_prune)} of type {type(to_prune).__module__}."
        f"{type(to_prune).__name__}."
    )


def strip_pruning(model: keras.Model) -> keras.Model:
    """Removes the wrappers of `prune_low_magnitude` and leaves the zeros.

    Args:
        model: A model with pruned layers. Others are refused, and subclassed ones are
            changed in place, unlike in tensorflow-model-optimization.

    Returns:
        A plain Keras model, which shares its variables with `model` and is not
        compiled. It does not know which zeros were pruned: further training would fill
        them. `tf_tickets.wrap(model, keep_zeros=True)` keeps them.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
    >>> pruned = prune_low_magnitude(model)
    tf_tickets: 1 kernel of 32 weights is prunable; 1 variable of 4 weights is not.
    >>> type(strip_pruning(pruned).layers[0]).__name__
    'Dense'
    """
    arguments.check_type(keras.Model, model=model)
    return wrapping.strip(model)


def prune_scope() -> Any:
    """Returns a scope for loading pruned models, which Keras 3 does not need.

    The classes are registered when `tf_tickets` is imported.

    Example:

    >>> with prune_scope():
    ...     mask = keras.saving.get_registered_object("ScheduledMask")
    >>> mask is tt.tfmot.ScheduledMask
    True
    """
    return keras.saving.custom_object_scope(
        {"Prunable": Prunable, "ScheduledMask": ScheduledMask}
    )


def _structure(block_size, block_pooling_type, sparsity_m_by_n) -> Structure:
    arguments.check_choice(("AVG", "MAX"), block_pooling_type=block_pooling_type)
    rows, columns = _pair(block_size=block_size)
    if sparsity_m_by_n is None:
        if (rows, columns) == (1, 1):
            return Unstructured()
        return Blocks(rows, columns, _POOLING[block_pooling_type])
    zeros, size = _pair(sparsity_m_by_n=sparsity_m_by_n)
    if zeros >= size:
        raise ValueError(
            "`sparsity_m_by_n` is (m, n) to prune m of every n weights, with m below "
            f"n. Received: {tuple(sparsity_m_by_n)}"
        )
    if (rows, columns) != (1, 1):
        raise ValueError(
            "`block_size` and `sparsity_m_by_n` are two structures. Received: "
            f"block_size={(rows, columns)} and sparsity_m_by_n={(zeros, size)}. Pass "
            "one of them."
        )
    return NM(size - zeros, size)


def _pair(**values):
    [(name, value)] = values.items()
    numbers = list(value) if isinstance(value, list | tuple) else [value]
    if len(numbers) != 2:
        raise ValueError(
            f"`{name}` must be a pair of whole numbers, such as (2, 4). Received: "
            f"{arguments.shown(value)}"
        )
    arguments.check_counts(**{f"{name}[{i}]": n for i, n in enumerate(numbers)})
    return tuple(map(int, numbers))


def _check_policy(policy):
    if policy is not None and not callable(getattr(policy, "allow_pruning", None)):
        raise TypeError(
            "`pruning_policy` must have a method allow_pruning(layer), as "
            "tf_tickets.tfmot.PruningPolicy has it, or be None. Received: "
            f"{arguments.shown(policy)}"
        )


def _check_no_arguments(kwargs):
    if kwargs:
        raise TypeError(
            "Only a single layer takes arguments for its wrapper. Received: "
            f"{sorted(kwargs)}. Expected: pruning_schedule, block_size, "
            "block_pooling_type, pruning_policy, sparsity_m_by_n."
        )


def _prune(layer, mask, structure, policy, **kwargs):
    if not isinstance(layer, keras.Model):
        return _layer(layer, mask, structure, policy, **kwargs)
    _check_no_arguments(kwargs)
    return _model(layer, mask, structure, policy)


def _model(model, mask, structure, policy):
    filters = None
    if policy is not None:
        ensure = getattr(policy, "ensure_model_supports_pruning", None)
        if ensure is not None:
            ensure(model)
        filters = policy.allow_pruning
    with compiling.as_if_not_compiled(model):
        return wrapping.wrap(
            model, filters, embeddings=True, mask=mask, structure=structure
        )


def _layer(layer, mask, structure, policy, **kwargs):
    refused = policy is not None and not policy.allow_pruning(layer)
    if refused or isinstance(layer, Prunable):
        return layer
    if isinstance(layer, choosing.DEPTHWISE):
        print(
            f"tf_tickets: the depthwise kernel of {layer.name!r} is left alone; wrap "
            "it with tf_tickets.layers.Prunable to prune it."
        )
        return layer
    kernels = _kernels(layer, structure)
    if kernels == []:
        return layer
    return Prunable(layer, kernels, mask, structure, **kwargs)


def _kernels(layer, structure):
    """Returns the kernels of a layer by name, or None for those that it will have."""
    if hasattr(layer, "get_prunable_weights") and not layer.built:
        return None
    if layer.built:
        owned = paths.variables_of(layer)
        chosen = [
            o.path
            for o in owned
            if choosing.why_not(o, embeddings=True, structure=structure) is None
        ]
        free = any(choosing.why_not(o, embeddings=True) is None for o in owned)
        # If only the structure excludes its kernels, the wrapper says why.
        return None if free and not chosen else chosen
    if isinstance(layer, keras.layers.Embedding):
        # Tables have no structure: the wrapper says so when it is built.
        return ["embeddings"] if structure == Unstructured() else None
    if isinstance(layer, keras.layers.SeparableConv1D | keras.layers.SeparableConv2D):
        return ["pointwise_kernel"]
    is_of_keras = getattr(keras.layers, type(layer).__name__, None) is type(layer)
    return [] if is_of_keras and not isinstance(layer, _WITH_KERNELS) else None
