"""find_tickets: interrupted at any moment, it resumes with the same bits."""

import functools
import os
import shutil
import signal
import sys

import keras
import numpy as np
import pytest
import tiny
import warm

import tf_tickets as tt
from tf_tickets import files

pytestmark = pytest.mark.turns("jax")

# A separate process that kills itself in an epoch or while writing a file.
PROGRAM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import keras, tiny, test_finding
import conftest
conftest.disable_graph_optimization()
def kill(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
calls = []
def count(descriptor):
    calls.append(descriptor)
    return kill() if len(calls) == {write} else None
os.fsync = count
class Killer(keras.callbacks.Callback):
    changes_results = False
    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == {moment}:
            kill()
    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch
test_finding.find_as_a_new_process({directory!r}, [Killer()])
"""
FILES = ["round_01.ticket", "round_02.ticket", "round_03.ticket", "search.state"]


def find(directory=None, callbacks=(), search=None, data=None, **kwargs):
    search = search or tiny.imp(rewind_to="2 steps", monitor="val_accuracy")
    arguments = {"seed": 3, "batch_size": 16, "verbose": 0, **kwargs}
    return tt.find_tickets(
        arguments.pop("build", tiny.build_compiled),
        tiny.splits() if data is None else data,
        search,
        directory,
        callbacks=callbacks,
        **arguments,
    )


def find_as_a_new_process(directory, callbacks=()):
    """Resets Keras's numbering of layers, since files contain layer names."""
    keras.utils.clear_session()
    return find(directory, callbacks)


class Epochs(keras.callbacks.Callback):
    changes_results = False

    def __init__(self):
        super().__init__()
        self.trained = []

    def on_epoch_end(self, epoch, logs=None):
        self.trained.append(epoch)


def contents(directory):
    return {name: (directory / name).read_bytes() for name in os.listdir(directory)}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Returns the directory of an uninterrupted search, and its tickets."""
    directory = tmp_path_factory.mktemp("complete")
    return directory, find_as_a_new_process(directory)


def killed(directory, write=0, moment=()):
    program = PROGRAM.format(
        tests=os.path.dirname(__file__),
        directory=str(directory),
        write=write,
        moment=moment,
    )
    done = warm.run([sys.executable, "-c", program])
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]


@pytest.mark.both
@pytest.mark.parametrize(
    "kill, epochs",
    tiny.in_turns(
        [
            # In rounds 0 and 2, and while writing round 1's ticket and state.
            ({"moment": (1, 2)}, 8),
            ({"write": 6}, 6),
            ({"moment": (5, 0)}, 4),
            ({"write": 2}, 8),
        ],
        every=4,
    ),
)
def test_a_killed_search_goes_on_to_the_same_bytes(tmp_path, complete, kill, epochs):
    killed(tmp_path, **kill)
    watch = Epochs()
    result = find_as_a_new_process(tmp_path, [watch])
    assert contents(tmp_path) == contents(complete[0])
    assert [t.metrics for t in result] == [t.metrics for t in complete[1]]
    assert watch.trained == list(range(8 - epochs, 8))


def test_the_directory_has_a_ticket_a_round_and_the_state(complete):
    directory, result = complete
    assert sorted(os.listdir(directory)) == FILES
    loaded = [tt.Ticket.load(directory / name) for name in FILES[:3]]
    assert [t.id for t in loaded] == [t.id for t in result]
    assert [t.metrics for t in loaded] == [t.metrics for t in result]


def test_test_data_are_evaluated_for_each_ticket(complete):
    assert all({"test_loss", "test_accuracy"} <= set(t.metrics) for t in complete[1])


def test_without_a_directory_the_tickets_are_the_same(complete):
    assert [t.id for t in find()] == [t.id for t in complete[1]]


def test_a_complete_directory_returns_without_training(complete):
    before, watch = contents(complete[0]), Epochs()
    search = tiny.imp(rewind_to="2 steps", monitor="val_accuracy")
    result = find(complete[0], callbacks=[watch], search=search)
    assert watch.trained == []
    assert [t.id for t in result] == [t.id for t in complete[1]]
    assert search.complete and search.best is not None
    assert search.dense["test_accuracy"] > 0
    assert contents(complete[0]) == before


def unnamed():
    """Builds layers without names, which Keras numbers differently in each build."""
    layers = [
        keras.Input((6,)),
        keras.layers.Dense(5),
        keras.layers.BatchNormalization(),
    ]
    return tiny.compiled(keras.Sequential([*layers, keras.layers.Dense(3)]))


class Failing(keras.callbacks.Callback):
    changes_results = False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 5:
            raise KeyboardInterrupt


def test_layers_under_running_numbers_go_on_with_the_same_masks(tmp_path):
    through = find(build=unnamed)
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, build=unnamed, callbacks=[Failing()])
    resumed = find(tmp_path, build=unnamed)
    assert [t.metrics for t in resumed] == [t.metrics for t in through]
    for one, other in zip(through, resumed, strict=True):
        assert one.compare(other)["all"] == 1.0


@pytest.mark.parametrize(
    "fidelity", tiny.in_turns(["exact", "learning_rate", "fine_tune"], every=3)
)
def test_every_fidelity_goes_on_with_the_same_bits(tmp_path, fidelity):
    def search():
        return tiny.imp(fidelity=fidelity, monitor="val_accuracy")

    through = find(search=search())
    with pytest.raises(KeyboardInterrupt):
        find(tmp_path, search=search(), callbacks=[Failing()])
    resumed = find(tmp_path, search=search())
    assert [t.id for t in resumed] == [t.id for t in through]
    assert [t.metrics for t in resumed] == [t.metrics for t in through]


def other_activation():
    model = tiny.build_compiled()
    model.get_layer("hidden").activation = keras.activations.tanh
    return model


def larger():
    return tiny.compiled(tiny.build(), keras.optimizers.Adam(0.02))


@pytest.mark.parametrize(
    "changes, name, others",
    [
        (
            {"search": tiny.imp(rewind_to="2 steps", monitor="val_accuracy", rate=0.4)},
            "settings.rate: 0.3 there, 0.4 here",
            "rounds",
        ),
        ({"seed": 4}, "seed: 3 there, 4 here", "rate"),
        ({"batch_size": 8}, "batch_size: 16 there, 8 here", "seed"),
        ({"build": larger}, "optimizer.learning_rate: 0.00", "kernels"),
        (
            {"data": (tiny.data(64, seed=5), *tiny.splits()[1:])},
            "data.train",
            "validation",
        ),
        ({"data": (*tiny.splits()[:2], tiny.data(32, seed=5))}, "data.test", "train"),
        ({"build": other_activation}, "activation: 'relu' there, 'tanh' here", "loss"),
        ({"callbacks": [keras.callbacks.TerminateOnNaN()]}, "TerminateOnNaN", "seed"),
    ],
)
def test_other_settings_are_refused_and_only_these_are_named(
    complete, changes, name, others
):
    before = contents(complete[0])
    with pytest.raises(ValueError, match="holds another search") as raised:
        find(complete[0], **changes)
    assert name in str(raised.value)
    assert others not in str(raised.value)
    assert contents(complete[0]) == before


def test_other_versions_are_named_in_a_warning(tmp_path, complete):
    shutil.copytree(complete[0], tmp_path, dirs_exist_ok=True)
    content, arrays = files.read(tmp_path / "search.state", "search")
    content["versions"]["keras"] = "3.0.0"
    files.write(tmp_path / "search.state", "search", content, arrays)
    with pytest.warns(UserWarning, match="keras: '3.0.0' there"):
        find(tmp_path)


def test_pruning_at_initialization_goes_on_with_the_same_ticket(tmp_path):
    def search():
        return tt.PruneAtInit(0.75, 6, monitor="val_accuracy")

    through = find(search=search())
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            find(tmp_path, search=search(), callbacks=[Failing()])
    resumed = find(tmp_path, search=search())
    assert [t.id for t in resumed] == [t.id for t in through]
    assert [t.metrics for t in resumed] == [t.metrics for t in through]
    assert tiny.same(resumed[0].weights.values(), through[0].weights.values())


def test_a_damaged_state_is_refused(tmp_path, complete):
    data = contents(complete[0])["search.state"]
    (tmp_path / "search.state").write_bytes(data[:1000])
    with pytest.raises(ValueError, match="damaged or not a search file"):
        find(tmp_path)


def copied(complete, folder):
    return shutil.copytree(complete[0], folder, dirs_exist_ok=True)


def forge(directory, change):
    """Changes a state's content and arrays; the checksums are correct."""
    content, arrays = files.read(directory / "search.state", "search")
    change(content, arrays)
    files.write(directory / "search.state", "search", content, arrays)


def refused(directory, message):
    """Checks that a search does not resume, and changes nothing in the directory."""
    before = contents(directory)
    with pytest.raises(ValueError, match=message):
        find(directory)
    assert contents(directory) == before


FORGED = [
    ("tickets", 10**9, r"`content.search.metrics` must be a list of length 10{9}"),
    ("tickets", -1, "`content.tickets` must be a whole number"),
    ("tickets", "3", "`content.tickets` must be a whole number"),
    ("tickets", 2, "`content.search.metrics` must be a list of length 2"),
    ("identity", [], "`content.identity` must be a dict"),
    ("search", None, "`content.search` must be a dict"),
    ("more", 1, "Unexpected: 'more'"),
    ("search.dense", 3, "`content.search.dense` must be a dict"),
    ("search.dense", {"a": "x"}, "`content.search.dense.a` must be a number"),
    ("search.round", 1.5, "`content.search.round` must be a whole number"),
    ("search.complete", "yes", "`content.search.complete` must be true or false"),
    ("search.next_epoch", None, "`content.search.next_epoch` must be a whole"),
    ("search.step", -1, "`content.search.step` must be a whole number"),
    ("search.notes", [], "`content.search.notes` must be a dict"),
    ("search.notes", {"stage_one": 3}, "`content.search.notes.stage_one` must be"),
    ("search.notes", {"thresholds": {"k": "x"}}, "notes.thresholds.k` must be a num"),
    ("search.metrics", [{}] * 4, "`content.search.metrics` must be a list of length 3"),
    ("search.metrics", [{}, {}, 3], r"`content.search.metrics\[2\]` must be a dict"),
    ("search.last_ticket", 3, "`content.search.last_ticket` must be a string"),
    ("search.model", None, "Unexpected: 'model'"),
]


@pytest.mark.parametrize("field, value, message", FORGED)
def test_a_forged_state_is_refused_with_the_name_of_the_field(
    tmp_path, complete, field, value, message
):
    def change(content, arrays):
        *above, name = field.split(".")
        for part in above:
            content = content[part]
        content[name] = value

    forge(copied(complete, tmp_path), change)
    refused(tmp_path, f"search.state is not a valid search file: .*{message}")


@pytest.mark.parametrize(
    "field", ["tickets", "identity", "search", "search.round", "search.last_ticket"]
)
def test_a_state_without_a_field_is_refused(tmp_path, complete, field):
    def change(content, arrays):
        *above, name = field.split(".")
        del (content[above[0]] if above else content)[name]

    forge(copied(complete, tmp_path), change)
    refused(tmp_path, f"Missing: '{field.split('.')[-1]}'")


@pytest.mark.parametrize(
    "table, message",
    [
        ("now", "shape|does not fit"),
        ("fresh", "has the shape .1,.. Expected"),
        ("snapshot", "has the shape .1,.. Expected"),
        ("masks", "shape|does not fit"),
    ],
)
def test_arrays_of_another_shape_are_refused(tmp_path, complete, table, message):
    def change(content, arrays):
        name = next(n for n in arrays if n.startswith(f"{table}|") and "kernel" in n)
        arrays[name] = np.ones(1, arrays[name].dtype)

    forge(copied(complete, tmp_path), change)
    refused(tmp_path, f"search.state is not a valid search file: .*({message})")


@pytest.mark.parametrize("name", ["now", "later|weights|k", "now|weights"])
def test_arrays_of_unknown_names_are_refused(tmp_path, complete, name):
    forge(
        copied(complete, tmp_path), lambda _, arrays: arrays.update({name: np.ones(1)})
    )
    refused(tmp_path, "An array has the unknown name")


def test_a_state_that_unpacks_to_more_than_its_model_is_refused(tmp_path, complete):
    large = {"now|weights|k": np.zeros(10**7)}
    forge(copied(complete, tmp_path), lambda _, arrays: arrays.update(large))
    refused(tmp_path, "take 80.* bytes in memory. Expected at most max_bytes=")


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("round_01", "round_02", "round 2 is not the one.*the ticket of round 1"),
        ("round_03", "round_01", "round 1 is not the one.*the ticket of round 3"),
    ],
)
def test_a_ticket_of_another_round_is_refused(
    tmp_path, complete, source, target, message
):
    copied(complete, tmp_path)
    shutil.copy(tmp_path / f"{source}.ticket", tmp_path / f"{target}.ticket")
    refused(tmp_path, message)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_an_altered_ticket_of_the_same_round_is_refused(tmp_path, complete, number):
    path = copied(complete, tmp_path) / f"round_{number:02}.ticket"
    ticket = tt.Ticket.load(path)
    next(iter(ticket.masks.values()))[0] ^= True
    ticket.save(path)
    refused(tmp_path, f"round {number} is not the one that the search stored: its id")


