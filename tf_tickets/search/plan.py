"""The plan of a search's rounds: hooks that the round engine calls."""

from typing import Any, Protocol

import keras
import numpy as np

from tf_tickets import arguments
from tf_tickets import masks as masks_module
from tf_tickets.masks.base import Mask
from tf_tickets.search.state import SearchState
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import snapshots
from tf_tickets.training.rewind import Rewind
from tf_tickets.wrapping import Kernels


class Run(Protocol):
    """The argument of a plan's hooks: the engine of the running search."""

    rewind: Rewind
    seed: int
    state: SearchState

    @property
    def model(self) -> keras.Model:
        """The model in training."""

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of `fit`: "epochs" and, if known, "steps"."""

    @property
    def kernels(self) -> Kernels:
        """The prunable kernels of the model, with their masks."""

    def rng(self, *key: int) -> np.random.Generator:
        """Returns a random generator for this round, or for another key."""

    def add_ticket(
        self,
        masks: dict[str, np.ndarray],
        start: snapshots.State | None = None,
        step: int | None = None,
    ) -> Ticket:
        """Makes the ticket of the present round and keeps it."""

    def note_metrics(self, logs: dict[str, float]) -> None:
        """Keeps the logs of a round's last epoch as the metrics of its network."""


class RoundPlan:
    """The rounds of a search: how long they are, and what happens at their edges.

    A plan keeps no state of its own. The engine passes itself as `run` to every hook:
    `run.model`, `run.kernels`, `run.state` (round, tickets, snapshot, notes),
    `run.add_ticket(...)` and the others of `Run`. Hooks are called at the edges of
    epochs only, where both backends allow variables to be read and assigned.

    `PruneAndRewind`, `LearnMasks` and `PressAndRemove` are the plans of this library.

    Args:
        rounds: Number of the last round.
        epochs_per_round: Epochs that a round trains.
        first_round: 0 if the first round trains the dense network, else 1.
        mask: The mask parametrization that models are wrapped with.
    """

    def __init__(
        self,
        rounds: int,
        epochs_per_round: int,
        first_round: int = 1,
        mask: str | Mask = "fixed",
    ) -> None:
        arguments.check_counts(rounds=rounds, epochs_per_round=epochs_per_round)
        arguments.check_choice((0, 1), first_round=first_round)
        masks_module.get(mask)  # Raises an error if there is no such mask.
        self.rounds = rounds
        self.epochs_per_round = epochs_per_round
        self.first_round = first_round
        self.mask = mask

    @property
    def may_end_early(self) -> bool:
        """Whether the search may end before its last round."""
        return False

    @property
    def epochs_of_tickets(self) -> int | None:
        """Epochs that the search trains each ticket; None if it does not."""
        return None

    def epochs_of(self, round_: int) -> int:
        """Epochs that a round trains, at most."""
        return self.epochs_per_round

    @property
    def epochs(self) -> int:
        """Epochs of the whole search, at most."""
        rounds = range(self.first_round, self.rounds + 1)
        return sum(self.epochs_of(round_) for round_ in rounds)

    def epochs_before(self, round_: int, run: Run) -> int:
        """Epochs that are trained before the ticket of a round is known."""
        rounds = range(self.first_round, round_ + 1)
        return sum(self.epochs_of(earlier) for earlier in rounds)

    def hidden_epochs(self, round_: int) -> int:
        """Epochs at the beginning of a round that callbacks of rounds do not see."""
        return 0

    @property
    def most_states(self) -> int:
        """The largest number of states that the plan keeps in `run.state.states`."""
        return 0

    def prepare(self, wrapped: keras.Model) -> keras.Model:
        """Returns the model to train, from one that was just wrapped."""
        return wrapped

    def check(self, run: Run) -> None:
        """Raises an error before the training of a model the search cannot work on."""

    def setup(self, run: Run) -> None:
        """Called once, before the state that the search begins with is recorded."""

    def begin(self, run: Run) -> None:
        """Called once after that, before the first epoch."""

    def may_resume(self, run: Run) -> bool:
        """Returns whether a search may resume at the next epoch.

        The state is stored there. By default, a search resumes between its rounds.
        """
        return run.state.epoch_in_round == 0

    def before_storing(self, run: Run) -> None:
        """Called before the state is stored: the plan adds to its notes and states."""

    def resume(self, run: Run) -> None:
        """Called when a stored search resumes, before `fit` and `check`."""

    def turn(self, run: Run) -> None:
        """Called before the first epoch of every later round."""

    def before_epoch(self, run: Run) -> None:
        """Called before every epoch."""

    def masks(self, run: Run) -> dict[str, np.ndarray]:
        """Returns the hard masks of the network in training, by kernel path."""
        return run.kernels.masks

    def settled_masks(self, run: Run) -> dict[str, np.ndarray]:
        """Returns the masks that do not change within an epoch, by kernel path."""
        layers = run.kernels.mask_layers
        masks = run.kernels.masks.items()
        return {path: mask for path, mask in masks if not layers[path].learned}

    def measures(self, run: Run) -> dict[str, float]:
        """Returns what the search adds to the logs of an epoch."""
        return {"sparsity": sparsity_of(self.masks(run))}

    def stops_round(self, run: Run, logs: dict) -> bool:
        """Called after every epoch; returns whether it is the last of its round."""
        return False

    def end_round(self, run: Run, logs: dict) -> bool:
        """Called after the last epoch of a round; returns whether the search ends."""
        return run.state.round == self.rounds

    def end(self, run: Run) -> None:
        """Called once, when `fit` ends, even if the search is not complete."""

    def data_order(self, run: Run) -> tuple[int, int]:
        """Returns the key of the data order: the round and its epoch."""
        return run.state.round, run.state.epoch_in_round

    def provenance(self, run: Run) -> dict:
        """Returns what the search adds to the provenance of its tickets."""
        return {}


def sparsity_of(masks: dict[str, np.ndarray]) -> float:
    """Returns the fraction of zeros in masks.

    Example:

    >>> sparsity_of({"a": np.array([True, False]), "b": np.array([True, True])})
    0.25
    """
    size = sum(mask.size for mask in masks.values())
    return sum(mask.size - int(mask.sum()) for mask in masks.values()) / max(size, 1)
