"""Compares all methods of the library on MNIST-1D, and looks into the tickets' masks.

    KERAS_BACKEND=jax python benchmarks/mnist1d_tickets.py
    KERAS_BACKEND=jax python benchmarks/mnist1d_tickets.py --status
    KERAS_BACKEND=jax python benchmarks/mnist1d_tickets.py --collect

The network is the residual MLP of "Scaling down deep learning" (Greydanus and Kobak
2024) with 100 units in each of two hidden layers. All methods of a seed start from the
same weights, and every ticket is trained for the same number of epochs. The default
settings run first. Then settings are tried with the seeds 100 and 101 on validation
signals, and the best one of each method runs with the seeds 0 to 9. Test accuracies
are those after the last epoch.

Each run writes one JSON file into `benchmarks/results/mnist1d`, and is skipped where
that file exists. Run the same command again to resume. `--collect` computes means,
intervals and paired tests from the files, and draws the pictures.

The script is not named mnist1d.py, since Python would import it in place of the
package mnist1d.
"""

import argparse
import datetime
import functools
import gc
import itertools
import json
import os
import pathlib
import resource
import sys
import time
import traceback

HERE = pathlib.Path(__file__).parent
RUNS = HERE / "runs" / "mnist1d"
RESULTS = HERE / "results" / "mnist1d"

# Compiled steps are kept on disk: compiling takes longer than training.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(RUNS / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

EPOCHS = 20
BATCH = 100
STEPS = 40  # of an epoch
LEARNING_RATE = 5e-3
# IMP reaches 50.1, 68.4, 80.0, 90.0, 95.0, 96.8 and 98.0 % in these rounds.
RATE = 1 - 0.1**0.1
CHOSEN = (3, 5, 7, 10, 13, 15, 17)
ROUNDS = CHOSEN[-1]
LEVELS = tuple(1 - (1 - RATE) ** round_ for round_ in CHOSEN)
# Epochs of the teachers of KDLTS.
TEACHERS = (2, 5, 10)
SEEDS = tuple(range(10))
TRIED = (100, 101)
# Rounds whose mean validation accuracy selects a setting: 90, 95 and 98 %.
SELECTING = (10, 13, 17)
# A process that has grown larger replaces itself: Keras frees no compiled functions.
MOST_MEMORY = 3 * 2**20  # KiB


class Terms:
    """Data, network and training that all methods of a seed share."""

    def __init__(self, seed, quick=False):
        self.seed = seed
        self.quick = quick
        self.tries = seed in TRIED
        self.epochs = 2 if quick else EPOCHS
        # Epochs of a ticket's own training.
        self.final = self.epochs
        self.chosen = CHOSEN
        if quick or self.tries:
            self.chosen = CHOSEN[::3] if quick else SELECTING
        self.rounds = self.chosen[-1]
        self.levels = [1 - (1 - RATE) ** round_ for round_ in self.chosen]

    @functools.cached_property
    def data(self):
        return signals(self.quick)

    @property
    def new_signals(self):
        """Training signals of another draw, to which tickets are transferred."""
        x, y = _published(3)[0]
        return (x[:200], y[:200]) if self.quick else (x, y)

    def build(self, width=1.0, learning_rate=LEARNING_RATE, sgd=None):
        import keras

        units = max(1, round(100 * width))
        signal = keras.Input((40,), name="signal")
        first = keras.layers.Dense(units, activation="relu", name="fc1")(signal)
        second = keras.layers.Dense(units, activation="relu", name="fc2")(first)
        both = keras.layers.Add(name="add")([first, second])
        logits = keras.layers.Dense(10, name="output")(both)
        model = keras.Model(signal, logits, name="mlp")
        optimizer = keras.optimizers.Adam(learning_rate)
        if sgd is not None:
            optimizer = keras.optimizers.SGD(sgd, momentum=0.9)
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=STEPS,
        )
        return model

    def trainer(self, build=None, data=None):
        import tf_tickets as tt

        build, data = build or self.build, data or self.data
        return tt.TicketTrainer(build, data, self.seed, BATCH)

    @functools.cached_property
    def usual_trainer(self):
        return self.trainer()

    def start_at(self, moment):
        """Makes tickets train only for the epochs that are left from a moment on."""
        import tf_tickets as tt

        rewind = tt.Rewind.get(moment)
        self.final = self.epochs - (rewind.count if rewind.unit == "epochs" else 0)

    def find(self, search, data=None, build=None, **options):
        import tf_tickets as tt

        build, data = build or self.build, data or self.data
        options |= {"batch_size": BATCH, "verbose": 0}
        return tt.find_tickets(build, data, search, None, self.seed, **options)

    def train(self, ticket, trainer=None):
        return (trainer or self.usual_trainer).train(ticket, self.final)

    def points(self, search, rounds=None, build=None):
        """Runs a search, and trains those of its tickets that it has not trained."""
        found = []
        for ticket in self.find(search, build=build):
            round_ = ticket.provenance["round"]
            if rounds and round_ not in rounds:
                continue
            plan, before = search.engine.plan, search.engine.epochs_before(round_)
            trained = plan.epochs_of_tickets
            metrics = ticket.metrics if trained else self.train(ticket)
            epochs = before + (trained or self.final)
            more = {"round": round_}
            residue = ticket.metrics.get("pressed_residue")
            if residue is not None:
                # What was left of the penalized weights when they were removed.
                more["residue"] = float(residue)
            found.append(point(ticket.sparsity, epochs, metrics, **more))
        return found


