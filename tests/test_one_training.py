"""find_tickets with a callback: interrupted, the training ends with equal bits."""

import os
import shutil
import signal
import sys

import keras
import numpy as np
import pytest
import test_finding
import tiny
import warm

import tf_tickets as tt
from tf_tickets.callbacks.base import PruningCallback
from tf_tickets.pruning import schedules
from tf_tickets.training import batches, snapshots

pytestmark = pytest.mark.turns("jax")

EPOCHS = 5
# Lowest in epoch 1 or 2, so that a patience of 2 stops in epoch 3 or 4.
LOSSES = {"second": [3.0, 1.0, 2.0, 2.0, 0.0], "third": [3.0, 2.0, 1.0, 2.0, 2.0]}


class Scripted(tt.EarlyStopRewind):
    """Watches losses that are given beforehand."""

    losses = LOSSES["second"]

    def watch(self, epoch, logs):
        return super().watch(epoch, {**logs, "val_loss": self.losses[epoch]})


class ScriptedLater(Scripted):
    losses = LOSSES["third"]


def gradual(criterion="movement", frequency=3):
    schedule = schedules.PolynomialDecay(0.1, 0.7, 2, 17, frequency=frequency)
    return tt.GradualPruning(schedule, criterion)


def until_best(*callbacks):
    """Prunes in epoch 0, so that the callbacks see the epochs from 1 on."""
    schedule = schedules.ConstantSparsity(0.5, 3, end_step=3, frequency=1)
    return tt.GradualPruning(schedule).once_pruned(*callbacks)


def rigl():
    return tt.DynamicSparsity(
        0.6, tt.saliency.DenseGradient(*tiny.data(), batch_size=16), interval=3
    )


CALLBACKS = {
    "gradual": gradual,
    "gradual, random": lambda: gradual("random", 2),
    "gradual, once pruned": lambda: until_best(
        keras.callbacks.EarlyStopping("val_loss", restore_best_weights=True)
    ),
    "SET": lambda: tt.DynamicSparsity(0.6, interval=3),
    "RigL": rigl,
    "early stop": lambda: Scripted(2),
    "early stop, third": lambda: ScriptedLater(2),
    "early stop, back": lambda: Scripted(2, rewind=1),
    "early stop, weights": lambda: ScriptedLater(2, fidelity="weights"),
    "no early stop": lambda: Scripted(4, min_delta=0.0),
    "no patience": lambda: Scripted(None),
}


def find(callback, directory=None, callbacks=(), **kwargs):
    """Finds the ticket as a new process does; files contain names of layers."""
    keras.utils.clear_session()
    arguments = {"seed": 3, "epochs": EPOCHS, "batch_size": 16, "verbose": 0, **kwargs}
    build = arguments.pop("build", tiny.build_compiled)
    data = arguments.pop("data", None) or tiny.splits()
    return tt.find_tickets(
        build, data, callback, directory, callbacks=callbacks, **arguments
    )


class Interruption(keras.callbacks.Callback):
    """Interrupts the training in an epoch: before, within or after its steps."""

    changes_results = False

    def __init__(self, epoch, moment):
        super().__init__()
        self.due, self.moment = epoch, moment
        self.begun = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(epoch)
        self.interrupt("begin")

    def on_train_batch_end(self, batch, logs=None):
        self.interrupt("step") if batch == 1 else None

    def on_test_begin(self, logs=None):
        self.interrupt("validation")

    def on_epoch_end(self, epoch, logs=None):
        self.interrupt("end")

    def interrupt(self, moment):
        if (self.begun[-1], moment) == (self.due, self.moment):
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """Returns a function from a case to its directory, ticket and callback."""
    known = {}

    def trained(case):
        if case not in known:
            directory = tmp_path_factory.mktemp("complete")
            callback = CALLBACKS[case]()
            [ticket] = find(callback, directory)
            known[case] = directory, ticket, callback
        return known[case]

    return trained


