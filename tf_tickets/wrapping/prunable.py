"""Prunable: a layer that sees `mask * kernel` wherever it reads its kernel."""

import inspect
from collections.abc import Iterable, Mapping
from types import SimpleNamespace

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import masks as masks_module
from tf_tickets.masks.base import Mask, Tensor
from tf_tickets.wrapping import paths

__all__ = [
    "Prunable",
]

NOT_KERNELS = ("bias", "gamma", "beta", "alpha")


class ReadOverlay(keras.StatelessScope):
    """Inside, reading a kernel gives its masked value; all else is as outside.

    A plain `keras.StatelessScope` keeps every update and loss to itself, which
    loses batch-normalization statistics, seeds and activity regularizers. This
    one passes them on to the scope outside, or to the variable where there is
    none.

    Args:
        factors: Dict from a kernel variable's id to what its value is multiplied
            with.
        values: Dict from id to the masked value.
    """

    def __init__(self, factors: dict[int, Tensor], values: dict[int, Tensor]) -> None:
        super().__init__(initialize_variables=False)
        self.factors = factors
        self.values = values

    def __enter__(self):
        super().__enter__()
        outer = self.original_scope
        self.collect_losses = outer is None or outer.collect_losses
        self.losses = [] if outer is None else outer.losses
        return self

    def get_current_value(self, variable):
        if id(variable) in self.values:
            return self.values[id(variable)]
        outer = self.original_scope
        return None if outer is None else outer.get_current_value(variable)

    def add_update(self, update):
        variable, value = update
        outer = self.original_scope
        try:
            if outer is None:
                self.__exit__()
                variable.assign(value)
                # Read again: a plain layer's gradient stops at an assignment.
                value = variable.value
            else:
                outer.add_update(update)
        finally:
            super().__enter__()
            self.original_scope = outer
        if id(variable) in self.values:
            self.values[id(variable)] = value * self.factors[id(variable)]


class _Call:
    """`Prunable.call` under the signature of the wrapped layer's `call`.

    Keras reads from the signature whether a layer takes `training`, `mask`,
    `initial_state` and so on. A mask that counts steps must be told `training` too.
    """

    def __init__(self, prunable, layer, counts_steps):
        self.prunable = prunable
        self.__signature__ = inspect.signature(layer.call)
        asks = _takes_training(self.__signature__)
        self.adds_training = counts_steps and not asks
        if self.adds_training:
            self.__signature__ = _with_training(self.__signature__)

    def __call__(self, *args, **kwargs):
        return self.prunable.call_masked(*args, **kwargs)


@keras.saving.register_keras_serializable("tf_tickets")
class Prunable(keras.layers.Wrapper):
    """Wraps a layer so that its kernels can be pruned.

    The layer keeps its weights and reads each kernel through a mask: pruned
    weights are exactly zero for the layer at every moment, and no gradient
    reaches them. It works at any depth: inside RNN cells, attention, other
    wrappers and custom blocks.

    Args:
        layer: The layer to wrap.
        kernels: Which of its variables are kernels, as paths below the layer
            ("kernel", "query/kernel"). By default every trainable floating
            variable of rank 2 or more, apart from biases, normalization
            parameters and embeddings.
        mask: The mask parametrization of each kernel, one of `tf_tickets.masks` by
            name, or an instance to copy.

    Example:

    >>> layer = Prunable(keras.layers.Dense(2, use_bias=False))
    >>> layer.build((None, 3))
    >>> layer.set_masks({"kernel": [[1, 0], [1, 0], [0, 0]]})
    >>> float(layer(keras.ops.ones((1, 3)))[0, 1])
    0.0
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        kernels: Iterable[str] | None = None,
        mask: str | dict | Mask = "fixed",
        **kwargs: object,
    ) -> None:
        mask = masks_module.get(mask)
        # Keras inspects both signatures, `call` while the layer is being made.
        self.call = _Call(self, layer, mask.counts_steps)
        self.build.__signature__ = _build_signature(layer)
        kwargs["dtype"] = layer.variable_dtype
        # The same name: losses, metrics and `get_layer` go by it.
        kwargs.setdefault("name", layer.name)
        # With autocast off the mask meets the kernel in the variable's dtype.
        super().__init__(layer, autocast=False, **kwargs)
        self.supports_masking = layer.supports_masking
        self.kernels = kernels if kernels is None else list(kernels)
        self.kernel_masks: list[Mask] = []
        # In a namespace, for Keras would count a tracked variable twice, and would
        # build a model with an unbuilt layer in it anew at every `fit`.
        self._untracked = SimpleNamespace(kernels={}, mask=mask)
        if layer.built:
            self.build()

    def build(self, *args, **kwargs):
        if not self.layer.built:
            _build(self.layer, *args, **kwargs)
        table = self._find_kernels()
        if not table:
            raise ValueError(_no_kernels(self.layer))
        self.kernels = list(table)
        self._untracked.kernels = table
        for name, variable in table.items():
            config = {**self.mask.get_config(), "name": name.replace("/", "_")}
            mask = type(self.mask).from_config(config)
            mask.build(tuple(variable.shape))
            mask.watch(variable)
            self.kernel_masks.append(mask)

    def _find_kernels(self):
        owned = paths.variables_of(self.layer)
        if self.kernels is None:
            return {o.path: o.variable for o in owned if why_not(o) is None}
        table = {o.path: o.variable for o in owned}
        found = paths.match(self.kernels, table)
        if found is None:
            raise ValueError(
                f"Layer {self.layer.name!r} has no kernels {self.kernels}. It has "
                f"{list(table)}."
            )
        return {found[name]: table[found[name]] for name in self.kernels}

    def call_masked(self, *args: object, **kwargs: object) -> object:
        """Runs the layer under the overlay; `call` in all but the signature."""
        training = self._training(args, kwargs)
        factors = {id(v): m.factor(v.dtype, training) for v, m in self._pairs()}
        values = {id(v): v.value * factors[id(v)] for v, _ in self._pairs()}
        overlay = ReadOverlay(factors, values)
        with overlay:
            outputs = self.layer(*args, **kwargs)
        if overlay.original_scope is None:
            for loss in overlay.losses:
                self.add_loss(loss)
        return outputs

    def _training(self, args, kwargs):
        """What a mask that counts steps is told; the layer only if it asks."""
        if not self.mask.counts_steps:
            return False
        if self.call.adds_training:
            return bool(kwargs.pop("training", False))
        found = self.call.__signature__.bind_partial(*args, **kwargs).arguments
        return bool(found.get("training", False))

    @property
    def kernel_variables(self) -> dict[str, keras.Variable]:
        """Dict from a kernel's path below the layer to its stored variable."""
        return self._untracked.kernels

    @property
    def mask(self) -> Mask:
        """The mask parametrization that those of the kernels are copies of."""
        return self._untracked.mask

    def masks(self) -> dict[str, np.ndarray]:
        """Dict from a kernel's path below the layer to its hard 0/1 mask."""
        return {name: mask.value() for name, mask in self._masks_by_kernel().items()}

    def set_masks(self, masks: Mapping[str, ArrayLike]) -> None:
        """Sets masks by path below the layer and zeroes what they prune."""
        table = self._masks_by_kernel()
        unknown = set(masks) - set(table)
        if unknown:
            raise ValueError(
                f"Layer {self.layer.name!r} has no kernels {sorted(unknown)}. It has "
                f"{list(table)}."
            )
        for name, mask in masks.items():
            table[name].assign(mask)
        self.zero_pruned()

    def zero_pruned(self) -> None:
        """Writes the zeros into the stored kernels as well."""
        for variable, mask in self._pairs():
            zero_pruned(variable, mask)

    def release(self) -> None:
        """Writes the zeros and takes off what the masks have put on the kernels."""
        self.zero_pruned()
        for variable, mask in self._pairs():
            mask.release(variable)

    def _masks_by_kernel(self):
        return dict(zip(self.kernel_variables, self.kernel_masks, strict=True))

    def _pairs(self):
        return list(zip(self.kernel_variables.values(), self.kernel_masks, strict=True))

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def compute_output_shape(self, *args, **kwargs):
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args, **kwargs):
        # By tracing: `Layer` would give the shape above this wrapper's dtype.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_build_config(self):
        return self.layer.get_build_config() if _has_build(self.layer) else None

    def build_from_config(self, config):
        if not self.built:
            self.layer.build_from_config(config)
            self.build()

    def get_config(self):
        config = super().get_config()
        if not _has_build(self.layer):
            # With it Keras would take the copy, still without weights, for built.
            config["layer"].pop("build_config", None)
        config["kernels"] = self.kernels
        config["mask"] = keras.saving.serialize_keras_object(self.mask)
        return config


