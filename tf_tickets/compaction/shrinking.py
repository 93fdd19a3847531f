"""Rebuilds a model without some of its units."""

import tempfile
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from tf_tickets import keras_internals
from tf_tickets.units import registry
from tf_tickets.units.units import Units, kept, remaining
from tf_tickets.wrapping import kernels, to_numpy

__all__ = ["Sizes", "shrunk"]

Shape = tuple[int | None, ...]


class Sizes(NamedTuple):
    """The sizes that remain around one layer, for the `resize` of its rule.

    Args:
        inputs: The shapes of its input tensors, with the batch.
        outputs: The shapes of its outputs.
        of: Function that returns the shape of a variable of the layer.
    """

    inputs: list[Shape]
    outputs: list[Shape]
    of: Callable[[keras.Variable], tuple[int, ...]]


def shrunk(model: keras.Model, units: Units, keep: np.ndarray) -> keras.Model:
    """Returns a plain model without the units that are not kept.

    Its predictions are those of the model with `units.masks(keep)` applied: slices
    of removed units are left out whatever they contain. Nested models stay nested, and
    shared layers shared. Weights, data types, regularizers and what is trainable are
    kept. The new model has its own variables and is not compiled.

    Args:
        model: A plain or wrapped functional or Sequential model. Masked weights of a
            wrapped model become zeros.
        units: The units of this model, from `find_units`.
        keep: A boolean for each unit.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    >>> units = tt.find_units(model)
    >>> small = shrunk(model, units, np.array([True, False, True, False]))
    >>> [tuple(weight.shape) for weight in small.weights]
    [(3, 2), (2,), (2, 2), (2,)]
    """
    if not registry.is_graph(model):
        raise TypeError(
            "Only functional and Sequential models can be rebuilt without units. "
            f"Received: model {model.name!r} of class {type(model).__name__}. Make a "
            "functional model of its layers: keras.Model(inputs, outputs)."
        )
    keep = _checked(units, keep)
    rebuild = _Rebuild(units, keep, _masked_values(model))
    new = rebuild.model(model)
    rebuild.copy_weights(new)
    return new


def _checked(units, keep):
    """Returns `keep` as booleans, after it was checked."""
    keep = np.asarray(keep)
    if keep.shape != (units.size,) or keep.dtype != bool:
        raise ValueError(
            f"`keep` must be {units.size} booleans, one for each unit. Received: an "
            f"array of shape {keep.shape} and dtype {keep.dtype}."
        )
    for axis in units.axes:
        if not kept(keep, axis.ids).any():
            raise ValueError(
                f"`keep` removes all positions of axis {axis.axis} of {axis.path!r}. "
                f"Keep at least one of its units: {np.unique(axis.ids).tolist()}."
            )
    return keep


def _masked_values(model):
    """Returns the masked values of the kernels of a wrapped model, by variable."""
    values = {}
    for kernel in kernels(model).values():
        factor = np.asarray(kernel.mask_layer.kept_scale)
        value = to_numpy(kernel.variable)
        scaled = (value * factor.astype(value.dtype)).astype(value.dtype)
        zero = np.zeros((), value.dtype)
        values[id(kernel.variable)] = np.where(kernel.mask_layer.value(), scaled, zero)
    return values


