"""Frontiers of several seeds, whose tasks run in other processes."""

import argparse
import concurrent.futures
import copy
import json
import multiprocessing
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets.search import executors, frontier_runner, lock
from tf_tickets.search.executors import packing, ray_executor
from tf_tickets.search.frontier_tasks import SearchTask, Settings
from tf_tickets_cli import choices, frontier, main
from tf_tickets_cli.settings import Setting

SEEDS = [3, 4]
# It is the same on every backend.
pytestmark = pytest.mark.on("jax")


class Elsewhere(concurrent.futures.Executor):
    """Runs tasks here, but on what another process would get; the second one first.

    Args:
        fails: The names of tasks that fail.
    """

    def __init__(self, fails=()):
        self.fails = fails
        self.waiting = []
        self.names = []

    def submit(self, fn, /, *args):
        future = concurrent.futures.Future()
        self.waiting.append((future, pickle.dumps((fn, args))))
        # A driver submits all searches before it waits for one.
        if len(self.waiting) == 2 or self.names:
            while self.waiting:
                self._run(*self.waiting.pop())
        return future

    def _run(self, future, content):
        function, arguments = pickle.loads(content)
        name = arguments[-1].unpack().name
        self.names.append(name)
        try:
            if name in self.fails:
                raise ValueError(f"{name} fails")
            future.set_result(function(*arguments))
        except ValueError as error:
            future.set_exception(error)


def searches():
    return {"imp": tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")}


def find(directory=None, executor="serial", **changes):
    keras.utils.clear_session()
    settings = {"epochs": 2, "batch_size": 16, "seeds": SEEDS, **changes}
    return tt.find_frontier(
        settings.pop("build", tiny.build_without_dropout),
        tiny.splits(),
        settings.pop("searches", searches()),
        directory,
        executor=executor,
        **settings,
    )


@pytest.fixture(scope="module")
def serial(tmp_path_factory):
    directory = tmp_path_factory.mktemp("serial")
    return directory, find(directory)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    directory = tmp_path_factory.mktemp("elsewhere")
    seen = []

    class Watching(keras.callbacks.Callback):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def on_train_end(self, logs=None):
            seen.append((self.name, self.params["seconds"] > 0, "val_loss" in logs))

    executor = Elsewhere()
    table = searches()
    watch = lambda name: [Watching(name)]  # noqa: E731
    found = find(directory, executor, searches=table, watch=watch)
    return directory, found, executor, table, seen


def contents(directory):
    """Returns the bytes of all files, without those of plots."""
    files = [path for path in pathlib.Path(directory).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in files
        if path.suffix != ".png"
    }


def test_tasks_elsewhere_give_the_files_and_results_of_a_serial_run(serial, elsewhere):
    (kept, whole), (other, found, *_) = serial, elsewhere
    first, second = contents(kept), contents(other)
    assert set(first) == set(second)
    assert first["frontier.json"] == second["frontier.json"]
    assert first["trainings.json"] == second["trainings.json"]
    assert [p.ticket.id for p in found.points] == [p.ticket.id for p in whole.points]
    assert found.dense_by_seed == whole.dense_by_seed


def test_each_search_with_each_seed_has_its_folder_and_its_points(serial):
    directory, whole = serial
    assert [(p.label, p.seed, p.round) for p in whole.points] == [
        ("imp", 3, 1),
        ("imp", 4, 1),
    ]
    for seed in SEEDS:
        assert (directory / f"imp/seed_{seed}/round_01.ticket").exists()
    assert set(whole.dense_by_seed) == set(SEEDS)
    values = [metrics["val_loss"] for metrics in whole.dense_by_seed.values()]
    assert values[0] != values[1]
    assert whole.dense["val_loss"] == pytest.approx(np.mean(values))
    tickets = [point.ticket for point in whole.points]
    assert tickets[0].id != tickets[1].id
    # The seed is added to that of the search's own draws.
    assert [ticket.provenance["seed"] for ticket in tickets] == SEEDS
    assert [ticket.provenance["build_seed"] for ticket in tickets] == SEEDS


def test_each_training_is_a_task_and_watched_where_it_was_started(elsewhere):
    *_, executor, table, seen = elsewhere
    names = [f"imp seed {seed}" for seed in SEEDS]
    trainings = [f"{name} round 1" for name in names]
    dense = [f"dense seed {seed}" for seed in SEEDS]
    assert sorted(executor.names) == sorted([*names, *trainings, *dense])
    assert sorted(seen) == sorted((name, True, True) for name in executor.names)
    # The searches that were given are those of the first seed.
    assert table["imp"].complete and len(table["imp"].tickets) == 1
    assert table["imp"].tickets[0].provenance["build_seed"] == SEEDS[0]


def test_what_is_complete_is_not_trained_again(elsewhere, monkeypatch):
    directory, found, *_ = elsewhere
    before = contents(directory)
    monkeypatch.setattr(keras.Model, "fit", None)
    again = find(directory, Elsewhere())
    assert again.rows() == found.rows() and again.dense == found.dense
    assert contents(directory) == before


def test_the_dense_network_is_known_whatever_its_layers_are_numbered(
    tmp_path, monkeypatch
):
    def unnamed():
        layers = [keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(3)]
        return tiny.compiled(keras.Sequential(layers))

    def found():
        table = {"imp": tiny.imp(rounds=1, epochs_per_round=1, monitor="val_accuracy")}
        settings = {"epochs": 1, "batch_size": 16}
        return tt.find_frontier(unnamed, tiny.splits(), table, tmp_path, **settings)

    first = found()
    for _ in range(3):
        unnamed()
    monkeypatch.setattr(keras.Model, "fit", None)
    assert found().dense == first.dense


def test_failed_tasks_are_named_and_only_they_run_again(elsewhere, tmp_path):
    directory, whole, *_ = elsewhere
    failing = Elsewhere(["imp seed 4", "dense seed 3"])
    with pytest.raises(executors.TasksFailed) as caught:
        find(tmp_path, failing)
    assert set(caught.value.errors) == {"search imp seed 4", "training dense seed 3"}
    summary, text = caught.value.summary, str(caught.value)
    assert summary.startswith("2 of 5 tasks failed:\n- ")
    assert "- search imp seed 4: ValueError: imp seed 4 fails" in summary
    assert (
        str(tmp_path) in summary and "Traceback" in text and "Traceback" not in summary
    )
    assert pickle.loads(pickle.dumps(caught.value)).summary == summary
    fitted = []
    fit = keras.Model.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            keras.Model, "fit", lambda *a, **k: fitted.append(1) or fit(*a, **k)
        )
        again = find(tmp_path, Elsewhere())
    assert len(fitted) == 3
    assert again.rows() == whole.rows()
    assert contents(tmp_path)["frontier.json"] == contents(directory)["frontier.json"]


