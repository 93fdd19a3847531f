"""Tickets on other models: applied where they fit, and compared beside chance."""

import functools
import math
import re
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
import tiny
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.tickets import matching
from tf_tickets.training import snapshots
from tf_tickets_cli import main

pytestmark = pytest.mark.turns("tensorflow")


def net(classes=3, inputs=6, head="head", name="net", prefix=""):
    """Returns two layers and a head, which may have any number of classes."""
    layers = [kl.Dense(5, name=f"{prefix}a"), kl.Dense(4, name=f"{prefix}b")]
    layers.append(kl.Dense(classes, name=head))
    return keras.Sequential([keras.Input((inputs,)), *layers], name=name)


def ticket_of(model, structure="unstructured", scales=False, masks=None):
    """Returns a ticket of half the weights of each kernel of a model."""
    mask = "scaled" if scales else "fixed"
    model = tt.wrap(model, mask=mask, structure=structure, verbose=False)
    kernels = wrapping.kernels(model)
    provenance = tt.structures.registry.stored(kernels.layout, kernels.structure)
    masks = tiny.half(model) if masks is None else masks(kernels)
    weights = snapshots.present_weights(model)
    factors = dict.fromkeys(masks, 2.0) if scales else {}
    return tt.Ticket(masks, weights, {}, provenance, factors)


@functools.cache
def whole():
    """Returns a ticket of `net`, which no test changes."""
    return ticket_of(net())


def parsed(report):
    """Returns the parsed HTML of a report."""
    text = report._repr_html_().replace("<br>", " ")
    return xml.etree.ElementTree.fromstring(f"<div>{text}</div>")


def values(model):
    table = wrapping.plain_paths(model)
    return {path: wrapping.to_numpy(v) for path, v in table.items()}


def report_of(ticket, model, **kwargs):
    return ticket.apply(model, strict=False, return_report=True, **kwargs)


# Another head.


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_fits_is_applied_to_a_model_with_another_head(wrapped):
    ticket = whole()
    target = net(classes=7)
    before = values(target)
    if wrapped:
        target = tt.wrap(target, verbose=False)
    model, report = report_of(ticket, target)
    now, masks = values(model), wrapping.kernels(model).masks
    for path in ("net/a/kernel", "net/b/kernel"):
        np.testing.assert_array_equal(masks[path], ticket.masks[path])
        np.testing.assert_array_equal(
            now[path], ticket.weights[path] * ticket.masks[path]
        )
    np.testing.assert_array_equal(now["net/a/bias"], ticket.weights["net/a/bias"])
    np.testing.assert_array_equal(now["net/head/kernel"], before["net/head/kernel"])
    assert [(row.path, row.part, row.reason) for row in report.skipped] == [
        ("net/head/kernel", "mask", "shape (4, 3) in the ticket, (4, 7) in the model"),
        (
            "net/head/kernel",
            "weights",
            "shape (4, 3) in the ticket, (4, 7) in the model",
        ),
        ("net/head/bias", "weights", "shape (3,) in the ticket, (7,) in the model"),
    ]
    assert report.dense == ["net/head/kernel"] and not report.complete
    assert report.unchanged == ("net/head/kernel", "net/head/bias")
    # Half of 30 and of 20 weights, of 78 in all.
    assert report.sparsity == pytest.approx(25 / 78)
    assert ("net/head/kernel" in masks) == wrapped


def test_without_the_report_a_warning_names_what_was_not_used():
    with pytest.warns(UserWarning, match=r"2 of 3 masks.*mask of net/head/kernel: sha"):
        whole().apply(net(classes=7), strict=False)


@pytest.mark.matrix
def test_a_whole_ticket_needs_no_warning_and_equals_the_strict_one():
    ticket = whole()
    strict = ticket.apply(net())
    model = ticket.apply(net(), strict=False)
    assert tiny.same(values(model).values(), values(strict).values())
    _, report = ticket.apply(net(), return_report=True)
    assert report.complete and report.dense == [] and report.sparsity == ticket.sparsity
    assert report.masks == {path: path for path in ticket.masks}


def test_strict_refuses_what_another_head_lacks():
    with pytest.raises(ValueError, match=r"net/head/kernel: \(4, 3\) in the ticket"):
        whole().apply(net(classes=7))


def test_the_masks_of_a_wrapped_model_stay_where_the_ticket_has_none():
    target = tt.wrap(net(classes=7), verbose=False)
    own = np.arange(28).reshape(4, 7) % 4 > 0
    wrapping.kernels(target).set_masks({"net/head/kernel": own})
    model, report = report_of(whole(), target)
    np.testing.assert_array_equal(wrapping.kernels(model).masks["net/head/kernel"], own)
    [row] = [row for row in report.kernels if row.path == "net/head/kernel"]
    assert (row.mask, row.kept, report.dense) == ("own", 21, [])


