"""A search of one round: a training with a callback that makes its ticket."""

from typing import Any

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets.callbacks.base import Progress, ResumableCallback
from tf_tickets.configuration import described
from tf_tickets.search.plan import RoundPlan, Run
from tf_tickets.search.ticket_search import TicketSearch
from tf_tickets.training import best_epochs, snapshots

# Where a state's notes have what the callback needs to continue.
_NOTE = "callback"


class TrainOnce(RoundPlan):
    """One round, in which a callback prunes or stops the training.

    The callback is in the list of `fit` before the search, so its epoch has ended when
    the plan is called. The search resumes after any epoch.

    Args:
        callback: The callback.
        epochs: Epochs of the training.
    """

    def __init__(self, callback: ResumableCallback, epochs: int) -> None:
        super().__init__(rounds=1, epochs_per_round=epochs)
        self.callback = callback

    @property
    def most_states(self) -> int:
        return self.callback.most_states

    # What is stored.

    def may_resume(self, run: Run) -> bool:
        return self.callback.may_resume(run.state.next_epoch)

    def before_storing(self, run: Run) -> None:
        run.state.notes[_NOTE], run.state.states = self.callback.pack()

    def resume(self, run: Run) -> None:
        run.state.epoch_in_round = run.state.next_epoch
        self._continue(run)

    def check(self, run: Run) -> None:
        if _NOTE in run.state.notes:
            # The callback has just begun a new training.
            self._continue(run)

    def _continue(self, run):
        state = run.state
        progress = Progress(state.notes.get(_NOTE), state.states)
        self.callback.unpack(progress, state.fresh)

    def settled_masks(self, run: Run) -> dict[str, np.ndarray]:
        """Returns nothing: the callback prunes within epochs."""
        return {}

    # The end of the training.

    def stops_round(self, run: Run, logs: dict) -> bool:
        """Other callbacks end the training too."""
        return bool(run.model.stop_training)

    def end_round(self, run: Run, logs: dict) -> bool:
        logs = dict(self.callback.end_training(logs))
        model = run.model
        state, step = snapshots.record(model), snapshots.iteration(model)
        run.add_ticket(self.masks(run), state, step)
        run.note_metrics({**self.measures(run), **logs})
        return super().end_round(run, logs)

    def end(self, run: Run) -> None:
        if run.state.complete and self.callback.rewound_epoch is None:
            # Keras has just written averaged weights (use_ema) over the kernels.
            state = snapshots.record(run.model)
            weights = snapshots.start_weights(run.model, state)
            run.state.tickets[-1].weights = weights

    def provenance(self, run: Run) -> dict:
        """Returns the data order with which a rewound training would continue."""
        epoch = self.callback.rewound_epoch
        return {} if epoch is None else {"order": (run.state.round, epoch + 1)}


class OneTraining(TicketSearch):
    """Trains once with a callback; its ticket is that of the trained network.

    Args:
        callback: `GradualPruning`, `DynamicSparsity`, `EarlyStopRewind` or another
            `ResumableCallback`. It must be in the callbacks of `fit` before this one.
        epochs: Epochs of the training.
    """

    # The callback refuses what it cannot follow.
    follows_structures = True

    def __init__(self, callback: ResumableCallback, epochs: int) -> None:
        arguments.check_counts(epochs=epochs)
        self.callback = callback
        super().__init__(TrainOnce(callback, epochs), seed=callback.seed)
        self.structure = callback.structure

    def _origin(self):
        settings = described(self.callback)
        # Where snapshots are kept does not change the result.
        settings.pop("directory", None)
        settings["epochs"] = self.epochs
        return {"method": self.callback.method, "settings": settings}

    def set_model(self, model: keras.Model) -> None:
        super().set_model(model)
        self.callback.set_model(model)

    # The events of `fit`. The metric to monitor is the callback's.

    def on_train_begin(self, logs: Any = None) -> None:
        best_epochs.check_beside_training(self, self.callback)
        self._engine.train_begin()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._engine.epoch_end(epoch, logs)


def as_search(search: Any, epochs: int | None) -> TicketSearch:
    """Returns a search, made from a callback if it is one.

    Args:
        search: A search or a callback.
        epochs: Epochs of a training with a callback; None for a search.

    Example:

    >>> as_search(tt.EarlyStopRewind(), epochs=20).epochs
    20
    """
    if isinstance(search, ResumableCallback):
        if epochs is None:
            raise ValueError(
                f"{type(search).__name__} is a callback of one training, which needs "
                "`epochs`. Received: epochs=None. Pass find_tickets(..., epochs=20)."
            )
        return OneTraining(search, epochs)
    if not isinstance(search, TicketSearch):
        raise TypeError(
            "`search` must be a ticket search such as tf_tickets.IMP(...), or one of "
            "the callbacks GradualPruning, DynamicSparsity and EarlyStopRewind. "
            f"Received: {arguments.shown(search)}"
        )
    if epochs is not None:
        raise ValueError(
            f"{type(search).__name__} has its own number of epochs: {search.epochs}. "
            f"Received: epochs={epochs!r}. `epochs` is for callbacks of one training, "
            "such as GradualPruning; set those of a search in its constructor."
        )
    return search