def test_a_locked_directory_is_refused_before_any_task(tmp_path):
    executor = Elsewhere()
    with lock.locked(tmp_path), pytest.raises(ValueError, match="is in use by process"):
        find(tmp_path, executor)
    assert executor.names == []


def test_a_lost_process_of_another_host_loses_its_lock_to_the_same_owner(tmp_path):
    holder = {"host": "elsewhere", "pid": 1, "started": "1", "owner": "find_frontier"}
    (tmp_path / lock.LOCK).write_text(json.dumps(holder))
    with pytest.raises(lock.LockedError), lock.locked(tmp_path):
        pass
    with lock.taken_by("find_frontier"), lock.locked(tmp_path):
        here = json.loads((tmp_path / lock.LOCK).read_text())
        assert here["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_without_a_directory_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    table = {"init": tt.PruneAtInit(0.5, 1, monitor="val_accuracy")}
    found = find(None, Elsewhere(), searches=table, seeds=None, epochs=1)
    assert [(p.label, p.seed) for p in found.points] == [("init", 0)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": []}, "at least one seed"),
        ({"seeds": [1, 1]}, "each only once"),
        ({"seed": 1, "seeds": [2]}, "`seed` or `seeds`, not both"),
        ({"seeds": [-1]}, "Received: -1"),
        ({"seeds": [True]}, "Received: True"),
        ({"executor": "dask"}, r"one of \['ray', 'serial', 'vmap'\].*Received: 'dask'"),
        ({"searches": lambda seed: {str(seed): tiny.imp()}}, "same labels"),
    ],
)
def test_bad_settings_are_refused_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        find(**changes)


