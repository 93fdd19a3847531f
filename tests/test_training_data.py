"""Every kind of data: the same bits as arrays where the order is equal, and resuming.

What a search reads, what it refuses before it trains, and how exactly it resumes.
"""

import functools
import itertools
import os
import pickle
import re
import signal
import sys

import keras
import numpy as np
import pytest
import tiny
import warm

import tf_tickets as tt
from tf_tickets.pruning.examples import Examples
from tf_tickets.search.inputs import Inputs
from tf_tickets.search.teachers import train_teachers
from tf_tickets.training import feeds, input_checks
from tf_tickets.training.data import TrainingData

BATCH, STEPS, SEED = 16, 4, 3
X, Y = tiny.data()
HELD_OUT = tiny.data(32, seed=1)
ON_TENSORFLOW = keras.config.backend() == "tensorflow"


class Rows(keras.utils.PyDataset):
    """The batches of arrays, one after the other."""

    def __init__(self, x=X, y=Y, **settings):
        super().__init__(**settings)
        self.x, self.y = x, y
        self.order = np.arange(len(keras.tree.flatten(y)[0])).reshape(-1, BATCH)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        rows = self.order[index]
        return keras.tree.map_structure(lambda a: a[rows], (self.x, self.y))


class Reordered(Rows):
    """Rows in the order that arrays have in a search."""

    def reorder(self, key):
        self.order = np.random.default_rng(list(key)).permutation(self.order.size)
        self.order = self.order.reshape(-1, BATCH)


class Shuffling(Rows):
    """Rows that are shuffled between epochs, by a generator with a state."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(0)

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.y)).reshape(-1, BATCH)


def reordered(key):
    rows = Reordered()
    rows.reorder(key)
    return rows


def yielding(key):
    rows = reordered(key)
    yield from (rows[i] for i in range(STEPS))


def endless():
    rows = Rows()
    for index in itertools.count():
        yield rows[index % STEPS]


def tensors(order=None):
    import tensorflow as tf

    order = np.arange(len(Y)) if order is None else order
    return tf.data.Dataset.from_tensor_slices((X[order], Y[order])).batch(BATCH)


class ChangingAtTheEnd(Rows):
    """Rows whose last batch of an epoch is another one."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return self.change(x, y) if index == STEPS - 1 else (x, y)


def data(train, steps=None, **settings):
    return TrainingData(train, HELD_OUT, HELD_OUT, steps, **settings)


# The same batches in the same order, in every kind.
EQUAL = {
    "arrays": lambda: data((X, Y)),
    "reorder": lambda: data(Reordered()),
    "2 workers": lambda: data(Reordered(workers=2)),
    "function of arrays": lambda: data(lambda key: (X, Y)),
    "function of a generator": lambda: data(yielding, STEPS),
    "function of a dataset": lambda: data(
        lambda key: tensors(np.random.default_rng(list(key)).permutation(len(Y)))
    ),
}
# Other orders that depend on nothing but the key.
KEYED = {
    "PyDataset": lambda: data(Rows()),
    "function of a PyDataset": lambda: data(lambda key: Rows()),
}
# Nobody knows the order.
UNKNOWN = {
    "shuffled between epochs": lambda: data(Shuffling()),
    "generator": lambda: data(endless(), STEPS),
    "tf.data": lambda: data(tensors().shuffle(4)),
    "tf.data without an end": lambda: data(tensors().repeat(), STEPS),
}


def find(made, directory=None, search=None, **settings):
    is_array = isinstance(made.train, tuple) or "arrays" in str(settings)
    batch_size = settings.pop("batch_size", BATCH if is_array else None)
    return tt.find_tickets(
        tiny.build_compiled,
        made,
        search or tiny.imp(rounds=1),
        directory,
        SEED,
        batch_size=batch_size,
        verbose=0,
        **settings,
    )


def sized(kind):
    return {"batch_size": BATCH if "arrays" in kind else None}


