"""The `Prunable` wrapper, which replaces kernels by `mask * kernel` when read."""

import inspect
from collections.abc import Iterable, Mapping
from types import SimpleNamespace

import keras
import numpy as np
from keras import ops
from numpy.typing import ArrayLike

from tf_tickets import arguments
from tf_tickets import masks as masks_module
from tf_tickets.masks.base import Mask, Tensor, copied
from tf_tickets.structures import registry as structures
from tf_tickets.structures.structure import Structure, Unstructured
from tf_tickets.units import registry
from tf_tickets.wrapping import building, guarding, paths
from tf_tickets.wrapping.choosing import why_not

__all__ = [
    "Prunable",
]


class ReadOverlay(keras.StatelessScope):
    """A scope in which reading a kernel returns its masked value.

    A plain `keras.StatelessScope` keeps updates and losses to itself. Batch
    normalization statistics, seeds and activity regularizers would be lost. This scope
    forwards them to the enclosing scope, or to the variable if there is none.

    Args:
        factors: Dict from the id of a kernel variable to its mask factor.
        values: Dict from the id of a kernel variable to its masked value.
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
                # Read the value again: in a plain layer, gradients also stop at an
                # assignment.
                value = variable.value
            else:
                outer.add_update(update)
        finally:
            super().__enter__()
            self.original_scope = outer
        if id(variable) in self.values:
            self.values[id(variable)] = value * self.factors[id(variable)]


class _Call:
    """Implements `Prunable.call` with the signature of the wrapped layer's `call`.

    Keras inspects the signature to decide whether to pass `training`, `mask`,
    `initial_state` and so on. For masks that count steps, `training` is added.
    """

    def __init__(self, prunable, layer, counts_steps):
        self.prunable = prunable
        self.__signature__ = inspect.signature(layer.call)
        takes_training = "training" in self.__signature__.parameters
        self.adds_training = counts_steps and not takes_training
        if self.adds_training:
            self.__signature__ = _with_training(self.__signature__)

    def __call__(self, *args, **kwargs):
        return self.prunable.call_masked(*args, **kwargs)


@keras.saving.register_keras_serializable("tf_tickets")
class Prunable(keras.layers.Wrapper):
    """Wraps a layer to make its kernels prunable.

    The layer keeps its weights but reads each kernel through a mask. Pruned weights are
    always exactly zero for the layer and receive no gradient. Nested kernels are
    supported in RNN cells, attention, other wrappers and custom blocks.

    Attributes that the wrapper lacks are read from the layer and set on it, so that
    `wrapped.units` works. A kernel reads as its masked value, a tensor; `layer.kernel`
    of the wrapped layer is the stored variable.

    Args:
        layer: The layer to wrap.
        kernels: Relative paths of the variables to prune, such as "kernel" or
            "query/kernel". Defaults to all trainable floating-point variables of rank
            2 or more, except biases, normalization parameters and embeddings.
        mask: Mask parametrization of the kernels: the name of one in
            `tf_tickets.masks`, or an instance to copy. If it has a seed, each kernel
            of the layer draws its own numbers; give other layers other seeds.
        structure: Which weights are kept or pruned together, as in `tf_tickets.wrap`.

    Example:

    >>> layer = Prunable(keras.layers.Dense(2, use_bias=False))
    >>> layer.build((None, 3))
    >>> layer.set_masks({"kernel": [[1, 0], [1, 0], [0, 0]]})
    >>> float(layer(keras.ops.ones((1, 3)))[0, 1])
    0.0
    >>> layer.units
    2
    """

    # Names of the wrapper, which are not set on a layer that has them too.
    kernels: list[str] | None = None
    kernel_masks: list[Mask] = []

    def __init__(
        self,
        layer: keras.layers.Layer,
        kernels: Iterable[str] | None = None,
        mask: str | dict | Mask = "fixed",
        structure: str | dict | Structure = "unstructured",
        **kwargs: object,
    ) -> None:
        arguments.check_type(keras.layers.Layer, layer=layer)
        kernels = None if kernels is None else arguments.listed(str, kernels=kernels)
        mask = masks_module.get(mask)
        structure = structures.get(structure)
        structures.check_mask(structure, mask)
        # Keras inspects both signatures, and that of `call` inside `Layer.__new__`.
        self.call = _Call(self, layer, mask.counts_steps)
        self.build.__signature__ = building.build_signature(layer)
        kwargs["dtype"] = layer.variable_dtype
        # Losses, metrics and `get_layer` refer to the layer by its name.
        kwargs.setdefault("name", layer.name)
        # Without autocast, mask and kernel are multiplied in the variable's dtype.
        super().__init__(layer, autocast=False, **kwargs)
        self.supports_masking = layer.supports_masking
        self.kernels = kernels
        self.kernel_masks: list[Mask] = []
        # The namespace hides its contents from Keras. Keras would count tracked
        # variables twice, and rebuild a model with an unbuilt layer in every `fit`.
        self._untracked = SimpleNamespace(kernels={}, mask=mask, structure=structure)
        if layer.built:
            self.build()

    def __getattr__(self, name):
        layer = self._layer_with(name)
        if layer is None:
            raise AttributeError(_no_attribute(self, name))
        value = getattr(layer, name)
        return self._masked(value) if isinstance(value, keras.Variable) else value

    def __setattr__(self, name, value):
        belongs_here = name in vars(self) or hasattr(type(self), name)
        layer = None if belongs_here else self._layer_with(name)
        if layer is None:
            super().__setattr__(name, value)
        else:
            setattr(layer, name, value)

    def _layer_with(self, name):
        """Returns the wrapped layer if it has a public attribute of this name."""
        layer = vars(self).get("layer")
        return layer if name[0] != "_" and hasattr(layer, name) else None

    def _masked(self, variable):
        """Returns the effective value of a kernel; other variables as they are."""
        masks = {id(v): mask for v, mask in self._pairs()}
        if id(variable) not in masks:
            return variable
        return masks[id(variable)].apply(variable.value)

    def build(self, *args, **kwargs):
        if not self.layer.built:
            building.build(self.layer, *args, **kwargs)
        if not self._has_kernels():
            building.build_children(self.layer, *args, **kwargs)
        table = self._find_kernels()
        if not table:
            raise ValueError(_no_kernels(self.layer, self.structure))
        self.kernels = list(table)
        self._untracked.kernels = table
        for number, (name, variable) in enumerate(table.items()):
            mask = copied(self.mask, number, name=name.replace("/", "_"))
            mask.build(tuple(variable.shape))
            mask.watch(variable)
            mask.enter(self)
            self.kernel_masks.append(mask)
        guarding.guard(self.layer, self)

    def _has_kernels(self):
        """Returns whether the kernels exist; unknown ones may be in any sublayer."""
        existing = [owned.path for owned in paths.variables_of(self.layer)]
        return self.kernels is not None and bool(paths.match(self.kernels, existing))

    def _find_kernels(self):
        owned = paths.variables_of(self.layer)
        if self.kernels is None:
            return {
                o.path: o.variable
                for o in owned
                if why_not(o, depthwise=True, structure=self.structure) is None
            }
        table = {o.path: o.variable for o in owned}
        matches = paths.match(self.kernels, table)
        if matches is None:
            raise ValueError(
                f"Layer {self.layer.name!r} has no kernels {self.kernels}. Use some of "
                f"its variables: {list(table)}."
            )
        return {matches[name]: table[matches[name]] for name in self.kernels}

    def call_masked(self, *args: object, **kwargs: object) -> object:
        """Calls the wrapped layer with masked kernels; implements `call`."""
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
        """Returns `training` for masks that count steps.

        Removes it from `kwargs` if the wrapped layer does not accept it.
        """
        if not self.mask.counts_steps:
            return False
        if self.call.adds_training:
            return bool(kwargs.pop("training", False))
        arguments = self.call.__signature__.bind_partial(*args, **kwargs).arguments
        return bool(arguments.get("training", False))

    @property
    def kernel_variables(self) -> dict[str, keras.Variable]:
        """Dict from the relative path of a kernel to its stored variable."""
        return self._untracked.kernels

    @property
    def mask(self) -> Mask:
        """The mask parametrization that is copied for every kernel."""
        return self._untracked.mask

    @property
    def structure(self) -> Structure:
        """Which weights are kept or pruned together."""
        return self._untracked.structure

    def restructure(self, structure: Structure) -> None:
        """Replaces the structure by one that says more about the model."""
        self._untracked.structure = structure

    def masks(self) -> dict[str, np.ndarray]:
        """Returns a dict from the relative path of a kernel to its hard 0/1 mask."""
        return {name: mask.value() for name, mask in self._masks_by_kernel().items()}

    def set_masks(self, masks: Mapping[str, ArrayLike]) -> None:
        """Sets masks and writes zeros to the pruned weights.

        Args:
            masks: Dict from the relative path of a kernel to its 0/1 mask.
        """
        table = self._masks_by_kernel()
        arguments.check_type(Mapping, masks=masks)
        unknown = set(masks) - set(table)
        if unknown:
            raise ValueError(
                f"Layer {self.layer.name!r} has no kernels of these names. Received: "
                f"{sorted(unknown, key=str)}. Expected some of {list(table)}."
            )
        for name, mask in masks.items():
            table[name].assign(mask)
        self.zero_pruned()

    def zero_pruned(self) -> None:
        """Writes zeros to the pruned weights of the stored kernels."""
        for variable, mask in self._pairs():
            zero_pruned(variable, mask)

    def release(self) -> None:
        """Writes zeros to the pruned weights and detaches the masks."""
        guarding.release(self.layer, self)
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
        # Keras marks products with a constant as sparse, though they are not. Few calls
        # can be traced with sparse inputs, so layers that know their shape are asked.
        if _any_sparse(args, kwargs) and _knows_its_shape(self.layer):
            return self.layer.compute_output_spec(*args, **kwargs)
        args, kwargs = keras.tree.map_structure(_dense, (args, kwargs))
        # `Layer.compute_output_spec` would return the dtype of this wrapper.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def get_build_config(self):
        return self.layer.get_build_config() if building.has_build(self.layer) else None

    def build_from_config(self, config):
        if not self.built:
            self.layer.build_from_config(config)
            self.layer.built = True
            super().build_from_config(config)
        if not self.built:
            # The layer has a configuration of its own, without shapes.
            self.build()

    def get_config(self):
        config = super().get_config()
        # The copy is built by this wrapper. Keras would build only what `build` of the
        # layer builds, and mark the copy as built even without its weights.
        config["layer"].pop("build_config", None)
        config["kernels"] = self.kernels
        config["mask"] = keras.saving.serialize_keras_object(self.mask)
        # Files without a structure can be read by versions that know none.
        if self.structure != Unstructured():
            config["structure"] = keras.saving.serialize_keras_object(self.structure)
        return config


# Units pass through a wrapper as through the layer inside.
registry.register_wrapper(Prunable, lambda wrapper: wrapper.layer)


def zero_pruned(variable: keras.Variable, mask: Mask) -> None:
    """Writes zeros with positive sign to the pruned weights of a stored kernel."""
    value = variable.value
    variable.assign(ops.where(mask.value(), value, ops.zeros_like(value)))


def _any_sparse(*arguments):
    return any(map(_is_sparse, keras.tree.flatten(arguments)))


def _is_sparse(value):
    return isinstance(value, keras.KerasTensor) and value.sparse


def _dense(value):
    return keras.KerasTensor(value.shape, value.dtype) if _is_sparse(value) else value


def _knows_its_shape(layer):
    """Returns whether a layer class computes the shape of its output without a call."""
    plain = keras.layers.Layer
    return any(
        getattr(type(layer), name) is not getattr(plain, name)
        for name in ("compute_output_shape", "compute_output_spec")
    )


def _with_training(signature):
    """Returns the signature with an additional keyword `training`."""
    parameters = list(signature.parameters.values())
    keyword = inspect.Parameter.VAR_KEYWORD
    end = len(parameters) - any(p.kind is keyword for p in parameters)
    kind = inspect.Parameter.KEYWORD_ONLY
    training = inspect.Parameter("training", kind, default=False)
    return signature.replace(
        parameters=[*parameters[:end], training, *parameters[end:]]
    )


def _no_attribute(wrapper, name):
    layer = vars(wrapper).get("layer")
    wrapped = f" and the layer {layer.name!r} of type {type(layer).__name__}"
    return f"Prunable{'' if layer is None else wrapped} have no attribute {name!r}."


def _no_kernels(layer, structure):
    rows = [
        f"  {o.path}: {why_not(o, structure=structure)}"
        for o in paths.variables_of(layer)
    ]
    return "\n".join(
        [
            f"Layer {layer.name!r} has no prunable kernel. Pass `kernels`, or wrap "
            "another layer. Its variables:",
            *rows,
        ]
    )