@pytest.mark.parametrize("seeds", [3, "01"])
def test_seeds_of_another_type_are_refused(seeds):
    with pytest.raises(TypeError, match="`seeds` must be a list of whole numbers"):
        find(seeds=seeds)


@pytest.mark.parametrize(
    "label", ["", ".", "..", "frontier.json", "frontier.png", "trainings.json"]
)
def test_labels_that_name_no_folder_of_their_own_are_refused(label, tmp_path):
    with pytest.raises(ValueError, match="A label of `searches` names the folder"):
        find(tmp_path, searches={label: tiny.imp(rounds=1)})
    assert list(tmp_path.iterdir()) == []


def test_processes_that_fork_are_refused_and_others_are_not():
    # TensorFlow and JAX hang in a copy of a process that has used them.
    for method in ("fork", "spawn"):
        context = multiprocessing.get_context(method)
        with concurrent.futures.ProcessPoolExecutor(1, context) as processes:
            if method == "spawn":
                assert executors.get(processes) is processes
                continue
            with pytest.raises(ValueError, match="cannot fork.*get_context.'spawn'"):
                executors.get(processes)


def test_threads_are_refused():
    with (
        concurrent.futures.ThreadPoolExecutor(1) as threads,
        pytest.raises(ValueError, match="cannot run tasks in threads"),
    ):
        find(executor=threads)


def test_what_cannot_travel_is_named(tmp_path):
    rows = (row for row in [1, 2])

    def build():
        next(rows)
        return tiny.build_without_dropout()

    with pytest.raises(TypeError, match="`build_model` cannot be sent.*generator"):
        find(tmp_path, Elsewhere(), build=build)
    table = {
        "imp": tt.IMP(1, 1, 0.5, criterion=lambda weight: abs(weight) + next(rows))
    }
    with pytest.raises(TypeError, match=r"`searches\['imp'\]` cannot be sent"):
        find(tmp_path, Elsewhere(), searches=table)
    assert not (tmp_path / lock.LOCK).exists()


def test_workers_of_ray_import_from_the_same_folders_in_the_same_order(
    monkeypatch, tmp_path
):
    places = {
        name: tmp_path / name for name in ("checkout", "program", "site-packages")
    }
    for place in places.values():
        place.mkdir()
    checkout, program, installed = map(str, places.values())
    standard = os.path.dirname(os.__file__)
    monkeypatch.setenv("PYTHONPATH", checkout)
    for path in ([program, checkout], [checkout, program]):
        monkeypatch.setattr(sys, "path", [*path, standard, installed])
        found = ray_executor._environment(1)["PYTHONPATH"]
        assert found == os.pathsep.join(path)


class Sharing(tt.executors.Executor):
    """Raises what is not a TypeError for a function that cannot travel."""

    def share(self, value):
        if not packing.travels(value.build_model):
            raise RuntimeError("cannot convert a variant.")
        raise RuntimeError("out of memory")


def test_what_cannot_be_shared_is_named_whatever_is_raised(tmp_path):
    rows = (row for row in [1, 2])
    with pytest.raises(TypeError, match="`build_model` cannot be.*variant. It must"):
        find(tmp_path, Sharing(), build=lambda: next(rows))
    with pytest.raises(RuntimeError, match="out of memory"):
        find(tmp_path, Sharing())


def test_no_task_begins_if_a_later_search_cannot_travel(tmp_path):
    rows = (row for row in [1, 2])
    bad = tt.IMP(1, 1, 0.5, criterion=lambda weight: abs(weight) + next(rows))
    executor = Elsewhere()
    with pytest.raises(TypeError, match=r"`searches\['bad'\]` cannot be sent"):
        find(tmp_path, executor, searches={**searches(), "bad": bad})
    assert executor.names == [] and executor.waiting == []


def test_ray_that_could_not_be_reached_is_tried_again(monkeypatch):
    executor = tt.executors.RayExecutor(address="nowhere:1")
    ray = types.SimpleNamespace(is_initialized=lambda: False, shutdown=list)

    def init(**settings):
        raise ConnectionError(settings["address"])

    ray.init = init
    monkeypatch.setitem(sys.modules, "ray", ray)
    for _ in range(2):
        with pytest.raises(ConnectionError, match="nowhere:1"):
            executor.submit(len, [])
    executor.shutdown()


