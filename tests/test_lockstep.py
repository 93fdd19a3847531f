"""Several networks that are trained in one program."""

import json
import random
import shutil
import threading

import keras
import numpy as np
import pytest
import tiny
from keras import callbacks

import tf_tickets as tt
from tf_tickets.search import frontier_runner, lockstep
from tf_tickets.search.lockstep import checks
from tf_tickets.search.ticket_trainer import TicketTrainer

pytestmark = [
    pytest.mark.turns("jax"),
    pytest.mark.skipif(keras.config.backend() != "jax", reason="vmap needs JAX"),
]
TOLERANCE = 1e-5


def find(executor, searches, directory=None, **changes):
    settings = {"seeds": [3, 4], "epochs": 2, "batch_size": 16, **changes}
    return tt.find_frontier(
        settings.pop("build", tiny.build_compiled),
        settings.pop("data", tiny.splits()),
        searches,
        directory,
        executor=executor,
        **settings,
    )


def assert_close(one, other):
    assert [(p.label, p.seed, p.round) for p in one.points] == [
        (p.label, p.seed, p.round) for p in other.points
    ]
    for first, second in zip(one.points, other.points, strict=True):
        assert first.sparsity == second.sparsity
        assert first.metrics == pytest.approx(second.metrics, abs=TOLERANCE)
        masks = second.ticket.masks
        for mask, (name, expected) in zip(
            first.ticket.masks.values(), masks.items(), strict=True
        ):
            assert (mask == expected).all(), name
    for seed, metrics in one.dense_by_seed.items():
        assert metrics == pytest.approx(other.dense_by_seed[seed], abs=TOLERANCE)


