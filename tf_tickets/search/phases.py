"""The phases of searches with growing penalties: stage one, and the penalty phase."""

import dataclasses
from typing import Any

import keras

from tf_tickets import arguments
from tf_tickets.callbacks.early_stop_rewind import EarlyStopRewind
from tf_tickets.configuration import restored, serialized
from tf_tickets.masks.annealing import called


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class PenaltyPhase:
    """The epochs in which a penalty on the weights to be removed grows and holds.

    Searches take the number of epochs alone as a shorthand: `penalty=10`.

    Args:
        epochs: Number of epochs; 0 removes weights without a penalty, and needs
            `strength=GrowingPenalty(cap=0.0)`.
        strength: Schedule of the penalty's strength; None for the method's default.
        learning_rate: Learning rate in this phase; None for that of the optimizer,
            whose schedule, if it has one, restarts.

    Example:

    >>> PenaltyPhase(40, tt.schedules.GrowingPenalty(1e-4, interval=5), 1e-3).epochs
    40
    """

    epochs: int = 10
    strength: Any = None
    learning_rate: float | None = None

    def __post_init__(self):
        arguments.check_not_negative(penalty_epochs=self.epochs)
        if self.strength is not None:
            called("strength", self.strength)
        if not self.epochs and getattr(self.strength, "cap", None) != 0.0:
            raise ValueError(
                "A penalty phase without epochs leaves the penalty no time to grow. "
                f"Received: epochs=0, strength={self.strength!r}. Give it epochs, or "
                "strength=GrowingPenalty(cap=0.0) for no penalty."
            )
        rate = self.learning_rate
        if rate is not None:
            arguments.check_between(0.0, 1e30, learning_rate=rate)

    @classmethod
    def get(cls, identifier: "int | PenaltyPhase", default: Any) -> Any:
        """Returns a phase, whose strength is `default` unless it has one.

        Args:
            identifier: A number of epochs, or a `PenaltyPhase`.
            default: The method's default strength.
        """
        called("default", default)
        phase = identifier if isinstance(identifier, PenaltyPhase) else cls(identifier)
        if phase.strength is None:
            return dataclasses.replace(phase, strength=default)
        return phase

    def get_config(self) -> dict[str, Any]:
        return {name: serialized(value) for name, value in vars(self).items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PenaltyPhase":
        return cls(**{name: restored(value) for name, value in config.items()})


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class StageOne:
    """The dense training before the rounds: it stops early and rewinds.

    Searches take the number of epochs alone as a shorthand: `stage_one=20`.

    Args:
        epochs: Maximum number of epochs; 0 skips stage one.
        early_stop: When it stops and where it rewinds to. By default it stops after 5
            epochs without a lower validation loss and rewinds to the best epoch.

    Example:

    >>> StageOne(20).early_stop
    EarlyStopRewind(patience=5, min_delta=0.0, rewind='best')
    """

    epochs: int = 20
    early_stop: Any = None

    def __post_init__(self):
        arguments.check_not_negative(stage_one_epochs=self.epochs)
        if self.early_stop is None:
            object.__setattr__(self, "early_stop", EarlyStopRewind())
        if not isinstance(self.early_stop, EarlyStopRewind):
            raise TypeError(
                "`early_stop` must be an EarlyStopRewind, or None for one with its "
                f"defaults. Received: {self.early_stop!r}"
            )

    @classmethod
    def get(cls, identifier: "int | StageOne") -> "StageOne":
        """Returns a `StageOne` from a number of epochs or an instance.

        Example:

        >>> StageOne.get(0).epochs
        0
        """
        return identifier if isinstance(identifier, StageOne) else cls(identifier)

    def get_config(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "early_stop": serialized(self.early_stop)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StageOne":
        return cls(config["epochs"], restored(config["early_stop"]))