@functools.cache
def signals(quick=False):
    """Returns training, validation and test signals.

    The training signals are the 4,000 published ones. The test signals are the 1,000
    published ones and 4,000 that the generator draws with another seed. Another seed
    draws the validation signals.
    """
    import numpy as np

    train, test = _published(0)
    validation = _published(1)[1]
    more = _published(2)[0]
    test = tuple(np.concatenate(pair) for pair in zip(test, more, strict=True))
    found = (train, validation, test)
    return tuple((x[:200], y[:200]) for x, y in found) if quick else found


@functools.cache
def _published(seed):
    """Returns the training and test signals that the generator draws with a seed."""
    import numpy as np

    import tf_tickets as tt

    data = tt.datasets.load("mnist1d", seed=seed, scaling="none", validation=1)
    x = np.concatenate([data.x_train, data.x_val])[..., 0]
    y = np.concatenate([data.y_train, data.y_val])
    return (x, y), (data.x_test[..., 0], data.y_test)


def point(sparsity, epochs, metrics, **more):
    sparsity = float(sparsity)
    return {
        "sparsity": sparsity,
        "kept": 1 - sparsity,
        "epochs": epochs,
        "val_accuracy": metrics["val_accuracy"],
        "test_accuracy": metrics["test_accuracy"],
        # Two networks may have the same accuracy, but hardly the same loss.
        "val_loss": metrics["val_loss"],
        "test_loss": metrics["test_loss"],
        **more,
    }


# The methods: functions of `Terms` and settings that return points.


def dense(terms, learning_rate=LEARNING_RATE, epochs=1):
    build = functools.partial(terms.build, learning_rate=learning_rate)
    trainer, length = terms.trainer(build), epochs * terms.epochs
    metrics = trainer.train(trainer.dense_ticket(), length)
    return [point(0.0, length, metrics)]


def narrow(terms):
    """Dense networks whose kernels have as many weights as the tickets keep."""
    found = []
    for level in terms.levels:
        weights = (1 - level) * weights_of(100)
        units = min(range(1, 101), key=lambda n: abs(weights_of(n) - weights))
        trainer = terms.trainer(functools.partial(terms.build, width=units / 100))
        metrics = trainer.train(trainer.dense_ticket(), terms.epochs)
        sparsity = 1 - weights_of(units) / weights_of(100)
        found.append(point(sparsity, terms.epochs, metrics, units=units))
    return found


def weights_of(units):
    return units * (40 + units + 10)