class _Rebuild:
    """Rebuilds models and layers; each old one becomes one new one."""

    def __init__(self, units, keep, values):
        self.units = units
        self.keep = keep
        self.values = values
        self.positions = units.positions(keep)
        # Dict from the id of an old layer to it and the new one.
        self.pairs: dict[int, tuple[Any, Any]] = {}

    # Models.

    def model(self, old: keras.Model) -> keras.Model:
        """Returns a new functional or Sequential model."""
        calls = keras_internals.calls(old)
        rebuild = self._sequential if isinstance(old, keras.Sequential) else self._graph
        new = rebuild(old, calls)
        if not old.trainable:
            new.trainable = False
        return new

    def _sequential(self, old, calls):
        inputs = self._input(old, old.inputs[0])
        # Layers that make masks of sequences have operations for them in the graph.
        calls = [c for c in calls if isinstance(c.operation, keras.layers.Layer)]
        return keras.Sequential(
            [inputs, *(self.operation(call) for call in calls)], name=old.name
        )

    def _graph(self, old, calls):
        tensors = {id(tensor): self._input(old, tensor) for tensor in old.inputs}

        def new(structure):
            return keras.tree.map_structure(
                lambda leaf: tensors.get(id(leaf), leaf), structure
            )

        for call in calls:
            operation = self.operation(call)
            outputs = operation(*new(call.args), **new(call.kwargs))
            for tensor, output in zip(
                call.outputs, keras.tree.flatten(outputs), strict=True
            ):
                tensors[id(tensor)] = output
        return keras.Model(new(old.input), new(old.output), name=old.name)

    def _input(self, model, tensor):
        layers = model.operations if isinstance(model, keras.Function) else []
        shape = self._shape(tensor)
        for layer in layers:
            if isinstance(layer, keras.layers.InputLayer) and layer.output is tensor:
                config = {**layer.get_config(), "batch_shape": shape}
                return type(layer).from_config(config).output
        return keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)

    def _shape(self, tensor):
        found = self.units.tensors.get(id(tensor))
        if found is None:
            raise ValueError(
                "`units` must be those of the model. Received: units of another model. "
                "Pass tf_tickets.find_units(model)."
            )
        return found.shape(self.keep)

    # Layers.

    def operation(self, call: keras_internals.Call) -> Any:
        """Returns the new layer or operation of a call."""
        old = registry.unwrapped(call.operation)
        if id(old) not in self.pairs:
            nested = registry.is_graph(old) and self._was_entered(old)
            new = self.model(old) if nested else self._layer(old, call)
            self.pairs[id(old)] = (old, new)
        return self.pairs[id(old)][1]

    def _was_entered(self, model):
        return all(id(tensor) in self.units.tensors for tensor in model.inputs)

    def _layer(self, old, call):
        leaves = keras.tree.flatten((call.args, call.kwargs))
        inputs = [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]
        sizes = Sizes(
            [self._shape(tensor) for tensor in inputs],
            [self._shape(tensor) for tensor in call.outputs],
            self._size,
        )
        config = registry.resized(old, sizes)
        if type(old).__module__.partition(".")[0] == "keras":
            config = _with_zeros(config)
        new = _copy(old, config)
        if type(new) is not type(old):
            raise ValueError(
                f"Layer {old.name!r} of class {type(old).__name__} cannot be copied: "
                f"its `from_config` returned a {type(new).__name__}. Give its class a "
                "constructor that takes (inputs, outputs, name), or `get_config` and "
                "`from_config`."
            )
        return new

    def _size(self, variable):
        rows = self.positions.get(id(variable), {})
        sizes = list(variable.shape)
        for axis, here in rows.items():
            sizes[axis] = int(here.sum())
        return tuple(sizes)

    # Weights.

    def copy_weights(self, model: keras.Model) -> None:
        """Copies all weights, and fails if one was forgotten."""
        copied = set()
        for old, new in self.pairs.values():
            if not registry.is_graph(old) or not self._was_entered(old):
                copied |= self._copy(old, new)
        self._check_owners()
        missing = [v.path for v in model.variables if id(v) not in copied]
        if missing:
            raise ValueError(
                f"Weights of the new model were not copied: {missing}. Layers of "
                "custom classes must make all weights when they are called."
            )

    def _check_owners(self):
        """Refuses variables that several layers have, which would become several."""
        owners: dict[int, str] = {}
        for old, _ in self.pairs.values():
            if isinstance(old, keras.layers.Layer) and not registry.is_graph(old):
                for variable in old.weights:
                    first = owners.setdefault(id(variable), old.name)
                    if first != old.name:
                        raise ValueError(
                            f"Layers {first!r} and {old.name!r} share the variable "
                            f"{variable.path!r}, which a rebuilt model would have "
                            "twice. Share a layer instead."
                        )

    def _value(self, variable):
        """Returns the positions of a variable that remain, with masks applied."""
        value = self.values.get(id(variable))
        value = to_numpy(variable) if value is None else value
        return remaining(value, self.positions.get(id(variable), {}))

    def _copy(self, old, new):
        if not isinstance(old, keras.layers.Layer):
            return set()
        pairs = _paired(old, new)
        for before, after in pairs:
            value = self._value(before)
            if value.shape != tuple(after.shape):
                raise ValueError(
                    f"Weight {before.path!r} has the shape {tuple(after.shape)} after "
                    f"it was rebuilt. Expected: {value.shape}. The `resize` of the "
                    f"rule for {type(old).__name__} must return the new sizes."
                )
            after.assign(value)
        _restore_settings(old, new)
        _restore_frozen(pairs)
        if isinstance(new, keras.layers.Normalization):
            # It computes with tensors that it makes from its variables.
            new.finalize_state()
        if isinstance(registry.find_rule(old), str):
            _copy_other_state(old, new)
        return {id(after) for _, after in pairs}