def results(tickets):
    return [(ticket.id, ticket.metrics) for ticket in tickets]


@functools.cache
def of_arrays():
    return results(find(EQUAL["arrays"]()))


class PowerCut(keras.callbacks.Callback):
    changes_results = False

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


# What training reads.


@pytest.mark.matrix
@pytest.mark.parametrize("kind", list(EQUAL)[1:])
def test_equal_orders_give_equal_bits(kind):
    assert results(find(EQUAL[kind](), **sized(kind))) == of_arrays()


def test_a_stream_trains_a_small_model_to_the_bits_of_arrays():
    """The same, without a search around it."""
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3)])
    model.compile("sgd", tiny.build_compiled().loss, jit_compile=tiny.JIT)
    first, trained, present = model.get_weights(), {}, {"epoch": 0}
    follow = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: present.update(epoch=epoch)
    )
    for kind in ("arrays", "reorder", "function of a generator"):
        inputs = opened(EQUAL[kind](), **sized(kind))
        model.set_weights(first)
        feed = inputs.feed(lambda: (SEED, 0, present["epoch"]))
        inputs.fit(model, feed, [follow], epochs=2, verbose=0)
        trained[kind] = np.concatenate([w.ravel() for w in model.get_weights()])
    weights, *others = trained.values()
    assert (weights != np.concatenate([w.ravel() for w in first])).any()
    assert all((weights == other).all() for other in others)


def keyed(source, key=(SEED, 1, 0)):
    return np.concatenate([batch[1] for batch in source.read(key)])


def opened(made, **settings):
    return Inputs(made, SEED, **{"batch_size": None, **settings})


def test_batches_of_a_pydataset_are_shuffled_by_the_key():
    source = opened(data(Rows())).sources["train"]
    first = keyed(source)
    order = np.random.default_rng([SEED, 1, 0]).permutation(STEPS)
    assert (first == Y.reshape(STEPS, BATCH)[order].ravel()).all()
    assert (first == keyed(source)).all()
    assert any((first != keyed(source, (SEED, 1, e))).any() for e in (1, 2, 3))


class Counted(keras.utils.PyDataset):
    """A data set without an end, which counts what is read."""

    def __init__(self):
        super().__init__()
        self.read = []

    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        self.read.append(index)
        rng = np.random.default_rng(index)
        return rng.normal(size=(BATCH, 6)).astype("float32"), rng.integers(
            3, size=BATCH
        )


def test_data_without_an_end_continue_within_a_round_and_restart_with_the_next():
    counted = Counted()
    source = opened(data(counted, STEPS)).sources["train"]
    counted.read.clear()
    for key in [(SEED, 1, 0), (SEED, 1, 1), (SEED, 2, 0)]:
        assert len(list(source.read(key))) == STEPS
    assert counted.read == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3]
    assert source.exact


@pytest.mark.matrix
def test_no_more_is_read_than_is_trained_on():
    counted = Counted()
    search = tiny.imp(rounds=1)
    find(data(counted, STEPS), search=search)
    looked_at = 4  # Two batches of the sample, each of them twice.
    assert len(counted.read) == search.epochs * STEPS + looked_at
    drawn = []

    def noted():
        for batch in endless():
            drawn.append(1)
            yield batch

    find(data(noted(), STEPS), search=search)
    assert len(drawn) == search.epochs * STEPS


def test_nothing_of_a_generator_is_lost_by_looking_at_it():
    numbers = ((np.full((2, 1), i), np.full(2, i)) for i in itertools.count())
    feed = feeds.Feed(opened(data(numbers, 3)).sources["train"], lambda: (0, 0, 0))

    def read():
        if ON_TENSORFLOW:
            return [int(y[0]) for _, y in feed.x]
        return [int(feed.x[i][1][0]) for i in range(len(feed.x))]

    sample = iter(feed.x) if ON_TENSORFLOW else feed.x
    assert int((next(sample) if ON_TENSORFLOW else sample[0])[1][0]) == 0
    feed.begin()
    assert read() == [0, 1, 2]
    feed.begin()
    assert read() == [3, 4, 5]


