"""Damages every kind of file that is read: it is refused, or nothing has changed.

Each case tries many damages with a seed, and prints how many were refused, which
`pytest -rP` shows.
"""

import collections
import contextlib
import io
import json
import pathlib
import shutil
import tempfile
import traceback
import warnings
import zipfile

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets.search.frontier import Point
from tf_tickets_cli import main

pytestmark = pytest.mark.turns("jax")

FEW = ["--take", "64", "--epochs", "1", "--batch-size", "32", "--width", "0.1"]
# What a forger puts in the place of a value.
VALUES = [None, "x", -1, 10**9, 1.5, float("nan"), True, [], {}, [None], {"a": {}}]

# Damages: functions of the bytes of a file and a random generator.


def truncated(data, rng):
    return data[: rng.integers(len(data))]


def flipped(data, rng):
    changed = bytearray(data)
    for index in rng.integers(len(data), size=rng.integers(1, 4)):
        changed[index] ^= int(rng.integers(1, 256))
    return bytes(changed)


def swapped(data, rng):
    """Exchanges the contents of two entries of a zip file."""
    entries = unzipped(data)
    one, other = rng.choice(list(entries), 2, replace=False)
    entries[one], entries[other] = entries[other], entries[one]
    return zipped(entries)


def forged(data, rng):
    """Changes a value in the JSON of a file; all checksums are correct."""
    if not data.startswith(b"PK"):
        return forged_json(data, rng)
    entries = unzipped(data)
    names = [name for name in entries if name.endswith(".json")]
    name = names[rng.integers(len(names))]
    return zipped({**entries, name: forged_json(entries[name], rng)})


def forged_json(text, rng):
    content = json.loads(text)
    places = list(places_in(content))
    table, key = places[rng.integers(len(places))]
    if rng.integers(4) == 0:
        del table[key]
    else:
        table[key] = VALUES[rng.integers(len(VALUES))]
    return json.dumps(content).encode()


def places_in(content):
    """Yields each table or list in a JSON value with each of its keys."""
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from places_in(content[key])