MOMENTS = [
    (epoch, moment)
    for epoch in range(EPOCHS)
    for moment in ("begin", "step", "validation", "end")
]
SOME = [("gradual", 2, "step"), ("SET", 1, "end"), ("early stop", 3, "validation")]


@pytest.mark.on("jax")
@pytest.mark.filterwarnings("ignore:.*never went")
@pytest.mark.parametrize(
    "case, epoch, moment",
    tiny.marked([(case, *moment) for case in CALLBACKS for moment in MOMENTS], SOME),
)
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    tmp_path, complete, case, epoch, moment
):
    directory, ticket, callback = complete(case)
    stopped = callback.stopped_epoch
    if stopped is not None and epoch > stopped:
        pytest.skip("The training has stopped before.")
    with pytest.raises(KeyboardInterrupt):
        find(CALLBACKS[case](), tmp_path, [Interruption(epoch, moment)])
    resumed, watch = CALLBACKS[case](), Interruption(None, None)
    [result] = find(resumed, tmp_path, [watch])
    assert watch.begun[0] == (min(epoch, 1) if "once pruned" in case else epoch)
    assert test_finding.contents(tmp_path) == test_finding.contents(directory)
    assert result == ticket and result.metrics == ticket.metrics
    assert (resumed.stopped_epoch, resumed.rewound_epoch) == (
        stopped,
        callback.rewound_epoch,
    )


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore:.*never went")
@pytest.mark.parametrize("case", CALLBACKS)
def test_a_training_interrupted_in_every_epoch_goes_on_to_the_same_bytes(
    tmp_path, complete, case
):
    directory, ticket, callback = complete(case)
    last = EPOCHS - 1 if callback.stopped_epoch is None else callback.stopped_epoch
    for epoch in range(last + 1):
        with pytest.raises(KeyboardInterrupt):
            find(CALLBACKS[case](), tmp_path, [Interruption(epoch, "step")])
    [result] = find(CALLBACKS[case](), tmp_path)
    assert test_finding.contents(tmp_path) == test_finding.contents(directory)
    assert result.metrics == ticket.metrics


# A separate process that kills itself while it writes a file.
PROGRAM = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import test_one_training
import conftest
conftest.disable_graph_optimization()
calls = []
def count(descriptor):
    calls.append(descriptor)
    if len(calls) == {write}:
        os.kill(os.getpid(), signal.SIGKILL)
os.fsync = count
test_one_training.find(test_one_training.CALLBACKS[{case!r}](), {directory!r})
"""


# 5 states: before the training and after epochs; then the ticket and the last state.
@pytest.mark.matrix
@pytest.mark.parametrize("write", range(1, EPOCHS + 3))
@pytest.mark.parametrize("case", ["gradual", "RigL", "early stop, third"])
def test_a_training_killed_while_it_writes_goes_on_to_the_same_bytes(
    tmp_path, complete, case, write
):
    folder = os.path.dirname(__file__)
    program = PROGRAM.format(
        tests=folder, case=case, write=write, directory=str(tmp_path)
    )
    done = warm.run([sys.executable, "-c", program])
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    find(CALLBACKS[case](), tmp_path)
    directory = complete(case)[0]
    assert test_finding.contents(tmp_path) == test_finding.contents(directory)


def plain_fit(callback, epochs=EPOCHS):
    """Trains as find_tickets does, but in a `fit` without a search."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    model = tt.wrap(tiny.build_compiled(), verbose=False)
    key = [3, 1, 0]
    follow = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: key.__setitem__(2, epoch)
    )
    (x, y), validation, _ = tiny.splits()
    history = model.fit(
        batches.feed((x, y), 16, lambda: key),
        validation_data=validation,
        epochs=epochs,
        shuffle=False,
        callbacks=[follow, callback],
        verbose=0,
    )
    return model, history.history