@pytest.mark.on("tensorflow")
@pytest.mark.parametrize("kind", [str, object, list])
def test_labels_that_are_texts_are_refused_with_the_first_ones(kind):
    labels = np.array(["cat", "dog"])[Y % 2]
    labels = labels.tolist() if kind is list else labels.astype(kind)
    with pytest.raises(TypeError) as caught:
        opened(data((X, labels)))
    said = str(caught.value)
    if kind is not object:
        assert "'cat'" in said and f"shape ({len(Y)},)" in said
        assert "numpy.unique(y, return_inverse=True)" in said
    assert len(said) < 300 and "must be an array of numbers" in said


def test_class_weights_are_sample_weights_in_every_kind():
    weights = {0: 0.5, 2: 4.0}
    expected = np.array([0.5, 1.0, 4.0])[Y]
    kinds = [(X, Y), Rows(), tensors(), lambda key: Rows(), (X, np.eye(3)[Y])]
    for train in kinds:
        made = opened(data(train, class_weight=weights)).sources["train"]
        batches = list(made.read((SEED, 0, 0)))
        labels = np.concatenate([batch[1] for batch in batches])
        labels = labels.argmax(-1) if labels.ndim > 1 else labels
        read = np.concatenate([batch[2] for batch in batches])
        assert (read == np.array([0.5, 1.0, 4.0])[labels]).all()
        assert sorted(read) == sorted(expected[: len(read)]) or len(read) < len(Y)


@pytest.mark.matrix
def test_sample_weights_train_alike_in_every_kind():
    weights = np.linspace(0.1, 2.0, len(Y)).astype("float32")

    class Weighted(Reordered):
        def __getitem__(self, index):
            return (*super().__getitem__(index), weights[self.order[index]])

    expected = results(find(data((X, Y, weights))))
    assert expected != of_arrays()
    assert results(find(data(Weighted()))) == expected


def several(jit_compile=tiny.JIT):
    one, other = keras.Input((3,), name="one"), keras.Input((3,), name="other")
    x = keras.layers.Concatenate()([one, other])
    x = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    outputs = {
        "label": keras.layers.Dense(3, name="label")(x),
        "size": keras.layers.Dense(1, name="size")(x),
    }
    model = keras.Model({"one": one, "other": other}, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", {"label": loss, "size": "mse"}, jit_compile=jit_compile)
    return model


INPUTS = {"one": X[:, :3], "other": X[:, 3:]}
TARGETS = {"label": Y, "size": X[:, :1]}


@pytest.mark.matrix
def test_several_inputs_and_outputs_train_alike_in_every_kind():
    held_out = (INPUTS, TARGETS)
    search = {"rounds": 1, "monitor": "val_loss"}

    def run(train, batch_size=None):
        made = TrainingData(train, held_out)
        return results(
            tt.find_tickets(
                several,
                made,
                tiny.imp(**search),
                seed=SEED,
                batch_size=batch_size,
                verbose=0,
            )
        )

    expected = run((INPUTS, TARGETS), BATCH)
    assert run(Reordered(INPUTS, TARGETS)) == expected
    assert run(lambda key: (INPUTS, TARGETS), BATCH) == expected


@pytest.mark.matrix
@pytest.mark.parametrize("kind", EQUAL)
def test_tickets_and_teachers_are_trained_alike_on_every_kind(kind):
    made = EQUAL[kind]()
    [ticket] = find(EQUAL["arrays"](), search=tiny.imp(rounds=1))[-1:]
    size = sized(kind)["batch_size"]
    trainer = tt.TicketTrainer(tiny.build_compiled, made, SEED, size)
    expected = tt.TicketTrainer(tiny.build_compiled, EQUAL["arrays"](), SEED, BATCH)
    assert trainer.train(ticket, 2) == expected.train(ticket, 2)
    [teacher] = train_teachers(
        tiny.build_compiled, made, [2], seed=SEED, batch_size=size
    )
    [other] = train_teachers(
        tiny.build_compiled, EQUAL["arrays"](), [2], seed=SEED, batch_size=BATCH
    )
    pairs = zip(teacher.get_weights(), other.get_weights(), strict=True)
    assert all((one == two).all() for one, two in pairs)


@pytest.mark.matrix
def test_validation_and_test_of_every_kind_have_the_metrics_of_arrays():
    x, y = HELD_OUT
    [ticket] = find(EQUAL["arrays"](), search=tiny.imp(rounds=1))[-1:]

    def batches(key=None):
        yield x[:16], y[:16]
        yield x[16:], y[16:]

    def forever():
        while True:
            yield from batches()

    def measured(part, **steps):
        made = TrainingData((X, Y), part(), part(), **steps)
        trainer = tt.TicketTrainer(tiny.build_compiled, made, SEED, BATCH)
        return trainer.train(ticket, 1)

    expected = measured(lambda: HELD_OUT)
    known = {"validation_steps": 2, "test_steps": 2}
    rows = [
        measured(lambda: Rows(x, y)),
        measured(lambda: Rows(x, y, workers=2)),
        measured(lambda: lambda key: (x, y)),
        measured(lambda: batches, **known),
        measured(forever, **known),
    ]
    for row in rows:
        assert row == pytest.approx(expected, rel=1e-6)


# Resuming.


def resumed(make, directory, **settings):
    """Returns the results of a search that was interrupted in round 1."""
    with pytest.raises(KeyboardInterrupt):
        find(make(), directory, callbacks=[PowerCut()], **settings)
    trained = []
    note = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: trained.append(epoch)
    )
    note.changes_results = False
    found = find(make(), directory, callbacks=[note], **settings)
    # The round begins anew.
    assert trained == [2, 3]
    return found