def test_a_kernel_that_is_not_wrapped_is_named():
    target = tt.wrap(net(), filters=["a"], verbose=False)
    model, report = report_of(whole(), target)
    assert [row.path for row in report.skipped] == ["net/b/kernel", "net/head/kernel"]
    assert "wrapped without it" in report.skipped[0].reason
    assert report.dense == ["net/b/kernel", "net/head/kernel"]
    assert len(report.weights) == 6


def test_weights_of_another_type_are_left_out():
    keras.config.set_dtype_policy("float16")
    try:
        target = net()
    finally:
        keras.config.set_dtype_policy("float32")
    _, report = report_of(whole(), target)
    assert len(report.masks) == 3 and report.weights == {}
    assert (
        report.skipped[0].reason == "type float32 in the ticket, float16 in the model"
    )


@pytest.mark.parametrize("strict", tiny.marked([False, True], [False]))
def test_masks_alone_leave_the_weights_and_the_optimizer(strict):
    ticket = whole()
    target = tiny.compiled(tt.wrap(net(), verbose=False))
    x, y = tiny.data(16)
    target.fit(x, y, epochs=1, batch_size=8, verbose=0)
    before, step = values(target), snapshots.iteration(target)
    bare = tt.Ticket(ticket.masks)
    model, report = bare.apply(target, strict, masks_only=True, return_report=True)
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, before[path] * ticket.masks.get(path, 1))
    assert snapshots.iteration(model) == step == 2
    slots = snapshots.record(model)["optimizer"]
    kernel = [v for v in slots.values() if v.shape == (6, 5)]
    assert len(kernel) == 2  # Adam's two moments.
    for slot in kernel:
        assert not slot[~ticket.masks["net/a/kernel"]].any() and slot.any()
    assert report.weights == {} and len(report.unchanged) == 6
    assert "All 6 variables of the model keep their values" in str(report)


@pytest.mark.matrix
@pytest.mark.both
@pytest.mark.parametrize("strict", [False, True])
def test_masks_alone_go_to_a_compiled_model_that_was_not_trained(strict):
    model = whole().apply(compiled(3, "adam"), strict, masks_only=True)
    masks = wrapping.kernels(model).masks
    assert tiny.same(masks.values(), whole().masks.values())
    model.fit(*tiny.data(16), verbose=0)
    assert not tiny.pruned_weights(model).any()


class Subclassed(keras.Model):
    """A model whose layers are changed in place."""

    def __init__(self, classes):
        super().__init__(name="net")
        self.a = kl.Dense(5, name="a")
        self.b = kl.Dense(4, name="b")
        self.head = kl.Dense(classes, name="head")

    def call(self, inputs):
        return self.head(self.b(self.a(inputs)))


@pytest.mark.matrix
@pytest.mark.both
def test_a_subclassed_model_takes_what_fits():
    target = Subclassed(7)
    target(np.ones((1, 6)))
    model, report = report_of(whole(), target)
    assert model is target and list(report.masks) == ["net/a/kernel", "net/b/kernel"]
    masks = list(wrapping.kernels(model).masks.values())
    assert tiny.same(masks, list(whole().masks.values())[:2])
    with pytest.raises(ValueError, match="no functional or Sequential model"):
        target = Subclassed(7)
        target(np.ones((1, 6)))
        ticket_of(net(), "channels", masks=pruned_channels).apply(target, strict=False)


def test_masks_alone_need_no_weights_but_the_rest_does():
    bare = tt.Ticket(whole().masks)
    with pytest.raises(ValueError, match="needs its start weights"):
        bare.apply(net(), strict=False)
    assert bare.apply(net(), masks_only=True) is not None


# Names.


def test_nothing_that_fits_is_refused_with_the_nearest_names():
    target = net(name="classifier", prefix="block_")
    before = values(target)
    with pytest.raises(ValueError, match="No mask of the ticket fits") as error:
        ticket_of(net(head="top")).apply(target, strict=False)
    text = str(error.value)
    assert "net/a/kernel: no such variable" in text and "rename={" in text
    assert "Nearest: classifier/" in text
    assert tiny.same(values(target).values(), before.values())
    assert not wrapping.prunables(target)


RENAMES = {
    "prefix": {"net": "other"},
    "slash": {"net/": "other/"},
    "layers": {f"net/{name}": f"other/{name}" for name in ("a", "b", "head")},
    "pattern": {re.compile(r"net/(.*)"): r"other/\1"},
    "name": {re.compile(r"net/(?P<rest>.*)"): r"other/\g<rest>"},
    # The longest counts.
    "longest": {"net": "other", "net/a": "other/a", "net/a/kernel": "other/a/kernel"},
}


@pytest.mark.parametrize("kind", tiny.marked(list(RENAMES), ["prefix", "pattern"]))
def test_layers_with_other_names_are_found(kind):
    rename = RENAMES[kind]
    ticket = whole()
    for strict in (True, False):
        model, report = ticket.apply(
            net(name="other"), strict, rename, return_report=True
        )
        assert report.complete
        assert report.masks["net/a/kernel"] == "other/a/kernel"
        assert tiny.same(wrapping.kernels(model).masks.values(), ticket.masks.values())


