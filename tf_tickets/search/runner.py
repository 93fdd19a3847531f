"""find_ticket: a whole search from a build function, resumed from a directory."""

import json
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import keras
import numpy as np

from tf_tickets import files, wrapping
from tf_tickets.experiments import datasets
from tf_tickets.search.round_search import RoundSearch
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import batches

Pair = tuple[np.ndarray, np.ndarray]
Data = datasets.Dataset | Sequence[Pair]

STATE = "search.state"


def find_ticket(
    build_model: Callable[[], keras.Model],
    data: Data,
    search: RoundSearch,
    directory: os.PathLike | str | None = None,
    seed: int = 0,
    *,
    batch_size: int = 32,
    callbacks: Iterable[keras.callbacks.Callback] = (),
    verbose: str | int = "auto",
) -> list[Ticket]:
    """Builds a model, searches, and gives the tickets, one a round.

    With a directory, every round is kept there: a search that was interrupted at
    any moment, killed even, goes on when it is called again, trains no completed
    round anew, and ends with the same bits as one that was not interrupted (on
    the same machine).

    Args:
        build_model: Function without arguments that gives a compiled model: plain,
            or as `search.wrap(model)` gives it.
        data: A `tf_tickets.datasets.Dataset`, or a pair or triple of (x, y) arrays
            for training, validation and, if wanted, test.
        search: `tf_tickets.IMP` or another search; it has `best`, `dense` and
            `tickets` afterwards.
        directory: Where to keep the search. A directory of another search is
            refused.
        seed: Seed of weights, data order and random layers.
        batch_size: Examples a step.
        callbacks: Further Keras callbacks.
        verbose: As in `model.fit`.

    Returns:
        The list of tickets by round. With test data their metrics have `test_*`.

    Example:

    >>> def build():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     model.compile("adam", "mse")
    ...     return model
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> search = tt.IMP(rounds=1, epochs_per_round=1, rate=0.5, monitor="val_loss")
    >>> found = find_ticket(build, ((x, y), (x, y)), search, batch_size=4, verbose=0)
    >>> found[0].sparsity
    0.5
    """
    parts = split(data)
    keras.utils.set_random_seed(seed)
    model, config = build(build_model, search.wrap)
    search.clear()
    search.context = {
        "dataset": getattr(data, "name", None),
        "batch_size": batch_size,
        "build_seed": seed,
        "model": config,
    }
    keeper = _Keeper(search, directory, seed, parts.get("test"))
    keeper.check(_identity(search, seed, batch_size, data, parts, model))
    search.set_model(model)
    if not keeper.resume(model):
        _train(model, keeper, parts, batch_size, callbacks, verbose)
    search.context = {}
    return search.tickets


def _train(model, keeper, parts, batch_size, callbacks, verbose):
    search = keeper.search
    x, y = parts["train"]
    model.fit(
        batches.feed(x, y, batch_size, lambda: search.data_key(keeper.seed)),
        validation_data=parts["validation"],
        epochs=search.epochs,
        shuffle=False,
        initial_epoch=search.next_epoch,
        validation_batch_size=512,
        callbacks=[search, keeper, *callbacks],
        verbose=verbose,
    )


def split(data: Data) -> dict[str, Pair]:
    """Dict from "train", "validation" and, where given, "test" to (x, y)."""
    if isinstance(data, tuple | list) and len(data) in (2, 3):
        parts = dict(zip(("train", "validation", "test"), data, strict=False))
    else:
        parts = _split_dataset(data)
    for name, pair in parts.items():
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(
                f"`data` must be a pair or triple of (x, y) pairs, {_DATA_PARTS}. "
                f"Received for {name}: {type(pair)}"
            )
    return parts


_DATA_PARTS = "for training, validation and, if wanted, test"


def _split_dataset(data):
    try:
        return {
            "train": (data.x_train, data.y_train),
            "validation": (data.x_val, data.y_val),
            "test": (data.x_test, data.y_test),
        }
    except AttributeError:
        raise TypeError(
            "`data` must be a tf_tickets Dataset or a pair or triple of (x, y) "
            f"arrays, {_DATA_PARTS}. Received: {type(data)}. For a tf.data.Dataset "
            "use model.fit(..., callbacks=[search])."
        ) from None


def build(
    build_model: Callable[[], keras.Model], wrap: Callable[..., keras.Model]
) -> tuple[keras.Model, dict | None]:
    """The wrapped model and, for a ticket without weights, its configuration.

    Args:
        build_model: Function without arguments that gives a compiled model.
        wrap: What wraps it where it is plain: `wrap(model, verbose=False)`.
    """
    model = build_model()
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            "`build_model` must give a compiled Keras model. Received: "
            f"{model!r}. Call model.compile(...) in it."
        )
    rebuilds = isinstance(model, keras.Sequential | keras.Function)
    if wrapping.prunables(model):
        return model, None
    config = keras.saving.serialize_keras_object(model) if rebuilds else None
    if config is not None:
        config.pop("compile_config", None)
    return wrap(model, verbose=False), config