BIT = {**EQUAL, **KEYED}


@pytest.mark.parametrize(
    "kind", tiny.marked(list(BIT), [] if ON_TENSORFLOW else ["PyDataset"])
)
def test_an_order_by_the_key_resumes_to_the_bit(kind, tmp_path):
    found = resumed(BIT[kind], tmp_path, **sized(kind))
    assert {ticket.provenance["resume"] for ticket in found} == {"bit"}
    assert results(found) == results(find(BIT[kind](), **sized(kind)))


@pytest.mark.matrix
@pytest.mark.parametrize("kind", UNKNOWN)
def test_an_unknown_order_resumes_to_the_round(kind, tmp_path):
    found = resumed(UNKNOWN[kind], tmp_path)
    assert {ticket.provenance["resume"] for ticket in found} == {"round"}
    assert [ticket.provenance["round"] for ticket in found] == [1]


class KilledInRound1(keras.callbacks.Callback):
    changes_results = False

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == (3, 1):
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.matrix
def test_a_search_on_a_stream_that_is_killed_goes_on_to_the_same_bits(tmp_path):
    program = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "import conftest, test_training_data as t\n"
        "conftest.disable_graph_optimization()\n"
        f"t.find(t.data(t.Reordered()), {str(tmp_path)!r}, "
        "callbacks=[t.KilledInRound1()])"
    )
    done = warm.run([sys.executable, "-c", program])
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert results(find(data(Reordered()), tmp_path)) == of_arrays()


class Drawing(Rows):
    """Adds noise of a generator that is no attribute, so only reading shows it."""

    noise = (np.random.default_rng(0),)

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + self.noise[0].normal(size=x.shape), y


class Begun(Rows):
    def on_epoch_begin(self):
        self.order = self.order[::-1]


class Seeded(Rows):
    def __init__(self):
        super().__init__()
        self.rng = np.random.RandomState(0)


class DrawingReordered(Drawing):
    """Its `reorder` leaves the noise as it is."""

    def reorder(self, key):
        pass