def _copy(layer, config):
    """Returns a layer of the same class from a configuration."""
    if isinstance(layer, keras.layers.Lambda):
        # The function is that of a model in memory, so it needs no safe mode.
        return type(layer).from_config(config, safe_mode=False)
    return type(layer).from_config(config)


def _paired(old, new):
    """Returns the variables of a layer beside those of its rebuilt copy."""
    before, after = old.variables, new.variables
    names = [_name(v) for v in before], [_name(v) for v in after]
    if sorted(names[0]) == sorted(names[1]) and len(set(names[0])) == len(before):
        # A layer that was quantized after it was built has them in another order.
        by_name = dict(zip(names[1], after, strict=True))
        return [(v, by_name[name]) for v, name in zip(before, names[0], strict=True)]
    if names[0] != names[1]:
        raise ValueError(
            f"Layer {old.name!r} has other weights after it was rebuilt. Received: "
            f"{names[1]}. Expected: {names[0]}. The configuration of a layer must "
            "determine its weights."
        )
    return list(zip(before, after, strict=True))


def _name(variable):
    return "" if keras_internals.is_unnamed(variable) else variable.name


# Stock initializers compile a program for each shape on JAX, and all values are
# overwritten. Zeros are cheap.


def _with_zeros(config):
    """Returns a configuration whose initializers are zeros."""
    if isinstance(config, list | tuple):
        return type(config)(_with_zeros(item) for item in config)
    if not isinstance(config, dict):
        return config
    zeros = keras.initializers.serialize(keras.initializers.Zeros())
    return {
        key: zeros if _is_initializer(key, value) else _with_zeros(value)
        for key, value in config.items()
    }


def _is_initializer(key, value):
    named = isinstance(key, str) and key.endswith("initializer")
    return named and value is not None


def _restore_settings(old, new):
    """Gives a new layer the settings that its configuration lacks or that differ."""
    new.trainable = old.trainable
    for name, value in vars(old).items():
        if name.endswith("initializer"):
            setattr(new, name, value)
    keras_internals.set_flash_attention(new, keras_internals.flash_attention(old))
    pairs = zip(
        keras_internals.tracked_layers(old),
        keras_internals.tracked_layers(new),
        strict=True,
    )
    for inner, copy in pairs:
        _restore_settings(inner, copy)


def _restore_frozen(pairs):
    for before, after in pairs:
        if before.trainable != after.trainable:
            after.trainable = before.trainable


def _copy_other_state(old, new):
    """Copies what a layer stores in files beside its weights, such as a vocabulary."""
    plain = keras.layers.Layer.save_own_variables
    if type(old).save_own_variables is not plain and old.built:
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables(store)
    if hasattr(old, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)
    for inner, copy in zip(
        keras_internals.tracked_layers(old),
        keras_internals.tracked_layers(new),
        strict=True,
    ):
        _copy_other_state(inner, copy)
