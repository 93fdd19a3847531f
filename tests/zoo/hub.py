"""Backbones and tasks of KerasHub, tiny and built from their configurations."""

import functools
import importlib.util

import numpy as np

from zoo.case import Builder, Case, Limit, compiled, floats, numbers

WORDS, LENGTH, BATCH = 40, 6, 4


def _tokens():
    return {
        "token_ids": numbers(WORDS, BATCH, LENGTH),
        "padding_mask": np.ones((BATCH, LENGTH), "int32"),
    }


def _segments():
    return _tokens() | {"segment_ids": np.zeros((BATCH, LENGTH), "int32")}


def _pairs():
    sides = ("encoder", "decoder")
    return {f"{side}_{name}": x for side in sides for name, x in _tokens().items()}


def _images():
    return floats(BATCH, 16, 16, 3)


_SIZES = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 12}
_T5 = {"vocabulary_size": WORDS, **_SIZES, "num_heads": 2}
_BERT = {**_T5, "max_sequence_length": 8}
_LLAMA = {
    **{"vocabulary_size": WORDS, **_SIZES},
    **{"num_query_heads": 2, "num_key_value_heads": 1},
}
_VIT = {
    **{"image_shape": (16, 16, 3), "patch_size": 8},
    **{"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12},
}
_RESNET = {
    **{"image_shape": (16, 16, 3), "block_type": "basic_block"},
    **{"input_conv_filters": [64], "input_conv_kernel_sizes": [3]},
    **{"stackwise_num_filters": [64, 64], "stackwise_num_blocks": [1, 1]},
    "stackwise_num_strides": [1, 2],
}
# Name of a backbone to its settings and inputs.
_BACKBONES = {
    "BertBackbone": (_BERT, _segments),
    "GPT2Backbone": (_BERT, _tokens),
    "GemmaBackbone": ({**_LLAMA, "head_dim": 4}, _tokens),
    "LlamaBackbone": (_LLAMA, _tokens),
    "T5Backbone": (_T5, _pairs),
    "BartBackbone": (_BERT, _pairs),
    "ViTBackbone": (_VIT, _images),
    "ResNetBackbone": (_RESNET, _images),
}
_CLASSES = 3
# Name of a task to that of its backbone, its settings, and its number of classes.
_CLASSIFIER = ({"num_classes": _CLASSES}, _CLASSES)
_TASKS = {
    "BertTextClassifier": ("BertBackbone", *_CLASSIFIER),
    "GPT2CausalLM": ("GPT2Backbone", {}, WORDS),
    "GemmaCausalLM": ("GemmaBackbone", {}, WORDS),
    "LlamaCausalLM": ("LlamaBackbone", {}, WORDS),
    "T5Seq2SeqLM": ("T5Backbone", {}, WORDS),
    "BartSeq2SeqLM": ("BartBackbone", {}, WORDS),
    "ViTImageClassifier": ("ViTBackbone", *_CLASSIFIER),
    "ResNetImageClassifier": ("ResNetBackbone", *_CLASSIFIER),
}


NO_SLICE = Limit(
    "LiteRT has no operator for how its attention mask is sliced. Keras's own export "
    "uses one of TensorFlow, which LiteRT alone cannot run.",
    "StridedSlice",
)


def _case(name, model, x, y):
    sliced = name.startswith(("Gemma", "Llama", "T5"))
    return Case(model, x, y, limits={"tflite": NO_SLICE} if sliced else {})


def backbone(name):
    """Returns a backbone and inputs for it."""
    from keras_hub import models

    settings, data = _BACKBONES[name]
    return getattr(models, name)(**settings), data()


def _backbone_case(name):
    model, x = backbone(name)
    y = {key: floats(*_shape(output)) for key, output in _outputs(model).items()}
    y = y if set(y) != {""} else y[""]
    return _case(name, compiled(model, "mse"), x, y)


def _outputs(model):
    return model.output if isinstance(model.output, dict) else {"": model.output}


def _shape(output):
    batch, *rest = output.shape
    return BATCH, *(LENGTH if size is None else size for size in rest)


def task(name, **settings):
    """Returns a task and inputs for it."""
    from keras_hub import models

    of, more, _ = _TASKS[name]
    model, x = backbone(of)
    return getattr(models, name)(backbone=model, **more, **settings), x


def _task_case(name):
    model, x = task(name)
    *_, classes = _TASKS[name]
    positions = (LENGTH,) if classes == WORDS else ()
    return _case(name, compiled(model), x, numbers(classes, BATCH, *positions))


MODELS: dict[str, Builder] = {}
if importlib.util.find_spec("keras_hub") is not None:
    MODELS |= {name: functools.partial(_backbone_case, name) for name in _BACKBONES}
    MODELS |= {name: functools.partial(_task_case, name) for name in _TASKS}