class FakeRay:
    """Remembers what it is given."""

    def __init__(self):
        self.variables = None
        self.tasks = []
        self.options = []
        self.is_initialized = lambda: self.variables is not None

    def init(self, **settings):
        self.variables = dict(os.environ)

    def shutdown(self):
        self.variables = None

    def remote(self, function):
        def options(**given):
            self.options.append(given)
            return types.SimpleNamespace(remote=lambda: self.tasks.append(function))

        return types.SimpleNamespace(options=options)


def test_workers_that_start_here_prepare_and_share_what_jax_compiles(monkeypatch):
    cache = "JAX_COMPILATION_CACHE_DIR"
    monkeypatch.setattr(ray_executor.keras.config, "backend", lambda: "jax")
    monkeypatch.setitem(sys.modules, "jax", fake_jax(None))
    monkeypatch.setitem(sys.modules, "ray", ray := FakeRay())
    before = dict(os.environ)
    with tt.executors.RayExecutor(workers=3, threads=2) as executor:
        executor.start()
        assert ray.variables["NPROC"] == "2"
        folder = pathlib.Path(ray.variables[cache])
        assert list(folder.iterdir()) == []
        assert ray.tasks == [ray_executor._prepare] * 3
        assert not any("runtime_env" in each for each in ray.options)
        assert {name: os.environ.get(name) for name in before} == before
        assert set(os.environ) - set(before) <= {
            "RAY_USAGE_STATS_ENABLED",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO",
        }
    assert not folder.exists()


@pytest.mark.parametrize("sizes", [{"workers": 2}, {"object_store_memory": 10**8}])
def test_sizes_are_refused_if_the_environment_names_a_cluster(sizes, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray := FakeRay())
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ValueError, match="unset RAY_ADDRESS.*RAY_ADDRESS='auto'"):
        tt.executors.RayExecutor(**sizes).start()
    assert ray.variables is None
    ray.variables = {}
    with pytest.raises(ValueError, match="already running.*Received: RayExecutor"):
        tt.executors.RayExecutor(**sizes).start()


def fake_jax(folder):
    config = types.SimpleNamespace(jax_compilation_cache_dir=folder)
    return types.SimpleNamespace(config=config)


@pytest.mark.parametrize("backend", ["jax", "tensorflow"])
def test_a_folder_of_compiled_programs_is_made_only_if_it_is_used(backend, monkeypatch):
    monkeypatch.setattr(ray_executor.keras.config, "backend", lambda: backend)
    monkeypatch.setitem(sys.modules, "jax", fake_jax("own"))
    executor = tt.executors.RayExecutor()
    used = {"JAX_COMPILATION_CACHE_DIR": "own"} if backend == "jax" else {}
    assert executor._cache() == used and executor._compiled is None


def test_a_ray_that_was_there_before_gets_variables_with_each_task(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ray := FakeRay())
    ray.variables = {}
    tt.executors.RayExecutor().start()
    [options] = ray.options
    assert options["runtime_env"]["env_vars"]["NPROC"] == "1" and ray.tasks == []


def test_long_searches_begin_first_and_two_of_a_new_method_are_apart():
    table = {
        "cs a": tt.ContinuousSparsification(1, 2),
        "imp a": tt.IMP(2, 4, 0.5),
        "cs b": tt.ContinuousSparsification(1, 2),
        "imp b": tt.IMP(2, 4, 0.5),
        "iss": tt.StochasticSparsification(1, 3),
        "cs c": tt.ContinuousSparsification(1, 2),
    }
    tasks = [SearchTask(name, name, 0, each, name) for name, each in table.items()]
    names = [task.name for task in frontier_runner._longest_first(tasks)]
    assert names == ["imp a", "iss", "imp b", "cs a", "cs b", "cs c"]
    alone = [task for task in tasks if task.name.startswith("imp")]
    assert frontier_runner._longest_first(alone) == alone


def test_the_settings_of_keras_travel():
    settings = packing.Packed(Settings.present(), {})
    keras.config.set_dtype_policy("mixed_bfloat16")
    other = packing.Packed(Settings.present(), {})
    settings.unpack().apply()
    assert keras.config.dtype_policy().name == "float32"
    other.unpack().apply()
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    wrong = Settings("numpy", {}, {})
    with pytest.raises(ValueError, match="KERAS_BACKEND=numpy"):
        wrong.apply()


