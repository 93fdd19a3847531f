"""Which models are graphs of layers, and whether Keras rebuilds them as themselves."""

import inspect

import keras

from tf_tickets import keras_internals
from tf_tickets.wrapping import paths


def is_graph(layer: keras.layers.Layer) -> bool:
    """Returns whether Keras can rebuild a model from its list or graph of layers."""
    return isinstance(layer, keras.Sequential | keras.Function)


def graph_of(model: keras.Model) -> keras.Model:
    """Returns the layers that a model calls as `keras.Model`, if Keras rebuilds it so.

    Args:
        model: A model of any kind. If it keeps its class, it is returned itself.

    Example:

    >>> inputs = keras.Input((3,))
    >>> model = keras.Model(inputs, keras.layers.Dense(4)(inputs))
    >>> graph_of(model) is model
    True
    """
    if not is_graph(model) or not loses_class(model):
        return model
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def loses_class(model: keras.Model) -> bool:
    """Returns whether a rebuilt functional or Sequential model has another class.

    Keras rebuilds a functional model by the constructor `(inputs, outputs, name)`. A
    model whose class has another constructor becomes a `keras.Model`.

    Example:

    >>> class Net(keras.Model):
    ...     def __init__(self, units):
    ...         inputs = keras.Input((3,))
    ...         super().__init__(inputs, keras.layers.Dense(units)(inputs))
    >>> net = Net(2)
    >>> loses_class(net), loses_class(keras.Model(net.inputs, net.outputs))
    (True, False)
    """
    kind = type(model)
    return not (keras_internals.is_rebuilt_as_itself(kind) and _takes_a_graph(kind))


def _takes_a_graph(kind):
    """Returns whether a constructor can be called as Keras does to rebuild a model."""
    try:
        inspect.signature(kind.__init__).bind(None, [], [], name="")
    except TypeError:
        return False
    return True


# What a class may define to predict, and to train, other than its layers do.
_PREDICTS = ("call",)
_TRAINS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics")


def check_rebuilds(model: keras.Model) -> None:
    """Raises an error if a rebuilt model would predict or train in another way.

    Args:
        model: A model of any kind.
    """
    for part in paths.walk(model):
        if isinstance(part, keras.Model) and is_graph(part) and loses_class(part):
            names = _PREDICTS if part is not model else (*_PREDICTS, *_TRAINS)
            plain = keras_internals.graph_class(type(part))
            for name in names:
                if getattr(type(part), name) is not getattr(plain, name):
                    raise _cannot_rebuild(part, name)


def _cannot_rebuild(model, name):
    kind = type(model).__name__
    if name in _PREDICTS:
        advice = (
            "Move it into a layer of the model, or into a subclassed model without "
            "`inputs` and `outputs`."
        )
    else:
        advice = (
            "To train by the loss and metrics passed to `compile`, wrap "
            "keras.Model(model.inputs, model.outputs) and compile that. It shares the "
            f"variables, so this {kind} is sparse too after tf_tickets.strip."
        )
    return ValueError(
        f"Model {model.name!r} cannot be rebuilt from wrapped layers, because its "
        f"class {kind} overrides `{name}`, and its constructor does not take (inputs, "
        f"outputs, name). {advice} Or give {kind} such a constructor."
    )


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """Returns the layers that are wrapped as one: leaves of the tree of nested models.

    Layers that a functional model holds and does not call are left out.

    Example:

    >>> inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> [layer.name for layer in leaves(keras.Sequential([keras.Input((3,)), inner]))]
    ['d']
    """
    layers = []
    for layer in paths.children(graph_of(model)):
        layers += leaves(layer) if is_graph(layer) else [layer]
    return [
        layer
        for layer in {id(layer): layer for layer in layers}.values()
        if not isinstance(layer, keras.layers.InputLayer)
    ]


def layer_before(
    model: keras.Model, layer: keras.layers.Layer
) -> keras.layers.Layer | None:
    """Returns the layer whose output is the only input of another layer.

    Args:
        model: A Sequential or functional model.
        layer: A layer of the model.

    Returns:
        The preceding layer. None if there is none, or more than one.

    Example:

    >>> first, last = keras.layers.Dense(2, name="first"), keras.layers.Dense(1)
    >>> layer_before(keras.Sequential([keras.Input((3,)), first, last]), last).name
    'first'
    """
    if isinstance(model, keras.Sequential):
        index = [id(item) for item in model.layers].index(id(layer))
        return model.layers[index - 1] if index else None
    producers: dict[int, tuple] = {}
    inputs_from: list = []

    def call(current, *args, **kwargs):
        if current is layer:
            inputs_from.extend(
                producers.get(id(x), (None,))[0] for x in keras.tree.flatten(args)
            )
        outputs = current(*args, **kwargs)
        # Holding the tensors keeps their ids from being reused.
        producers.update((id(x), (current, x)) for x in keras.tree.flatten(outputs))
        return outputs

    keras.models.clone_model(
        model, clone_function=lambda current: current, call_function=call
    )
    return inputs_from[0] if len(inputs_from) == 1 else None


def gives_probabilities(model: keras.Model) -> bool:
    """Returns whether the outputs of a model come from a softmax or sigmoid.

    Example:

    >>> last = keras.layers.Dense(2, activation="softmax")
    >>> gives_probabilities(keras.Sequential([keras.Input((3,)), last]))
    True
    """
    layers = model.layers
    if not is_graph(model) or not layers:
        return False
    last = getattr(layers[-1], "layer", layers[-1])
    if is_graph(last):
        return gives_probabilities(last)
    name = getattr(getattr(last, "activation", None), "__name__", "")
    return name in ("softmax", "sigmoid") or isinstance(last, keras.layers.Softmax)
