"""Structures: groups and blocks against slow references, and every search with them."""

import itertools
import re

import keras
import numpy as np
import pytest
import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as kl

import tf_tickets as tt
from tf_tickets import structures
from tf_tickets.pruning import allocation, selection
from tf_tickets.structures import matrices
from tf_tickets.structures.blocks import BlocksLayout
from tf_tickets.structures.nm import NMLayout
from tf_tickets.structures.structure import Layout

pytestmark = pytest.mark.turns

# Matrices of all kinds of kernels, with inputs that no group or block divides.
KERNELS = {
    "dense": matrices.Matrix((7, 5), (0,), (1,)),
    "conv": matrices.Matrix((2, 3, 5, 4), (2,), (3,)),
    "transposed": matrices.Matrix((2, 2, 3, 6), (3,), (2,)),
    "heads": matrices.Matrix((4, 2, 3), (0,), (1, 2)),
    "projection": matrices.Matrix((2, 3, 4), (0, 1), (2,)),
    "one input": matrices.Matrix((1, 4), (0,), (1,)),
}


def places(matrix):
    """Returns the index in the kernel of each entry of `fold`."""
    numbers = np.arange(np.prod(matrix.shape)).reshape(matrix.shape)
    return matrix.fold(numbers)


def groups(matrix, structure):
    """Yields the places of each N:M group and how many it keeps, one by one."""
    *rest, inputs, outputs = matrix.folded_shape
    table = places(matrix)
    for where in np.ndindex(*rest):
        for first, column in itertools.product(
            range(0, inputs, structure.m), range(outputs)
        ):
            group = table[(*where, slice(first, first + structure.m), column)]
            keeps = -(-structure.n * group.size // structure.m)
            yield group.tolist(), keeps


def blocks(matrix, structure):
    """Yields the places of each block, in the order of the table of units."""
    *rest, inputs, outputs = matrix.folded_shape
    table = places(matrix)
    rows, columns = structure.rows, structure.columns
    for where in np.ndindex(*rest):
        for i, j in itertools.product(
            range(0, inputs, rows), range(0, outputs, columns)
        ):
            block = table[(*where, slice(i, i + rows), slice(j, j + columns))]
            yield block.ravel().tolist()


def best(scores, candidates, count):
    """Returns the candidates with the largest scores; of equal ones, the first."""
    return sorted(candidates, key=lambda place: -scores[place])[:count]


def drawn(seed, ties=True):
    """Returns scores with ties, and masks, of all kernels."""
    rng = np.random.default_rng(seed)
    scores, masks = {}, {}
    for path, matrix in KERNELS.items():
        values = rng.normal(size=matrix.shape)
        scores[path] = np.round(values) if ties else values
        masks[path] = rng.random(matrix.shape) < rng.choice([0.3, 0.8, 1.0])
    return scores, masks


def slow_choice(ranks, keep):
    """Returns the first `keep` of all (table, place), by rank, table and place."""
    order = sorted(
        ((path, place) for path, row in ranks.items() for place in row),
        key=lambda item: (
            ranks[item[0]][item[1]],
            list(ranks).index(item[0]),
            item[1],
        ),
    )
    return set(order[:keep])


def as_masks(chosen, masks):
    result = {path: np.zeros(mask.size, bool) for path, mask in masks.items()}
    for path, place in chosen:
        result[path][place] = True
    return {path: mask.reshape(masks[path].shape) for path, mask in result.items()}


def assert_same(result, expected):
    assert list(result) == list(expected)
    for path in expected:
        assert result[path].dtype == bool
        np.testing.assert_array_equal(result[path], expected[path], path)


# The selection.


@pytest.mark.both
@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_chosen_as_by_a_slow_reference(seed, dtype, ties):
    scores, masks = drawn(seed, ties)
    scores = {path: table.astype(dtype) for path, table in scores.items()}
    ranks = {
        path: {
            int(place): -float(scores[path].ravel()[place])
            for place in np.flatnonzero(mask)
        }
        for path, mask in masks.items()
    }
    alive = sum(int(mask.sum()) for mask in masks.values())
    for keep in (alive, alive - 1, alive // 2, len(masks)):
        expected = as_masks(slow_choice(ranks, keep), masks)
        counts = {path: int(mask.sum()) for path, mask in expected.items()}
        assert allocation.global_(scores, masks, keep) == counts
        assert_same(allocation.best(scores, masks, keep), expected)
        if all(counts.values()):
            assert_same(selection.choose(scores, masks, keep), expected)


def test_scores_are_copied_once_at_most(monkeypatch):
    """Nothing is ranked twice by the global allocation."""
    scores, masks = drawn(0)
    ranked = []
    monkeypatch.setattr(
        selection.ranking,
        "_cut",
        lambda values, count, cut=selection.ranking._cut: (
            ranked.append(values.size) or cut(values, count)
        ),
    )
    selection.choose(scores, masks, sum(int(m.sum()) for m in masks.values()) - 3)
    assert ranked == [sum(int(mask.sum()) for mask in masks.values())]


@pytest.mark.parametrize("n, m", [(2, 4), (1, 2), (3, 4), (1, 8)])
@pytest.mark.parametrize("seed", range(4))
def test_groups_keep_their_best_weights_as_by_a_slow_reference(n, m, seed):
    structure = tt.NM(n, m)
    layout = NMLayout(structure, KERNELS)
    scores, masks = drawn(seed)
    ranks, fewest = {}, dict.fromkeys(KERNELS, 0)
    for path, matrix in KERNELS.items():
        flat, alive = scores[path].ravel(), masks[path].ravel()
        ranks[path] = {int(p): -flat[p] for p in np.flatnonzero(alive)}
        for group, keeps in groups(matrix, structure):
            protected = best(flat, [p for p in group if alive[p]], keeps)
            fewest[path] += len(protected)
            ranks[path] |= dict.fromkeys(protected, -np.inf)
    assert layout.fewest(masks) == fewest
    least = sum(fewest.values())
    alive = sum(int(mask.sum()) for mask in masks.values())
    for keep in (alive, (alive + least) // 2, least):
        expected = as_masks(slow_choice(ranks, keep), masks)
        result = selection.choose(scores, masks, keep, layout=layout)
        assert_same(result, expected)
    # Fewer are impossible: at the limit, every group has what it must keep.
    limit = selection.choose(scores, masks, 0, layout=layout)
    assert_same(limit, as_masks(slow_choice(ranks, least), masks))


@pytest.mark.filterwarnings("ignore:All blocks")
@pytest.mark.parametrize("rows, columns", [(4, 1), (2, 2), (1, 3), (1, 1)])
@pytest.mark.parametrize("seed", range(4))
def test_blocks_are_chosen_whole_as_by_a_slow_reference(rows, columns, seed):
    structure = tt.Blocks(rows, columns)
    layout = BlocksLayout(structure, KERNELS)
    scores, masks = drawn(seed)
    ranks, members = {}, {}
    for path, matrix in KERNELS.items():
        flat, alive = scores[path].ravel(), masks[path].ravel()
        members[path] = list(blocks(matrix, structure))
        kept = [[p for p in block if alive[p]] for block in members[path]]
        ranks[path] = {
            number: -np.mean(flat[block])
            for number, block in enumerate(kept)
            if len(block)
        }
    units = layout.units(masks)
    assert {p: int(u.sum()) for p, u in units.items()} == {
        path: len(row) for path, row in ranks.items()
    }
    alive = sum(map(len, ranks.values()))
    for keep in (alive, alive - 2, 2 * alive // 3):
        chosen = slow_choice(ranks, keep)
        expected = {
            (path, place)
            for path, number in chosen
            for place in members[path][number]
            if masks[path].ravel()[place]
        }
        result = selection.choose(scores, masks, keep, layout=layout)
        if len({path for path, _ in chosen}) == len(KERNELS):
            assert_same(result, as_masks(expected, masks))
        assert sum(int(u.sum()) for u in layout.units(result).values()) == keep


@pytest.mark.filterwarnings("ignore:All (blocks|weights)")
@settings(max_examples=30, deadline=None, database=None)
@given(
    name=st.sampled_from(["2:4", "1:3", "4x1", "2x2", "unstructured"]),
    allocate=st.sampled_from(["global", "uniform", "erk"]),
    seed=st.integers(0, 2**16),
    rates=st.lists(st.floats(0.0, 0.6), min_size=1, max_size=4),
)
def test_rounds_are_nested_exact_and_whole(name, allocate, seed, rates):
    layout = layout_of(structures.get(name))
    rng = np.random.default_rng(seed)
    masks = {path: np.ones(m.shape, bool) for path, m in KERNELS.items()}
    for rate in rates:
        scores = {p: rng.integers(0, 9, m.shape) * 0.5 for p, m in masks.items()}
        units = layout.units(masks)
        least = sum(layout.fewest(units).values())
        keep = max(allocation.after_rate(units, rate), least)
        new = selection.choose(scores, masks, keep, allocation.get(allocate), layout)
        assert all((new[path] <= masks[path]).all() for path in masks)
        left = layout.units(new)
        assert sum(int(table.sum()) for table in left.values()) == keep
        assert all(left[name].any() for name in left)
        assert_same(layout.masks(left, masks), new)
        assert layout.fewest(left) == layout.fewest(units)
        masks = new


def layout_of(structure):
    kinds = {tt.NM: NMLayout, tt.Blocks: BlocksLayout}
    kind = kinds.get(type(structure))
    return Layout() if kind is None else kind(structure, KERNELS)


def test_no_sum_of_scores_is_rounded():
    """Blocks of float32 scores are compared as precisely as those of float64."""
    layout = BlocksLayout(tt.Blocks(4, 1), {"a": matrices.Matrix((4, 2), (0,), (1,))})
    scores = np.array([[2**24, 2**24], [1, 0], [1, 0], [1, 0]], "float32")
    [means] = layout.scores({"a": scores}, {"a": np.ones((4, 2), bool)}).values()
    assert means[0, 0] == (2**24 + 3) / 4 and means[0, 1] == 2**24 / 4


def test_blocks_count_by_the_largest_score_of_a_kept_weight():
    structure = tt.Blocks(2, 2, pooling="max")
    layout = BlocksLayout(structure, {"a": matrices.Matrix((3, 2), (0,), (1,))})
    scores = {"a": np.array([[9.0, 1.0], [2.0, 3.0], [5.0, 4.0]])}
    whole, partly = np.ones((3, 2), bool), np.array([[0, 1], [1, 1], [1, 1]], bool)
    for mask, expected in ((whole, [9.0, 5.0]), (partly, [3.0, 5.0])):
        assert layout.scores(scores, {"a": mask})["a"].ravel().tolist() == expected
    kept = selection.choose(scores, {"a": whole}, 1, layout=layout)
    assert kept["a"].tolist() == [[True, True], [True, True], [False, False]]


def test_blocks_with_the_default_pooling_are_stored_without_it():
    assert tt.Blocks(4, 1).get_config() == {"rows": 4, "columns": 1}
    assert tt.Blocks(4, 1, "max").get_config()["pooling"] == "max"


def test_infinite_scores_do_not_replace_protected_weights():
    layout = NMLayout(tt.NM(1, 2), {"a": matrices.Matrix((4, 1), (0,), (1,))})
    scores = {"a": np.array([[np.inf], [np.inf], [0.0], [-np.inf]])}
    masks = {"a": np.ones((4, 1), bool)}
    result = selection.choose(scores, masks, 2, layout=layout)
    assert result["a"].ravel().tolist() == [True, False, True, False]


def test_nan_is_refused_in_a_structure():
    layout = layout_of(tt.NM(2, 4))
    scores, masks = drawn(0)
    scores["dense"][0, 0] = np.nan
    masks["dense"][0, 0] = True
    keep = sum(layout.fewest(masks).values())
    with pytest.raises(ValueError, match="must not contain NaN"):
        selection.choose(scores, masks, keep, layout=layout)


def test_a_kernel_at_its_limit_gives_the_rest_to_others():
    layout = NMLayout(
        tt.NM(2, 4),
        {
            "a": matrices.Matrix((8, 1), (0,), (1,)),
            "b": matrices.Matrix((8, 1), (0,), (1,)),
        },
    )
    masks = {"a": np.ones((8, 1), bool), "b": np.ones((8, 1), bool)}
    scores = {path: np.arange(8.0).reshape(8, 1) for path in masks}
    result = selection.choose(scores, masks, {"a": 2, "b": 8}, layout=layout)
    assert {path: int(mask.sum()) for path, mask in result.items()} == {"a": 4, "b": 6}


# The matrix of a kernel.


def shape_of(*shape):
    return (None, *shape)


@pytest.mark.parametrize(
    "layer, shape, name, inputs, outputs",
    [
        (kl.Dense(3), (4,), "kernel", (0,), (1,)),
        (kl.Conv1D(3, 2), (5, 4), "kernel", (1,), (2,)),
        (kl.Conv2D(3, 2), (5, 5, 4), "kernel", (2,), (3,)),
        (kl.Conv2D(4, 2, groups=2), (5, 5, 4), "kernel", (2,), (3,)),
        (kl.Conv3D(3, 2), (5, 5, 5, 4), "kernel", (3,), (4,)),
        (kl.Conv1DTranspose(3, 2), (5, 4), "kernel", (2,), (1,)),
        (kl.Conv2DTranspose(3, 2), (5, 5, 4), "kernel", (3,), (2,)),
        (kl.Conv3DTranspose(3, 2), (5, 5, 5, 4), "kernel", (4,), (3,)),
        (kl.SeparableConv2D(3, 2), (5, 5, 4), "pointwise_kernel", (2,), (3,)),
        (kl.EinsumDense("ab,bc->ac", 3), (4,), "kernel", (0,), (1,)),
        (kl.EinsumDense("...b,cb->...c", 3), (4,), "kernel", (1,), (0,)),
        (
            kl.EinsumDense("abc,cde->abde", (None, 2, 3)),
            (5, 4),
            "kernel",
            (0,),
            (1, 2),
        ),
        (
            kl.EinsumDense("abcd,cde->abe", (None, 3)),
            (5, 2, 4),
            "kernel",
            (0, 1),
            (2,),
        ),
        # One matrix for each head.
        (kl.EinsumDense("abc,bcd->abd", (2, 3)), (2, 4), "kernel", (1,), (2,)),
        (kl.LSTMCell(3), (4,), "recurrent_kernel", (0,), (1,)),
        (kl.GRUCell(3), (4,), "kernel", (0,), (1,)),
        (kl.SimpleRNNCell(3), (4,), "kernel", (0,), (1,)),
    ],
)
def test_the_input_axes_of_a_kernel(layer, shape, name, inputs, outputs):
    layer.build(shape_of(*shape))
    [variable] = [v for v in layer.variables if v.name == name]
    found = matrices.find(layer, variable)
    assert (found.inputs, found.outputs) == (inputs, outputs)
    # Those along which entries act on the same output, and are multiplied by inputs.
    rng = np.random.default_rng(0)
    array = rng.normal(size=found.shape)
    np.testing.assert_array_equal(found.unfold(found.fold(array)), array)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (kl.Dense(3), (4,)),
        (kl.EinsumDense("...b,cb->...c", 3), (4,)),
        (kl.EinsumDense("abc,cde->abde", (None, 2, 3)), (5, 4)),
        (kl.EinsumDense("abcd,cde->abe", (None, 3)), (5, 2, 4)),
        (kl.EinsumDense("abc,bcd->abd", (2, 3)), (2, 4)),
        (kl.Conv2D(3, 2), (2, 2, 4)),
        (kl.Conv2DTranspose(3, 2), (1, 1, 4)),
    ],
)
def test_a_column_of_the_matrix_makes_one_output(layer, shape):
    """Changes of weights along the input axes move one output, others move others."""
    layer.build(shape_of(*shape))
    kernel = layer.kernel
    matrix = matrices.find(layer, kernel)
    x = np.ones((1, *shape), "float32")
    zero = np.zeros(kernel.shape, "float32")
    moved = {}
    for place in np.ndindex(*matrix.folded_shape):
        folded = matrix.fold(zero).copy()
        folded[place] = 1.0
        kernel.assign(matrix.unfold(folded))
        output = np.asarray(keras.ops.convert_to_numpy(layer(x)))
        *rest, _, column = place
        moved.setdefault((*rest, column), set()).add(
            tuple(map(tuple, np.argwhere(output)))
        )
    assert all(len(found) == 1 for found in moved.values())


def test_attention_has_matrices():
    layer = kl.MultiHeadAttention(2, 3)
    layer.build((None, 5, 4), (None, 5, 4))
    found = [
        matrices.find(part, part.kernel)
        for part in (layer.query_dense, layer.output_dense)
    ]
    assert [(m.inputs, m.outputs) for m in found] == [((0,), (1, 2)), ((0, 1), (2,))]


class Doubling(keras.layers.Layer):
    def build(self, shape):
        self.table = self.add_weight((shape[-1], 4), name="table")

    def call(self, x):
        return x @ self.table


@pytest.mark.parametrize(
    "layer, shape, reason",
    [
        (kl.DepthwiseConv2D(3), (8, 8, 4), "a depthwise kernel is no matrix"),
        (kl.Conv2D(4, 3, groups=4), (8, 8, 4), "a depthwise kernel is no matrix"),
        (kl.Embedding(5, 4), (3,), "a table that is looked up"),
        (Doubling(), (4,), "not known which axes of 'table' in a Doubling"),
    ],
)
@pytest.mark.parametrize("structure", ["2:4", "4x1"])
def test_what_is_no_matrix_is_left_alone(layer, shape, reason, structure, capsys):
    layer = type(layer).from_config(layer.get_config())
    dtype = "int32" if isinstance(layer, kl.Embedding) else None
    inputs = keras.Input(shape, dtype=dtype)
    outputs = kl.Dense(2)(kl.Flatten()(layer(inputs)))
    model = keras.Model(inputs, outputs)
    wrapped = tt.wrap(model, structure=structure, embeddings=True, depthwise=True)
    assert len(tt.kernels(wrapped)) == 1
    printed = capsys.readouterr().out
    assert f"prunable as {structure}" in printed
    assert f"left alone, not for {structure}: " in printed and reason in printed
    assert reason in str(tt.summary(wrapped))
    plain = tt.strip(wrapped)
    with pytest.raises(ValueError, match=f"has nothing to prune(.|\n)*{reason}"):
        tt.wrap(plain, filters=[layer.name], structure=structure, embeddings=True)


def test_a_single_layer_without_a_matrix_cannot_have_a_structure():
    layer = kl.Embedding(5, 4)
    layer.build((None, 3))
    with pytest.raises(ValueError, match="no prunable kernel(.|\n)*looked up"):
        tt.layers.Prunable(layer, structure="2:4")
    model = keras.Sequential(
        [
            keras.Input((3,)),
            tt.layers.Prunable(layer, ["embeddings"], structure="2:4"),
        ]
    )
    with pytest.raises(ValueError, match="'embedding.*' cannot have structure '2:4'"):
        tt.kernels(model).layout  # noqa: B018


# Declarations.


@pytest.mark.parametrize(
    "identifier, expected",
    [
        ("unstructured", structures.Unstructured()),
        ("2:4", tt.NM(2, 4)),
        ("4x1", tt.Blocks(4, 1)),
        ("16x16", tt.Blocks(16, 16)),
        ("4x1-max", tt.Blocks(4, 1, pooling="max")),
        (tt.NM(1, 4), tt.NM(1, 4)),
        (keras.saving.serialize_keras_object(tt.Blocks(2, 3)), tt.Blocks(2, 3)),
    ],
)
def test_structures_by_name_and_back(identifier, expected):
    found = structures.get(identifier)
    assert found == expected and hash(found) == hash(expected)
    assert structures.get(found.name) == found
    config = keras.saving.serialize_keras_object(found)
    assert keras.saving.deserialize_keras_object(config) == found
    assert eval(repr(found), {**vars(tt), **vars(structures)}) == found


@pytest.mark.parametrize(
    "identifier", ["4:2", "2:2", "0:4", "0x1", "2:", "dense", "", None, 4, [], {}]
)
def test_other_structures_are_refused(identifier):
    with pytest.raises(ValueError, match="Received"):
        structures.get(identifier)


# Wrapped models.


def pruned(structure, build=tiny.build):
    """Returns a wrapped model at the limit, or with half of its blocks."""
    model = tt.wrap(build(), structure=structure, verbose=False)
    prune_half(model)
    return model


def prune_half(model):
    kernels = tt.kernels(model)
    layout, masks = kernels.layout, kernels.masks
    scores = {path: np.abs(weight) for path, weight in kernels.weights.items()}
    keep = allocation.at_sparsity(layout.units(masks), 0.5)
    kernels.set_masks(selection.choose(scores, masks, keep, layout=layout))


def assert_follows(masks, layout):
    """Every unit is whole, and every N:M group has enough weights."""
    everything = {path: np.ones(mask.shape, bool) for path, mask in masks.items()}
    units = layout.units(masks)
    assert_same(layout.masks(units, everything), masks)
    assert layout.fewest(units) == layout.fewest(layout.units(everything))


class Net(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.last = kl.Dense(10, name="first"), kl.Dense(3, name="last")

    def build(self, shape):
        self.first.build(shape)
        self.last.build((None, 10))

    def call(self, x):
        return self.last(self.first(x))


class Task(keras.Model):
    def __init__(self, units, **kwargs):
        inputs = keras.Input((6,))
        super().__init__(inputs, kl.Dense(units, name="d")(inputs), **kwargs)
        self.units = units

    def get_config(self):
        return {"units": self.units, "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def subclassed():
    model = Net(name="net")
    model.build((None, 6))
    return model


@pytest.mark.parametrize("structure", ["2:4", "4x1", "unstructured"])
@pytest.mark.parametrize("build", [tiny.build, subclassed, lambda: Task(4, name="t")])
def test_a_model_remembers_its_structure(structure, build, tmp_path):
    with keras.saving.custom_object_scope({"Net": Net, "Task": Task}):
        model = pruned(structure, build)
        model.save(tmp_path / "net.keras")
        again = keras.saving.load_model(tmp_path / "net.keras")
    kernels, loaded = tt.kernels(model), tt.kernels(again)
    assert loaded.structure == kernels.structure == structures.get(structure)
    # A loaded model may lack the first part of its paths.
    assert tiny.same(loaded.masks.values(), kernels.masks.values())
    assert_follows(loaded.masks, loaded.layout)


def test_a_clone_remembers_its_structure():
    model = pruned("2:4")
    assert tt.kernels(keras.models.clone_model(model)).structure == tt.NM(2, 4)


def test_no_structure_leaves_no_trace_in_configurations():
    """Earlier versions read such files."""
    layer = tt.layers.Prunable(kl.Dense(2))
    assert "structure" not in layer.get_config()
    layer = tt.layers.Prunable(kl.Dense(2), structure="2:4")
    assert structures.get(layer.get_config()["structure"]) == tt.NM(2, 4)


def test_layers_with_several_structures_are_refused():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            tt.layers.Prunable(kl.Dense(4, name="a"), structure="2:4"),
            tt.layers.Prunable(kl.Dense(4, name="b"), structure="4x1"),
        ]
    )
    with pytest.raises(ValueError, match="several structures(.|\n)*'a': '2:4'"):
        tt.kernels(model).structure  # noqa: B018
    assert tt.summary(model).size == 32


def test_the_summary_counts_blocks():
    model = pruned("4x1")
    assert "15 of 29 blocks kept in 2 groups" in str(tt.summary(model))


@pytest.mark.parametrize("mask", ["soft", "stochastic", "topk", "budget"])
def test_learned_masks_have_no_structure(mask):
    kind = type(tt.masks.get(mask)).__name__
    with pytest.raises(ValueError, match=f"{kind} learns.*structure='2:4'"):
        tt.wrap(tiny.build(), mask=mask, structure="2:4")


# Searches.


def search_of(name, structure=None, **kwargs):
    once = {"monitor": "loss", "structure": structure, **kwargs}
    return {
        "imp": lambda: tt.IMP(2, 1, 0.29, stop_at=0.5, **once),
        "imp by kernel": lambda: tt.IMP(
            2, 1, {"output": 0.1, ".": 0.29}, stop_at=0.5, **once
        ),
        "threshold": lambda: tt.ThresholdPruning(1, 1, 0.7, **once),
        "at_init": lambda: tt.PruneAtInit(0.5, 1, "random", passes=2, **once),
        "synflow": lambda: tt.PruneAtInit(0.5, 1, "synflow", passes=3, **once),
        "uniform": lambda: tt.PruneAtInit(0.5, 1, allocation="uniform", **once),
        "erk": lambda: tt.PruneAtInit(0.4, 1, allocation="erk", **once),
        "dlth": lambda: tt.DLTH(0.5, penalty=1, epochs_per_round=1, **once),
        "unilth": lambda: tt.UniLTH(0.5, 2, tt.StageOne(0), 1, 1, **once),
        "unidlth": lambda: tt.UniDLTH(0.5, 2, tt.StageOne(0), 1, 1, **once),
    }[name]()


SEARCHES = [
    *("imp", "imp by kernel", "threshold", "at_init", "synflow", "uniform", "erk"),
    *("dlth", "unilth", "unidlth"),
]
ROWS = list(itertools.product(SEARCHES, ["2:4", "4x1"]))
BY_DEFAULT = [("imp", "2:4"), ("dlth", "4x1"), ("erk", "2:4")]


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("name, structure", tiny.marked(ROWS, BY_DEFAULT))
def test_a_search_follows_the_structure_of_the_model(name, structure):
    search = search_of(name, structure)
    keras.utils.set_random_seed(0)
    model = search.wrap(tiny.compiled(tiny.build()), verbose=False)
    assert tt.kernels(model).structure == structures.get(structure)
    tiny.run(model, search)
    ticket = search.tickets[-1]
    layout = tt.kernels(model).layout
    assert_follows(ticket.masks, layout)
    units = layout.units(ticket.masks)
    size = sum(table.size for table in units.values())
    kept = sum(int(table.sum()) for table in units.values())
    # These reach another sparsity, by weights or by kernel.
    if name not in ("threshold", "imp by kernel"):
        asked = next(iter(search.asked_sparsity.values()))
        assert kept == max(
            size - round(asked * size), sum(layout.fewest(units).values())
        )
    assert 0 < kept < size
    for earlier, later in itertools.pairwise(search.tickets):
        assert all((later.masks[p] <= earlier.masks[p]).all() for p in later.masks)
    assert ticket.structure == structures.get(structure)


def train(model, *callbacks, epochs):
    x, y = tiny.data()
    model.fit(x, y, 16, epochs, verbose=0, callbacks=list(callbacks), shuffle=False)


CALLBACKS = {
    "gradual": lambda structure=None: tt.GradualPruning(
        tt.schedules.PolynomialDecay(0.0, 0.5, 1, 7, frequency=2), structure=structure
    ),
    "set": lambda structure=None: tt.DynamicSparsity(
        0.5, interval=2, drop_fraction=0.5, until=1.0, structure=structure
    ),
    "rigl": lambda structure=None: tt.DynamicSparsity(
        0.4,
        tt.saliency.DenseGradient(*tiny.data(16)),
        interval=3,
        drop_fraction=0.9,
        until=1.0,
        structure=structure,
    ),
}


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize(
    "name, structure",
    tiny.marked(
        list(itertools.product(CALLBACKS, ["2:4", "3:4", "4x1"])),
        [("gradual", "4x1"), ("set", "2:4")],
    ),
)
def test_a_training_follows_the_structure_of_the_model(name, structure):
    keras.utils.set_random_seed(0)
    model = tiny.compiled(tt.wrap(tiny.build(), structure=structure, verbose=False))
    callback = CALLBACKS[name]()
    if structure == "3:4":
        with pytest.raises(ValueError, match="'3:4' allows at most sparsity 0.25"):
            train(model, callback, epochs=2)
        return
    seen = []
    layout = tt.kernels(model).layout
    watch = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(tt.kernels(model).masks)
    )
    train(model, callback, watch, epochs=3)
    for masks in seen:
        assert_follows(masks, layout)
    if name != "gradual":
        counts = [
            {n: int(u.sum()) for n, u in layout.units(masks).items()} for masks in seen
        ]
        assert counts[0] == counts[-1]
        assert any((seen[0][path] != seen[-1][path]).any() for path in seen[0])
    units = layout.units(seen[-1])
    size = sum(table.size for table in units.values())
    asked = 0.4 if name == "rigl" else 0.5
    assert sum(int(u.sum()) for u in units.values()) == size - round(asked * size)
    assert callback.ticket.structure == structures.get(structure)


def test_growth_fills_groups_that_lack_weights_first():
    """At the limit of 2:4 a group grows as many weights as it has dropped."""
    model = tt.wrap(
        keras.Sequential([keras.Input((8,)), kl.Dense(4)]),
        structure="2:4",
        verbose=False,
    )
    callback = tt.DynamicSparsity(0.5, "random", "uniform", drop_fraction=0.9, seed=3)
    callback.set_model(tiny.compiled(model))
    callback.set_params({"steps": 4, "epochs": 1})
    callback.on_train_begin()
    before = tt.kernels(model)
    first = before.masks
    assert_follows(first, before.layout)
    for step in range(1, 6):
        callback._exchanges = step
        callback._exchange(0.9)
        masks = tt.kernels(model).masks
        [mask] = masks.values()
        assert (mask.reshape(2, 4, 4).sum(axis=1) == 2).all()
    assert any((masks[path] != first[path]).any() for path in masks)


@pytest.mark.parametrize(
    "make, received",
    [
        (
            lambda: tt.IMP(5, 1, 0.2, monitor="loss"),
            "rate=0.2, rounds=5, stop_at=None, which means sparsity 0.6723. Pass "
            "stop_at=0.5, or",
        ),
        (
            lambda: tt.IMP(2, 1, {"output": 0.1, ".": 0.4}, monitor="loss"),
            "rate={'output': 0.1, '.': 0.4}, rounds=2, stop_at=None, which means",
        ),
        (
            lambda: tt.IMP(9, 1, stop_at=0.6, monitor="loss"),
            "stop_at=0.6. Lower it, or",
        ),
        (lambda: tt.PruneAtInit(0.51, 1, monitor="loss"), "final_sparsity=0.51. Lower"),
        (
            lambda: tt.DLTH({"output": 0.2, ".": 0.8}, monitor="loss"),
            "final_sparsity=0.8.",
        ),
        (lambda: tt.UniLTH(0.9, monitor="loss"), "final_sparsity=0.9."),
    ],
)
def test_more_than_the_groups_allow_is_refused_before_training(make, received):
    search = make()
    model = tt.wrap(
        tiny.build(), mask=search.engine.plan.mask, structure="2:4", verbose=False
    )
    tiny.compiled(model)
    weights = model.get_weights()
    message = f"Structure '2:4' allows at most sparsity 0.5. Received: {received}"
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny.run(model, search)
    assert tiny.same(model.get_weights(), weights)


def test_a_schedule_beyond_the_groups_is_refused_before_training():
    model = tiny.compiled(tt.wrap(tiny.build(), structure="2:4", verbose=False))
    schedule = tt.schedules.ConstantSparsity(0.6, 3)
    pruning = tt.GradualPruning(schedule)
    with pytest.raises(ValueError, match=r"0.5.*schedule=Const.*sparsity 0.6. Lower"):
        train(model, pruning, epochs=2)


def test_remainders_end_at_the_limit():
    """7 inputs in groups of 4 keep 4, so sparsity 0.5 is not reached."""
    model = keras.Sequential([keras.Input((7,)), kl.Dense(10)])
    model = tt.wrap(model, structure="2:4", verbose=False)
    ticket = tt.PruneAtInit(0.5, 1, monitor="loss").prune(model)
    assert sum(ticket.kept.values()) == 40
    schedule = tt.schedules.ConstantSparsity(0.5, 1, frequency=1)
    pruning = tt.GradualPruning(schedule)
    model.compile("sgd", "mse")
    model.fit(
        np.ones((8, 7)), np.ones((8, 10)), verbose=0, callbacks=[pruning], epochs=2
    )
    assert sum(pruning.ticket.kept.values()) == 40


def test_a_search_at_the_limit_of_remainders_stops():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((7,)), kl.Dense(3)])
    model = tiny.compiled(tt.wrap(model, structure="2:4", verbose=False))
    search = tt.IMP(9, 1, 0.3, stop_at=0.5, monitor="loss")
    x, y = np.ones((8, 7), "float32"), np.zeros(8)
    model.fit(x, y, epochs=search.epochs, callbacks=[search], verbose=0)
    assert [sum(t.kept.values()) for t in search.tickets] == [15, 12]


