"""Damages every kind of file that is read: it is refused, or nothing has changed.

Each case tries many damages with a seed, and prints how many were refused, which
`pytest -rP` shows.
"""

import collections
import io
import json
import shutil
import tempfile
import warnings
import zipfile

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
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


def read_ticket(path, capsys):
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


def read_state(path, capsys):
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


def read_npz(path, capsys):
    data = tt.datasets.load(path)
    return data.x_train.tobytes(), data.y_test.tobytes()


def make_model(folder):
    tiny.build().save(folder / "a.keras")
    return folder / "a.keras"


def said(capsys, *command):
    """Returns what a command prints; its error must be one line with status 2."""
    capsys.readouterr()
    status = main.main([str(word) for word in command])
    printed = capsys.readouterr()
    if status:
        assert status == 2 and printed.err.startswith("tf-tickets: ")
        assert printed.err.count("\n") == 1
        raise ValueError(printed.err)
    return printed.out


def read_model(path, capsys):
    return said(capsys, "report", path)


def make_results(folder):
    search = ["search", *FEW, "--rounds", "1", "--no-controls", "--out", str(folder)]
    assert main.main(search) == 0
    return folder / "results.json"


def read_results(path, capsys):
    command = ["search", *FEW, "--rounds", "1", "--no-controls", "--out", path.parent]
    return said(capsys, *command)


KINDS = {
    "ticket": (make_ticket, read_ticket),
    "state": (make_state, read_state),
    "ticket of a search": (make_stored_ticket, read_state),
    "training": (make_training, read_training),
    "npz": (make_npz, read_npz),
    "model": (make_model, read_model),
    "results": (make_results, read_results),
}
SLOW = ("state", "training", "ticket of a search", "model", "results")
# JSON has no checksum, and a forger may write other content that is valid.
MAY_DIFFER = [("results", flipped), *((kind, forged) for kind in KINDS)]
CASES = [
    (kind, damage)
    for kind in KINDS
    for damage in (truncated, flipped, swapped, forged)
    if (kind, damage) not in [("results", swapped), ("npz", forged)]
]
BY_DEFAULT = [case for case in CASES if case[0] != "training"]


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


def outcome(path, read, capsys, expected):
    """Returns what becomes of a damaged file; reading it must not change the folder."""
    before = contents(path.parent)
    try:
        actual = read(path, capsys)
    except ValueError as error:
        assert len(str(error)) > 20
        result = "refused"
    else:
        result = "equal" if actual == expected else "different"
    assert contents(path.parent) == before
    return result


def campaign(kind, damage, path, folder, capsys, tries):
    """Returns the number of damages by outcome."""
    read, rng = KINDS[kind][1], np.random.default_rng(0)
    shutil.copytree(path.parent, folder, dirs_exist_ok=True)
    expected, whole = read(folder / path.name, capsys), path.read_bytes()
    counts = collections.Counter(tried=tries)
    for _ in range(tries):
        (folder / path.name).write_bytes(damage(whole, rng))
        counts[outcome(folder / path.name, read, capsys, expected)] += 1
    return counts


def check(kind, damage, originals, folder, capsys, tries):
    counts = campaign(kind, damage, originals(kind), folder, capsys, tries)
    print(f"{kind}, {damage.__name__}: {dict(counts)}")
    assert counts["refused"] > 0
    if (kind, damage) not in MAY_DIFFER:
        assert counts["different"] == 0


@pytest.mark.parametrize(
    "kind, damage",
    tiny.marked(CASES, [case for case in CASES if case[0] != "training"]),
)
def test_a_damaged_file_is_refused_or_nothing_has_changed(
    kind, damage, originals, tmp_path, capsys
):
    check(kind, damage, originals, tmp_path, capsys, 6 if kind in SLOW else 60)


@pytest.mark.matrix
@pytest.mark.parametrize("kind, damage", CASES)
def test_many_damaged_files_are_refused_or_nothing_has_changed(
    kind, damage, originals, tmp_path, capsys
):
    check(kind, damage, originals, tmp_path, capsys, 100 if kind in SLOW else 2000)
