"""The recorded state of a search, which a killed search resumes from."""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from tf_tickets import schema, wrapping
from tf_tickets.tickets.ticket import Ticket
from tf_tickets.training import snapshots
from tf_tickets.wrapping.kernels import to_numpy

_METRICS = schema.mapping(schema.number)
# Plans may keep other notes too.
_NOTES = schema.fields(
    {},
    {
        "stage_one": schema.mapping(schema.optional(schema.count)),
        "thresholds": schema.mapping(schema.finite),
        "callback": schema.mapping(),
    },
    others=True,
)
# The fields that the file of a state holds, beside the arrays.
_KEPT = {
    "dense": _METRICS,
    "round": schema.count,
    "complete": schema.flag,
    "next_epoch": schema.count,
    "step": schema.count,
    "notes": _NOTES,
}
_TABLES = ("now", "fresh", "snapshot", "masks")
# Prefix of the tables of states that a plan keeps.
_KEPT_STATE = "state "


def check_content(content: dict) -> None:
    """Validates the content of a state's file; raises a ValueError.

    Args:
        content: A dict with "format", "identity", "tickets", the number of tickets,
            and "search", the content that `SearchState.pack` returned.
    """
    schema.fields(
        {
            "format": schema.count,
            "identity": schema.mapping(),
            "versions": schema.mapping(schema.text),
            "tickets": schema.count,
            "search": schema.mapping(),
        }
    )(content, "content")
    metrics = schema.items(_METRICS, length=content["tickets"])
    last = schema.optional(schema.text)
    check = schema.fields({**_KEPT, "metrics": metrics, "last_ticket": last})
    check(content["search"], "content.search")


def check_tickets(tickets: list[Ticket], content: dict) -> None:
    """Validates that loaded tickets are those of a state; raises a ValueError.

    Every ticket names its round and the ticket before it, and the state its last one.

    Args:
        tickets: The tickets by round.
        content: What `SearchState.pack` returned.
    """
    for number, ticket in enumerate(tickets, 1):
        round_ = ticket.provenance.get("round")
        if round_ != number:
            _refuse_ticket(number, f"it is the ticket of round {round_!r}")
    ids = [ticket.id for ticket in tickets]
    parents = [ticket.provenance.get("parent") for ticket in tickets[1:]]
    stored = [*parents, content["last_ticket"]]
    for number, (actual, expected) in enumerate(zip(ids, stored, strict=False), 1):
        if actual != expected:
            _refuse_ticket(number, f"its id is {actual}, not {expected}")


def _refuse_ticket(number, reason):
    raise ValueError(
        f"The ticket of round {number} is not the one that the search stored: "
        f"{reason}. The file was replaced; restore it, or use another directory."
    )


def max_bytes(model: keras.Model, states: int = 0) -> int:
    """Returns the largest size of the arrays of a state of the model, in memory.

    Args:
        model: The model in training.
        states: How many states the plan keeps, beside the search's own.
    """
    parts = [*snapshots.variables_by_part(model).values()]
    masks = [*_mask_variables(model).values()]
    variables = [v for table in [*parts * (3 + states), *masks] for v in table.values()]
    # No number takes more than 8 bytes.
    return sum(8 * math.prod(variable.shape) for variable in variables)


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
        states: States of the training that a plan keeps, by name.
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
    states: dict[str, snapshots.State] = dataclasses.field(default_factory=dict)
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
            model: The model in training, between two epochs.
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
            **{_KEPT_STATE + name: state for name, state in self.states.items()},
        }
        arrays = {
            f"{kind}|{part}|{name}": array
            for kind, table in tables.items()
            for part, values in table.items()
            for name, array in values.items()
        }
        content = {name: getattr(self, name) for name in _KEPT}
        content["metrics"] = [ticket.metrics for ticket in self.tickets]
        content["last_ticket"] = self.tickets[-1].id if self.tickets else None
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
        tables = _tables(arrays)
        for part, variables in snapshots.variables_by_part(model).items():
            snapshots.assign(variables, tables["now"].get(part, {}))
        # In order, since the running numbers in paths may differ in this build.
        masks = list(tables["masks"].values())
        for variables, values in zip(
            _mask_variables(model).values(), masks, strict=True
        ):
            snapshots.assign(variables, values)
        fresh = _adopted(model, tables["fresh"])
        given = tables["snapshot"]
        states = {
            table.removeprefix(_KEPT_STATE): _adopted(model, values)
            for table, values in tables.items()
            if table.startswith(_KEPT_STATE)
        }
        return cls(
            **{name: content[name] for name in _KEPT},
            tickets=tickets,
            fresh=fresh,
            reached=_adopted(model, given) if given else None,
            states=states,
        )


def _tables(arrays):
    """Returns the arrays of a file by table, part and name."""
    tables: dict[str, snapshots.State] = {table: {} for table in _TABLES}
    for key, array in arrays.items():
        table, *names = key.split("|", 2)
        is_known = table in _TABLES or table.startswith(_KEPT_STATE)
        if not is_known or len(names) != 2:
            raise ValueError(
                f"An array has the unknown name {key!r}. Expected TABLE|PART|NAME with "
                f"a table of {_TABLES} or {_KEPT_STATE!r} and a name."
            )
        tables.setdefault(table, {}).setdefault(names[0], {})[names[1]] = array
    return tables


def _adopted(model, state):
    """Returns a state of another build, which must fit the model."""
    adopted = snapshots.adopt(model, state)
    for part, variables in snapshots.variables_by_part(model).items():
        for name, variable in variables.items():
            shape = adopted[part][name].shape
            if shape != tuple(variable.shape):
                raise ValueError(
                    f"Array {name!r} has the shape {shape}. Expected: "
                    f"{tuple(variable.shape)}."
                )
    return adopted


def _mask_variables(model):
    """Returns a dict from kernel path to the variables of its mask, by name."""
    return {
        path: {f"{i}:{v.name}": v for i, v in enumerate(mask.variables)}
        for path, mask in wrapping.kernels(model).mask_layers.items()
    }
