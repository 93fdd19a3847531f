"""Which parts of the training state a rewind restores."""

import dataclasses

import keras

from tf_tickets import arguments

PARTS = ("weights", "statistics", "optimizer", "learning_rate", "seeds")


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Defines which parts of the training state a rewind restores.

    Each part is "rewind" (restored from the snapshot) or "keep" (left as trained). The
    optimizer may also be "fresh" (restored from the beginning of the search). Published
    lottery-ticket implementations differ in this, and so do their results.

    Args:
        weights: Trainable variables.
        statistics: Non-trainable state, such as moving averages of batch normalization.
        optimizer: Momentum and other slot variables, and weight averages (EMA).
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
            arguments.check_choice(allowed, **{part: getattr(self, part)})

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    @staticmethod
    def get(identifier: "str | dict | Fidelity") -> "Fidelity":
        """Returns a `Fidelity` from a name, configuration or instance.

        - "weights": rewinds the weights and resets the optimizer (OpenLTH).
        - "exact": rewinds the whole state (Renda et al.). With rate 0, it reproduces
          round 0 bit by bit.
        - "learning_rate": keeps the weights and rewinds the learning-rate schedule.
        - "fine_tune": keeps everything and trains at the last learning rate.

        Args:
            identifier: A name, configuration or instance.

        Returns:
            A `Fidelity`.

        Example:

        >>> Fidelity.get("fine_tune").weights
        'keep'
        """
        if isinstance(identifier, Fidelity):
            return identifier
        if isinstance(identifier, dict):
            return _from_parts(identifier)
        if not arguments.is_one_of(identifier, FIDELITIES):
            raise ValueError(
                f"Unknown fidelity. Received: {arguments.shown(identifier)}. Expected "
                f"one of {sorted(FIDELITIES)}, or an instance of Fidelity."
            )
        return FIDELITIES[str(identifier)]


def _from_parts(parts):
    if not set(parts) <= set(PARTS):
        raise ValueError(
            f"The parts of a fidelity must be some of {', '.join(PARTS)}. Received: "
            f"{arguments.shown(parts)}"
        )
    return Fidelity(**parts)


FIDELITIES = {
    "weights": Fidelity(),
    "exact": Fidelity(optimizer="rewind", seeds="rewind"),
    "learning_rate": Fidelity(weights="keep", statistics="keep"),
    "fine_tune": Fidelity("keep", "keep", "keep", "keep", "keep"),
}