@pytest.mark.both
@pytest.mark.parametrize(
    "case", tiny.marked(["gradual", "gradual, random", "RigL", "SET"], ["gradual"])
)
def test_the_ticket_is_that_of_a_plain_fit(complete, case):
    _, ticket, callback = complete(case)
    plain = CALLBACKS[case]()
    _, history = plain_fit(plain)
    assert ticket == plain.ticket == callback.ticket
    for name, values in history.items():
        assert ticket.metrics[name] == values[-1]
    assert callback.ticket.provenance["step"] == ticket.provenance["step"] == 20


@pytest.mark.parametrize(
    "case",
    tiny.marked(
        ["early stop", "early stop, third", "early stop, back", "early stop, weights"],
        ["early stop"],
    ),
)
def test_a_stopped_training_has_the_ticket_of_the_epoch_it_goes_back_to(complete, case):
    _, ticket, callback = complete(case)
    rewound = callback.rewound_epoch
    plain = CALLBACKS[case]()
    model, history = plain_fit(plain)
    assert (
        plain.rewound_epoch
        == rewound
        == {"early stop, back": 2}.get(case, 1 if case == "early stop" else 2)
    )
    weights = snapshots.start_weights(model, snapshots.record(model))
    assert tiny.same(ticket.weights.values(), weights.values())
    for name in set(history) - {"val_loss"}:
        assert ticket.metrics[name] == history[name][rewound]
    assert ticket.metrics["val_loss"] == callback.losses[rewound]
    assert ticket.provenance["step"] == 4 * (rewound + 1)
    assert ticket.provenance["order"] == (1, rewound + 1)
    assert ticket.sparsity == ticket.metrics["sparsity"] == 0.0


def test_a_rewound_ticket_has_the_masks_of_the_model():
    masks = tiny.half(tiny.network())

    def sparse():
        model = tt.wrap(tiny.build_compiled(), verbose=False)
        tt.kernels(model).set_masks(masks)
        return model

    [ticket] = find(Scripted(2), build=sparse)
    assert tiny.same(ticket.masks.values(), masks.values())
    assert ticket.sparsity == ticket.metrics["sparsity"] == 0.5


def test_a_ticket_says_where_it_comes_from(complete):
    directory, ticket, _ = complete("gradual")
    origin = ticket.provenance
    assert origin["method"] == "gradual"
    assert origin["settings"]["criterion"] == "movement"
    assert origin["settings"]["epochs"] == EPOCHS
    assert origin["settings"]["schedule"]["config"]["final_sparsity"] == 0.7
    named = ["round", "seed", "build_seed", "batch_size", "parent", "step"]
    assert [origin[name] for name in named] == [1, 0, 3, 16, None, 20]
    assert origin["model"]["class_name"] == "Sequential"
    assert origin["versions"]["keras"] == keras.version()
    assert {"test_loss", "test_accuracy", "val_loss"} <= set(ticket.metrics)
    loaded = tt.Ticket.load(directory / "round_01.ticket")
    assert loaded == ticket and loaded.metrics == ticket.metrics


@pytest.mark.parametrize("case", tiny.marked(CALLBACKS, ["gradual", "early stop"]))
def test_a_complete_directory_returns_without_training(complete, case):
    directory, ticket, first = complete(case)
    before = test_finding.contents(directory)
    callback, watch = CALLBACKS[case](), Interruption(None, None)
    [result] = find(callback, directory, [watch])
    assert watch.begun == [] and test_finding.contents(directory) == before
    assert result == ticket and result.metrics == ticket.metrics
    assert callback.rewound_epoch == first.rewound_epoch
    assert callback.rewound_logs == first.rewound_logs
    if isinstance(callback, PruningCallback):
        assert callback.ticket == ticket


def test_averages_of_weights_are_those_of_the_ticket():
    def averaging():
        return tiny.compiled(
            tiny.build(), keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5)
        )

    pruning = gradual()
    [ticket] = find(pruning, build=averaging)
    assert ticket == pruning.ticket
    last = {p: v for p, v in ticket.weights.items() if p in ticket.masks}
    assert all((last[path] == 0.0)[~mask].all() for path, mask in ticket.masks.items())


