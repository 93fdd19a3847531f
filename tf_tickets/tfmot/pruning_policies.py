"""Policies: which layers `prune_low_magnitude` prunes in a model."""

from typing import Any

import keras

from tf_tickets.wrapping import graphs


class PruningPolicy:
    """Base class of policies, which choose the layers that are pruned.

    Example:

    >>> class NotTheLast(PruningPolicy):
    ...     def allow_pruning(self, layer):
    ...         return layer.name != "last"
    >>> layers = [keras.layers.Dense(4), keras.layers.Dense(2, name="last")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers])
    >>> model = tt.tfmot.prune_low_magnitude(model, pruning_policy=NotTheLast())
    tf_tickets: 1 kernel of 12 weights is prunable; 3 variables of 14 weights are not.
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Returns whether a layer is pruned.

        Args:
            layer: A layer of the model.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define `allow_pruning(layer)`, which returns "
            "whether the layer is pruned."
        )

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises an error if the policy does not fit a model; here it fits every one.

        Args:
            model: The model to prune.
        """


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes the 1x1 convolutions of a model that XNNPACK can run sparsely.

    A model is refused if it has no part that XNNPACK runs sparsely: from a 3x3
    convolution of an image with strides of 2, after a ZeroPadding2D, to a global
    average pooling, with layers that XNNPACK supports in between.

    XNNPACK skips zeros on Arm only, in float32 and float16, from about two thirds of
    zeros on. On x86 processors with AVX nothing becomes faster. Measure with
    `tf_tickets.export`.

    Example:

    >>> PruneForLatencyOnXNNPack().allow_pruning(keras.layers.Conv2D(8, 1))
    True
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        return isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        graph = _Graph(model)
        starts = graph.reach(graph.first, graph.is_start, graph.after)
        if not starts:
            raise ValueError(
                f"Model {model.name!r} cannot be pruned for XNNPACK: not every way "
                "from an input reaches a 3x3 Conv2D of 3 channels with strides of 2 "
                "and padding='valid' after a ZeroPadding2D(1). Begin it so, or prune "
                "without PruneForLatencyOnXNNPack."
            )
        ends = graph.reach(graph.last, _is_end, graph.before)
        if not ends:
            raise ValueError(
                f"Model {model.name!r} cannot be pruned for XNNPACK: not every output "
                "comes from a GlobalAveragePooling2D. Add one, or prune without "
                "PruneForLatencyOnXNNPack."
            )
        for layer in graph.between(starts, ends):
            if not graph.is_supported(layer):
                raise ValueError(
                    f"Model {model.name!r} cannot be pruned for XNNPACK, which does "
                    f"not run layer {layer.name!r} of type {type(layer).__name__} "
                    "sparsely with these settings. Replace it, or prune without "
                    "PruneForLatencyOnXNNPack."
                )


_ANYHOW = (
    keras.layers.Add,
    keras.layers.Multiply,
    keras.layers.ZeroPadding2D,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Dropout,
)
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
# Operations of `keras.ops` in a functional model.
_OPERATIONS = ("Add", "Subtract", "Multiply", "Identity")


def _is_end(layer):
    return isinstance(layer, keras.layers.GlobalAveragePooling2D)


class _Graph:
    """Which layers of a functional or Sequential model follow one another."""

    def __init__(self, model) -> None:
        if not graphs.is_graph(model) or not model.built:
            raise ValueError(
                "PruneForLatencyOnXNNPack requires a built functional or Sequential "
                f"model. Received: {model.name!r} of type {type(model).__name__}"
            )
        self.layers: dict[int, Any] = {}
        self._before: dict[int, list] = {}
        self._after: dict[int, list] = {}
        self.first: list = []
        made: dict[int, tuple] = {}

        def call(layer, *args, **kwargs):
            self.layers[id(layer)] = layer
            for x in keras.tree.flatten((args, kwargs)):
                if not isinstance(x, keras.KerasTensor):
                    continue
                source = made.get(id(x), (None,))[0]
                if source is None:
                    self.first.append(layer)
                else:
                    self._before.setdefault(id(layer), []).append(source)
                    self._after.setdefault(id(source), []).append(layer)
            outputs = layer(*args, **kwargs)
            # Holding the tensors keeps their ids from being reused.
            made.update((id(x), (layer, x)) for x in keras.tree.flatten(outputs))
            return outputs

        clone = keras.models.clone_model(
            keras.Model(model.inputs, model.outputs),
            clone_function=lambda layer: layer,
            call_function=call,
        )
        self.last = [made[id(x)][0] for x in clone.outputs if id(x) in made]

    def before(self, layer):
        return self._before.get(id(layer), [])

    def after(self, layer):
        return self._after.get(id(layer), [])

    def reach(self, sources, is_goal, following):
        """Returns the first goals on all ways; none if a way ends without one."""
        seen, found, left = set(), {}, list(sources)
        while left:
            layer = left.pop()
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            if is_goal(layer):
                found[id(layer)] = layer
                continue
            more = following(layer)
            if not more:
                return []
            left += more
        return list(found.values())

    def between(self, starts, ends):
        """Yields the layers on the ways from the starts to the ends."""
        stop = {id(layer) for layer in ends}
        seen, left = set(), [layer for start in starts for layer in self.after(start)]
        while left:
            layer = left.pop()
            if id(layer) not in seen and id(layer) not in stop:
                seen.add(id(layer))
                yield layer
                left += self.after(layer)

    def _padding(self, layer):
        """Returns the padding of a ZeroPadding2D before a layer, else None."""
        before = self.before(layer)
        is_padded = len(before) == 1 and isinstance(
            before[0], keras.layers.ZeroPadding2D
        )
        return before[0].padding if is_padded else None

    def is_start(self, layer):
        return (
            isinstance(layer, keras.layers.Conv2D)
            and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
            and layer.strides == (2, 2)
            and layer.padding == "valid"
            and self._padding(layer) == ((1, 1), (1, 1))
        )

    def is_supported(self, layer):
        """Returns whether XNNPACK runs a layer within its sparse part."""
        kl = keras.layers
        if isinstance(layer, _ANYHOW):
            return True
        if isinstance(layer, kl.DepthwiseConv2D):
            return self._is_depthwise(layer)
        if isinstance(layer, kl.Conv2D):
            ones = (layer.kernel_size, layer.strides, layer.dilation_rate)
            return layer.groups == 1 and set(ones) == {(1, 1)}
        if isinstance(layer, kl.GlobalAveragePooling2D):
            return layer.keepdims
        if isinstance(layer, kl.BatchNormalization):
            return layer.axis in (-1, 3)
        if isinstance(layer, kl.UpSampling2D):
            return layer.interpolation == "bilinear"
        if isinstance(layer, kl.Activation):
            return getattr(layer.activation, "__name__", "") in _ACTIVATIONS
        is_layer = isinstance(layer, kl.Layer)
        return not is_layer and type(layer).__name__ in _OPERATIONS

    def _is_depthwise(self, layer):
        if layer.depth_multiplier != 1 or layer.dilation_rate != (1, 1):
            return False
        half = {(3, 3): 1, (5, 5): 2}.get(layer.kernel_size)
        if half is None:
            return False
        if layer.padding == "same":
            return layer.strides == (1, 1)
        padded = self._padding(layer) == ((half, half), (half, half))
        return padded and layer.strides in ((1, 1), (2, 2))