def counted(patch):
    """Returns a list that gets the number of networks of each program that runs."""
    widths = []
    run = lockstep.group.Programs.run
    patch.setattr(
        lockstep.group.Programs,
        "run",
        lambda self, works: widths.append(len(works)) or run(self, works),
    )
    return widths


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    place = tmp_path_factory.mktemp("lockstep")
    # The second one has the same step as the first.
    table = {
        "imp": tiny.imp(rounds=2, epochs_per_round=1, monitor="val_accuracy"),
        "faster": tiny.imp(
            rounds=1, epochs_per_round=1, rate=0.8, monitor="val_accuracy"
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        widths = counted(patch)
        found = find("vmap", table, place / "vmap")
    serial = find("serial", {k: s.copied() for k, s in table.items()})
    return serial, found, widths, place / "vmap"


def test_results_are_those_of_a_serial_run(both):
    serial, found, *_ = both
    assert_close(found, serial)


def test_seeds_and_searches_with_the_same_step_share_a_program(both):
    *_, widths, _ = both
    assert max(widths) == 6


def test_the_provenance_names_the_executor(both):
    serial, found, *_ = both
    assert found.provenance["executor"] == "vmap"
    assert "executor" not in serial.provenance
    assert {p.ticket.provenance["executor"] for p in found.points} == {"vmap"}


def test_what_is_complete_is_only_loaded(both, monkeypatch):
    _, found, _, directory = both
    monkeypatch.setattr(lockstep.group.Programs, "run", None)
    table = {
        "imp": tiny.imp(rounds=2, epochs_per_round=1, monitor="val_accuracy"),
        "faster": tiny.imp(
            rounds=1, epochs_per_round=1, rate=0.8, monitor="val_accuracy"
        ),
    }
    again = find("vmap", table, directory)
    assert again.rows() == found.rows()


def test_what_was_trained_in_lockstep_is_named_by_whoever_reads_it(both, tmp_path):
    _, found, _, directory = both
    shutil.copytree(directory, tmp_path, dirs_exist_ok=True)
    table = {
        "imp": tiny.imp(rounds=2, epochs_per_round=1, monitor="val_accuracy"),
        "faster": tiny.imp(
            rounds=1, epochs_per_round=1, rate=0.8, monitor="val_accuracy"
        ),
    }
    again = find("serial", table, tmp_path)
    assert again.provenance["executor"] == "vmap" and again.rows() == found.rows()
    more = find("serial", table, tmp_path, seeds=[3, 4, 5])
    assert more.provenance["executor"] == "vmap in part"


@pytest.mark.on("jax")
def test_finished_trainings_are_kept_if_a_later_one_is_interrupted(
    tmp_path, monkeypatch
):
    run, calls = lockstep.Group.run, []

    def interrupted(self, functions, ended):
        calls.append(len(functions))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(self, functions, ended)

    executor = tt.executors.VmapExecutor(1)
    one = {"imp": tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lockstep.Group, "run", interrupted)
        find(executor, one, tmp_path)
    # Two searches, then the first dense network.
    assert calls == [1, 1, 1, 1]
    kept = json.loads((tmp_path / "trainings.json").read_text())
    assert "dense seed 3" in json.dumps(kept)
    # The executor goes on, past the tasks that were cancelled, and past another's.
    other = executor.submit(len, "abc")
    found = find(executor, one, tmp_path)
    assert len(found.dense_by_seed) == 2 and other.result() == 3


@pytest.mark.on("jax")
def test_what_ended_in_time_is_kept_if_those_beside_it_are_interrupted(
    tmp_path, monkeypatch
):
    """The search of six epochs is interrupted; the dense network had two."""
    run, epochs = lockstep.group.Programs.run, []

    def interrupted(self, works):
        epochs.append(works[0].kind == "train")
        if sum(epochs) > 4:
            raise KeyboardInterrupt
        return run(self, works)

    monkeypatch.setattr(lockstep.group.Programs, "run", interrupted)
    long = {"imp": tiny.imp(rounds=2, epochs_per_round=2, monitor="val_accuracy")}
    with pytest.raises(KeyboardInterrupt):
        find("vmap", long, tmp_path, seeds=[3], epochs=1)
    assert "dense seed 3" in (tmp_path / "trainings.json").read_text()


@pytest.mark.on("jax")
def test_without_a_directory_nothing_is_said_to_be_kept(monkeypatch):
    def fails(self):
        raise ValueError("no dense network")

    monkeypatch.setattr(TicketTrainer, "dense_ticket", fails)
    one = {"imp": tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")}
    with pytest.raises(tt.executors.TasksFailed) as caught:
        find("vmap", one, seeds=[3])
    assert caught.value.summary.splitlines() == [
        "1 of 3 tasks failed:",
        "- training dense seed 3: ValueError: no dense network",
    ]


@pytest.mark.on("jax")
def test_an_executor_forgets_the_data_of_a_frontier():
    """Arrays that are changed in place are other data, under the same ids."""
    (x, y), validation, _ = tiny.splits()
    executor = tt.executors.VmapExecutor()

    def dense(executor):
        table = {"imp": tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")}
        found = find(executor, table, data=((x, y), validation), seeds=[3])
        return found.dense_by_seed[3]["loss"]

    first = dense(executor)
    programs = executor._group.programs
    assert not programs._digests and not programs._data and programs._programs
    x *= -1
    assert dense(executor) == dense(tt.executors.VmapExecutor()) != first


@pytest.mark.matrix
def test_learned_masks_are_those_of_a_serial_run():
    cs = tt.ContinuousSparsification(1, 2, monitor="val_accuracy")

    def table():
        iss = tt.StochasticSparsification(1, 2, monitor="val_accuracy")
        return {**cs.varied(initial_score=[-0.1, 0.1]), "iss": iss}

    assert_close(find("vmap", table()), find("serial", table()))


@pytest.mark.matrix
@pytest.mark.parametrize("shared", [True, False])
def test_a_search_with_teachers_is_that_of_a_serial_run(shared, monkeypatch):
    def search(teacher):
        return tt.KDLTS(0.75, 2, monitor="val_accuracy").taught_by(teacher, epochs=3)

    def table(seed):
        return {"kdlts": search(teachers[0 if shared else seed])}

    teachers = {seed: tiny.build_compiled() for seed in (0, 3, 4)}
    for teacher in teachers.values():
        teacher.fit(*tiny.splits()[0], epochs=3, verbose=0)
    widths = counted(monkeypatch)
    found = find("vmap", table)
    # Teachers are constants of a step, so other teachers make another program.
    assert set(widths) == ({2} if shared else {1, 2})
    assert_close(found, find("serial", table))


class Counting(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


class Own(keras.Model):
    def train_step(self, *arguments):
        return super().train_step(*arguments)


def own():
    inputs = keras.Input((8,))
    model = Own(inputs, keras.layers.Dense(3)(inputs))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True), ["accuracy"])
    return model


def eager():
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, ["accuracy"], run_eagerly=True)
    return model


X, Y = np.ones((16, 8), "float32"), np.zeros(16, int)
STREAM = tt.TrainingData(lambda key: iter([(X, Y)]), (X, Y), steps_per_epoch=1)


@pytest.mark.on("jax")
@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"callbacks": [Counting(), callbacks.ModelCheckpoint("a.keras")]},
            "within an epoch.*Received: Counting with on_train_batch_end$",
        ),
        (
            {"callbacks": [callbacks.ModelCheckpoint("a.keras", save_freq=2)]},
            "within an epoch.*Received: ModelCheckpoint with save_freq=2",
        ),
        (
            {"callbacks": [callbacks.TensorBoard("logs", update_freq="batch")]},
            "within an epoch.*Received: TensorBoard with on_train_batch_begin",
        ),
        (
            {"callbacks": [callbacks.CSVLogger("log.csv")]},
            "mix their lines.*watch=lambda name.*Received: .* the file log.csv",
        ),
        (
            {"searches": {"a": tiny.imp(rounds=1, rewind_to="2 steps")}},
            r"searches\['a'\] cannot record.*Received: rewind_to='2 steps'",
        ),
        ({"build": own, "data": ((X, Y), (X, Y))}, "own train_step.*Received: Own"),
        ({"build": eager, "data": ((X, Y), (X, Y))}, "runs eagerly.*run_eagerly=False"),
        ({"verbose": 1}, "prints no bars of `fit`.*Received: verbose=1"),
        (
            {"data": STREAM, "batch_size": None},
            "data as arrays.*Received: {'train'",
        ),
    ],
)
def test_what_cannot_be_in_lockstep_is_refused_by_name(changes, message):
    searches = changes.pop("searches", {"imp": tiny.imp(rounds=1)})
    with pytest.raises(ValueError, match=message):
        find("vmap", searches, **changes)


