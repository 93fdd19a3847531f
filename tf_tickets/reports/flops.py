"""Counts how often the entries of a kernel are multiplied per example."""

import inspect
import math
from collections.abc import Iterable

import keras

from tf_tickets import keras_internals
from tf_tickets.wrapping import paths
from tf_tickets.wrapping.prunable import Prunable


class UseCounter:
    """Counts how often each entry of a kernel is multiplied per example.

    Functional models are followed call by call. Inside other layers and models only
    the inner layers and the shapes they were built with are known. An inner layer
    counts as one call.

    `uses` maps a variable's id to the count, or to None if it is unknown.
    """

    def __init__(self, model: keras.Model) -> None:
        self.uses: dict[int, int | None] = {}
        self.assumed: set[int] = set()
        self.visit(model, _built_shapes(model), 1)

    def notes(self, kernels: Iterable[keras.Variable]) -> tuple[str, ...]:
        """Returns the assumptions behind the counts of these kernels."""
        count = sum(
            id(v) in self.assumed and self.uses.get(id(v)) is not None for v in kernels
        )
        if not count:
            return ()
        return (
            f"MACs of {count:,} kernel{'' if count == 1 else 's'} inside subclassed "
            "models or layers "
            "assume one call per example: further calls cannot be counted",
        )

    def visit(
        self, layer: keras.layers.Layer, shapes: list[tuple], times: int | None
    ) -> None:
        """Adds `times` calls of a layer on inputs of these shapes."""
        if isinstance(layer, keras.Sequential | keras.Function):
            for inner, inner_shapes in _graph_calls(layer, shapes):
                self.visit(inner, inner_shapes, times)
            return
        for kind, visit in self._structures():
            if isinstance(layer, kind):
                return visit(layer, shapes, times)
        self._visit_leaf(layer, shapes, times)
        self._visit_children(layer, shapes, times)

    def _structures(self):
        return (
            (Prunable, lambda layer, *call: self.visit(layer.layer, *call)),
            (keras.layers.TimeDistributed, self._visit_time_distributed),
            (keras.layers.Bidirectional, self._visit_bidirectional),
            (_CONV_LSTMS, self._visit_conv_lstm),
            (keras.layers.RNN, self._visit_rnn),
            (keras.layers.StackedRNNCells, self._visit_stacked_cells),
        )

    def _add(self, variable, times):
        self.uses[id(variable)] = _plus(self.uses.get(id(variable), 0), times)

    def _visit_leaf(self, layer, shapes, times):
        uses = _times(times, _uses_per_call(layer, shapes))
        for owned in paths.variables_of(layer):
            if owned.owner is layer:
                self._add(owned.variable, uses)

    def _visit_children(self, layer, shapes, times):
        if not _as_built(layer, shapes):
            times = None
        for child in paths.children(layer):
            self.visit(child, _child_shapes(layer, child), times)
            if not isinstance(layer, _KNOWN_BLOCKS):
                self.assumed |= {id(v) for v in child.variables}

    def _visit_time_distributed(self, layer, shapes, times):
        steps, inner = _steps(shapes)
        self.visit(layer.layer, inner, _times(times, steps))

    def _visit_bidirectional(self, layer, shapes, times):
        self.visit(layer.forward_layer, shapes, times)
        self.visit(layer.backward_layer, shapes, times)

    def _visit_rnn(self, layer, shapes, times):
        steps, inner = _steps(shapes)
        self.visit(layer.cell, inner, _times(times, steps))

    def _visit_stacked_cells(self, layer, shapes, times):
        for cell in layer.cells:
            self.visit(cell, _built_shapes(cell), times)

    def _visit_conv_lstm(self, layer, shapes, times):
        steps, inner = _steps(shapes)
        places = _conv_lstm_places(layer, shapes[0]) if inner else None
        for variable in layer.cell.variables:
            self._add(variable, _times(_times(times, steps), places))


class _Probe(keras.Operation):
    """Replaces an operation of a graph and records the shapes of its calls."""

    def __init__(self, operation, calls):
        super().__init__(name=operation.name)
        self.operation = operation
        self.calls = calls

    def compute_output_spec(self, *args, **kwargs):
        tensors = [
            t
            for t in keras.tree.flatten((args, kwargs))
            if isinstance(t, keras.KerasTensor)
        ]
        self.calls.append((self.operation, [tuple(t.shape) for t in tensors]))
        operation = unwrapped(self.operation)
        if not _takes(operation, "training"):
            # A graph may record it of a layer that was replaced by this one.
            kwargs.pop("training", None)
        return operation.compute_output_spec(*args, **kwargs)


def _takes(operation, name):
    parameters = inspect.signature(operation.call).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def _graph_calls(model, shapes):
    """Pairs of a layer and the shapes of its inputs, per call in a model's graph."""
    if len(shapes) != len(model.inputs):
        shapes = _built_shapes(model)
    calls: list[tuple[keras.Operation, list[tuple]]] = []
    # A model of the same graph without the optimizer, which would be cloned too.
    view = keras.Model(model.inputs, model.outputs, name=model.name)
    inputs = [
        keras.Input(batch_shape=shape, dtype=x.dtype, name=x.name)
        for x, shape in zip(model.inputs, shapes, strict=True)
    ]
    keras.models.clone_model(
        view, input_tensors=inputs, clone_function=lambda op: _Probe(op, calls)
    )
    return [(op, s) for op, s in calls if isinstance(op, keras.layers.Layer)]