def unzipped(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return buffer.getvalue()


# Kinds of files: functions that write one, and functions that read it.


def make_ticket(folder):
    masks = {"a/kernel": np.arange(12).reshape(3, 4) % 2, "b/kernel": np.arange(5) % 2}
    weights = {"a/kernel": np.ones((3, 4), "float32"), "b/kernel": np.ones(5), "c": [1]}
    origin = {"method": "imp", "round": 1, "settings": {"monitor": "loss"}}
    ticket = tt.Ticket(masks, weights, {"loss": 0.5}, origin, {"a/kernel": 2.0})
    ticket.save(folder / "a.ticket")
    return folder / "a.ticket"


def read_ticket(path):
    ticket = tt.Ticket.load(path)
    return ticket.id, repr(ticket), ticket.sparsity, ticket.provenance


def search_in(folder):
    # Names of layers count up with every build, and files contain them.
    keras.utils.clear_session()
    search = tiny.imp(rounds=2, epochs_per_round=1, monitor="val_accuracy")
    return tt.find_tickets(
        tiny.build_compiled, tiny.splits(), search, folder, 3, batch_size=16, verbose=0
    )


def make_state(folder):
    search_in(folder)
    return folder / "search.state"


def read_state(path):
    return [(ticket.id, ticket.metrics) for ticket in search_in(path.parent)]


def make_stored_ticket(folder):
    search_in(folder)
    return folder / "round_02.ticket"


class Interruption(keras.callbacks.Callback):
    changes_results = False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


def training_in(folder, callbacks=()):
    """Trains with a callback whose counters and snapshots are in the state."""
    keras.utils.clear_session()
    stop = tt.EarlyStopRewind(2, rewind=1)
    arguments = {"epochs": 3, "batch_size": 16, "verbose": 0, "callbacks": callbacks}
    return tt.find_tickets(
        tiny.build_compiled, tiny.splits(), stop, folder, 3, **arguments
    )


def make_training(folder):
    with pytest.raises(KeyboardInterrupt):
        training_in(folder, [Interruption()])
    return folder / "search.state"


def read_training(path, capsys):
    # In a copy, since the training goes on.
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shutil.copytree(path.parent, scratch, dirs_exist_ok=True)
        return [(ticket.id, ticket.metrics) for ticket in training_in(scratch)]


def make_npz(folder):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(256, size=(40, 4, 4)), np.arange(40) % 2
    arrays = {"x_train": images, "y_train": labels, "x_test": images[:9]}
    np.savez_compressed(folder / "a.npz", **arrays, y_test=labels[:9])
    return folder / "a.npz"


def read_npz(path):
    data = tt.datasets.load(path)
    return data.x_train.tobytes(), data.y_test.tobytes()


def make_model(folder):
    tiny.build().save(folder / "a.keras")
    return folder / "a.keras"


def said(*command):
    """Returns what a command prints; its error must be one line with status 2."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main.main([str(word) for word in command])
    if status:
        text = err.getvalue()
        if status != 2 or text.count("\n") != 1 or text[:12] != "tf-tickets: ":
            raise RuntimeError(f"It ended with {status} and printed {text!r}.")
        raise ValueError(text)
    return out.getvalue()


def read_model(path):
    return said("report", path)


def make_results(folder):
    search = ["search", *FEW, "--rounds", "1", "--no-controls", "--out", str(folder)]
    assert main.main(search) == 0
    return folder / "results.json"


def read_results(path):
    command = ["search", *FEW, "--rounds", "1", "--no-controls", "--out", path.parent]
    return said(*command)


def in_a_copy(read):
    """Reads files that a run completes, in a copy of their folder."""

    def read_copy(path):
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copytree(path.parent, pathlib.Path(folder, "copy"))
            return read(copy / path.name)

    return read_copy


def searched(folder):
    """Runs a whole search with controls; returns its table, without file names."""
    return said("search", *FEW, "--rounds", "1", "--out", folder).partition("Best")[0]


def make_controls(folder):
    searched(folder)
    (folder / "results.json").unlink()
    return folder / "controls.json"


@in_a_copy
def read_controls(path):
    lines = searched(path.parent).splitlines()
    return lines[-2:]


def frontier_in(folder):
    keras.utils.clear_session()
    searches = {"a": tt.PruneAtInit(0.5, 1)}
    arguments = {"epochs": 2, "batch_size": 16}
    return tt.find_frontier(
        tiny.build_compiled, tiny.splits(), searches, folder, 3, **arguments
    )


def make_trainings(folder):
    frontier_in(folder)
    return folder / "trainings.json"


@in_a_copy
def read_trainings(path):
    frontier = frontier_in(path.parent)
    return frontier.rows(), frontier.dense


def make_frontier(folder):
    metrics = {"val_accuracy": 0.5, "test_accuracy": 0.4}
    points = [
        Point("a", 1, 0.5, 3, metrics, seed=seed) for seed in (0, 1) for _ in range(2)
    ]
    by_seed = {0: metrics, 1: metrics}
    origin = {"seed": 0, "searches": {"a": {"method": "imp"}}}
    frontier = tt.Frontier(points, metrics, "test_accuracy", origin, by_seed)
    frontier.save(folder / "frontier.json")
    return folder / "frontier.json"


def read_frontier(path):
    frontier = tt.Frontier.load(path)
    return str(frontier), frontier.rows(), frontier.provenance, frontier.dense_by_seed


def teachers_in(folder):
    arguments = {"seed": 3, "batch_size": 16}
    return tt.train_teachers(
        tiny.build_compiled, tiny.splits(), [1], folder, **arguments
    )


def make_teacher(folder):
    teachers_in(folder)
    return folder / "teacher_0.npz"


def make_teachers(folder):
    return make_teacher(folder).with_name("teachers.json")


def read_teachers(path):
    [model] = teachers_in(path.parent)
    return [weight.tobytes() for weight in model.get_weights()]


KINDS = {
    "ticket": (make_ticket, read_ticket),
    "state": (make_state, read_state),
    "ticket of a search": (make_stored_ticket, read_state),
    "training": (make_training, read_training),
    "npz": (make_npz, read_npz),
    "model": (make_model, read_model),
    "results": (make_results, read_results),
    "controls": (make_controls, read_controls),
    "trainings": (make_trainings, read_trainings),
    "frontier": (make_frontier, read_frontier),
    "teacher": (make_teacher, read_teachers),
    "teachers.json": (make_teachers, read_teachers),
}
# How many times a file is damaged, by default and in the matrix.
TRIES = {
    **{kind: (6, 100) for kind in KINDS},
    "ticket": (60, 2000),
    "frontier": (20, 2000),
    "npz": (60, 2000),
    "training": (2, 20),
    "controls": (2, 20),
    "trainings": (2, 20),
}
# Reading these trains networks.
SLOW = ("training", "controls", "trainings")
JSON = ("results", "controls", "trainings", "frontier", "teachers.json")
# JSON has no checksum, an .npz file does not say which weight of a teacher an array is,
# and a forger may write other content that is valid.
MAY_DIFFER = [
    *((kind, flipped) for kind in JSON),
    ("teacher", swapped),
    *((kind, forged) for kind in KINDS),
]
CASES = [
    (kind, damage)
    for kind in KINDS
    for damage in (truncated, flipped, swapped, forged)
    if not (damage is swapped and kind in JSON)
    and not (damage is forged and kind in ("npz", "teacher"))
]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Returns a function from a kind to the path of an undamaged file."""
    paths = {}

    def original(kind):
        if kind not in paths:
            paths[kind] = KINDS[kind][0](tmp_path_factory.mktemp("original"))
        return paths[kind]

    return original


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def outcome(path, read, expected):
    """Returns what becomes of a damaged file; reading it must not change the folder.

    Only a ValueError may be raised. Any other error is printed, and counts as wrong.
    """
    before = contents(path.parent)
    try:
        actual = read(path)
    except ValueError as error:
        result = "refused" if len(str(error)) > 20 else "wrong"
    except Exception:
        traceback.print_exc()
        result = "wrong"
    else:
        result = "equal" if actual == expected else "different"
    return result if contents(path.parent) == before else "wrong"


def campaign(kind, damage, path, folder, tries, seed=0):
    """Returns the number of damages by outcome."""
    read, rng = KINDS[kind][1], np.random.default_rng(seed)
    shutil.copytree(path.parent, folder, dirs_exist_ok=True)
    expected, whole = read(folder / path.name), path.read_bytes()
    counts = collections.Counter(tried=tries)
    for _ in range(tries):
        (folder / path.name).write_bytes(damage(whole, rng))
        counts[outcome(folder / path.name, read, expected)] += 1
    return counts


def check(kind, damage, originals, folder, often):
    counts = campaign(kind, damage, originals(kind), folder, TRIES[kind][often])
    print(f"{kind}, {damage.__name__}: {dict(counts)}")
    assert counts["wrong"] == 0
    assert counts["refused"] > 0 or damage is forged
    if (kind, damage) not in MAY_DIFFER:
        assert counts["different"] == 0


@pytest.mark.on("jax")
@pytest.mark.parametrize(
    "kind, damage", tiny.marked(CASES, [case for case in CASES if case[0] not in SLOW])
)
def test_a_damaged_file_is_refused_or_nothing_has_changed(
    kind, damage, originals, tmp_path
):
    check(kind, damage, originals, tmp_path, often=False)


@pytest.mark.matrix
@pytest.mark.parametrize("kind, damage", CASES)
def test_many_damaged_files_are_refused_or_nothing_has_changed(
    kind, damage, originals, tmp_path
):
    check(kind, damage, originals, tmp_path, often=True)
