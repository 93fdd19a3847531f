"""Early stopping with a rewind: where it stops, and what state it restores."""

import keras
import numpy as np
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import wrapping
from tf_tickets.training import snapshots

pytestmark = pytest.mark.turns("jax")


@pytest.mark.parametrize(
    "metric, sign",
    [
        ("val_terrain_accuracy", 1),
        ("floss_auc_1", 1),
        ("val_terrain_loss", -1),
        ("val_mean_absolute_error", -1),
        ("rmse", -1),
        ("val_r2_score", 1),
    ],
)
def test_the_direction_of_a_metric_is_not_that_of_the_name_of_its_output(metric, sign):
    assert tt.Monitor(metric).merit({metric: 2.0}) == sign * 2.0


PUBLISHED = [5.0, 4.0, 3.0, 3.1, 3.2, 3.3, 2.0]


def fit(model, callbacks, epochs):
    x, y = tiny.data()
    arguments = {"batch_size": 16, "shuffle": False, "verbose": 0}
    return model.fit(x, y, epochs=epochs, callbacks=callbacks, **arguments).history


def watched(losses, **kwargs):
    """Returns the epoch at which it stops, and the epoch it rewinds to."""
    model = tiny.network()
    snapshots.built_optimizer(model)
    stop = tt.EarlyStopRewind(**{"patience": 3, **kwargs})
    stop.begin(model)
    kernel = model.trainable_variables[0]
    for epoch, loss in enumerate(losses):
        kernel.assign(np.full(kernel.shape, epoch, "float32"))
        if stop.watch(epoch, {"val_loss": loss}):
            logs = stop.go_back()
            [result] = {float(v) for v in wrapping.to_numpy(kernel).ravel()}
            assert result == stop.rewound_epoch
            assert logs == {"val_loss": losses[stop.rewound_epoch]}
            return stop.stopped_epoch, stop.rewound_epoch
    return stop.stopped_epoch, stop.rewound_epoch


def test_the_list_of_the_specification():
    assert watched(PUBLISHED) == (5, 2)


@pytest.mark.parametrize("epochs, rewound", [(1, 4), (2, 3), (3, 2), (5, 0), (9, 0)])
def test_it_goes_back_so_many_epochs_before_the_stop(epochs, rewound):
    assert watched(PUBLISHED, rewind=epochs) == (5, rewound)


def test_an_improvement_below_min_delta_does_not_count():
    losses = [1.0, 0.99, 0.98, 0.97]
    assert watched(losses) == (None, None)
    # The first one counts as the best, though the others are lower.
    assert watched(losses, min_delta=0.05) == (3, 0)


def test_equal_and_undefined_losses_are_no_improvement():
    assert watched([1.0, 1.0, 1.0, 1.0]) == (3, 0)
    assert watched([1.0, np.nan, np.nan, np.nan]) == (3, 0)


def test_of_an_accuracy_more_is_better():
    model = tiny.network()
    snapshots.built_optimizer(model)
    stop = tt.EarlyStopRewind(1, monitor="val_accuracy")
    stop.begin(model)
    result = [stop.watch(i, {"val_accuracy": v}) for i, v in enumerate([0.1, 0.2, 0.1])]
    assert result == [False, False, True]


def test_without_patience_it_never_stops_and_says_nothing(recwarn):
    model = tiny.network()
    stop = tt.EarlyStopRewind(None, monitor="loss")
    fit(model, [stop], 3)
    said = [str(w.message) for w in recwarn.list]
    assert stop.stopped_epoch is None
    assert not any("nothing was stopped" in message for message in said)


def test_it_says_so_when_it_never_stopped():
    stop = tt.EarlyStopRewind(3, monitor="loss")
    with pytest.warns(UserWarning, match="never went 3 epochs without improvement"):
        fit(tiny.network(), [stop], 3)


class Worse(keras.callbacks.Callback):
    """Increases the monitored loss from the third epoch on."""

    def on_epoch_end(self, epoch, logs=None):
        logs["val_loss"] = abs(epoch - 2.0)


@pytest.mark.parametrize(
    "kept_in, rewind", tiny.checkered(["memory", "files"], [2, "best"])
)
def test_the_whole_state_goes_back_in_a_fit(tmp_path, kept_in, rewind):
    back = {"best": 2, 2: 3}[rewind]
    directory = tmp_path / "states" if kept_in == "files" else None
    stop = tt.EarlyStopRewind(3, rewind=rewind, directory=directory)
    diary, model = tiny.Diary(), tiny.network()
    files = []
    count = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: files.append(
            len(list(tmp_path.rglob("*.snapshot")))
        )
    )
    logs = fit(model, [Worse(), diary, stop, count], 20)
    assert (stop.stopped_epoch, stop.rewound_epoch) == (5, back)
    assert len(logs["loss"]) == 6
    now, then = snapshots.record(model), diary.after[back]
    assert tiny.same(tiny.flat(now), tiny.flat(then))
    # Only snapshots that may be restored are kept, and none afterwards.
    most = 0 if kept_in == "memory" else 1 if rewind == "best" else 3
    assert max(files) == most and files[-1] == 0
    # Training continues as it would have from that epoch.
    again = tiny.network()
    fit(again, [], back + 1)
    assert tiny.same(tiny.flat(snapshots.record(again)), tiny.flat(then))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patience": 0}, "`patience`.*Received: 0"),
        ({"rewind": 0}, "`rewind`.*Received: 0"),
        ({"rewind": "first"}, "`rewind`.*Received: 'first'"),
        ({"min_delta": -1.0}, "`min_delta`.*Received: min_delta=-1.0"),
        ({"fidelity": "half"}, "Received: 'half'"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tt.EarlyStopRewind(**arguments)


def test_a_missing_metric_is_named():
    with pytest.raises(
        ValueError, match="no metric 'val_loss'. Received: .'accuracy', 'loss'"
    ):
        fit(tiny.network(), [tt.EarlyStopRewind()], 1)


def test_a_first_loss_that_is_not_a_number_is_no_best():
    stop = tt.EarlyStopRewind(3)
    model = tiny.network()
    stop.begin(model)
    for epoch, loss in enumerate([float("nan"), 3.0, 2.0, 1.0, 1.5, 1.5]):
        assert not stop.watch(epoch, {"val_loss": loss})
    assert stop.watch(6, {"val_loss": 1.5})
    assert stop.go_back() == {"val_loss": 1.0} and stop.rewound_epoch == 3


@pytest.mark.parametrize(
    "patience, rewind, message",
    [
        (None, "best", "No epoch has been recorded.*Received: patience=None"),
        (3, 2, "rewind=2 counts back.*has not stopped"),
    ],
)
def test_without_a_stop_there_may_be_nothing_to_go_back_to(patience, rewind, message):
    stop = tt.EarlyStopRewind(patience, rewind=rewind)
    stop.begin(tiny.network())
    stop.watch(0, {"val_loss": 1.0})
    with pytest.raises(RuntimeError, match=message):
        stop.go_back()


def test_a_fit_that_goes_on_is_rewound_to_its_own_first_epoch_at_the_earliest():
    stop = tt.EarlyStopRewind(2, rewind=5)
    stop.begin(tiny.network())
    for epoch, loss in enumerate([1.0, 2.0, 3.0], start=10):
        stopped = stop.watch(epoch, {"val_loss": loss})
    assert stopped and stop.go_back() == {"val_loss": 1.0}
    assert stop.rewound_epoch == 10