@pytest.mark.parametrize(
    "data, message",
    [
        ("mnist", "Received: 'mnist'"),
        (np.zeros((4, 2)), "Received: array"),
        (tiny.data(), r"The validation data are missing.* of shape \(64, 6\)"),
        ((tiny.data(),), r"Received: \(\(array"),
        ((tiny.data(), None), "The validation data are missing"),
    ],
)
def test_wrong_data_are_refused(data, message):
    with pytest.raises(TypeError, match=message):
        find(data=data)


@pytest.mark.parametrize("build", [tiny.build, lambda: None])
def test_a_model_that_is_not_compiled_is_refused(build):
    with pytest.raises(ValueError, match="must return a compiled Keras model"):
        find(build=build)


def test_more_examples_a_step_than_there_are_is_refused():
    with pytest.raises(ValueError, match="Received: 64 rows, batch_size=65"):
        find(batch_size=65)


def test_callbacks_see_sparsity_and_round():
    seen = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append((logs["round"], logs["sparsity"]))
    )
    find(search=tiny.imp(rounds=1, monitor="val_accuracy"), callbacks=[note])
    assert seen == [(0, 0.0), (0, 0.0), (1, 0.3), (1, 0.3)]


def test_a_full_rewind_at_rate_0_repeats_round_0_to_the_bit():
    search = tiny.imp(rate=0.0, fidelity="exact", monitor="val_accuracy")
    result = find(search=search)
    dense = {**search.dense}
    assert [t.metrics for t in result] == [dense] * 3