def test_the_scope_and_the_switches_of_keras_travel():
    def own(x):
        return x

    keras.config.disable_flash_attention()
    try:
        with keras.saving.custom_object_scope({"own": own, "not": (i for i in "ab")}):
            content = packing.Packed(Settings.present(), {})
    finally:
        keras.config.enable_flash_attention()
    arrived = content.unpack()
    assert list(arrived.scoped) == ["own"] and arrived.scoped["own"](3) == 3
    arrived.apply()
    assert keras.config.is_flash_attention_enabled() is False
    Settings.present().apply()
    assert keras.config.is_flash_attention_enabled() is False
    keras.config.enable_flash_attention()
    Settings.present().apply()
    assert keras.config.is_flash_attention_enabled() is None


def test_classes_of_a_program_are_registered_where_settings_arrive():
    class Own(keras.layers.Layer):
        pass

    settings = Settings(keras.backend.backend(), {}, {"own>Own": Own})
    content = packing.Packed(settings, {})
    assert keras.saving.get_registered_object("own>Own") is None
    arrived = content.unpack().objects["own>Own"]
    assert keras.saving.get_registered_object("own>Own") is arrived
    keras.saving.get_custom_objects().pop("own>Own")


def test_the_command_line_limits_the_same_threads():
    assert dict.fromkeys(choices.THREADS, "2") == executors.thread_variables(2)
    assert {*choices.EXECUTORS} == {"serial", "ray", "vmap"}


@pytest.mark.parametrize("option", ["--workers=2", "--address=auto"])
def test_the_command_line_refuses_options_of_ray_without_ray(option, capsys):
    assert main.main(["frontier", option]) == 2
    said = capsys.readouterr().err
    name, value = option.split("=")
    assert f"{name} belongs to --executor ray" in said
    assert f"Received: {name} {value} with --executor serial" in said


@pytest.mark.parametrize("options, width", [((), 8), (("--workers=3",), 3)])
def test_the_command_line_sets_the_width_of_vmap(options, width):
    parser = argparse.ArgumentParser()
    frontier.add_arguments(parser)
    given = parser.parse_args(["--executor=vmap", *options])
    assert repr(frontier._executor(given)) == f"VmapExecutor(width={width})"


def test_the_command_line_refuses_an_address_with_vmap(capsys):
    assert main.main(["frontier", "--executor=vmap", "--address=auto"]) == 2
    said = capsys.readouterr().err
    assert "Received: --address auto with --executor vmap" in said


def test_the_command_line_refuses_a_width_of_vmap_that_is_none(capsys):
    assert main.main(["frontier", "--executor=vmap", "--workers=0"]) == 2
    assert (
        "`--workers` must be a whole number of 1 or more. Received: 0"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "options, message",
    [
        (("--seeds", "0", "0"), "only once. Received: --seeds 0 0"),
        (("--executor=ray", "--workers=4"), "--workers 4 with the cluster auto"),
    ],
)
def test_the_command_line_refuses_before_it_trains_teachers(
    options, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    command = ["frontier", "--methods", "imp", "kdlts", *options, f"--out={tmp_path}"]
    assert main.main(command) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.matrix
def test_the_command_line_compares_in_one_program(tmp_path):
    few = {"take": 64, "epochs": 1, "batch-size": 32, "width": 0.05, "rounds": 1}
    options = [f"--{name}={value}" for name, value in few.items()]
    command = [sys.executable, "-m", "tf_tickets_cli", "frontier", *options]
    command += ["--methods", "imp", "--seeds", "0", "1", "--executor=vmap"]
    said = subprocess.run(
        [*command, f"--out={tmp_path}"], capture_output=True, text=True, timeout=600
    )
    if keras.config.backend() != "jax":
        assert said.returncode == 2 and "needs the backend jax" in said.stderr
        return
    assert (said.returncode, said.stderr) == (0, "")
    assert sorted(first_words(said.stdout, "imp")) == ["imp seed 0", "imp seed 1"]
    found = tt.Frontier.load(tmp_path / "frontier.json")
    assert {p.ticket.provenance["executor"] for p in found.points} == {"vmap"}


def test_the_networks_of_the_command_line_travel():
    setting = Setting("digits", "lenet300", options={"take": 64, "width": 0.05})
    build = packing.Packed(setting.seeded(1).build_model, {}).unpack()
    assert build().count_params() == setting.build_model().count_params()


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'tf_tickets\[ray\]'"):
        tt.executors.RayExecutor().submit(len, [])


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"address": "auto", "workers": 2}, "`workers` are those of a Ray instance"),
        ({"workers": 0}, "`workers`.*Received: 0"),
        ({"gpus": -1.0}, "`gpus` must be at least 0"),
    ],
)
def test_settings_of_ray_are_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        tt.executors.RayExecutor(**settings)


