"""The recorded state of a search, which a killed search resumes from."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tf_tickets import wrapping
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import snapshots
from tf_tickets.wrapping.kernels import to_numpy

# The fields that the file of a state holds, beside the arrays.
_KEPT = ("dense", "round", "complete", "next_epoch", "step", "notes")


@dataclasses.dataclass
class SearchState:
    """The state of a search in progress.

    Args:
        round: The present round.
        epoch_in_round: Epochs of it that have been trained.
        next_epoch: The epoch of `fit` that comes next.
        step: Training steps of the first round so far.
        complete: Whether the search has ended.
        turn_due: Whether the next epoch begins a new round.
        tickets: The tickets so far, by round.
        dense: Metrics of the dense network, if the search trains one.
        fresh: The state of the training when the search began; empty before that.
        reached: The state to rewind to, or None if the search has not reached it yet.
        notes: What a plan stores between rounds, serializable as JSON.
        scores: The scores of learned masks when their last round ended.
    """

    round: int
    epoch_in_round: int = 0
    next_epoch: int = 0
    step: int = 0
    complete: bool = False
    turn_due: bool = False
    tickets: list[Ticket] = dataclasses.field(default_factory=list)
    dense: dict[str, float] = dataclasses.field(default_factory=dict)
    fresh: snapshots.State = dataclasses.field(default_factory=dict)
    reached: snapshots.State | None = None
    notes: dict[str, Any] = dataclasses.field(default_factory=dict)
    scores: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def snapshot(self) -> snapshots.State:
        """The state to rewind to. Raises a RuntimeError before it is reached."""
        if self.reached is None:
            raise RuntimeError(
                f"There is no state to rewind to yet, in round {self.round} after "
                f"{self.step} steps: the search has not reached `rewind_to`. Read "
                "`run.state.snapshot` at the end of the first round or later."
            )
        return self.reached

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the network in training, to be filled when its round ends."""
        return self.tickets[-1].metrics if self.tickets else self.dense

    @property
    def round_is_over(self) -> bool:
        """Whether the present round has been trained to its end."""
        return self.complete or self.turn_due

    def pack(self, model: keras.Model) -> tuple[dict, dict[str, np.ndarray]]:
        """Returns the contents of a state's file: (content for JSON, arrays).

        Args:
            model: The model in training, between two rounds.
        """
        # The state that the search began with is packed only once.
        is_new = self.reached is not None and self.reached is not self.fresh
        tables = {
            "now": snapshots.record(model),
            "fresh": self.fresh,
            "snapshot": self.snapshot if is_new else {},
            "masks": {
                path: {name: to_numpy(variable) for name, variable in variables.items()}
                for path, variables in _mask_variables(model).items()
            },
        }
        arrays = {
            f"{kind}|{part}|{name}": array
            for kind, table in tables.items()
            for part, values in table.items()
            for name, array in values.items()
        }
        content = {name: getattr(self, name) for name in _KEPT}
        content["metrics"] = [ticket.metrics for ticket in self.tickets]
        return content, arrays

    @classmethod
    def unpack(
        cls,
        content: dict,
        arrays: dict[str, np.ndarray],
        tickets: list[Ticket],
        model: keras.Model,
    ) -> "SearchState":
        """Returns a packed state, and restores the model to it.

        Args:
            content: What `pack` returned.
            arrays: What `pack` returned.
            tickets: The tickets of the search, loaded from their files.
            model: A model built as that of the search; its variables are assigned.
        """
        for ticket, metrics in zip(tickets, content["metrics"], strict=True):
            ticket.metrics = metrics
        tables: dict[str, snapshots.State] = {"now": {}, "fresh": {}, "snapshot": {}}
        for key, array in arrays.items():
            kind, part, name = key.split("|", 2)
            tables.setdefault(kind, {}).setdefault(part, {})[name] = array
        for part, variables in snapshots.variables_by_part(model).items():
            snapshots.assign(variables, tables["now"].get(part, {}))
        # In order, since the running numbers in paths may differ in this build.
        masks = list(tables["masks"].values())
        for variables, values in zip(
            _mask_variables(model).values(), masks, strict=True
        ):
            snapshots.assign(variables, values)
        fresh = snapshots.adopt(model, tables["fresh"])
        given = tables["snapshot"]
        return cls(
            **{name: content[name] for name in _KEPT},
            tickets=tickets,
            fresh=fresh,
            reached=snapshots.adopt(model, given) if given else None,
        )


def _mask_variables(model):
    """Returns a dict from kernel path to the variables of its mask, by name."""
    return {
        path: {f"{i}:{v.name}": v for i, v in enumerate(mask.variables)}
        for path, mask in wrapping.kernels(model).mask_layers.items()
    }