def why_not(owned: paths.Owned, embeddings: bool = False) -> str | None:
    """Why a variable is no kernel to prune, or None where it is one."""
    variable = owned.variable
    if len(variable.shape) < 2:
        return f"rank {len(variable.shape)}"
    if not variable.trainable:
        return "frozen (not trainable)"
    if not keras.backend.is_float_dtype(variable.dtype):
        return f"not floating ({variable.dtype})"
    if any(word in variable.name for word in NOT_KERNELS):
        return "a bias, a normalization or an activation parameter"
    if "embedding" in variable.name and not embeddings:
        return "an embedding: pass embeddings=True to prune it"
    return None


def zero_pruned(variable: keras.Variable, mask: Mask) -> None:
    """Writes the zeros of the hard mask into a stored kernel, all of them positive."""
    value = variable.value
    variable.assign(ops.where(mask.value(), value, ops.zeros_like(value)))


def _takes_training(signature):
    return "training" in signature.parameters


def _with_training(signature):
    """The signature with a keyword `training` more."""
    parameters = list(signature.parameters.values())
    keyword = inspect.Parameter.VAR_KEYWORD
    end = len(parameters) - any(p.kind is keyword for p in parameters)
    kind = inspect.Parameter.KEYWORD_ONLY
    training = inspect.Parameter("training", kind, default=False)
    return signature.replace(
        parameters=[*parameters[:end], training, *parameters[end:]]
    )


def _no_kernels(layer):
    rows = [f"  {o.path}: {why_not(o)}" for o in paths.variables_of(layer)]
    return "\n".join(
        [f"Layer {layer.name!r} has no kernel to prune. Its variables:", *rows]
    )


def _has_build(layer):
    """Whether a layer makes its weights in a `build` of its own, not when called."""
    return type(layer).build is not keras.layers.Layer.build


def _build_signature(layer):
    """Which shapes Keras is to give to `build`, one for each input where it can."""
    if _has_build(layer):
        return inspect.signature(layer.build)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Signature(
        [
            inspect.Parameter(f"{name}_shape", kind)
            for name, parameter in inspect.signature(layer.call).parameters.items()
            if parameter.kind in (kind, inspect.Parameter.KEYWORD_ONLY)
        ]
    )


def _build(layer, *args, **kwargs):
    """Builds a layer by its own `build`, or by a symbolic call where it has none."""
    if _has_build(layer):
        layer.build(*args, **kwargs)
        return
    inputs = {name.removesuffix("_shape"): _symbols(s) for name, s in kwargs.items()}
    layer(*[_symbols(shape) for shape in args], **inputs)


def _symbols(shape):
    return keras.tree.map_shape_structure(keras.KerasTensor, shape)