class InTurn(Rows):
    """Its batches depend on the key, and on how many were read since `reorder`."""

    def reorder(self, key):
        self.rng = np.random.default_rng(list(key))

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + self.rng.normal(size=x.shape), y


def test_batches_that_are_read_in_turn_claim_equal_bits_without_workers_only():
    assert opened(data(InTurn())).resume == "bit"
    assert opened(data(InTurn(workers=2))).resume == "round"


STATEFUL = {
    "reorder without effect": DrawingReordered,
    "on_epoch_end": Shuffling,
    "on_epoch_begin": Begun,
    "a generator of numbers": Seeded,
    "other numbers for the same batch": Drawing,
}


@pytest.mark.parametrize("kind", STATEFUL)
def test_a_pydataset_with_a_state_does_not_claim_equal_bits(kind):
    assert opened(data(STATEFUL[kind]())).resume == "round"
    # It also decides by validation data.
    made = TrainingData(Rows(), STATEFUL[kind]())
    assert opened(made).resume == "round"


def test_a_function_that_does_not_depend_on_the_key_alone_claims_no_equal_bits():
    rng = np.random.default_rng(0)

    def noisy(key):
        return X + rng.normal(size=X.shape), Y

    assert opened(data(noisy), batch_size=BATCH).resume == "round"
    assert opened(data(lambda key: (X, Y)), batch_size=BATCH).resume == "bit"


@pytest.mark.matrix
@pytest.mark.parametrize(
    "make, other, message",
    [
        (lambda: data(Rows()), lambda: data(Rows(X + 1)), "first batches"),
        (lambda: data(Rows()), lambda: data(Rows(), 2), "steps: 4 there, 2 here"),
        (
            lambda: data(endless(), 4),
            lambda: data(endless(), 3),
            "steps: 4 there, 3 here",
        ),
        (lambda: data(tensors()), lambda: data(tensors().take(2)), "steps"),
        (
            lambda: data(lambda key: Rows()),
            lambda: data(lambda key: Rows(X, Y)),
            "code",
        ),
        (lambda: data(Rows()), lambda: data(Reordered()), "class"),
        (
            lambda: data(Rows()),
            lambda: data(Rows(), class_weight={0: 2.0}),
            "class_weight",
        ),
    ],
    ids=["content", "steps", "generator", "tf.data", "code", "class", "class weight"],
)
def test_other_data_are_refused(make, other, message, tmp_path):
    find(make(), tmp_path)
    with pytest.raises(ValueError, match=f"holds another search.*{message}"):
        find(other(), tmp_path)


def test_an_identity_of_a_pydataset_counts():
    class Folder(Rows):
        def identity(self):
            return {"files": "0a1b"}

    found = opened(data(Folder())).sources["train"].identity()
    assert found["identity"] == {"files": "0a1b"}


@pytest.mark.on("tensorflow")
def test_a_function_of_a_dataset_without_an_order_claims_no_equal_bits():
    import tensorflow as tf

    def dataset(key):
        options = tf.data.Options()
        options.deterministic = False
        return tensors().with_options(options)

    assert opened(data(dataset)).resume == "round"
    assert opened(data(lambda key: tensors())).resume == "bit"


def test_training_data_are_shown_by_their_shapes():
    text = repr(TrainingData((X, Y), Rows(), name="few"))
    assert "(64, 6)" in text and "name='few'" in text and len(text) < 300


# Refusals, before anything is trained.


class Lengthless(keras.utils.PyDataset):
    def __getitem__(self, index):
        return X, Y


