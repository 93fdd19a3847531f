"""Loads files of tf_tickets 0.1.0: tickets, wrapped models, interrupted searches.

`frozen/make.py` created the files. They are never created again.
"""

import json
import pathlib
import shutil
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tiny
from frozen import make

import tf_tickets as tt

HOME = pathlib.Path(__file__).parent / "frozen"
BACKEND = keras.config.backend()
OTHER = {"tensorflow": "jax", "jax": "tensorflow"}[BACKEND]

# Tickets.


class Wanted(NamedTuple):
    sparsity: float
    id: str
    val_loss: float
    test_accuracy: float
    round: int = 1
    scale: float = 1.0


TICKETS = {
    "tensorflow/imp": Wanted(
        0.5138888888888888,
        "b55caeabd7d6eac79f35f5ce41918f7b3ce6e1d68bff783a7f861053b1bb0b93",
        1.142587661743164,
        0.375,
        round=2,
    ),
    "tensorflow/imp_by_seed": Wanted(
        0.5138888888888888,
        "f8c3443f5bdc14b73da612f281a17a4305a92c7f76a688937e8c9dd61ee04bea",
        1.142587661743164,
        0.375,
        round=2,
    ),
    "tensorflow/cs": Wanted(
        0.4027777777777778,
        "7015982127fb45c30dad1d34682ceecb850c910d0d5764dc96c8370454993114",
        0.48448342084884644,
        0.78125,
        scale=1.980198621749878,
    ),
    "tensorflow/dlth": Wanted(
        0.75,
        "6aa5ddc684c1466d7522ae4170cc9dd6eef2173db6bcbd50c37a92e629ae2994",
        1.0875849723815918,
        0.34375,
    ),
    "tensorflow/kdlts": Wanted(
        0.75,
        "f95a5a39ba933b21148de8d15178c975868eef1796b60914c2d5dcdf9c173ed2",
        2.007991313934326,
        0.3125,
    ),
    "jax/imp": Wanted(
        0.5138888888888888,
        "d340556b75cbc8d3011a13bb90010a9847802a51eb3aadb4a23b3324735bb848",
        1.1017405986785889,
        0.25,
        round=2,
    ),
    "jax/imp_by_seed": Wanted(
        0.5138888888888888,
        "d04b902a60dac5246f89f5604d2d8f122d3dd8c03d7e1e2a7922d09e1e02ac1f",
        1.1017405986785889,
        0.25,
        round=2,
    ),
    "jax/cs": Wanted(
        0.3333333333333333,
        "d17da36df08031ad4ebc484feb914c31bce3dca409e36a973a9d7d4b440bcd65",
        2.1740167140960693,
        0.34375,
        scale=1.980198621749878,
    ),
    "jax/dlth": Wanted(
        0.75,
        "3eb7c8d86e4df9262016667eb7b4e1fcfb0a553bba8b8ebdd1b648fa7bc00da7",
        1.1022926568984985,
        0.25,
    ),
    "jax/kdlts": Wanted(
        0.75,
        "1c1bbf473be41a98f133c71c191921478b1d14f2f1af50bf3a1d9b0a31ce7f2a",
        1.866058588027954,
        0.3125,
    ),
}
KERNELS = ["net/hidden/kernel", "net/output/kernel"]


def ticket(name):
    return tt.Ticket.load(HOME / f"{name}.ticket")


@pytest.mark.parametrize("name", TICKETS)
def test_tickets_are_what_they_were(name):
    wanted, actual = TICKETS[name], ticket(name)
    backend, method = name.split("/")
    assert (actual.sparsity, actual.id) == (wanted.sparsity, wanted.id)
    assert actual.metrics["val_loss"] == wanted.val_loss
    assert actual.metrics["test_accuracy"] == wanted.test_accuracy
    scales = dict.fromkeys(KERNELS, wanted.scale) if wanted.scale != 1.0 else {}
    assert actual.scales == scales
    origin = actual.provenance
    assert origin["method"] == method.removesuffix("_by_seed")
    assert (origin["round"], origin["build_seed"]) == (wanted.round, 3)
    assert origin["versions"]["backend"] == backend


@pytest.mark.parametrize("name", [name for name in TICKETS if "seed" not in name])
def test_tickets_are_put_into_a_model(name):
    result = ticket(name)
    plain = tt.strip(result.apply(make.build()))
    weights = {f"net/{v.path.removeprefix('net/')}": v for v in plain.weights}
    for path in KERNELS:
        start = result.weights[path] * result.masks[path] * result.scales.get(path, 1.0)
        np.testing.assert_allclose(make.array(weights[path]), start, rtol=1e-6)
    for path in ("net/hidden/bias", "net/norm/gamma", "net/norm/moving_mean"):
        np.testing.assert_array_equal(make.array(weights[path]), result.weights[path])


@tiny.needs_keras_3_15
def test_start_weights_are_rebuilt_from_the_seed():
    """The backend that drew them reproduces them up to rounding; the other cannot."""
    by_seed, whole = ticket(f"{BACKEND}/imp_by_seed"), ticket(f"{BACKEND}/imp")
    assert by_seed.weights is None
    rebuilt = by_seed.start_weights().values()
    for array, other in zip(rebuilt, whole.weights.values(), strict=True):
        np.testing.assert_allclose(array, other, atol=1e-6)


# Wrapped models, in a process that has imported only tf_tickets.