def teacher():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])


X, Y = np.ones((8, 4)), np.ones(8)
STOP = keras.callbacks.EarlyStopping("loss", patience=7)
SEARCHES = {
    "IMP": lambda: tt.IMP(2, 1, 0.5, "2 steps").in_round(STOP),
    "ThresholdPruning": lambda: tt.ThresholdPruning(2, 1),
    "PruneAtInit": lambda: tt.PruneAtInit(0.5, 1, criterion=tt.saliency.SNIP(X, Y)),
    "ContinuousSparsification": lambda: tt.ContinuousSparsification(2, 1),
    "StochasticSparsification": lambda: tt.StochasticSparsification(2, 1),
    "Supermask": lambda: tt.Supermask(2),
    "DLTH": lambda: tt.DLTH(0.75, 2, 1, 1, train="each"),
    "UniLTH": lambda: tt.UniLTH(0.75, 2, 1, 1, 1, train="each"),
    "UniDLTH": lambda: tt.UniDLTH(0.75, 2, 1, 1, 1, train="each"),
    "KDLTS": lambda: tt.KDLTS(0.75, 2).taught_by(teacher(), epochs=5),
}


def test_every_search_is_tried():
    public = [vars(tt)[name] for name in tt.__all__]
    kinds = {x.__name__ for x in public if isinstance(x, type)}
    bases = {kind.__name__ for kind in tt.TicketSearch.__mro__}
    found = {n for n in kinds if issubclass(vars(tt)[n], tt.TicketSearch)} - bases
    assert found == set(SEARCHES)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_copy_of_a_search_has_its_settings_and_companions(name):
    search = SEARCHES[name]()
    before = search.engine.origin()
    for other in (
        pickle.loads(pickle.dumps(search)),
        copy.copy(search),
        copy.deepcopy(search),
        search.copied(),
    ):
        assert type(other) is type(search) and other is not search
        assert json.dumps(other.engine.origin()) == json.dumps(before)
        assert other.engine.plan is not search.engine.plan
        callbacks = list(other.engine.callbacks)
        assert [c.patience for c in callbacks] == [7] * (name == "IMP")
        assert not any(c is STOP for c in callbacks)
    assert search.copied(monitor="loss").monitor.metric == "loss"
    with pytest.raises(ValueError, match=r"has no settings \['speed'\]"):
        search.copied(speed=1)


def test_a_copy_of_a_taught_search_has_the_same_teachers():
    search = SEARCHES["KDLTS"]()
    [model] = search.engine.plan.teachers
    assert search.copied().engine.plan.teachers == [model]
    other = pickle.loads(pickle.dumps(search)).engine.plan
    assert other.teacher_epochs == 5
    for one, two in zip(
        other.teachers[0].get_weights(), model.get_weights(), strict=True
    ):
        assert one.tobytes() == two.tobytes()


# With Ray itself, whose processes take their time.


PROGRAM = pathlib.Path(__file__).with_name("in_ray.py")
LINES = [
    "[('imp', 0, 1), ('imp', 0, 2), ('imp', 1, 1), ('imp', 1, 2), "
    "('taught', 0, 1), ('taught', 1, 1)]",
    "[2, 1]",
]