def test_another_structure_than_the_models_is_refused_before_training():
    model = tiny.compiled(tt.wrap(tiny.build(), structure="4x1", verbose=False))
    for callback in (search_of("imp", "2:4"), CALLBACKS["gradual"]("2:4")):
        kind = type(callback).__name__
        with pytest.raises(ValueError, match=f"{kind} is to prune.*'2:4'.*'4x1'"):
            train(model, callback, epochs=3)
    with pytest.raises(ValueError, match="'unstructured'.*'4x1'"):
        search_of("at_init", "unstructured").prune(model)


class Halving(tt.TicketSearch):
    def __init__(self):
        super().__init__(tt.PruneAndRewind(1, 1, lambda run: run.kernels.masks))


@pytest.mark.parametrize(
    "search", [Halving(), tt.ContinuousSparsification(1, 1), tt.Supermask()]
)
def test_a_search_without_structures_refuses_them_by_name(search):
    model = tiny.compiled(tt.wrap(tiny.build(), structure="4x1", verbose=False))
    kind = type(search).__name__
    with pytest.raises(ValueError, match=f"{kind} does not follow structures.*'4x1'"):
        tiny.run(model, search)


# Tickets and controls.


@pytest.mark.parametrize("structure", ["2:4", "4x1"])
def test_a_ticket_knows_its_structure(structure, tmp_path):
    model = tt.wrap(tiny.build(), structure=structure, verbose=False)
    ticket = search_of("at_init").prune(model)
    ticket.save(tmp_path / "a.ticket")
    again = tt.Ticket.load(tmp_path / "a.ticket")
    assert again == ticket and again.structure == structures.get(structure)
    assert tt.kernels(again.apply(tiny.build())).structure == ticket.structure
    settings = search_of("at_init", structure).get_config()
    assert tt.PruneAtInit.from_config(settings).structure == ticket.structure