def _built_shapes(layer):
    """Shapes of the inputs that a layer was built with, [] if unknown."""
    if isinstance(layer, keras.Sequential | keras.Function):
        return [tuple(x.shape) for x in layer.inputs]
    config = unwrapped(layer).get_build_config() or {}
    return _flat_shapes(config.get("input_shape", config.get("shapes_dict", ())))


def _flat_shapes(shapes):
    if isinstance(shapes, dict):
        shapes = list(shapes.values())
    if not isinstance(shapes, list | tuple):
        return []
    if shapes and all(n is None or isinstance(n, int) for n in shapes):
        return [tuple(shapes)]
    return [shape for part in shapes for shape in _flat_shapes(part)]


def _as_built(layer, shapes):
    """Whether a call has the shapes that the layer was built with, except the batch."""
    built = _built_shapes(layer)
    pairs = zip(shapes, built, strict=False)
    return len(shapes) >= len(built) and all(s[1:] == b[1:] for s, b in pairs)


def _child_shapes(layer, child):
    """Shapes of the inputs of a layer inside a layer."""
    shapes = _built_shapes(child)
    attends = isinstance(layer, _ATTENTIONS)
    if not (attends and keras_internals.is_attention_output(child)):
        return shapes
    query = _built_shapes(layer)[0][:-1]
    return [(*query, *shapes[0][len(query) :])]


def _steps(shapes):
    """Number of time steps, and the shapes at one step."""
    if not shapes:
        return None, []
    batch, steps, *rest = shapes[0]
    return steps, [(batch, *rest)]


def _times(a, b):
    return None if a is None or b is None else a * b


def _plus(a, b):
    return None if a is None or b is None else a + b


def _product(dimensions):
    return None if None in dimensions else math.prod(dimensions)


def _uses_per_call(layer, shapes):
    """Uses of each entry of the layer's kernels per call, None if unknown."""
    for kind, count in _USES.items():
        # A subclass that overrides `call` may do anything with the kernel.
        if isinstance(layer, kind) and type(layer).call is kind.call:
            return count(layer, shapes[0]) if shapes else None
    return None


def _dense_uses(layer, shape):
    return _product(shape[1:-1])


def _conv_uses(layer, shape):
    return _spatial_size(layer, layer.compute_output_shape(shape))


def _spatial_size(layer, shape):
    """Number of positions in an image or a sequence of this shape with the batch."""
    first = layer.data_format == "channels_first"
    return _product(shape[2:] if first else shape[1:-1])


def _einsum_uses(layer, shape):
    """Product of the input's dimensions, except the batch, that the kernel lacks."""
    operands = layer.equation.replace(" ", "").split("->")[0]
    data, kernel = operands.split(",")
    if "..." in data:
        free = len(shape) - len(data.replace("...", ""))
        # Digits name no dimension in an equation, so they match none of the kernel.
        data = data.replace("...", "0" * free)
    letters = list(zip(data, shape, strict=True))
    return (
        None
        if "." in kernel
        else _product([n for letter, n in letters[1:] if letter not in kernel])
    )


def _conv_lstm_places(layer, shape):
    output = layer.compute_output_shape(shape)
    output = output[0] if layer.return_state else output
    step = output[2:] if layer.return_sequences else output[1:]
    return _spatial_size(layer, (None, *step))


def _once(layer, shape):
    return 1


def _never(layer, shape):
    """Embeddings are looked up, not multiplied."""
    return 0


_USES = {
    keras.layers.Dense: _dense_uses,
    keras.layers.EinsumDense: _einsum_uses,
    keras.layers.Embedding: _never,
    keras.layers.Conv1D: _conv_uses,
    keras.layers.Conv2D: _conv_uses,
    keras.layers.Conv3D: _conv_uses,
    keras.layers.DepthwiseConv1D: _conv_uses,
    keras.layers.DepthwiseConv2D: _conv_uses,
    keras.layers.SeparableConv1D: _conv_uses,
    keras.layers.SeparableConv2D: _conv_uses,
    keras.layers.Conv1DTranspose: _spatial_size,
    keras.layers.Conv2DTranspose: _spatial_size,
    keras.layers.Conv3DTranspose: _spatial_size,
    keras.layers.SimpleRNNCell: _once,
    keras.layers.LSTMCell: _once,
    keras.layers.GRUCell: _once,
}
_CONV_LSTMS = (
    keras.layers.ConvLSTM1D,
    keras.layers.ConvLSTM2D,
    keras.layers.ConvLSTM3D,
)
_ATTENTIONS = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)
# Layers that call each of their inner layers once.
_KNOWN_BLOCKS = (*_ATTENTIONS, keras.layers.SpectralNormalization)


def unwrapped(layer: keras.Operation) -> keras.Operation:
    """Returns the layer inside a `Prunable` layer, or the layer itself."""
    return layer.layer if isinstance(layer, Prunable) else layer