def test_a_renamed_layer_may_go_to_another_layer_of_that_shape():
    layers = [kl.Dense(4, name=name) for name in "abc"]
    model = keras.Sequential([keras.Input((4,)), *layers], name="net")
    ticket = ticket_of(model, masks=lambda k: {"net/a/kernel": np.eye(4)})
    ticket = tt.Ticket({"net/a/kernel": np.eye(4)}, ticket.weights)
    rename = {"net/a": "net/b", "net/b": "net/a"}
    model, report = report_of(ticket, keras.models.clone_model(model), rename=rename)
    assert list(wrapping.kernels(model).masks) == ["net/b/kernel"]
    now = values(model)["net/a/kernel"]
    np.testing.assert_array_equal(now, ticket.weights["net/b/kernel"])


@pytest.mark.parametrize(
    "rename, message",
    [
        ({"net/c": "net/a"}, r"fit no path of the ticket. Received: .\"'net/c'\""),
        ({"net/a/kern": "net/b"}, "fit no path.*Nearest: net/a/kernel"),
        ({re.compile("a/kernel"): "x"}, r"fit no path.*re.compile\('a/kernel'\)"),
        ({"net/a": "net/x"}, "leads to no variable of model 'net'.*Nearest: net/"),
        ({"net/a": "net/b"}, "leads from 'net/a/kernel' to 'net/b/kernel', which"),
        ({"net/a": "x", "net/b": "x"}, "leads from several paths to 'x/kernel'"),
        (
            {"net/a": "x", re.compile("net/a/.*"): "y"},
            "Several entries of `rename` fit",
        ),
        ({"net/a": "x", "net/a/": "y"}, "Several entries of `rename` fit"),
        ({re.compile("net/a/(.*)"): r"\2"}, "a replacement for its regular expression"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_renames_that_are_unused_or_ambiguous_are_refused(rename, message, strict):
    ticket = tt.Ticket(_MASKS, _START)
    with pytest.raises(ValueError, match=message):
        ticket.apply(_shared_net(), strict, rename)


_MASKS = {f"net/{name}/kernel": np.eye(2) for name in "ab"}
_START = {path: np.ones((2, 2), "float32") for path in _MASKS}


def _shared_net():
    layers = [kl.Dense(2, name=name, use_bias=False) for name in "ab"]
    return keras.Sequential([keras.Input((2,)), *layers], name="net")


@pytest.mark.parametrize(
    "rename", ["net", ["net"], {"net": 3}, {3: "net"}, {re.compile(b"net"): "net"}]
)
def test_renames_of_another_type_are_refused(rename):
    with pytest.raises(TypeError, match="`rename` must"):
        tt.Ticket(_MASKS).apply(_shared_net(), rename=rename, masks_only=True)


@pytest.mark.parametrize(
    "wanted, available, automatic, pairs, reasons",
    [
        # A longer model: names of the user are kept, numbers of Keras are not guessed.
        (
            ["block_1/kernel", "block_2/kernel"],
            ["block_1/kernel", "block_3/kernel", "block_4/kernel"],
            [],
            {"block_1/kernel": "block_1/kernel"},
            {"block_2/kernel": "it may be any of block_3/kernel, block_4/kernel"},
        ),
        (
            ["dense_3/kernel", "dense_4/kernel", "top/kernel"],
            ["dense_4/kernel", "dense_5/kernel", "head/kernel"],
            ["dense_4", "dense_5"],
            {"dense_3/kernel": "dense_4/kernel", "dense_4/kernel": "dense_5/kernel"},
            {"top/kernel": "no such variable"},
        ),
        (
            ["dense_3/kernel", "top/kernel"],
            ["dense_4/kernel", "dense_5/kernel", "head/kernel"],
            ["dense_4", "dense_5"],
            {},
            {
                "dense_3/kernel": "it may be any of dense_4/kernel, dense_5/kernel",
                "top/kernel": "no such variable",
            },
        ),
        # A suffix of two names, and two names with one suffix.
        (
            ["conv/kernel", "gone/kernel"],
            ["a/conv/kernel", "b/conv/kernel"],
            [],
            {},
            {
                "conv/kernel": "it may be any of a/conv/kernel, b/conv/kernel",
                "gone/kernel": "no such variable",
            },
        ),
        (
            ["a/conv/kernel", "b/conv/kernel"],
            ["conv/kernel", "head/kernel"],
            [],
            {},
            {
                "a/conv/kernel": "it may be any of conv/kernel",
                "b/conv/kernel": "it may be any of conv/kernel",
            },
        ),
    ],
)
def test_only_names_without_another_choice_are_paired(
    wanted, available, automatic, pairs, reasons
):
    found, why = matching.match_partly(wanted, available, automatic)
    assert found == pairs
    assert {path: text.split(";")[0] for path, text in why.items()} == reasons


def test_only_variables_of_equal_shape_are_proposed():
    def build(*units):
        layers = [kl.Dense(count, use_bias=False) for count in units]
        return keras.Sequential([keras.Input((4,)), *layers])

    ticket = ticket_of(build(5, 6))
    first, second = ticket.masks
    with pytest.raises(ValueError, match="No mask of the ticket fits") as error:
        ticket.apply(build(5, 7, 8), strict=False)
    text = str(error.value)
    assert re.search(rf"{first}: probably \S+, by its shape; confirm it with", text)
    assert f"{second}: no such variable of this shape" in text
    with pytest.raises(ValueError, match="strict=False.*rename={"):
        ticket.apply(build(5, 7, 8))


def test_the_numbers_of_another_build_do_not_lead_to_another_layer():
    def build(classes):
        layers = [kl.Dense(4), kl.Dense(4), kl.Dense(classes)]
        return keras.Sequential([keras.Input((4,)), *layers])

    ticket = ticket_of(build(3))
    # One of its names may be that of another layer of the ticket.
    model, report = report_of(ticket, build(5))
    assert len(report.masks) == 2
    masks = wrapping.kernels(model).masks.values()
    expected = list(ticket.masks.values())[:2]
    assert tiny.same(masks, expected)


def numbered(count, first):
    """A model whose layers Keras numbers, beginning with another number."""
    keras.utils.clear_session()
    for _ in range(first):
        kl.Dense(4)
    layers = [kl.Dense(4, use_bias=False) for _ in range(count)]
    return keras.Sequential([keras.Input((4,)), *layers], name="net")


def ticket_of_numbers(first, masked=2):
    """A ticket of two layers with other masks; of the second none, if `masked` is 1."""
    ticket = ticket_of(numbered(2, first))
    paths = list(ticket.masks)
    masks = {path: np.eye(4)[::step] for path, step in zip(paths, (1, -1), strict=True)}
    return tt.Ticket(dict(list(masks.items())[:masked]), ticket.weights)


@pytest.mark.parametrize("masks_only", [False, True])
def test_equal_numbers_of_a_longer_model_are_not_taken_for_the_same_layers(masks_only):
    ticket = ticket_of_numbers(first=1)
    with pytest.raises(ValueError, match="dense_1/kernel: it may be any of"):
        ticket.apply(numbered(3, 0), strict=False, masks_only=masks_only)
    with pytest.raises(ValueError, match="rename=|only in the model"):
        ticket.apply(numbered(3, 0), masks_only=masks_only)
    # Both models begin with the same number.
    ticket = ticket_of_numbers(first=0)
    model = ticket.apply(numbered(3, 0), strict=False, masks_only=masks_only)
    kept = [mask.sum() for mask in wrapping.kernels(model).masks.values()]
    assert kept == [4, 4]


@pytest.mark.parametrize("strict", [True, False])
def test_masks_alone_find_their_layers_by_all_names_of_the_ticket(strict):
    ticket = ticket_of_numbers(first=1, masked=1)
    model = ticket.apply(numbered(2, 0), strict, masks_only=True)
    [(path, mask)] = wrapping.kernels(model).masks.items()
    assert path == "net/dense/kernel" and (mask == np.eye(4)).all()


# Other models around the same layers.


def backbone():
    layers = [kl.Conv2D(4, 3, name="conv1"), kl.BatchNormalization(name="norm")]
    layers += [kl.ReLU(name="relu"), kl.Conv2D(6, 3, name="conv2")]
    layers += [kl.GlobalAveragePooling2D(name="pool")]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers], name="backbone")


def classifier(classes, size=8, name="classifier"):
    """A functional model with the layers of the backbone, on images of any size."""
    inputs = keras.Input((size, size, 1))
    x = inputs
    for layer in backbone().layers:
        x = type(layer).from_config(layer.get_config())(x)
    return keras.Model(inputs, kl.Dense(classes, name="head")(x), name=name)


def nested(classes):
    inputs = keras.Input((8, 8, 1))
    outputs = kl.Dense(classes, name="head")(backbone()(inputs))
    return keras.Model(inputs, outputs, name="nested")


def test_a_backbone_goes_into_a_classifier_and_back():
    ticket = ticket_of(backbone())
    model, report = report_of(ticket, nested(10))
    assert report.complete and report.dense == ["head/kernel"]
    assert tiny.same(wrapping.kernels(model).masks.values(), ticket.masks.values())
    # To the layers without the nested model, by a prefix.
    flat, report = report_of(ticket, classifier(5), rename={"backbone": ""})
    assert report.complete
    assert tiny.same(wrapping.kernels(flat).masks.values(), ticket.masks.values())
    # From the classifier to the backbone: all but the head.
    whole = ticket_of(nested(10))
    model, report = report_of(whole, backbone())
    assert {row.path for row in report.skipped} == {"head/kernel", "head/bias"}
    assert list(report.masks) == ["backbone/conv1/kernel", "backbone/conv2/kernel"]


@pytest.mark.matrix
def test_images_of_another_size_need_nothing():
    ticket = ticket_of(classifier(10))
    model, report = ticket.apply(classifier(10, size=12), return_report=True)
    assert report.complete
    assert model.predict(np.ones((2, 12, 12, 1)), verbose=0).shape == (2, 10)


def test_a_frozen_backbone_takes_masks():
    target = nested(10)
    target.get_layer("backbone").trainable = False
    ticket = tt.Ticket(ticket_of(backbone()).masks)
    before = values(target)
    model, report = report_of(ticket, target, masks_only=True)
    assert len(report.masks) == 2
    now = values(model)
    for path, mask in ticket.masks.items():
        np.testing.assert_array_equal(now[path], before[path] * mask)
    assert not any(v.trainable for v in wrapping.kernels(model).variables.values())


@pytest.mark.matrix
def test_a_student_of_a_distiller_takes_what_fits():
    student = tt.wrap(net(classes=7), verbose=False)
    distiller = tt.Distiller(
        net(classes=7), student, tt.distillation.LogitsDistillation(2.0)
    )
    _, report = report_of(whole(), distiller)
    assert list(report.masks) == ["net/a/kernel", "net/b/kernel"]
    assert report.model == "net"


# Structures.


def pruned_channels(kernels):
    """Prunes the first unit of each group."""
    layout = kernels.layout
    units = layout.units(kernels.masks)
    for table in units.values():
        table[0] = False
    return layout.masks(units, kernels.masks)


@functools.cache
def channel_ticket():
    return ticket_of(classifier(10), "channels", masks=pruned_channels)


def two_layer_head(classes):
    base = classifier(classes)
    x = base.get_layer("pool").output
    x = kl.Dense(5, activation="relu", name="neck")(x)
    return keras.Model(base.input, kl.Dense(classes, name="top")(x))


HEADS = {"one": classifier, "two": two_layer_head}


@pytest.mark.parametrize(
    "head, wrapped",
    tiny.marked(
        [(head, wrapped) for head in HEADS for wrapped in (False, True)],
        [("two", False)],
    ),
)
def test_channels_take_a_new_head_along(head, wrapped):
    ticket = channel_ticket()
    target = HEADS[head](3)
    if wrapped:
        target = tt.wrap(target, structure="channels", verbose=False)
    model, report = report_of(ticket, target)
    kernels = wrapping.kernels(model)
    reader = "neck/kernel" if "neck/kernel" in kernels else "head/kernel"
    masks = kernels.masks
    for path, mask in ticket.masks.items():
        if path != "head/kernel":
            np.testing.assert_array_equal(masks[path], mask)
    # Inputs of the new head that are channels of the ticket's.
    assert masks[reader].any(axis=1).tolist() == [False] + [True] * 5
    [row] = [row for row in report.kernels if row.path == reader]
    assert row.mask == "channels"
    small = tt.compact(model)
    assert [small.get_layer(n).filters for n in ("conv1", "conv2")] == [3, 5]
    if not wrapped:
        # The outputs of the new head stay.
        assert "neck/kernel" not in kernels.layout.producers


@pytest.mark.matrix
def test_channels_of_another_width_stay():
    ticket = channel_ticket()
    inputs = keras.Input((8, 8, 1))
    x = kl.Conv2D(4, 3, name="conv1")(inputs)
    x = kl.BatchNormalization(name="norm")(x)
    x = kl.Conv2D(9, 3, name="conv2")(kl.ReLU(name="relu")(x))
    x = kl.GlobalAveragePooling2D(name="pool")(x)
    model, report = report_of(ticket, keras.Model(inputs, kl.Dense(2, name="head")(x)))
    kernels = wrapping.kernels(model)
    assert set(kernels.layout.producers) == {"conv1/kernel"}
    kept = kernels.masks["conv2/kernel"].any(axis=(0, 1, 3))
    assert kept.tolist() == [False, True, True, True]
    reasons = {row.path: row.reason for row in report.skipped}
    assert "(3, 3, 4, 6) in the ticket" in reasons["conv2/kernel"]
    small = tt.compact(model)
    assert [small.get_layer(n).filters for n in ("conv1", "conv2")] == [3, 9]


def test_channels_are_refused_where_their_biases_cannot_be_pruned():
    target = tt.wrap(classifier(3), verbose=False)
    before = values(target)
    with pytest.raises(ValueError, match="wrapped as 'unstructured', without.*bias"):
        channel_ticket().apply(target, strict=False)
    assert tiny.same(values(target).values(), before.values())


@pytest.mark.parametrize("structure", tiny.marked(["2:4", "4x1", "channels"], ["2:4"]))
def test_masks_that_do_not_follow_the_models_structure_are_refused(structure):
    target = tt.wrap(classifier(3), structure=structure, verbose=False)
    before = values(target)
    with pytest.raises(ValueError, match="The ticket's masks (do not follow|prune pa)"):
        ticket_of(classifier(10)).apply(target, strict=False)
    assert tiny.same(values(target).values(), before.values())


def two_of_four(kernels):
    scores = {p: np.abs(w) for p, w in kernels.weights.items()}
    layout = kernels.layout
    best = layout.protect(scores, layout.units(kernels.masks))
    return {path: np.isinf(table) for path, table in best.items()}


def test_masks_of_2_in_4_go_to_another_head():
    ticket = ticket_of(net(inputs=8), "2:4", masks=two_of_four)
    model, report = report_of(ticket, net(inputs=8, classes=9))
    assert len(report.masks) == 2
    assert wrapping.kernels(model).structure == tt.NM(2, 4)
    target = tt.wrap(net(inputs=8, classes=9), structure="2:4", verbose=False)
    model, _ = report_of(ticket, target)
    assert wrapping.kernels(model).masks["net/head/kernel"].all()


# Scales.


def test_scales_go_with_the_weights():
    ticket = ticket_of(net(), scales=True)
    model, _ = report_of(ticket, net(classes=7))
    factors = {"net/a/kernel": 2.0, "net/b/kernel": 2.0}
    assert wrapping.kernels(model).scales == factors
    model, report = report_of(ticket, net(classes=7), masks_only=True)
    assert wrapping.kernels(model).scales == {}
    target = tt.wrap(net(classes=7), verbose=False)
    before = values(target)
    with pytest.raises(ValueError, match="scales its kept weights.*mask=.scaled"):
        ticket.apply(target, strict=False)
    assert tiny.same(values(target).values(), before.values())


# The report.


def test_the_report_shows_and_stores_everything(tmp_path):
    _, report = report_of(whole(), net(classes=7))
    text = str(report)
    assert text == repr(report)
    assert text.startswith(
        "Model 'net': 2 of 3 masks and 4 of 6 start values of the ticket applied, "
        "sparsity 0.3205"
    )
    assert "2 variables of the model kept as before: net/head/kernel, net" in text
    rows = [[*row.itertext()] for row in parsed(report).iter("tr")]
    assert rows[1] == ["net/a/kernel", "ticket", "6x5", "15/30", "0.5000"]
    assert len(rows) == 5
    report.to_json(tmp_path / "report.json")
    assert '"reason": "shape (4, 3)' in (tmp_path / "report.json").read_text("utf-8")
    content = report.to_dict()
    assert content["dense"] == ["net/head/kernel"]
    assert content["sparsity"] == report.sparsity


# A ticket of the new task.


def test_a_transferred_ticket_is_one_of_the_new_model():
    ticket = whole()
    with pytest.warns(UserWarning, match="Not used: mask of net/head/kernel"):
        moved = ticket.transfer(net(classes=7))
    assert moved.weights["net/head/kernel"].shape == (4, 7)
    start = moved.weights["net/a/kernel"]
    expected = ticket.weights["net/a/kernel"] * ticket.masks["net/a/kernel"]
    np.testing.assert_array_equal(start, expected)
    assert moved.provenance["parent"] == ticket.id
    model = moved.apply(net(classes=7))
    assert tiny.same(wrapping.kernels(model).masks.values(), moved.masks.values())
    other = tt.controls.shuffle_masks(tt.controls.reinit(moved, lambda: net(7)))
    assert other.kept == moved.kept and other.apply(net(classes=7)) is not None


def test_a_transferred_ticket_of_channels_keeps_its_structure(tmp_path):
    moved, report = channel_ticket().transfer(classifier(3), return_report=True)
    assert not report.complete and isinstance(moved.structure, tt.Channels)
    moved.save(tmp_path / "moved.ticket")
    loaded = tt.Ticket.load(tmp_path / "moved.ticket")
    model = loaded.apply(classifier(3))
    assert tt.compact(model).get_layer("conv2").filters == 5
    assert tt.controls.random_masks(loaded).apply(classifier(3)) is not None


def compiled(classes=7, optimizer="sgd"):
    model = net(classes=classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=tiny.JIT)
    return model


@pytest.mark.matrix
@pytest.mark.both
def test_a_transferred_ticket_is_trained_and_searched_on():
    ticket = whole()
    build = compiled
    moved, _ = ticket.transfer(build(), return_report=True)
    model, metrics = tt.train_ticket(
        build, tiny.splits(), moved, 2, batch_size=16, verbose=0
    )
    assert math.isfinite(metrics["test_loss"])
    masks = wrapping.kernels(model).masks
    assert tiny.same(masks.values(), moved.masks.values())
    assert not tiny.pruned_weights(model).any()
    # A search continues from the masks, with another optimizer.
    target = tt.wrap(build(optimizer="adam"), verbose=False)
    target, _ = report_of(ticket, target)
    search = tt.IMP(rounds=2, epochs_per_round=1, rate=0.5, monitor="loss")
    tiny.run(target, search)
    first, last = search.tickets
    assert first.sparsity > 25 / 78 and last.sparsity > first.sparsity
    for path, mask in ticket.masks.items():
        if path != "net/head/kernel":
            assert not (last.masks[path] & ~mask).any()

    # So does a search that builds the model itself.
    def build_with_masks():
        return report_of(ticket, tt.wrap(build(), verbose=False))[0]

    found = tt.find_tickets(
        build_with_masks, tiny.splits(), search, batch_size=16, verbose=0
    )
    assert not (found[0].masks["net/a/kernel"] & ~ticket.masks["net/a/kernel"]).any()


def test_a_ticket_of_another_head_is_refused_by_the_trainer():
    with pytest.raises(ValueError, match="do not fit"):
        tt.train_ticket(compiled, tiny.splits(), whole(), 1, batch_size=16, verbose=0)


# Overlap beside chance.


def masks_of(kept, size):
    """Returns a mask of the given positions."""
    mask = np.zeros(size, bool)
    mask[list(kept)] = True
    return mask


def test_chance_is_that_of_literal_numbers():
    one = tt.Ticket({"k": masks_of(range(20), 100), "j": masks_of(range(6), 10)})
    other = tt.Ticket({"k": masks_of(range(10, 40), 100), "j": masks_of(range(4), 10)})
    report = one.overlap(other)
    k, j = report.rows
    assert (k.size, k.first, k.second, k.shared) == (100, 20, 30, 10)
    # scipy.stats.hypergeom(100, 20, 30): mean 6, variance 112/33.
    assert k.expected == 6.0 and k.deviation == pytest.approx(math.sqrt(112 / 33))
    assert k.jaccard == 10 / 40 and k.chance == 6 / 44
    assert k.z == pytest.approx(4 / math.sqrt(112 / 33))
    # hypergeom(10, 6, 4): mean 2.4, variance 0.64.
    assert j.expected == 2.4 and j.deviation == pytest.approx(0.8)
    total = report.total
    assert (total.shared, total.expected) == (14, 8.4)
    assert total.deviation == pytest.approx(math.sqrt(112 / 33 + 0.64))
    assert total.jaccard == one.compare(other)["all"]
    assert report.to_dict()["rows"][1]["chance"] == j.chance


@pytest.mark.parametrize("size, first, second", [(12, 5, 7), (9, 1, 8), (30, 29, 3)])
def test_chance_is_that_of_all_random_masks(size, first, second):
    # The exact distribution, by counting.
    ways = [
        math.comb(first, n) * math.comb(size - first, second - n)
        for n in range(min(first, second) + 1)
        if second - n <= size - first
    ]
    least = max(0, first + second - size)
    ways = [w for w in ways if w]
    shared = least + np.arange(len(ways))
    mean = np.average(shared, weights=ways)
    deviation = math.sqrt(np.average((shared - mean) ** 2, weights=ways))
    one = tt.Ticket({"k": masks_of(range(first), size)})
    other = tt.Ticket({"k": masks_of(range(second), size)})
    row = one.overlap(other).rows[0]
    assert (row.expected, row.deviation) == pytest.approx((mean, deviation))


def simulated(ticket, other, count=400):
    """Returns mean and deviation of the overlap with random masks of a structure."""
    shared = [
        tt.controls.random_masks(ticket, seed=seed).overlap(other).total.shared
        for seed in range(count)
    ]
    return np.mean(shared), np.std(shared)


STRUCTURED = {
    "unstructured": lambda: ticket_of(net(inputs=8)),
    "2:4": lambda inputs=9: ticket_of(net(inputs=inputs), "2:4", masks=two_of_four),
    "4x1": lambda: ticket_of(
        net(inputs=10),
        "4x1",
        masks=lambda k: k.layout.masks(
            {
                p: np.arange(t.size).reshape(t.shape) % 3 > 0
                for p, t in k.layout.units(k.masks).items()
            },
            k.masks,
        ),
    ),
}


def test_masks_of_2_in_4_have_the_chance_of_each_group():
    # Two groups of 4 and one of 2, of which 2, 2 and 1 weights are kept.
    ticket = STRUCTURED["2:4"](10)
    row = ticket.overlap(ticket).rows[0]
    # hypergeom(4, 2, 2): mean 1, variance 1/3; hypergeom(2, 1, 1): 1/2, 1/4.
    assert (row.size, row.first, row.shared) == (50, 25, 25)
    assert row.expected == pytest.approx(5 * (1 + 1 + 1 / 2))
    assert row.deviation == pytest.approx(math.sqrt(5 * (1 / 3 + 1 / 3 + 1 / 4)))


@pytest.mark.matrix
@pytest.mark.parametrize("structure", list(STRUCTURED))
def test_chance_is_that_of_random_masks_with_the_structure(structure):
    ticket = STRUCTURED[structure]()
    report = ticket.overlap(ticket)
    assert report.noun == ("block" if structure == "4x1" else "weight")
    mean, deviation = simulated(ticket, ticket)
    total = report.total
    assert mean == pytest.approx(total.expected, abs=4 * deviation / 20)
    assert deviation == pytest.approx(total.deviation, rel=0.15)
    if structure == "2:4":
        plain = tt.Ticket(ticket.masks).overlap(ticket).total
        # Masks that may keep any weights have another distribution.
        assert plain.expected < 25 < total.expected


def test_channels_are_compared_as_units():
    ticket = channel_ticket()
    report = ticket.overlap(ticket)
    assert report.noun == "unit"
    assert [(row.size, row.first) for row in report.rows] == [(4, 3), (6, 5)]
    assert "group" in str(report) and report.total.shared == 8
    # With another head, the groups are the same.
    moved, _ = ticket.transfer(classifier(3), return_report=True)
    report = ticket.overlap(moved, strict=False)
    assert report.noun == "unit" and report.total.shared == 8


def test_masks_that_leave_no_choice_have_no_z():
    report = tt.Ticket({"k": [1, 1]}).overlap(tt.Ticket({"k": [1, 0]}))
    assert report.total.z is None and str(report).count(" -\n") == 2
    empty = tt.Ticket({"k": [0, 0]})
    assert empty.overlap(empty).total.jaccard == 0.0
    assert len(list(parsed(report).iter("tr"))) == 3


def test_tickets_with_other_kernels_are_compared_in_part():
    one, other = whole(), ticket_of(net(classes=7))
    with pytest.raises(ValueError, match=r"net/head/kernel: \(4, 3\)"):
        one.overlap(other)
    report = one.overlap(other, strict=False)
    assert [row.path for row in report.rows] == ["net/a/kernel", "net/b/kernel"]
    assert report.left_out == ("net/head/kernel: its shapes are (4, 3) and (4, 7)",)
    with pytest.raises(ValueError, match="no kernel in common.*rename="):
        one.overlap(tt.Ticket({"x/y": [1, 0]}), strict=False)
    other = tt.Ticket({"other/a/kernel": one.masks["net/a/kernel"], "z": [1, 0]})
    report = one.overlap(other, strict=False, rename={"net/a": "other/a"})
    assert report.total.jaccard == 1.0
    assert "left out: z: only in the second" in str(report)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("paths", ["ab", "ba"])
def test_a_comparison_drops_no_kernel_whose_name_is_given_away(paths, strict):
    one = tt.Ticket({path: [1, 0, 1] for path in paths})
    other = tt.Ticket({"b": [1, 0, 1]})
    with pytest.raises(ValueError, match="`rename` leads from '.' to 'b', which"):
        one.overlap(other, strict, {"a": "b"})
    with pytest.raises(ValueError, match="to no variable of the other ticket"):
        one.overlap(other, strict, {"a": "c"})


def test_the_command_shows_the_overlap_beside_chance(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a.ticket", "b.ticket", "out.json")]
    whole().save(paths[0])
    ticket_of(net(classes=7)).save(paths[1])
    assert main.main(["compare", *paths[:2], "--partial", "--json", paths[2]]) == 0
    printed = capsys.readouterr().out
    assert "expected" in printed and "left out: net/head/kernel" in printed
    assert '"chance"' in (tmp_path / "out.json").read_text("utf-8")
    assert main.main(["compare", *paths[:2]]) == 2
    error = capsys.readouterr().err
    assert "The tickets have different kernels: net/head/kernel: shapes (" in error
    assert "Pass --partial to compare" in error and "model" not in error
    assert main.main(["compare", paths[0], paths[0]]) == 0
    printed = capsys.readouterr().out
    assert printed.endswith("The masks are identical, with the same start weights.\n")


def test_the_command_compares_kernels_of_other_names(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("a.ticket", "b.ticket")]
    tt.Ticket({"conv/kernel": [1, 0, 1, 1]}).save(paths[0])
    tt.Ticket({"stem/kernel": [1, 0, 0, 1]}).save(paths[1])
    assert main.main(["compare", *paths]) == 2
    error = capsys.readouterr().err
    assert f"only in {paths[0]}: conv/kernel; only in {paths[1]}: stem/ke" in error
    assert main.main(["compare", *paths, "--partial"]) == 2
    assert "pass --rename FIRST=SECOND" in capsys.readouterr().err
    assert main.main(["compare", *paths, "--rename", "conv"]) == 2
    assert "--rename must be FIRST=SECOND" in capsys.readouterr().err
    assert main.main(["compare", *paths, "--rename", "conv=body"]) == 2
    assert "--rename leads" in capsys.readouterr().err.replace("Entries of ", "")
    assert main.main(["compare", *paths, "--rename", "conv=stem"]) == 0
    assert "total" in (printed := capsys.readouterr().out)
    assert "identical" not in printed