REFUSED = {
    "no steps of a generator": (
        lambda: data(endless()),
        "number of batches of the training data, a generator.*`steps_per_epoch`",
    ),
    "no steps of a validation generator": (
        lambda: TrainingData((X, Y), endless()),
        "validation data, a generator, is not known.*`validation_steps`",
    ),
    "no steps of a test generator": (
        lambda: TrainingData((X, Y), HELD_OUT, endless()),
        "test data, a generator, is not known.*`test_steps`",
    ),
    "an infinite PyDataset": (lambda: data(Counted()), "a PyDataset, is not known"),
    "a PyDataset without a length": (lambda: data(Lengthless()), "Define `__len__`"),
    "steps of arrays": (lambda: data((X, Y), 3), "steps_per_epoch=3 beside arrays"),
    "more steps than batches": (
        lambda: data(Rows(), 5),
        "steps_per_epoch=5, but the training data, a PyDataset, have 4. Lower it",
    ),
    "test steps alone": (
        lambda: TrainingData((X, Y), HELD_OUT, test_steps=2),
        "`test_steps` needs `test`",
    ),
    "labels without an output": (
        lambda: data((X, Y + 1)),
        "Received for the training data: labels from 1 to 3. .* for the labels 0 to 2",
    ),
    "one-hot labels": (
        lambda: data((X, np.eye(3)[Y])),
        "the training data: labels are one-hot, y of shape \\(64, 3\\).*y.argmax",
    ),
    "inputs of another shape": (
        lambda: data((X[:, :5], Y)),
        "the training data: examples of shape \\(5,\\) .* of shape \\(6,\\)",
    ),
    "inputs of another shape in batches": (
        lambda: TrainingData((X, Y), Rows(X[:, :5], Y)),
        "the validation data: examples of shape \\(5,\\) .* of shape \\(6,\\)",
    ),
    "several inputs for one": (
        lambda: TrainingData(((X, X), Y), ((X, X), Y)),
        "the training data: 2 arrays of inputs. The model takes 1",
    ),
    "negative labels in batches": (
        lambda: TrainingData((X, Y), Rows(X, Y - 1)),
        "Received for the validation data: labels from -1 to 1",
    ),
    "class weights of several classes per example": (
        lambda: data((X, np.stack([Y, Y], 1)), class_weight={0: 2.0}),
        r"one class per example, or one-hot rows.*\(64, 2\) .* \(None, 3\)",
    ),
    "an iterator that ends": (
        lambda: data(iter([(X, Y)] * 4), STEPS),
        "has 4 batches, but 6 epochs of 4 are needed.*function data",
    ),
    "an exhausted generator": (
        lambda: data((_ for _ in ()), STEPS),
        "ended after 0 of 4 batches",
    ),
    "x alone": (lambda: data((X,)), "must have the structure|needs targets"),
    "no targets": (
        lambda: TrainingData((X,), (HELD_OUT[0],)),
        "The loss of 'net' needs targets.*Pass \\(x, y\\)",
    ),
    "another structure": (
        lambda: TrainingData((X, Y), ({"a": X}, Y)),
        "Received for train: \\(x, y\\); for validation: \\(x of a, y\\)",
    ),
    "rows": (
        lambda: data((X, Y[:-1])),
        "same number of rows.*\\(64, 6\\) and \\(63,\\)",
    ),
    "sample weights of other outputs": (
        lambda: data((X, {"a": Y}, {"b": Y})),
        "one array, or have the structure of y",
    ),
    "an unknown class": (
        lambda: data((X, Y), class_weight={3: 1.0}),
        "Received: \\[3\\]. Expected: 0 to 2",
    ),
    "a negative weight": (
        lambda: data((X, Y), class_weight={0: -1.0}),
        "a finite number of 0 or more. Received: \\{0: -1.0\\}",
    ),
    "both weights": (
        lambda: data((X, Y, np.ones(64)), class_weight={0: 1.0}),
        "Received: sample weights",
    ),
    "a batch that is none": (
        lambda: data((i for i in itertools.count()), STEPS),
        "A batch of the training data must be a tuple.*Received: 0",
    ),
    "a function of a function": (
        lambda: data(lambda key: lambda key: (X, Y)),
        "which returns <function .*, a function, too",
    ),
    "a function of nothing": (
        lambda: data(lambda: (X, Y)),
        "A function must take one argument, the key",
    ),
    "an array": (
        lambda: data(X),
        "Received: an array of shape \\(64, 6\\). Pass x without targets as \\(x,\\)",
    ),
    "no validation data": (
        lambda: TrainingData((X, Y)),
        "validation data are missing.*Pass \\(train, validation\\)",
    ),
    "a pair of x and y": (
        lambda: (X, Y),
        "validation data are missing.*of shape \\(64, 6\\).*\\(train, validation\\)",
    ),
    "a loader": (lambda: data({1, 2}), "lambda key: iter\\(loader\\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused_before_the_first_epoch(case):
    make, message = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=message):
        opened(make()).check(tiny.network(), epochs=6)


def test_inputs_are_matched_by_the_keys_of_a_model_and_unknown_lengths_fit():
    inputs = {
        "b": keras.Input((2,), name="b"),
        "a": keras.Input((None, 3), name="a"),
    }
    pooled = keras.layers.GlobalAveragePooling1D()(inputs["a"])
    outputs = keras.layers.Concatenate()([inputs["b"], pooled])
    model = keras.Model(inputs, outputs)
    x = {"a": np.ones((4, 5, 3)), "b": np.ones((4, 2)), "other": np.ones(4)}
    input_checks.check_inputs(model, x, "the training data")
    with pytest.raises(ValueError, match=r"shape \(3,\) for input 'b'"):
        input_checks.check_inputs(model, {**x, "b": np.ones((4, 3))}, "the test data")


def test_a_batch_size_beside_batches_is_refused():
    with pytest.raises(ValueError, match="batch_size=8 beside a PyDataset.*Remove"):
        opened(data(Rows()), batch_size=8)


@pytest.mark.on("tensorflow")
def test_a_dataset_of_tensorflow_that_is_too_short_or_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="have 4. Lower it or call .repeat"):
        opened(data(tensors(), 5))
    with pytest.raises(ValueError, match="a tf.data.Dataset, is not known"):
        opened(data(tensors().repeat()))
    with pytest.raises(ValueError, match="a tf.data.Dataset, is not known"):
        opened(data(tensors().filter(lambda x, y: True)))
    made = opened(data(tensors(), 3)).sources["train"]
    # Keras would end the second epoch with a warning.
    assert made.steps == 3 and int(made.dataset.cardinality()) == -1