def at_init(terms, criterion, allocation="global", examples=400):
    import keras

    import tf_tickets as tt

    (x, y), *_ = terms.data
    few = tt.saliency.balanced((x, y), (2 if terms.quick else examples) // 10 or 1)
    if criterion in ("SNIP", "GraSP"):
        criterion = getattr(tt.saliency, criterion)(*few, batch_size=1000)
    found = []
    for level in terms.levels:
        # As TicketTrainer builds it, so that the weights are the same.
        keras.utils.set_random_seed(terms.seed)
        model = tt.wrap(terms.build(), verbose=False)
        search = tt.PruneAtInit(level, 1, criterion, allocation, seed=terms.seed)
        ticket = search.prune(model)
        found.append(point(ticket.sparsity, terms.epochs, terms.train(ticket)))
    return found


def gradual(terms, begin=0.0, end=0.75, times=1, power=3.0):
    import tf_tickets as tt

    epochs = times * terms.epochs
    steps = epochs * STEPS
    found = []
    for level in terms.levels:
        schedule = tt.schedules.PolynomialDecay(
            0.0,
            level,
            int(begin * steps),
            int(end * steps),
            power,
            frequency=1 if terms.quick else STEPS,
        )
        [ticket] = terms.find(tt.GradualPruning(schedule), epochs=epochs)
        found.append(point(ticket.sparsity, epochs, ticket.metrics))
    return found


def dynamic(terms, grow, drop_fraction=0.3, until=0.75):
    import tf_tickets as tt

    (x, y), *_ = terms.data
    found = []
    for level in terms.levels:
        training = tt.DynamicSparsity(
            level,
            tt.saliency.DenseGradient(x, y, BATCH) if grow == "gradient" else grow,
            interval=STEPS,
            drop_fraction=drop_fraction,
            until=until,
            seed=terms.seed,
        )
        [ticket] = terms.find(training, epochs=terms.epochs)
        found.append(point(ticket.sparsity, terms.epochs, ticket.metrics))
    return found


def imp(terms, rewind_to="init", allocation="global", criterion="magnitude", **more):
    import tf_tickets as tt

    if rewind_to == "learning_rate":
        rewind_to = tt.Rewind("init", "learning_rate")
    terms.start_at(rewind_to)
    if criterion == "inverted":
        criterion = smallest
    return terms.points(
        tt.IMP(
            terms.rounds,
            terms.epochs,
            RATE,
            rewind_to,
            criterion=criterion,
            allocation=allocation,
            seed=terms.seed,
        ),
        terms.chosen,
    )


def smallest(weight):
    """Scores that keep the smallest weights: a control."""
    import numpy as np

    return -np.abs(weight)


def controls(terms, kind):
    """Tickets of IMP with other masks that keep as many weights in each kernel.

    Args:
        terms: The `Terms`.
        kind: "shuffled" within each kernel, or "moved": the positions of the first
            kernel are permuted, so each unit keeps as many weights, at others.
    """
    import mnist1d_masks

    import tf_tickets as tt

    change = {"shuffled": tt.controls.shuffle_masks, "moved": mnist1d_masks.moved}[kind]
    search = tt.IMP(terms.rounds, terms.epochs, RATE, seed=terms.seed)
    found = []
    for ticket in terms.find(search):
        round_ = ticket.provenance["round"]
        if round_ in terms.chosen:
            metrics = terms.train(change(ticket, seed=terms.seed + 1))
            epochs = search.engine.epochs_before(round_) + terms.final
            found.append(point(ticket.sparsity, epochs, metrics, round=round_))
    return found


def early_stop(terms, patience=3, monitor="val_loss", rewind_to="init"):
    """IMP that prunes the weights of each round's best epoch.

    Its tickets are trained for all epochs, as those of other methods.
    """
    import tf_tickets as tt

    terms.start_at(rewind_to)
    search = tt.IMP(terms.rounds, terms.epochs, RATE, rewind_to, seed=terms.seed)
    spent = []
    search.in_round(_stop(monitor, patience, spent))
    found = []
    for ticket in terms.find(search):
        round_ = ticket.provenance["round"]
        if round_ in terms.chosen:
            # The epochs of the rounds whose weights it was pruned from.
            epochs = sum(spent[:round_]) + terms.final
            row = point(ticket.sparsity, epochs, terms.train(ticket), round=round_)
            found.append(row | {"stopped": ticket.metrics["test_accuracy"]})
    return found


def _stop(monitor, patience, spent):
    import keras

    class Stop(keras.callbacks.EarlyStopping):
        def on_train_begin(self, logs=None):
            super().on_train_begin(logs)
            spent.append(0)

        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            spent[-1] += 1

    mode = "min" if monitor.endswith("loss") else "max"
    return Stop(monitor, patience=patience, mode=mode, restore_best_weights=True)


def continuous(terms, rate, rounds=2, temperature=200.0, **settings):
    """One point for each initial score and round: together they are a frontier."""
    import keras

    import tf_tickets as tt

    scores = SCORES[rate]
    if terms.quick or terms.tries:
        # Those that lead to 90 % and more.
        scores = scores[-4::3] if terms.quick else scores[-4:]
    found = []
    for score in scores:
        search = tt.ContinuousSparsification(
            rounds,
            terms.epochs,
            score,
            temperature,
            score_optimizer=keras.optimizers.Adam(rate),
            seed=terms.seed,
            **settings,
        )
        found += [row | {"initial_score": score} for row in terms.points(search)]
    return found


def stochastic(terms, rounds=10, rate=20.0, penalties=None, rewind=True):
    """With several penalties, one point for each of them and each round."""
    import keras

    import tf_tickets as tt

    rounds = 2 if terms.quick else rounds
    found = []
    for penalty in penalties or (1e-8,):
        search = tt.StochasticSparsification(
            rounds,
            terms.epochs,
            penalty=penalty,
            rewind=rewind,
            score_optimizer=keras.optimizers.SGD(rate),
            seed=terms.seed,
        )
        own = {"penalty": penalty} if penalties else {}
        found += [row | own for row in terms.points(search)]
    return found


def uni(terms, kind, patience=5, penalty=4, power=2.0, kept=False, **settings):
    """UniLTH or UniDLTH; `kept` trains tickets from the weights of the search."""
    import tf_tickets as tt

    if kept:
        settings["rewind_to"] = tt.Rewind("init", "learning_rate")
    search = getattr(tt, kind)(
        terms.levels[-1],
        terms.rounds,
        tt.StageOne(terms.epochs, tt.EarlyStopRewind(patience)),
        tt.PenaltyPhase(
            1 if terms.quick else penalty, tt.schedules.GrowingPenalty(power=power)
        ),
        terms.epochs,
        train="none",
        seed=terms.seed,
        **settings,
    )
    return terms.points(search, terms.chosen)


def dlth(
    terms,
    penalty=20,
    learning_rate=None,
    criterion="random",
    sgd=None,
    allocation="uniform",
):
    """DLTH; `sgd` is the learning rate of a search by SGD in place of Adam.

    Adam divides the gradient of the penalty by its own size, so the strength of the
    penalty has little to say.
    """
    import tf_tickets as tt

    build = functools.partial(terms.build, sgd=sgd)
    found = []
    for level in terms.levels:
        search = tt.DLTH(
            level,
            1,
            tt.PenaltyPhase(1 if terms.quick else penalty, None, learning_rate),
            terms.epochs,
            criterion=criterion,
            allocation=allocation,
            train="none",
            seed=terms.seed,
        )
        found += terms.points(search, build=build)
    return found


def kdlts(
    terms,
    teachers=TEACHERS,
    search_epochs=20,
    rate=None,
    rewind_to="init",
    **settings,
):
    """KDLTS; early weights are those of its search, with soft masks and teachers."""
    import keras

    import tf_tickets as tt

    terms.start_at(rewind_to)
    if terms.quick:
        teachers, search_epochs = teachers[:1], 2
    models = []
    if teachers:
        models = tt.train_teachers(
            terms.build, terms.data, teachers, None, terms.seed, batch_size=BATCH
        )
    found = []
    for level in terms.levels:
        search = tt.KDLTS(
            level,
            search_epochs,
            score_optimizer=None if rate is None else keras.optimizers.Adam(rate),
            rewind_to=rewind_to,
            seed=terms.seed,
            **settings,
        )
        search.taught_by(*models, epochs=sum(teachers))
        found += terms.points(search)
    return found


def supermask(terms, mask="soft", scores=(0.0,), rate=None, sgd=False, epochs=5):
    """Masks over weights that are never trained; the epochs are those of the mask."""
    import keras

    import tf_tickets as tt

    kinds = {"soft": tt.masks.SoftMask, "stochastic": tt.masks.StochasticMask}
    length = epochs * terms.epochs
    found = []
    for score in scores:
        optimizer = None
        if rate is not None:
            kind = keras.optimizers.SGD if sgd else keras.optimizers.Adam
            optimizer = kind(rate)
        search = tt.Supermask(
            length, kinds[mask](score), score_optimizer=optimizer, seed=terms.seed
        )
        [ticket] = terms.find(search)
        row = point(ticket.sparsity, length, ticket.metrics, initial_score=score)
        found.append(row)
    return found


def spatial(terms, order="signals"):
    """Where tickets are connected, and what they are worth on changed signals.

    Args:
        terms: The `Terms`.
        order: Whether tickets are found on signals as they are, or on signals whose
            positions are "shuffled" by one permutation per seed.
    """
    import mnist1d_masks

    return mnist1d_masks.measure(terms, order)


# The sparsity of Continuous Sparsification follows from the initial scores. How far
# they must reach depends on how fast they are learned.
SCORES = {
    0.005: (0.1, 0.0, -0.1, -0.2, -0.3, -0.4, -0.6),
    0.02: (0.1, -0.2, -0.6, -1.0, -1.5, -2.0),
    0.1: (0.5, -1.0, -2.5, -4.0, -6.0, -8.0),
}
# Of StochasticSparsification: they lead from 77 % to 99 %.
PENALTIES = (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 7e-4)

# For each method its function and settings. The first is the default; those in
# REPORTED run with all seeds, whatever is chosen.
METHODS = {
    "dense": (
        dense,
        {
            "rate=0.005": {},
            "rate=0.002": {"learning_rate": 2e-3},
            "rate=0.01": {"learning_rate": 1e-2},
            "rate=0.02": {"learning_rate": 2e-2},
        },
    ),
    "random": (
        functools.partial(at_init, criterion="random"),
        {
            "erk": {"allocation": "erk"},
            "uniform": {"allocation": "uniform"},
            "global": {"allocation": "global"},
        },
    ),
    "IMP": (
        imp,
        {
            "init": {},
            "1-epoch": {"rewind_to": "1 epochs"},
            "learning-rate": {"rewind_to": "learning_rate"},
            "init-erk": {"allocation": "erk"},
        },
    ),
    "ContinuousSparsification": (
        continuous,
        {
            "rate=0.02": {"rate": 0.02},
            "rate=0.005": {"rate": 0.005},
            "rate=0.1": {"rate": 0.1},
            "temperature=50": {"rate": 0.02, "temperature": 50.0},
        },
    ),
    "GradualPruning": (
        gradual,
        {
            "until=0.75": {},
            "until=0.5": {"end": 0.5},
            "from=0.25": {"begin": 0.25},
            "twice": {"times": 2},
        },
    ),
    "spatial": (spatial, {"signals": {}, "shuffled": {"order": "shuffled"}}),
    "controls": (
        controls,
        {"shuffled-masks": {"kind": "shuffled"}, "moved-masks": {"kind": "moved"}},
    ),
    "StochasticSparsification": (
        stochastic,
        {
            "rate=20": {},
            "rate=100": {"rate": 100.0},
            "rate=5": {"rate": 5.0},
            "rate=1": {"rate": 1.0},
            # The penalty decides how many weights are left, the rate hardly.
            "penalties": {"penalties": PENALTIES, "rounds": 2},
            "penalties-rate=5": {"penalties": PENALTIES, "rounds": 2, "rate": 5.0},
        },
    ),
    "UniLTH": (
        functools.partial(uni, kind="UniLTH"),
        {
            "patience=5": {},
            "patience=2": {"patience": 2},
            "penalty=8": {"penalty": 8},
            "kept": {"kept": True},
            "kept-erk": {"kept": True, "allocation": "erk"},
        },
    ),
    "UniDLTH": (
        functools.partial(uni, kind="UniDLTH"),
        {
            "patience=5": {},
            "patience=2": {"patience": 2},
            "penalty=8": {"penalty": 8},
            "erk": {"allocation": "erk"},
        },
    ),
    "DLTH": (
        dlth,
        {
            "penalty=20": {},
            "penalty=60": {"penalty": 60},
            "sgd": {"sgd": 0.05},
            "slow": {"learning_rate": 1e-3},
            "smallest": {"criterion": "magnitude"},
            "erk": {"penalty": 60, "allocation": "erk"},
        },
    ),
    "KDLTS": (
        kdlts,
        {
            "teachers": {},
            "labels": {"teachers": ()},
            "rate=0.02": {"rate": 0.02},
            "1-epoch": {"rewind_to": "1 epochs"},
        },
    ),
    "SNIP": (
        functools.partial(at_init, criterion="SNIP"),
        {"400": {}, "4000": {"examples": 3500}},
    ),
    "SynFlow": (functools.partial(at_init, criterion="synflow"), {"100-passes": {}}),
    "GraSP": (
        functools.partial(at_init, criterion="GraSP"),
        {"400": {}, "4000": {"examples": 3500}},
    ),
    "magnitude": (
        functools.partial(at_init, criterion="magnitude"),
        {"global": {}, "uniform": {"allocation": "uniform"}},
    ),
    "EarlyStopRewind": (
        early_stop,
        {
            "loss": {},
            "loss-5": {"patience": 5},
            "accuracy": {"monitor": "val_accuracy"},
            "1-epoch": {"rewind_to": "1 epochs"},
        },
    ),
    "RigL": (
        functools.partial(dynamic, grow="gradient"),
        {"drop=0.3": {}, "drop=0.5": {"drop_fraction": 0.5}},
    ),
    "SET": (
        functools.partial(dynamic, grow="random"),
        {"drop=0.3": {}, "drop=0.5": {"drop_fraction": 0.5}},
    ),
    "inverted": (functools.partial(imp, criterion="inverted"), {"init": {}}),
    "narrow": (narrow, {"dense": {}}),
    "supermask": (
        supermask,
        {
            "soft": {"scores": (0.1, 0.0, -0.1)},
            "stochastic": {"mask": "stochastic", "rate": 100.0, "sgd": True},
        },
    ),
}
REPORTED = {
    "IMP": ("init", "1-epoch"),
    "KDLTS": ("teachers", "1-epoch", "labels"),
    "DLTH": ("penalty=20", "sgd"),
    "controls": ("shuffled-masks", "moved-masks"),
    "StochasticSparsification": ("rate=20",),
    "UniLTH": ("patience=5", "kept"),
    "spatial": ("signals", "shuffled"),
    "supermask": ("soft", "stochastic"),
    "dense": ("rate=0.005",),
}
# Tried and shown, but not chosen: tickets that cost more or start later than others.
ASIDE = ("twice", "1-epoch")
# Their settings are the networks' recipe, or controls: nothing is chosen.
NOT_SWEPT = ("spatial", "controls", "supermask", "SynFlow", "inverted", "narrow")
GROUPS = (
    ("dense", "random", "IMP", "spatial", "controls"),
    ("ContinuousSparsification", "GradualPruning"),
    ("StochasticSparsification", "UniLTH", "UniDLTH", "DLTH"),
    ("KDLTS",),
    ("SNIP", "SynFlow", "GraSP", "magnitude", "EarlyStopRewind"),
    ("RigL", "SET", "inverted", "narrow", "supermask"),
)


# Runs and their files.


def file_of(method, setting, seed, out=RESULTS):
    folder = out / "tried" if seed in TRIED else out
    return folder / f"{method}-{setting}-{seed}.json"


def run(method, setting, seed, options):
    from tf_tickets.environment import versions

    function, settings = METHODS[method]
    began, used = time.monotonic(), time.process_time()
    terms = Terms(seed, options.quick)
    points = function(terms, **settings[setting])
    search = {row["epochs"] - terms.final for row in points if "epochs" in row}
    file = file_of(method, setting, seed, options.out)
    content = {
        "method": method,
        "setting": setting,
        "settings": settings[setting],
        "seed": seed,
        "machine": {"cores": os.cpu_count(), "threads": 1},
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "command": "KERAS_BACKEND=jax python benchmarks/mnist1d_tickets.py "
        f"--only {method} --seeds {seed}",
        "epochs": {"search": max(search, default=0), "final": terms.final},
        "seconds": {
            "wall": round(time.monotonic() - began, 1),
            "cpu": round(time.process_time() - used, 1),
        },
        "points": points,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=1))
    part.replace(file)
    print(f"{file.name}: {content['seconds']}", flush=True)