def by_seed(first, second):
    """Returns a function from the seeds 3 and 4 to searches."""
    return lambda seed: {"a": first if seed == 3 else second}


class Eager(tt.IMP):
    """Runs eagerly if it prunes much."""

    def wrap(self, model, *arguments, **settings):
        wrapped = super().wrap(model, *arguments, **settings)
        wrapped.run_eagerly = self.rate > 0.5
        return wrapped


@pytest.mark.on("jax")
@pytest.mark.parametrize(
    "second, message",
    [
        (
            tiny.imp(rounds=1, rewind_to="2 steps"),
            r"searches\(4\)\['a'\] cannot record.*Received: rewind_to='2 steps'",
        ),
        (Eager(1, 1, rate=0.8), r"the model of searches\(4\)\['a'\] runs eagerly"),
    ],
    ids=["steps", "model"],
)
def test_the_searches_of_every_seed_are_checked_before_any_training(
    second, message, monkeypatch
):
    monkeypatch.setattr(lockstep.group.Programs, "run", None)
    with pytest.raises(ValueError, match=message):
        find("vmap", by_seed(Eager(1, 1, rate=0.3), second))


class Stop(Exception):
    pass


def stop(self, tables):
    raise Stop


@pytest.mark.on("jax")
@pytest.mark.parametrize(
    "executor, seeds",
    [("vmap", [3]), (tt.executors.VmapExecutor(1), [3, 4])],
    ids=["one network", "one at a time"],
)
def test_networks_that_are_trained_alone_may_have_one_file(
    executor, seeds, monkeypatch
):
    monkeypatch.setattr(frontier_runner._Driver, "run", stop)
    log = callbacks.CSVLogger("log.csv")
    with pytest.raises(Stop):
        find(executor, {"a": tiny.imp(rounds=1)}, seeds=seeds, callbacks=[log])


