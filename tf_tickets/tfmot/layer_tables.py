"""Which layers and settings of tf_keras and Keras 3 correspond to each other."""

import inspect
from typing import Any, NamedTuple

from tf_tickets import arguments
from tf_tickets.tfmot import mask_flow
from tf_tickets.tfmot.network_configs import advice
from tf_tickets.tfmot.networks import LayerSpec, Network, leaves, valid_name

# Layers that compute the same from the same settings in both libraries.
LAYERS = frozenset(
    (
        *("Dense", "EinsumDense", "Embedding", "Activation", "Masking", "Identity"),
        *("Conv1D", "Conv2D", "Conv3D", "DepthwiseConv1D", "DepthwiseConv2D"),
        *("SeparableConv1D", "SeparableConv2D"),
        *("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        *(f"{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)),
        *(f"Global{kind}Pooling{n}D" for kind in ("Average", "Max") for n in (1, 2, 3)),
        *("BatchNormalization", "LayerNormalization", "GroupNormalization"),
        *("UnitNormalization", "Normalization"),
        *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
        *("GaussianDropout", "GaussianNoise", "AlphaDropout", "ActivityRegularization"),
        *("Flatten", "Reshape", "Permute", "RepeatVector"),
        *(
            f"{k}{n}D"
            for k in ("Cropping", "UpSampling", "ZeroPadding")
            for n in (1, 2, 3)
        ),
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"),
        *("Concatenate", "Dot"),
        *("ReLU", "LeakyReLU", "ELU", "PReLU", "Softmax"),
        *("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"),
        *("Bidirectional", "TimeDistributed"),
        *("MultiHeadAttention", "Attention", "AdditiveAttention"),
        *("Rescaling", "Resizing", "CenterCrop"),
    )
)
RECURRENT = frozenset(
    ("LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
)
_RECURRENT_CALLS = RECURRENT | {"Bidirectional"}

# By their names in Keras 3, and in tf_keras. `hard_sigmoid` has other values in each.
_ACTIVATIONS = {
    name: name
    for name in (
        *("linear", "relu", "elu", "selu", "gelu", "softplus", "softsign", "softmax"),
        *("sigmoid", "tanh", "exponential", "mish"),
    )
} | {"silu": "swish"}
_QUANTIZE_AWARE = ("QuantizeAwareActivation", "NoOpActivation")

_ANY = object()


class Dropped(NamedTuple):
    """A setting that the other library does not have.

    Args:
        values: The values with which it has no effect.
        reason: Why it can be left out.
    """

    values: Any
    reason: str


# Settings of tf_keras that Keras 3 refuses; class "*" is any.
DROPPED_BY_KERAS_3: dict[tuple[str, str], Dropped] = {
    ("*", "dynamic"): Dropped((False,), "layers with Python control flow"),
    ("*", "groups"): Dropped((1,), "inherited; the layer has no groups"),
    ("*", "time_major"): Dropped((False,), "order of the axes"),
    ("*", "implementation"): Dropped(_ANY, "how the same result is computed"),
    ("*", "unroll"): Dropped(_ANY, "how the same result is computed"),
    ("*", "input_length"): Dropped(_ANY, "only a check of the input's shape"),
    ("*", "input_dim"): Dropped(_ANY, "only the shape of the first input"),
    ("*", "stateful"): Dropped((False,), "state kept between batches"),
    ("*", "rng_type"): Dropped(_ANY, "how random numbers are drawn in training"),
    ("*", "noise_shape"): Dropped((None,), "shape of random noise in training"),
    ("*", "zero_output_for_mask"): Dropped((False,), "outputs of masked steps"),
    ("*", "activity_regularizer"): Dropped((None,), "penalty in training"),
    ("*", "kernel_initializer"): Dropped(
        _ANY, "inherited; the layer has other kernels"
    ),
    ("*", "kernel_regularizer"): Dropped((None,), "inherited; no such kernel"),
    ("*", "kernel_constraint"): Dropped((None,), "inherited; no such kernel"),
    ("BatchNormalization", "fused"): Dropped(_ANY, "how the same result is computed"),
    ("BatchNormalization", "virtual_batch_size"): Dropped((None,), "smaller batches"),
    ("BatchNormalization", "renorm"): Dropped((False,), "another normalization"),
    ("BatchNormalization", "renorm_clipping"): Dropped((None,), "of renorm"),
    ("BatchNormalization", "renorm_momentum"): Dropped(_ANY, "of renorm"),
    ("MultiHeadAttention", "query_shape"): Dropped(_ANY, "known from the inputs"),
    ("MultiHeadAttention", "key_shape"): Dropped(_ANY, "known from the inputs"),
    ("MultiHeadAttention", "value_shape"): Dropped(_ANY, "known from the inputs"),
    ("MultiHeadAttention", "softmax_robust_masking"): Dropped((False,), "masks"),
}

# Settings of Keras 3 that tf_keras refuses.
DROPPED_BY_TF_KERAS: dict[tuple[str, str], Dropped] = {
    ("*", "quantization_config"): Dropped((None,), "quantized weights"),
    ("*", "lora_rank"): Dropped((None,), "added weights"),
    ("*", "lora_alpha"): Dropped(_ANY, "of lora_rank"),
    ("*", "seed"): Dropped(_ANY, "random numbers in training"),
    ("*", "noise_shape"): Dropped((None,), "shape of random noise in training"),
    ("*", "stateful"): Dropped((False,), "state kept between batches"),
    ("*", "zero_output_for_mask"): Dropped((False,), "outputs of masked steps"),
    ("*", "data_format"): Dropped((None, "channels_last"), "the only order it has"),
    ("*", "dilation_rate"): Dropped(([1, 1, 1],), "no dilation"),
    ("*", "antialias"): Dropped((False,), "another interpolation"),
    ("*", "pad_to_aspect_ratio"): Dropped((False,), "borders"),
    ("*", "fill_mode"): Dropped(_ANY, "of pad_to_aspect_ratio"),
    ("*", "fill_value"): Dropped(_ANY, "of pad_to_aspect_ratio"),
    ("*", "unroll"): Dropped(_ANY, "how the same result is computed"),
    ("*", "use_cudnn"): Dropped(_ANY, "how the same result is computed"),
    ("*", "activity_regularizer"): Dropped((None,), "penalty in training"),
    ("BatchNormalization", "renorm"): Dropped((False,), "another normalization"),
    ("BatchNormalization", "renorm_clipping"): Dropped(_ANY, "of renorm"),
    ("BatchNormalization", "renorm_momentum"): Dropped(_ANY, "of renorm"),
    ("BatchNormalization", "synchronized"): Dropped((False,), "several devices"),
    ("LayerNormalization", "rms_scaling"): Dropped((False,), "another normalization"),
    ("MultiHeadAttention", "use_gate"): Dropped((False,), "added weights"),
    ("MultiHeadAttention", "sliding_window"): Dropped((None,), "a mask"),
    ("MultiHeadAttention", "flash_attention"): Dropped(_ANY, "how it is computed"),
}

# Arguments that the constructors pass on to the base class.
_COMMON = {"name", "trainable", "dtype", "activity_regularizer"}
_ALSO = {
    **dict.fromkeys(("Attention", "AdditiveAttention"), "dropout"),
    **dict.fromkeys(("GlobalAveragePooling1D", "GlobalMaxPooling1D"), "keepdims"),
}
# From the name in tf_keras to that in Keras 3.
_RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
# Variables without an effect on predictions: of data seen, and of random numbers.
UNSTORED = ("count", "StateVar")


def check(network: Network) -> None:
    """Refuses a network with layers that the other library does not have."""
    unknown = [
        f"{'/'.join(path)} ({spec.class_name}): {advice(spec.class_name)}."
        for path, spec in leaves(network)
        if spec.class_name not in LAYERS
    ]
    if unknown:
        raise ValueError(
            f"Model {network.name!r} has layers that cannot be converted. Received: "
            + " ".join(unknown)
        )
    _check_masks(network)


def _check_masks(network):
    """Refuses masks that the libraries do not compute or obey in the same way."""
    classes = {spec.class_name for _, spec in leaves(network)}
    zeros = [spec for _, spec in leaves(network) if spec.config.get("mask_zero")]
    with_states = [
        spec.name
        for spec in _all_layers(network)
        if spec.class_name in _RECURRENT_CALLS and any(map(_has_state, spec.calls))
    ]
    if with_states and ("Masking" in classes or zeros):
        raise ValueError(
            f"Model {network.name!r} cannot be converted: with an initial state, a "
            "layer of Keras 3 ignores masks, one of tf_keras does not. Received: "
            f"{with_states} with an initial state. Build the model without masks or "
            "without initial states."
        )
    differing = [call.spec for call in mask_flow.follow(network) if call.differs]
    if differing:
        names = sorted({f"{spec.name} ({spec.class_name})" for spec in differing})
        raise ValueError(
            f"Model {network.name!r} cannot be converted: Keras 3 and tf_keras pass "
            "masks of time steps through these layers in different ways. Received: "
            f"{', '.join(names)}, reached by a mask of Masking or "
            "Embedding(mask_zero=True). Merge tensors that all have the same mask, or "
            "place the Masking layer behind these layers."
        )


def _all_layers(network):
    for spec in network.layers:
        yield spec
        yield from () if spec.network is None else _all_layers(spec.network)


def _has_state(call):
    is_list = bool(call.args) and isinstance(call.args[0], list)
    return is_list or "initial_state" in call.kwargs


def make_layer(spec: LayerSpec, library: Any) -> Any:
    """Returns the layer of a description.

    Args:
        spec: A layer of `LAYERS`, with the settings of the other library.
        library: `keras` or `tf_keras`.

    Example:

    >>> config = {"name": "a", "kernel_size": [3, 3], "groups": 1}
    >>> layer = make_layer(LayerSpec("a", "DepthwiseConv2D", config), keras)
    >>> layer.kernel_size
    (3, 3)
    """
    kind = getattr(library.layers, spec.class_name, None)
    if kind is None:
        raise ValueError(
            f"The installed version of {library.__name__} has no layer "
            f"{spec.class_name!r}. Received: layer {spec.name!r}. Install a newer "
            "version."
        )
    return kind(**_settings(spec, kind, library))


def _settings(spec, kind, library):
    accepted = _COMMON | set(inspect.signature(kind.__init__).parameters)
    accepted.add(_ALSO.get(spec.class_name, "name"))
    if spec.class_name in RECURRENT:
        accepted.add("zero_output_for_mask")
    settings = {}
    for key, value in _renamed(spec, library).items():
        dropped = _dropped(spec.class_name, key, library)
        always = key in ("stateful", "renorm")
        if key in accepted and not (always and dropped):
            settings[key] = _converted(spec, key, value, library)
        elif dropped is None or not _has_no_effect(value, dropped):
            raise ValueError(
                f"Layer {spec.name!r} ({spec.class_name}) has a setting that cannot "
                f"be converted. Received: {key}={arguments.shown(value)}"
                + (f" ({dropped.reason}). " if dropped else ". ")
                + _expected(dropped)
            )
    return settings


def _expected(dropped):
    if dropped is None:
        return "Build the layer without it, and train the model again."
    values = " or ".join(map(repr, dropped.values))
    return f"Only {values} is possible. Build the layer without it."


def _has_no_effect(value, dropped):
    return dropped.values is _ANY or value in dropped.values


def _dropped(class_name, key, library):
    current = library.__name__ == "keras"
    table = DROPPED_BY_KERAS_3 if current else DROPPED_BY_TF_KERAS
    return table.get((class_name, key)) or table.get(("*", key))


def _renamed(spec, library):
    """Returns the settings by the names that the library has for them."""
    config = dict(spec.config)
    for (class_name, old), new in _RENAMED.items():
        before, after = (old, new) if library.__name__ == "keras" else (new, old)
        if spec.class_name == class_name and before in config:
            config[after] = config.pop(before)
    return config


def _converted(spec, key, value, library):
    if key == "name":
        return valid_name(value)
    if key == "dtype":
        return _float32(spec, value)
    if key == "axis" and spec.class_name == "BatchNormalization":
        return _single_axis(spec, value)
    if key in ("activation", "recurrent_activation"):
        return _activation(spec, key, value, library)
    if key in ("layer", "backward_layer") and value is not None:
        return _inner(spec, value, library)
    for suffix in ("initializer", "regularizer", "constraint"):
        if key.endswith(suffix):
            return _made(spec, key, value, getattr(library, f"{suffix}s"))
    return value


def _inner(spec, described, library):
    """Returns the layer that `Bidirectional` or `TimeDistributed` wraps."""
    class_name, config = described["class_name"], dict(described["config"])
    config.pop("batch_input_shape", None)
    if class_name not in LAYERS:
        raise ValueError(
            f"Layer {spec.name!r} ({spec.class_name}) wraps a layer that cannot be "
            f"converted. Received: {class_name}. {advice(class_name)}."
        )
    return make_layer(LayerSpec(config["name"], class_name, config), library)


def _float32(spec, value):
    name = value["config"]["name"] if isinstance(value, dict) else value
    if name != "float32":
        raise ValueError(
            f"Layer {spec.name!r} must compute in float32. Received: dtype={name!r}. "
            "Build the model with the policy 'float32', and copy its weights."
        )
    return name


def _single_axis(spec, value):
    axes = value if isinstance(value, list | tuple) else [value]
    if len(axes) != 1:
        raise ValueError(
            f"Layer {spec.name!r} normalizes several axes, which Keras 3 does not. "
            f"Received: axis={value}. Use one axis."
        )
    return axes[0]


def activation_of(value: Any) -> Any:
    """Returns a setting without the classes that round activations around it.

    Example:

    >>> rounded = {"class_name": "QuantizeAwareActivation"}
    >>> activation_of({**rounded, "config": {"activation": "relu"}})
    'relu'
    """
    while isinstance(value, dict) and value.get("class_name") in _QUANTIZE_AWARE:
        value = value["config"].get("activation", "linear")
    return value


def _activation(spec, key, value, library):
    value = activation_of(value)
    if value is None:
        return None
    current = library.__name__ == "keras"
    names = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
    names = names | {"silu": "silu"} if current else _ACTIVATIONS
    if not isinstance(value, str) or value not in names:
        raise ValueError(
            f"Layer {spec.name!r} ({spec.class_name}) has an activation that cannot "
            f"be converted. Received: {key}={arguments.shown(value)}. Both libraries "
            f"compute the same only for {sorted(names)}."
        )
    return names[value]


def _made(spec, key, value, module):
    """Returns an initializer, regularizer or constraint of the library."""
    if value is None:
        return None
    name = value["class_name"] if isinstance(value, dict) else value
    config = value["config"] if isinstance(value, dict) else {}
    kind = getattr(module, str(name), None)
    if inspect.isclass(kind):
        known = inspect.signature(kind.__init__).parameters
        return kind(**{key: one for key, one in config.items() if key in known})
    if key.endswith("initializer"):
        # The weights are copied, so it has no effect any more.
        return module.get("zeros")
    raise ValueError(
        f"Layer {spec.name!r} ({spec.class_name}) has a setting that cannot be "
        f"converted. Received: {key}={arguments.shown(value)}. Build the layer without "
        "it."
    )


def with_states_apart(network: Network) -> Network:
    """Passes initial states, which tf_keras lists with the inputs, by their name."""
    for spec in network.layers:
        if spec.network is not None:
            with_states_apart(spec.network)
        for call in spec.calls if spec.class_name in _RECURRENT_CALLS else ():
            if call.args and isinstance(call.args[0], list):
                first, *states = call.args[0]
                call.args = [first]
                call.kwargs["initial_state"] = states
    return network