@pytest.mark.matrix
def test_an_error_of_the_data_is_raised_as_it_is():
    class Broken(Rows):
        def __getitem__(self, index):
            if index == 3:
                raise LookupError("file 3 is missing")
            return super().__getitem__(index)

    for made in (data(Broken()), data(Broken(workers=2))):
        with pytest.raises(LookupError, match="file 3 is missing"):
            find(made)


@pytest.mark.matrix
def test_a_generator_that_ends_too_early_is_an_error():
    ending = itertools.islice(endless(), 3 * STEPS + 1)
    with pytest.raises(ValueError, match="ended after 1 of 4 batches.*function data"):
        find(data((batch for batch in ending), STEPS))


def test_training_data_can_be_pickled_if_their_parts_can():
    made = pickle.loads(pickle.dumps(data(Reordered(), name="rows")))
    assert made.name == "rows" and (made.train[0][0] == X[:BATCH]).all()


# Criteria that look at data.


@pytest.mark.parametrize(
    "make",
    [
        tt.saliency.SNIP,
        *(
            pytest.param(make, marks=pytest.mark.matrix)
            for make in (
                functools.partial(tt.saliency.GraSP, temperature=1.0),
                functools.partial(tt.curvature.OBD, draws=2),
            )
        ),
    ],
    ids=["snip", "grasp", "obd"],
)
def test_a_criterion_scores_alike_on_arrays_and_on_the_same_batches(make):
    model = tiny.network()
    expected = make(X, Y, batch_size=BATCH)(model)
    sources = [Rows(), endless(), lambda key: Rows()]
    for source in sources:
        scores = make(source, batches=STEPS)(model)
        for path, score in scores.items():
            np.testing.assert_array_equal(score, expected[path])