MODELS = sorted(path.stem for path in HOME.glob("models/*.keras"))
COMPILED = {"learning": "Grouped", "taught": "Adam"}
LOADS_ALL = """
import tf_tickets as tt
import json, pathlib
import keras
import numpy as np

def listed(x):
    return np.array(keras.ops.convert_to_numpy(x)).tolist()

home = pathlib.Path({home!r})
arrays, data = np.load(home / "expected.npz"), np.load({data!r})
found = {{}}
for path in sorted(home.glob("*.keras")):
    model = keras.saving.load_model(path)
    said = found[path.stem] = {{}}
    said["outputs"] = listed(model(arrays[path.stem + "/inputs"], training=False))
    said["losses"] = float(sum(model.losses)) if model.losses else 0.0
    said["sparsity"] = tt.summary(getattr(model, "student", model)).sparsity
    if model.compiled:
        said["optimizer"] = type(model.optimizer).__name__
        said["slots"] = [listed(slot.value) for slot in model.optimizer.variables]
        said["evaluated"] = model.evaluate(data["x"], data["y"], verbose=0)[0]
    if path.stem == "learning":
        again = keras.saving.load_model(path)
        again.fit(data["x"], data["y"], batch_size=16, verbose=0)
        said["steps"] = int(again.optimizer.iterations)
    plain = tt.strip(model)
    weights = getattr(plain, "student", plain).weights
    kernels = [listed(v.value) for v in weights if v.name.endswith("kernel")]
    said["masks"] = [(np.array(kernel) != 0).tolist() for kernel in kernels]
print("FOUND " + json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Maps the name of a model to what a new process reads from its file."""
    data = tmp_path_factory.mktemp("data") / "data.npz"
    x, y = make.data(32, 2)
    np.savez(data, x=x, y=y)
    script = LOADS_ALL.format(home=str(HOME / "models"), data=str(data))
    output, errors = tiny.printed(script)
    lines = [line for line in output.splitlines() if line.startswith("FOUND ")]
    assert lines, errors[-3000:]
    return json.loads(lines[0].removeprefix("FOUND "))


@pytest.fixture(scope="module")
def expected():
    """Maps the name of a model to a dict of expected values."""
    tables = {name: {"masks": []} for name in MODELS}
    with np.load(HOME / "models" / "expected.npz") as arrays:
        for key in arrays:
            name, what = key.split("/", 1)
            if what.startswith("masks/"):
                tables[name]["masks"].append(arrays[key])
            else:
                tables[name][what] = arrays[key]
    return tables


def test_there_is_a_file_for_every_kind_of_mask():
    kinds = ["fixed", "scaled", "penalized", "soft", "budget", "stochastic", "topk"]
    assert set(MODELS) == {*kinds, "deep", *COMPILED}


@tiny.needs_keras_3_15
@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("name", MODELS)
def test_wrapped_models_predict_what_they_did_with_the_same_masks(
    name, loaded, expected
):
    actual, wanted = loaded[name], expected[name]
    np.testing.assert_allclose(actual["outputs"], wanted["outputs"], atol=1e-5)
    assert actual["losses"] == pytest.approx(float(wanted["losses"]), rel=1e-5)
    for mask, other in zip(actual["masks"], wanted["masks"], strict=True):
        np.testing.assert_array_equal(mask, other)
    kept = sum(mask.sum() for mask in wanted["masks"])
    size = sum(mask.size for mask in wanted["masks"])
    assert actual["sparsity"] == pytest.approx(1 - kept / size)


@tiny.needs_keras_3_15
@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_models_keep_their_optimizer(name, loaded, expected):
    actual, wanted = loaded[name], expected[name]
    assert actual["optimizer"] == COMPILED[name]
    slots = [wanted[key] for key in sorted(wanted) if key.startswith("optimizer/")]
    for slot, other in zip(actual["slots"], slots, strict=True):
        np.testing.assert_array_equal(np.array(slot, other.dtype), other)
    assert actual["evaluated"] == pytest.approx(float(wanted["evaluated"]), rel=1e-5)


@tiny.needs_keras_3_15
@pytest.mark.on("tensorflow")
def test_a_compiled_model_trains_on(loaded):
    assert loaded["learning"]["steps"] == 8 + 2


# Interrupted searches.


def unilth():
    stop = tt.EarlyStopRewind(patience=1, min_delta=1.0)
    return tt.UniLTH(0.75, 2, tt.StageOne(3, stop), 2, 1, train="each")


# The same searches with the present API.
SEARCHES = {
    "imp": lambda: tt.IMP(2, 2, 0.3, "2 steps"),
    "cs": lambda: tt.ContinuousSparsification(2, 2, score_optimizer="adam"),
    "unilth": unilth,
    "threshold": lambda: tt.ThresholdPruning(2, 2),
}


def copied(name, backend, to):
    shutil.copytree(HOME / backend / name, to, dirs_exist_ok=True)
    return to


def resume(search, directory):
    return tt.find_tickets(make.build, make.splits(), search, directory, **make.GIVEN)


@pytest.mark.parametrize("backend", [BACKEND, OTHER])
@pytest.mark.parametrize("name", SEARCHES)
def test_an_interrupted_search_of_the_old_format_is_refused_by_name(
    name, backend, tmp_path
):
    directory = copied(name, backend, tmp_path)
    before = (directory / "search.state").read_bytes()
    message = "written by another version of tf_tickets.*Ticket.load"
    with pytest.raises(ValueError, match=message):
        resume(SEARCHES[name](), directory)
    assert (directory / "search.state").read_bytes() == before
    for path in directory.glob("*.ticket"):
        assert 0.0 < tt.Ticket.load(path).sparsity < 1.0