def chosen(method, out=RESULTS):
    """Returns the setting that was best in validation; None if some are not tried."""
    from mnist1d_statistics import at_level

    _, settings = METHODS[method]
    if method in NOT_SWEPT or len(settings) == 1:
        return next(iter(settings))
    merits = {}
    for setting in (name for name in settings if name not in ASIDE):
        files = [file_of(method, setting, seed, out) for seed in TRIED]
        if not all(file.exists() for file in files):
            return None
        values = []
        for file in files:
            points = json.loads(file.read_text())["points"]
            levels = [1 - (1 - RATE) ** round_ for round_ in SELECTING]
            levels = [0.0] if method == "dense" else levels
            values += [at_level(points, level, "val_accuracy") for level in levels]
        # A setting that does not reach a sparsity is not chosen.
        merits[setting] = sum(-1.0 if v is None else v for v in values)
    return max(merits, key=merits.get)


def work(options):
    """Yields the runs in the order of their priority.

    Three seeds of all methods with their default settings come first, then two more;
    then settings are tried, and the chosen ones run with all seeds.
    """
    only = options.only or list(METHODS)
    groups = [[method for method in group if method in only] for group in GROUPS]
    for seeds in (options.seeds[:3], options.seeds[3:5]):
        for group in groups:
            yield from _runs(group, seeds, _always)
    for group in groups:
        if not options.no_sweep:
            yield from _tries(group)
        yield from _runs(group, options.seeds, lambda name: _settings(name, options))