@pytest.mark.parametrize("structure", ["2:4", "4x1"])
def test_a_ticket_that_does_not_follow_the_models_structure_is_refused(structure):
    plain = tt.wrap(tiny.build(), verbose=False)
    ticket = search_of("at_init").prune(plain)
    model = tt.wrap(tiny.build(), structure=structure, verbose=False)
    weights = model.get_weights()
    with pytest.raises(
        ValueError, match=f"'{structure}'.*'unstructured'.*hidden/kernel"
    ):
        ticket.apply(model)
    assert tiny.same(model.get_weights(), weights)
    # Masks that follow it are welcome, and so is any structure in a model without one.
    tt.Ticket(
        {path: np.ones_like(mask) for path, mask in ticket.masks.items()},
        ticket.weights,
    ).apply(model)
    search_of("at_init").prune(model).apply(plain)


def test_a_ticket_of_before_is_unstructured():
    ticket = tt.Ticket({"k": np.ones((4, 1))})
    assert ticket.structure == structures.Unstructured()
    model = tt.wrap(tiny.build(), verbose=False)
    assert "structure" not in search_of("at_init").prune(model).provenance


@pytest.mark.parametrize("structure", ["2:4", "4x1", "2x2"])
def test_controls_keep_the_structure(structure):
    model = tt.wrap(tiny.build(), structure=structure, verbose=False)
    ticket = search_of("at_init").prune(model)
    layout = tt.kernels(model).layout
    units = layout.units(ticket.masks)
    for control in (
        tt.controls.shuffle_masks(ticket, seed=5),
        tt.controls.random_masks(ticket, seed=5),
        tt.controls.random_masks(ticket, "uniform", seed=5),
    ):
        assert_follows(control.masks, layout)
        found = layout.units(control.masks)
        assert sum(int(u.sum()) for u in found.values()) == sum(
            int(u.sum()) for u in units.values()
        )
        assert any((control.masks[p] != m).any() for p, m in ticket.masks.items())
        assert control.structure == ticket.structure
    shuffled = layout.units(tt.controls.shuffle_masks(ticket, seed=5).masks)
    for name in units:
        assert shuffled[name].sum() == units[name].sum()


@pytest.mark.matrix
def test_trained_tickets_and_their_trainer_have_the_structure():
    search = search_of("imp", "2:4", seed=1)
    [*_, ticket] = tt.find_tickets(
        tiny.build_compiled, tiny.splits()[:2], search, batch_size=16, verbose=0
    )
    model, _ = tt.train_ticket(
        tiny.build_compiled, tiny.splits()[:2], ticket, 1, verbose=0
    )
    assert tt.kernels(model).structure == tt.NM(2, 4)
    assert_follows(tt.kernels(model).masks, tt.kernels(model).layout)


@pytest.mark.matrix
def test_a_directory_belongs_to_one_structure(tmp_path):
    def find(structure):
        return tt.find_tickets(
            tiny.build_compiled,
            tiny.splits()[:2],
            search_of("imp", structure),
            tmp_path,
            batch_size=16,
            verbose=0,
        )

    tickets = find("2:4")
    assert find("2:4") == tickets
    with pytest.raises(ValueError, match="holds another search.*structure"):
        find("4x1")