@pytest.mark.on("jax")
@pytest.mark.parametrize("is_function", [False, True])
def test_a_model_is_built_once_for_searches_that_wrap_it_alike(
    is_function, monkeypatch
):
    built = []

    def build():
        built.append(1)
        return tiny.build_compiled()

    def table(seed):
        return {"imp": tiny.imp(rounds=1), "faster": tiny.imp(rounds=1, rate=0.8)}

    monkeypatch.setattr(frontier_runner._Driver, "run", stop)
    with pytest.raises(Stop):
        find("vmap", table if is_function else table(3), build=build, seeds=[3, 4, 5])
    # One to look for convolutions.
    assert len(built) == 1 + 2


def followed(executor, folder, *more):
    """Returns a frontier of one search, and the files of its callbacks."""
    folder.mkdir()
    kept = callbacks.ModelCheckpoint(
        str(folder / "{epoch}.weights.h5"), save_weights_only=True
    )
    table = {"imp": tiny.imp(rounds=1, epochs_per_round=2, monitor="val_accuracy")}

    def watch(name):
        return [callbacks.CSVLogger(str(folder / f"{name}.csv"))]

    every = [kept, callbacks.ProgbarLogger(), *more]
    found = find(executor, table, seeds=[3], callbacks=every, watch=watch)
    return found, {file.name: file for file in folder.glob("*.*")}


def weights_of(file):
    model = tt.wrap(tiny.build(), verbose=False)
    model.load_weights(file)
    return model.get_weights()


@pytest.mark.on("jax")
def test_callbacks_of_epochs_do_what_they_do_in_a_serial_run(tmp_path, capsys):
    serial, expected = followed("serial", tmp_path / "serial")
    found, files = followed("vmap", tmp_path / "vmap")
    assert_close(found, serial)
    assert set(files) == set(expected)
    epochs = [f"{number}.weights.h5" for number in (1, 2, 3, 4)]
    assert set(files) == {*epochs, "imp seed 3.csv", "dense seed 3.csv"}
    for name in epochs:
        for one, other in zip(
            *map(weights_of, (files[name], expected[name])), strict=True
        ):
            np.testing.assert_allclose(one, other, atol=TOLERANCE)
    for name in ("imp seed 3.csv", "dense seed 3.csv"):
        one, other = (
            np.loadtxt(each[name], delimiter=",", skiprows=1)
            for each in (files, expected)
        )
        np.testing.assert_allclose(one, other, atol=TOLERANCE)
    assert "Epoch" not in capsys.readouterr().out