def test_what_a_search_tells_of_its_data_is_not_told_by_the_next_fit():
    search = tiny.imp(rounds=1, epochs_per_round=1)
    assert "build_seed" in find(search=search)[0].provenance
    tiny.run(tiny.network(), search)
    assert "build_seed" not in search.tickets[0].provenance


@pytest.mark.parametrize(
    "search, epochs",
    [
        (lambda: tiny.imp(rounds=np.int64(1), epochs_per_round=np.int32(1)), None),
        (lambda: tt.DynamicSparsity(0.8, interval=np.int64(2)), np.int64(2)),
    ],
)
def test_numbers_of_numpy_are_stored(tmp_path, search, epochs):
    arguments = {"batch_size": 16, "verbose": 0, "epochs": epochs}
    run = functools.partial(
        tt.find_tickets, tiny.build_compiled, tiny.splits(), directory=tmp_path
    )
    [ticket] = run(search=search(), **arguments)
    [again] = run(search=search(), **arguments)
    assert again == ticket


def test_a_resumed_search_holds_the_start_weights_once(tmp_path):
    search = tiny.imp(rewind_to="init", monitor="val_accuracy")
    first = find(tmp_path, search=search)
    resumed = find(tmp_path, search=tiny.imp(rewind_to="init", monitor="val_accuracy"))
    assert [ticket.id for ticket in resumed] == [ticket.id for ticket in first]
    for tickets in (first, resumed):
        for path, value in tickets[0].weights.items():
            assert all(ticket.weights[path] is value for ticket in tickets[1:])