@pytest.mark.matrix
@pytest.mark.parametrize("kind", ["PyDataset", "function", "generator"])
def test_rigl_draws_batches_of_every_kind_and_resumes(kind, tmp_path):
    sources = {
        "PyDataset": Rows,
        "function": lambda: reordered,
        "generator": endless,
    }

    def run(directory=None, callbacks=()):
        grow = tt.saliency.DenseGradient(sources[kind]())
        training = tt.DynamicSparsity(0.8, grow, interval=2)
        [ticket] = find(
            data(Rows()), directory, training, epochs=5, callbacks=callbacks
        )
        return ticket

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, [PowerCut()])
    assert run(tmp_path) == run()


def test_examples_of_batches_are_bounded_and_described():
    examples = Examples(endless(), batches=3)
    assert len(list(examples)) == 3 and examples.rows == 3 * BATCH
    assert re.fullmatch(r"48 examples [0-9a-f]{12}, batches=3", examples.description)
    with pytest.raises(ValueError, match="`batch_size` is for arrays"):
        Examples(endless(), batch_size=3)
    with pytest.raises(ValueError, match="batches=3 beside arrays"):
        Examples(X, Y, batches=3)
    with pytest.raises(TypeError, match="`y` is missing"):
        Examples(X)


def test_balanced_examples_are_the_same_of_every_kind():
    x, y = tt.saliency.balanced((X, Y), each=3)
    assert np.bincount(y).tolist() == [3, 3, 3]
    assert all((X[label == Y][:3] == x[y == label]).all() for label in range(3))
    for source in (Rows(), endless(), lambda key: Rows(X, Y)):
        found = tt.saliency.balanced(source, each=3, classes=3)
        assert (found[0] == x).all() and (found[1] == y).all()
    with pytest.raises(ValueError, match="5 examples of each class in the first 1 "):
        tt.saliency.balanced(Rows(), each=5, classes=4, batches=1)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="TensorFlow needs to know the shapes")
@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda x, y: (x[:, 1:], y), "('float32[5]', 'int64[]')"),
        (lambda x, y: (x,), "('float32[6]',)"),
        (lambda x, y: ({"x": x}, y), "({'x': 'float32[6]'}, 'int64[]')"),
    ],
)
def test_a_later_batch_that_is_unlike_the_first_is_named(change, received):
    before, after = (
        "Batches of the training data must be like the first one, in all but the number"
        " of rows. Received as batch ",
        f" of an epoch: {received}. Expected: ('float32[6]', 'int64[]')",
    )
    with pytest.raises(ValueError, match=f"^{before}[0-3]{re.escape(after)}$"):
        find(data(ChangingAtTheEnd(change)), search=tiny.imp(rounds=1))


def test_a_later_batch_may_have_fewer_rows():
    fewer = ChangingAtTheEnd(lambda x, y: (x[:5], y[:5]))
    [ticket] = find(data(fewer), search=tiny.imp(rounds=1))
    assert ticket.sparsity > 0


@pytest.mark.skipif(not ON_TENSORFLOW, reason="of tf.data only")
@pytest.mark.parametrize("kind", ["arrays", "PyDataset", "function of a generator"])
def test_no_feed_reads_from_a_generator_of_tensorflow(kind, monkeypatch):
    """It would make every later step of the process slower: `design/step.md`."""
    import tensorflow as tf

    def refused(*arguments, **settings):
        raise AssertionError("`from_generator` sets M_TRIM_THRESHOLD.")

    monkeypatch.setattr(tf.data.Dataset, "from_generator", refused)
    made = {**EQUAL, **KEYED}[kind]()
    inputs = opened(made, batch_size=BATCH if kind == "arrays" else None)
    feed = feeds.Feed(inputs.sources["train"], lambda: (SEED, 1, 0))
    feed.begin()
    assert len(list(feed.x)) == STEPS