def _runs(group, seeds, settings):
    for seed, method in itertools.product(seeds, group):
        yield from ((method, name, seed) for name in settings(method))


def _always(method):
    """Returns the settings that run whatever is chosen."""
    return list(REPORTED.get(method, ())) or list(METHODS[method][1])[:1]


def _tries(group):
    """Yields the runs that try the settings of methods."""
    for method in group:
        settings = METHODS[method][1]
        if method not in NOT_SWEPT and len(settings) > 1:
            pairs = itertools.product(settings, TRIED)
            yield from ((method, *pair) for pair in pairs)


def _settings(method, options):
    """Returns the settings of a method that run with all seeds."""
    settings = _always(method)
    best = chosen(method, options.out)
    return settings if best in [None, *settings] else [*settings, best]


def status(options):
    missing = {}
    for method, setting, seed in dict.fromkeys(work(options)):
        kind = "tried" if seed in TRIED else "run"
        there = file_of(method, setting, seed, options.out).exists()
        missing.setdefault((kind, method, setting), []).append((seed, there))
    for (kind, method, setting), rows in missing.items():
        count = sum(there for _, there in rows)
        print(f"{kind:6} {method:26} {setting:16} {count:2} of {len(rows)}")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", nargs="+", choices=list(METHODS), help="only these methods")
    add("--seeds", type=int, nargs="+", default=list(SEEDS))
    add("--no-sweep", action="store_true", help="try no settings")
    add("--status", action="store_true", help="list what is there and what is missing")
    add("--collect", action="store_true", help="only summarize finished runs")
    add("--quick", action="store_true", help="one epoch on 200 signals, as a test")
    add("--out", type=pathlib.Path, default=RESULTS, help="folder of the JSON files")
    options = parser.parse_args()
    if options.status:
        return status(options)
    if options.collect:
        import mnist1d_statistics

        return mnist1d_statistics.collect(options.out)
    return perform(options)


def perform(options):
    """Runs what is missing; returns an error's text if some runs failed."""
    failed = []
    for method, setting, seed in work(options):
        name = f"{method} {setting} {seed}"
        if name in failed or file_of(method, setting, seed, options.out).exists():
            continue
        if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > MOST_MEMORY:
            os.execv(sys.executable, [sys.executable, *sys.argv])
        try:
            run(method, setting, seed, options)
        except Exception:
            # The other runs are worth having; the exit status is that of a failure.
            traceback.print_exc()
            failed.append(name)
        gc.collect()
    return f"These runs failed: {failed}" if failed else None


if __name__ == "__main__":
    sys.exit(main())