@pytest.mark.matrix
def test_tensorboard_gets_the_numbers_of_epochs(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.util import tensor_util

    logs = tmp_path / "logs"
    found, _ = followed("vmap", tmp_path / "vmap", callbacks.TensorBoard(str(logs)))
    events = event_accumulator.EventAccumulator(str(logs / "validation"))
    events.Reload()
    rows = events.Tensors("epoch_accuracy")
    assert [row.step for row in rows] == [0, 1, 2, 3]
    last = tensor_util.make_ndarray(rows[-1].tensor_proto)
    assert last == pytest.approx(found.points[-1].ticket.metrics["val_accuracy"])


def scheduled():
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01

        def get_config(self):
            return {}

    return Own


@pytest.mark.on("jax")
def test_networks_have_the_settings_of_keras_where_the_frontier_is_found():
    own, seen = scheduled(), []

    def build():
        seen.append(
            (
                keras.config.is_flash_attention_enabled(),
                keras.config.is_interactive_logging_enabled(),
                keras.saving.get_registered_object("Own"),
            )
        )
        return tiny.compiled(tiny.build(), keras.optimizers.SGD(own()))

    table = {"imp": tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")}
    keras.config.disable_flash_attention()
    keras.config.disable_interactive_logging()
    try:
        # A copy of the optimizer is made from its configuration, which names the class.
        with keras.saving.custom_object_scope({"Own": own}):
            found = find("vmap", table, build=build, seeds=[3], epochs=1)
    finally:
        keras.config.enable_flash_attention()
        keras.config.enable_interactive_logging()
    assert len(found.points) == 1
    assert len(seen) > 3 and set(seen) == {(False, False, own)}


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="needs the backend jax.*tensorflow"):
        checks.check_backend()


@pytest.mark.on("jax")
def test_convolutions_on_a_cpu_give_a_warning(monkeypatch):
    monkeypatch.setattr(checks, "_is_on_cpu", lambda: True)
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(1, 3, name="first")]
    with pytest.warns(UserWarning, match="has convolutions: first. On a CPU"):
        checks.warn_of_convolutions(keras.Sequential(layers))
    monkeypatch.setattr(checks, "_is_on_cpu", lambda: False)
    checks.warn_of_convolutions(keras.Sequential(layers))


@pytest.mark.on("jax")
def test_a_step_that_cannot_be_compiled_ends_its_member_alone():
    group = lockstep.Group()

    def waits(work):
        lockstep.present()._wait_for(work)
        return work

    def key(work):
        if work == "bad":
            raise TypeError("no such step")
        return "step"

    group.programs.key, done = key, []
    group.programs.run = done.extend
    bad, good = group.run([lambda: waits("bad"), lambda: waits("good")])
    assert isinstance(bad, TypeError) and good == "good" and done == ["good"]


@pytest.mark.on("jax")
def test_a_program_that_fails_ends_its_networks_and_says_so():
    group = lockstep.Group()
    group.programs.key = lambda work: work.rstrip("12")

    def run(works):
        if works != ["good"]:
            raise MemoryError("no memory left\nfor 9 bytes")

    def waits(work):
        lockstep.present()._wait_for(work)
        return work

    group.programs.run = run
    calls = [lambda work=work: waits(work) for work in ("bad1", "good", "bad2")]
    first, good, second = group.run(calls)
    assert good == "good" and first is not second
    for error in (first, second):
        assert str(error).splitlines()[0] == (
            "2 networks were trained by one program, which failed: MemoryError: no "
            "memory left"
        )
        assert "VmapExecutor(width=...)" in str(error)
        assert isinstance(error.__cause__, MemoryError)
    [alone] = group.run([lambda: waits("bad1")])
    assert isinstance(alone, MemoryError)


@pytest.mark.on("jax")
def test_each_member_draws_from_its_own_generators():
    group = lockstep.Group()
    group.programs.key = group.programs.run = lambda work: None

    def draws(seed, waits):
        random.seed(seed)
        np.random.seed(seed)
        if waits:
            lockstep.present()._wait_for("work")
        return random.random(), np.random.rand()

    alone = [draws(seed, False) for seed in (0, 1)]
    assert group.run([lambda: draws(0, True), lambda: draws(1, True)]) == alone


@pytest.mark.on("jax")
def test_an_error_ends_its_member_alone_and_an_interruption_ends_all():
    before = threading.active_count()

    def fails():
        raise ValueError("mine")

    first, second = lockstep.Group().run([fails, lambda: 2])
    assert isinstance(first, ValueError) and second == 2
    group = lockstep.Group()
    ended = []

    def waits():
        try:
            lockstep.present()._wait_for(object())
        finally:
            ended.append(1)

    def interrupt(work):
        raise KeyboardInterrupt

    group.programs.key = interrupt
    with pytest.raises(KeyboardInterrupt):
        group.run([waits, waits])
    assert ended == [1, 1] and threading.active_count() == before