def test_snapshots_in_files_go_on_too(tmp_path, complete):
    def stop():
        return Scripted(2, directory=tmp_path / "snapshots")

    place = tmp_path / "found"
    with pytest.raises(KeyboardInterrupt):
        find(stop(), place, [Interruption(3, "step")])
    # What the search needs is in its own directory.
    shutil.rmtree(tmp_path / "snapshots")
    [ticket] = find(stop(), place)
    assert test_finding.contents(place) == test_finding.contents(
        complete("early stop")[0]
    )
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_a_callback_that_stops_the_training_completes_it(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 2

    pruning = gradual()
    [ticket] = find(pruning, tmp_path, [Stop()])
    assert ticket == pruning.ticket and ticket.provenance["step"] == 12
    assert "test_loss" in ticket.metrics
    watch = Interruption(None, None)
    watch.changes_results = False
    [again] = find(gradual(), tmp_path, [Stop(), watch])
    assert again == ticket and watch.begun == []


class Best(keras.callbacks.Callback):
    """Restores the weights of its second epoch when it ends."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 1:
            self.weights = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.model.set_weights(self.weights)


def test_a_training_resumes_where_the_callbacks_of_once_pruned_begin(tmp_path):
    pruning, watch = until_best(Best()), Interruption(None, None)
    with pytest.raises(KeyboardInterrupt):
        find(until_best(Best()), tmp_path, [Interruption(4, "step")])
    with pytest.raises(ValueError, match="callbacks.0 Best"):
        find(until_best(), tmp_path)
    [ticket] = find(pruning, tmp_path, [watch])
    assert watch.begun == [1, 2, 3, 4]
    straight, note = until_best(Best()), keras.callbacks.History()
    [expected] = find(straight, callbacks=[note])
    assert ticket == expected == pruning.ticket
    assert ticket.metrics == expected.metrics
    assert ticket.metrics["val_loss"] == note.history["val_loss"][2]
    assert ticket.metrics["val_loss"] != note.history["val_loss"][-1]


# Refusals.


def never():
    raise AssertionError("The model was built.")


@pytest.mark.parametrize(
    "search, epochs, error, message",
    [
        (gradual(), None, ValueError, "GradualPruning.*needs `epochs`.*epochs=None"),
        (Scripted(), None, ValueError, "needs `epochs`"),
        (gradual(), 0, ValueError, "`epochs` must be a whole number of 1 or more"),
        (gradual(), 2.5, ValueError, "`epochs` must be.*Received: 2.5"),
        (tiny.imp(), 8, ValueError, "IMP has its own number of epochs: 8.*epochs=8"),
        (keras.callbacks.TerminateOnNaN(), 3, TypeError, "Received: .*TerminateOnNaN"),
        ("imp", None, TypeError, "Received: 'imp'"),
    ],
)
def test_what_cannot_be_run_is_refused_before_a_model_is_built(
    search, epochs, error, message
):
    with pytest.raises(error, match=message):
        find(search, build=never, epochs=epochs)


def fires_at_2(step):
    return step == 2, 0.5


def fires_at_3(step):
    return step == 3, 0.5


@pytest.mark.parametrize(
    "callback, changes, name, others",
    [
        (gradual("magnitude"), {}, "settings.criterion: 'movement' there", "schedule"),
        (gradual(frequency=4), {}, "frequency: 3 there, 4 here", "criterion"),
        (gradual(), {"epochs": 6}, "settings.epochs: 5 there, 6 here", "schedule"),
        (gradual(), {"seed": 4}, "seed: 3 there, 4 here", "epochs"),
        (rigl(), {}, "method: 'gradual' there, 'dynamic' here", " seed"),
        (Scripted(2), {}, "method: 'gradual' there, 'early_stop' here", "batch_size"),
        (tiny.imp(), {"epochs": None}, "method: 'gradual' there, 'imp'", "batch_size"),
    ],
)
def test_another_training_is_refused_and_what_differs_is_named(
    complete, callback, changes, name, others
):
    directory = complete("gradual")[0]
    before = test_finding.contents(directory)
    with pytest.raises(ValueError, match="holds another search") as raised:
        find(callback, directory, **changes)
    assert name in str(raised.value) and others not in str(raised.value)
    assert test_finding.contents(directory) == before


def test_functions_of_the_callback_count_by_their_code(tmp_path):
    fires_at_3.__name__ = fires_at_2.__name__
    find(tt.GradualPruning(fires_at_2), tmp_path, epochs=1)
    with pytest.raises(ValueError, match="holds another search: functions.schedule"):
        find(tt.GradualPruning(fires_at_3), tmp_path, epochs=1)


# Forged states.


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Returns a function from a case to the directory of an interrupted training."""
    known = {}

    def directory(case):
        if case not in known:
            known[case] = tmp_path_factory.mktemp("interrupted")
            with pytest.raises(KeyboardInterrupt):
                find(CALLBACKS[case](), known[case], [Interruption(2, "step")])
        return known[case]

    return directory


DELETED = object()
FORGED = [
    ("gradual", "step", -1, "`notes.callback.step` must be a whole number"),
    ("gradual", "step", DELETED, "Missing: 'step'"),
    ("gradual", "step", 10**9, "step 1000000000, next step to read 9"),
    ("gradual", "looked_at", 1.5, "`notes.callback.looked_at` must be a whole"),
    ("gradual", "due", [[9, "x"]], r"`notes.callback.due\[0\]\[1\]` must be a number"),
    ("gradual", "due", [[9, 2.0]], r"due\[0\]` must lie in .*=2.0"),
    ("gradual", "asked", "x", "`notes.callback.asked` must be a number"),
    ("SET", "exchanges", None, "`notes.callback.exchanges` must be a whole"),
    ("SET", "more", 3, "Unexpected: 'more'"),
    ("early stop", "wait", True, "`notes.callback.wait` must be a whole"),
    ("early stop", "best_merit", "x", "`notes.callback.best_merit` must be a number"),
    ("early stop", "best_epoch", 0, "epochs .'1'., best epoch 0"),
    ("early stop", "shelf", {}, r"The snapshots of epochs \['1'\]"),
    ("early stop", "shelf", {"x": {}}, r"The snapshots of epochs \['1'\]"),
    ("early stop", "shelf", {"1": {"loss": []}}, "callback.shelf.1.loss` must be"),
    ("early stop", None, 3, "`content.search.notes.callback` must be a dict"),
    ("early stop", None, DELETED, "`notes.callback` must be a dict. Received: None"),
]


@pytest.mark.parametrize("case, field, value, message", FORGED)
def test_a_forged_state_is_refused_with_the_name_of_the_field(
    tmp_path, interrupted, case, field, value, message
):
    def change(content, arrays):
        table, name = content["search"]["notes"], "callback"
        if field is not None:
            table, name = table["callback"], field
        if value is DELETED:
            del table[name]
        else:
            table[name] = value

    refused(tmp_path, interrupted(case), case, change, message)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda part: part.popitem(), "does not fit the model"),
        (lambda part: part.update(x=np.ones(1)), "does not fit the model"),
        (lambda part: part.update({min(part): np.ones((1, 2))}), "has the shape"),
    ],
)
def test_a_forged_snapshot_is_refused(tmp_path, interrupted, change, message):
    def change_arrays(content, arrays):
        prefix = "state 1|weights|"
        part = {n: arrays.pop(n) for n in list(arrays) if n.startswith(prefix)}
        part = {name.removeprefix(prefix): array for name, array in part.items()}
        change(part)
        arrays |= {prefix + name: array for name, array in part.items()}

    refused(tmp_path, interrupted("early stop"), "early stop", change_arrays, message)


def refused(folder, directory, case, change, message):
    shutil.copytree(directory, folder, dirs_exist_ok=True)
    test_finding.forge(folder, change)
    before = test_finding.contents(folder)
    with pytest.raises(ValueError, match=f"not a valid search file: .*{message}"):
        find(CALLBACKS[case](), folder)
    assert test_finding.contents(folder) == before