def round_seed(seed: int, round_: int) -> int:
    """The global seed under which a round trains."""
    return seed * 1_000_003 + round_


def test_metrics(model: keras.Model, test: Pair) -> dict[str, float]:
    """Dict of the metrics on test data, as `test_*`."""
    found = model.evaluate(*test, batch_size=512, verbose=0, return_dict=True)
    return {f"test_{name}": float(value) for name, value in found.items()}


def _identity(search, seed, batch_size, data, parts, model):
    """What must be equal for a directory to be the same search's."""
    return {
        "method": search.method,
        "settings": search.settings(),
        "seed": seed,
        "batch_size": batch_size,
        "dataset": getattr(data, "name", None),
        "examples": {name: len(pair[0]) for name, pair in parts.items()},
        "data": {name: batches.digest(pair) for name, pair in parts.items()},
        "backend": keras.config.backend(),
        # Without their names, which are others in the next build.
        "kernels": [list(v.shape) for v in wrapping.kernels(model).values()],
        "optimizer": optimizer_config(model),
    }


def optimizer_config(model: keras.Model) -> dict:
    """As far as JSON can say it."""
    config = keras.saving.serialize_keras_object(model.optimizer)["config"]
    return json.loads(json.dumps(config, default=str))


def nameless(content: dict) -> dict:
    """As JSON gives it back, without names: `adam_3` is `adam_4` in the next build."""
    return json.loads(json.dumps(content), object_hook=_without_name)


def _without_name(config):
    return {key: value for key, value in config.items() if key != "name"}


def differences(there: dict, here: dict, above: str = "") -> list[str]:
    """What differs between two nested dicts, each with its way down."""
    rows = []
    for key in [*here, *(k for k in there if k not in here)]:
        old, new = there.get(key), here.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            rows += differences(old, new, f"{above}{key}.")
        elif old != new:
            rows.append(f"{above}{key}: {old!r} there, {new!r} here")
    return rows


class _Keeper(keras.callbacks.Callback):
    """Keeps a search in a directory; comes after the search in the callbacks."""

    def __init__(self, search, directory, seed, test):
        super().__init__()
        self.search = search
        self.directory = pathlib.Path(directory) if directory is not None else None
        self.seed = seed
        self.test = test
        self.kept_round = None
        self.identity = None

    def check(self, identity):
        """Refuses a directory in which another search is kept."""
        self.identity = nameless(identity)
        if self.directory is None or not (self.directory / STATE).exists():
            return
        found = files.read(self.directory / STATE, "search")[0]["identity"]
        differing = differences(found, self.identity)
        if differing:
            raise ValueError(
                f"{self.directory} keeps another search: {'; '.join(differing)}. Use "
                "another directory, or the same settings."
            )

    def resume(self, model):
        """Loads what is kept; true if the search is complete."""
        if self.directory is None or not (self.directory / STATE).exists():
            return False
        files.sweep(self.directory)
        content, arrays = files.read(self.directory / STATE, "search")
        names = [_file(number) for number in range(1, content["tickets"] + 1)]
        self.search.tickets = [Ticket.load(self.directory / n) for n in names]
        self.search.load_state(content["search"], arrays, model)
        self.kept_round = self.search.round
        return self.search.complete

    def on_epoch_begin(self, epoch, logs=None):
        if self.search.epoch_in_round != 0:
            return
        # What a round draws at random must not depend on the rounds before it.
        keras.utils.set_random_seed(round_seed(*self.search.data_key(self.seed)[:2]))
        if self.search.round != self.kept_round:
            self._keep()

    def on_epoch_end(self, epoch, logs=None):
        if self.search.round_is_over and self.test is not None:
            self.search.metrics.update(test_metrics(self.model, self.test))

    def on_train_end(self, logs=None):
        if self.search.complete:
            self._keep()

    def _keep(self):
        """Tickets first, the state last: it says which tickets count."""
        self.kept_round = self.search.round
        if self.directory is None:
            return
        for ticket in self.search.tickets[-2:]:
            ticket.save(self.directory / _file(ticket.provenance["round"]))
        state, arrays = self.search.state(self.model)
        content = {
            "identity": self.identity,
            "tickets": len(self.search.tickets),
            "search": state,
        }
        files.write(self.directory / STATE, "search", content, arrays)


def _file(number):
    return f"round_{number:02}.ticket"
