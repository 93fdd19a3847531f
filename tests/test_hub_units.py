"""Backbones of KerasHub without some of their units."""

import keras
import numpy as np
import pytest
import shrinking

import tf_tickets as tt

keras_hub = pytest.importorskip("keras_hub", reason="requires the extra `hub`")

pytestmark = [
    pytest.mark.matrix,
    # KerasHub and TensorFlow warn of what they do themselves.
    pytest.mark.filterwarnings("ignore"),
]
WORDS, LENGTH = 20, 6


def words(*more):
    rng = np.random.default_rng(0)
    x = {"token_ids": rng.integers(1, WORDS, (2, LENGTH))}
    x["padding_mask"] = np.ones((2, LENGTH), "int32")
    x["padding_mask"][0, 4:] = 0
    return x | {name: np.zeros((2, LENGTH), "int32") for name in more}


def vit():
    settings = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 12}
    model = keras_hub.models.ViTBackbone((16, 16, 3), 8, **settings)
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    return model, x, {"vit_encoder": 12}


def bert():
    settings = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
    model = keras_hub.models.BertBackbone(
        WORDS, num_layers=2, max_sequence_length=8, **settings
    )
    units = {"transformer_layer_0": 12, "transformer_layer_1": 12}
    return model, words("segment_ids"), units


def gemma():
    heads = {"num_query_heads": 6, "num_key_value_heads": 3, "head_dim": 4}
    sizes = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 20}
    model = keras_hub.models.GemmaBackbone(WORDS, **heads, **sizes)
    units = {f"decoder_block_{i}/{n}": c for i in (0, 1) for n, c in _GEMMA.items()}
    return model, words(), units


_GEMMA = {"ffw_gating": 10, "attention": 3}


def gpt_2():
    settings = {"num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12}
    model = keras_hub.models.GPT2Backbone(
        WORDS, num_layers=2, max_sequence_length=8, **settings
    )
    units = {"transformer_layer_0": 12, "transformer_layer_1": 12}
    return model, words(), units


def mistral():
    heads = {"num_query_heads": 4, "num_key_value_heads": 2}
    sizes = {"num_layers": 2, "hidden_dim": 8, "intermediate_dim": 12}
    model = keras_hub.models.MistralBackbone(WORDS, **sizes, **heads)
    return model, words(), {"transformer_layer_0": 12, "transformer_layer_1": 12}


@pytest.mark.parametrize("build", [vit, bert, gemma, gpt_2, mistral])
def test_a_backbone_without_units_is_the_backbone_with_masks(build, tmp_path):
    model, x, expected = build()
    units = tt.find_units(model)
    counts = {
        key: sum(n.size for name, n in units.groups.items() if key in name)
        for key in expected
    }
    assert counts == expected
    assert units.size == sum(expected.values())
    assert all(pinned.reason for pinned in units.pinned)
    small, measured = shrinking.compare(model, seed=3, fraction=0.4, x=x)
    assert measured["removed"] > 0
    assert measured["error"] < 1e-4
    small.save(tmp_path / "small.keras")
    if build is vit:
        # A layer of KerasHub refuses entries of its own configuration.
        with pytest.raises(TypeError, match="num_patches"):
            keras.models.load_model(tmp_path / "small.keras")
    else:
        again = keras.models.load_model(tmp_path / "small.keras")
        pair = shrinking.predictions(small, x), shrinking.predictions(again, x)
        assert shrinking.distance(*pair) == 0
    y = keras.tree.map_structure(lambda t: np.zeros(t.shape), small(x))
    small.compile("adam", "mse")
    small.fit(x, y, verbose=0)


def test_an_embedding_of_positions_has_the_columns_of_its_input():
    inputs = keras.Input((LENGTH,), dtype="int32")
    h = keras.layers.Embedding(WORDS, 6)(inputs)
    h = h + keras_hub.layers.PositionEmbedding(8)(h)
    model = keras.Model(inputs, keras.layers.Dense(2)(h))
    assert tt.find_units(model).size == 6
    x = np.random.default_rng(0).integers(0, WORDS, (2, LENGTH))
    _, measured = shrinking.compare(model, fraction=0.5, x=x)
    assert measured["error"] < 1e-5
