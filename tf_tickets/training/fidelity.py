"""What a rewind does with each part of the state of a training."""

import dataclasses

import keras

PARTS = ("weights", "statistics", "optimizer", "learning_rate", "seeds")


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class Fidelity:
    """What a rewind does with each part of the state.

    Each is "rewind" (to the snapshot) or "keep" (as training left it); the
    optimizer may also be "fresh" (as it was when the search began). Public
    lottery-ticket codes differ in this, and their results with it.

    Args:
        weights: Trainable variables.
        statistics: Moving averages of batch normalization and the like.
        optimizer: Momentum and other slots, averages of weights (EMA).
        learning_rate: Step and learning rate, the position on the schedule.
        seeds: Random generators and, in `find_tickets`, the order of the data.

    Example:

    >>> Fidelity.get("weights")
    Fidelity(weights='rewind', statistics='rewind', optimizer='fresh',
             learning_rate='rewind', seeds='keep')
    """

    weights: str = "rewind"
    statistics: str = "rewind"
    optimizer: str = "fresh"
    learning_rate: str = "rewind"
    seeds: str = "keep"

    def __post_init__(self):
        for part in PARTS:
            allowed = ["rewind", "keep"] + ["fresh"] * (part == "optimizer")
            if getattr(self, part) not in allowed:
                raise ValueError(
                    f"Fidelity of {part!r} must be one of {allowed}. Received: "
                    f"{getattr(self, part)!r}"
                )

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    @staticmethod
    def get(identifier: "str | dict | Fidelity") -> "Fidelity":
        """Returns a `Fidelity` from a name, a configuration or an instance.

        "weights": weight rewinding with a new optimizer (OpenLTH). "exact": the whole
        state (Renda et al.), which at rate 0 repeats round 0 to the bit.
        "learning_rate": the weights stay, the schedule restarts. "fine_tune": training
        continues at the last learning rate.

        Example:

        >>> Fidelity.get("fine_tune").weights
        'keep'
        """
        if isinstance(identifier, Fidelity):
            return identifier
        if isinstance(identifier, dict):
            return Fidelity(**identifier)
        if identifier not in FIDELITIES:
            raise ValueError(
                f"Unknown fidelity. Received: {identifier!r}. Known: "
                f"{sorted(FIDELITIES)}, or a Fidelity(...)."
            )
        return FIDELITIES[identifier]


FIDELITIES = {
    "weights": Fidelity(),
    "exact": Fidelity(optimizer="rewind", seeds="rewind"),
    "learning_rate": Fidelity(weights="keep", statistics="keep"),
    "fine_tune": Fidelity("keep", "keep", "keep", "keep", "keep"),
}