def program(*words):
    """Starts the program with one thread per computation."""
    variables = {**os.environ, **executors.thread_variables(1)}
    for name in ("XLA_FLAGS", "JAX_COMPILATION_CACHE_DIR"):
        variables.pop(name, None)
    return subprocess.Popen(
        [sys.executable, "-W", "error::UserWarning", str(PROGRAM), *map(str, words)],
        env={**variables, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )


def assert_complete(process, is_silent=True):
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    # Ray itself says that a worker was killed.
    assert said.splitlines()[0 if is_silent else -len(LINES) :] == LINES


@pytest.fixture(scope="module")
def of_one_process(tmp_path_factory):
    directory = tmp_path_factory.mktemp("one")
    assert_complete(program("serial", directory))
    return contents(directory)


def assert_the_same_files(directory, expected):
    present = contents(directory)
    assert set(present) == set(expected)
    assert [name for name in expected if present[name] != expected[name]] == []


@pytest.fixture
def with_ray():
    pytest.importorskip("ray")


@pytest.mark.matrix
@pytest.mark.parametrize("fault", [None, "worker"])
def test_ray_gives_the_same_bytes(fault, of_one_process, tmp_path, with_ray):
    faults = tmp_path / "faults"
    faults.mkdir()
    if fault:
        (faults / fault).touch()
    process = program("ray", tmp_path / "found", faults)
    assert_complete(process, is_silent=fault is None)
    assert [path.name for path in faults.iterdir()] == ["starts"]
    starts = sorted((faults / "starts").read_text().split())
    # One search goes on after its first round of two epochs.
    assert starts == ["0"] * 4 + ["2"] * bool(fault)
    assert_the_same_files(tmp_path / "found", of_one_process)


@pytest.mark.matrix
def test_a_killed_driver_is_restarted_and_goes_on(of_one_process, tmp_path, with_ray):
    faults, directory = tmp_path / "faults", tmp_path / "found"
    faults.mkdir()
    (faults / "waits").touch()
    process = program("ray", directory, faults)
    end = time.monotonic() + 300
    while not (faults / "waiting").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (directory / lock.LOCK).exists()
    assert not (directory / "frontier.json").exists()
    assert list(directory.glob("imp/seed_*/round_01.ticket"))
    (faults / "starts").unlink()
    assert_complete(program("ray", directory, faults))
    # The search that waited had ended its first round of two epochs.
    starts = (faults / "starts").read_text().split()
    assert "2" in starts and len(starts) <= 4
    assert_the_same_files(directory, of_one_process)


@pytest.mark.matrix
def test_ctrl_c_cancels_tasks_and_leaves_what_is_complete(tmp_path, with_ray):
    faults, directory = tmp_path / "faults", tmp_path / "found"
    faults.mkdir()
    (faults / "waits").touch()
    process = program("ray", directory, faults)
    end = time.monotonic() + 300
    while not (faults / "waiting").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not (directory / lock.LOCK).exists()
    assert list(directory.glob("imp/seed_*/round_01.ticket"))


def first_words(said, word):
    """Returns the first three words of the lines about a training."""
    lines = [line for line in said.splitlines() if line.startswith(f"{word} seed")]
    return [" ".join(line.replace(",", "").split()[:3]) for line in lines]


@pytest.mark.matrix
def test_the_command_line_runs_in_ray_and_goes_on(tmp_path, with_ray):
    few = {"take": 64, "epochs": 1, "batch-size": 32, "width": 0.05, "rounds": 1}
    options = [f"--{name}={value}" for name, value in few.items()]
    methods = ["--methods", "imp", "kdlts", "--sparsities", "0.8", "--seeds", "0", "1"]
    command = [sys.executable, "-m", "tf_tickets_cli", "frontier", *options, *methods]
    command += ["--executor=ray", "--workers=2", f"--out={tmp_path}"]
    said = [
        subprocess.run(command, capture_output=True, text=True, timeout=600)
        for _ in range(2)
    ]
    assert [(each.returncode, each.stderr) for each in said] == [(0, "")] * 2
    first, second = (each.stdout for each in said)
    # In any order; tickets of "imp" are not trained again.
    assert sorted(first_words(first, "imp")) == ["imp seed 0", "imp seed 1"]
    assert sorted(first_words(first, "dense")) == ["dense seed 0", "dense seed 1"]
    assert first_words(second, "dense") == []
    tables = [
        [line for line in each.splitlines() if "  epoch " not in line]
        for each in (first, second)
    ]
    assert tables[0] == tables[1] and len(tables[0]) > 5
