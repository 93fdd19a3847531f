"""Inputs of searches and trainings: data, build functions and seeds."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras

from tf_tickets import arguments, distribution, wrapping
from tf_tickets.experiments import datasets
from tf_tickets.search import lockstep
from tf_tickets.training import feeds, input_checks, labels, opening, snapshots
from tf_tickets.training.data import Key, Part, TrainingData, titled
from tf_tickets.training.sources import ArraySource
from tf_tickets.wrapping import onednn

Data = datasets.Dataset | TrainingData | Sequence[Part]
# From the name of a search or training to callbacks that show its progress.
Watch = Callable[[str], Iterable[keras.callbacks.Callback]]

# Examples per batch of an evaluation of arrays.
_EVALUATED = 512
_EXPECTED = (
    "a tf_tickets Dataset, a tf_tickets.TrainingData, or a pair or triple of (x, y) "
    "pairs, for training, validation and optionally test"
)


def split(data: Data) -> dict[str, Part]:
    """Returns a dict from "train", "validation" and, if given, "test" to the part.

    Example:

    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> list(split(((x, y), (x, y))))
    ['train', 'validation']
    """
    return training_data(data).parts


def training_data(data: Data) -> TrainingData:
    """Returns the data as `TrainingData`.

    Example:

    >>> training_data(tt.datasets.load("digits")).name
    'digits'
    """
    if isinstance(data, TrainingData):
        return data
    if isinstance(data, tuple | list):
        if len(data) in (2, 3):
            return TrainingData(*data)
    elif isinstance(data, datasets.Dataset):
        return TrainingData(
            (data.x_train, data.y_train),
            (data.x_val, data.y_val),
            (data.x_test, data.y_test),
            name=data.name,
        )
    raise TypeError(
        f"`data` must be {_EXPECTED}. Received: {arguments.shown(data)}. Pass other "
        "data as tf_tickets.TrainingData(train, validation)."
    )


class Inputs:
    """The data of a search, opened: what `fit` and `evaluate` read.

    Args:
        data: The data as they were given.
        seed: Seed of the data order.
        batch_size: Batch size of arrays, None for 32.

    Example:

    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> opened = Inputs(((x, y), (x, y)), seed=0, batch_size=4)
    >>> opened.batch_size, opened.resume
    (4, 'bit')
    """

    def __init__(self, data: Data, seed: int, batch_size: int | None) -> None:
        self.data = training_data(data)
        self.seed = seed
        self.sources = opening.open_data(self.data, seed, batch_size)
        self._evaluated: dict[str, feeds.Feed] = {}

    @property
    def batch_size(self) -> int | None:
        """The batch size of arrays; None for data in batches of their own."""
        return getattr(self.sources["train"], "batch_size", None)

    @property
    def resume(self) -> str:
        """How exactly a search resumes: to the "bit" or to the "round"."""
        is_exact = all(source.exact for source in self.sources.values())
        return "bit" if is_exact else "round"

    def feed(self, key: Callable[[], Key]) -> feeds.Feed:
        """Returns the training data in the order of keys."""
        return feeds.Feed(self.sources["train"], key)

    def check(self, model: keras.Model, epochs: int) -> None:
        """Refuses data that a model cannot be trained on for some epochs."""
        train = self.sources["train"]
        has_targets = len(train.structure) > 1
        if not has_targets and _needs_targets(model):
            raise ValueError(
                f"The loss of {model.name!r} needs targets, but the training data have "
                f"x alone. Received: loss={arguments.shown(model.loss)}. Pass (x, y)."
            )
        self._check_inputs(model)
        self._check_labels(model)
        distribution.check_batch_size(model, self.batch_size)
        for name, source in self.sources.items():
            left = getattr(source, "left", -1)
            if isinstance(source, ArraySource) and name != "train":
                self._evaluation(name, model)
            if 0 <= left < source.steps * epochs and name != "test":
                raise ValueError(
                    f"The iterator of the {titled(name)} data is read once and has "
                    f"{left} batches, but {epochs} epochs of {source.steps} are "
                    "needed. Pass a function data(key) that returns a new one for each "
                    "epoch."
                )

    def _check_inputs(self, model):
        """Refuses inputs of other shapes than those of the model."""
        if not _takes_inputs(model):
            return
        for name, source in self.sources.items():
            # Of arrays, the sample has the first rows.
            x, *_ = source.sample()[0]
            input_checks.check_inputs(model, x, f"the {titled(name)} data")

    def _check_labels(self, model):
        """Refuses labels and weights of classes that the model does not have."""
        for name, source in self.sources.items():
            if len(source.structure) < 2:
                continue
            whole = [source.arrays] if isinstance(source, ArraySource) else None
            for batch in whole or source.sample():
                labels.check_labels(model, batch[1], f"the {titled(name)} data")
                if name == "train":
                    weights = self.data.class_weight
                    labels.check_class_weight(model, weights, batch[1])

    def fit(
        self,
        model: keras.Model,
        feed: feeds.Feed,
        callbacks: Iterable[keras.callbacks.Callback],
        **settings: Any,
    ) -> keras.callbacks.History:
        """Calls `model.fit` with a feed and the validation data.

        Args:
            model: The model.
            feed: The training data.
            callbacks: The callbacks. Those that know the key come before the feed.
            **settings: Other arguments of `fit`.
        """
        onednn.warn(snapshots.network(model), model)
        validation, settings_of_validation = self._evaluation("validation", model)
        member = lockstep.present()
        if member is not None:
            # `lockstep.checks` has refused other sources.
            source: Any = self.sources["train"]
            return member.fit(
                model,
                source.arrays,
                source.batch_size,
                feed.key,
                validation,
                settings_of_validation["batch_size"],
                [*callbacks],
                **settings,
            )
        beginning = feeds.Beginning(feed, self._evaluated.get("validation"))
        with feeds.own_errors(feed, self._evaluated.get("validation")):
            return model.fit(
                feed.x,
                steps_per_epoch=feed.steps,
                validation_data=validation,
                validation_batch_size=settings_of_validation.get("batch_size"),
                validation_steps=settings_of_validation.get("steps"),
                shuffle=False,
                callbacks=[distribution.Unify(), *callbacks, beginning],
                **settings,
            )

    def test_metrics(self, model: keras.Model) -> dict[str, float]:
        """Returns a dict of the metrics on test data, as `test_*`, if there are any."""
        if "test" not in self.sources:
            return {}
        metrics = self.metrics_on(model, "test")
        return {f"test_{name}": value for name, value in metrics.items()}

    def metrics_on(self, model: keras.Model, part: str) -> dict[str, float]:
        """Returns a dict of the metrics on a part of the data.

        Args:
            model: The model.
            part: "train", "validation" or "test".
        """
        data, settings = self._evaluation(part, model)
        member = lockstep.present()
        if member is not None:
            return member.evaluate(model, data, settings["batch_size"])
        feed = self._evaluated.get(part)
        x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
        with feeds.own_errors(feed):
            metrics = model.evaluate(
                x,
                y,
                sample_weight=weight,
                verbose=0,
                return_dict=True,
                callbacks=[feeds.Beginning(None, feed)],
                **settings,
            )
        return {name: float(value) for name, value in metrics.items()}

    def _evaluation(self, name, model):
        """Returns what `evaluate` gets of a part, and its other arguments."""
        source = self.sources[name]
        if isinstance(source, ArraySource):
            size = distribution.evaluation_batch_size(
                model, _EVALUATED, source.examples, titled(name)
            )
            return source.arrays, {"batch_size": size}
        if name not in self._evaluated:
            self._evaluated[name] = feeds.Feed(source, lambda: (self.seed, 0, 0))
        feed = self._evaluated[name]
        return feed.x, {"steps": feed.steps}


def _needs_targets(model):
    """Whether the compiled loss is computed from targets, as Keras does."""
    kind, base = type(model), keras.Model
    own = kind.train_step, kind.compute_loss
    return model.loss is not None and own == (base.train_step, base.compute_loss)


def _takes_inputs(model):
    """Whether `fit` calls the model with x as it is, as Keras does."""
    kind, base = type(model), keras.Model
    return (kind.fit, kind.train_step) == (base.fit, base.train_step)


def build(
    build_model: Callable[[], keras.Model], wrap: Callable[..., keras.Model]
) -> tuple[keras.Model, dict | None]:
    """Returns the wrapped model and, for tickets without weights, its configuration.

    Args:
        build_model: Function without arguments that returns a compiled model.
        wrap: Function that wraps it if it is plain: `wrap(model, verbose=False)`.
    """
    model = compiled(build_model)
    rebuilds = isinstance(model, keras.Sequential | keras.Function)
    if wrapping.prunables(model):
        return model, None
    config = keras.saving.serialize_keras_object(model) if rebuilds else None
    if config is not None:
        config.pop("compile_config", None)
    return wrap(model, verbose=False), config


def compiled(build_model: Callable[[], keras.Model]) -> keras.Model:
    """Returns a new model; refuses one that is not compiled."""
    arguments.check_build(build_model)
    distribution.check_outside_scope()
    model = build_model()
    if not isinstance(model, keras.Model) or not model.compiled:
        raise ValueError(
            "`build_model` must return a compiled Keras model. Received: "
            f"{arguments.shown(build_model)}, which returns {arguments.shown(model)}. "
            "Call model.compile(...) in it."
        )
    distribution.check_one_process(model)
    return model


def check_fit(
    seed: int, batch_size: int | None, verbose: str | int = 0
) -> tuple[int, int | None]:
    """Returns seed and batch size as integers; refuses what `fit` would not take.

    Example:

    >>> check_fit(seed=0, batch_size=32, verbose="auto")
    (0, 32)
    """
    arguments.check_seed(seed)
    if batch_size is not None:
        arguments.check_counts(batch_size=batch_size)
        batch_size = int(batch_size)
    arguments.check_choice(("auto", 0, 1, 2, True, False), verbose=verbose)
    return int(seed), batch_size


def check_watch(watch: Watch | None) -> None:
    """Refuses what is neither None nor a function of a name."""
    if watch is not None:
        arguments.check_functions(1, watch=watch)


def round_seed(seed: int, round_: int) -> int:
    """Returns the global seed under which a round trains.

    Example:

    >>> round_seed(0, 3)
    3
    """
    return (seed * 1_000_003 + round_) % 2**32


def watched(watch: Watch, name: str) -> list[keras.callbacks.Callback]:
    """Returns the callbacks of a training; refuses what are none."""
    return arguments.listed(keras.callbacks.Callback, **{"watch(name)": watch(name)})


def watching(watch: Watch, name: str) -> list[keras.callbacks.Callback]:
    """Returns callbacks that show progress, marked as not belonging to a search."""
    callbacks = watched(watch, name)
    for callback in callbacks:
        callback.changes_results = False
    return callbacks


def unwatched(name: str) -> list[keras.callbacks.Callback]:
    """Returns no callbacks."""
    return []
