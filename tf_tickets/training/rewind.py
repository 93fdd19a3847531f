"""The moment that a rewind goes back to, and the state that it restores."""

import dataclasses
import re
from typing import Any

import keras

from tf_tickets import arguments
from tf_tickets.training.fidelity import FIDELITIES, Fidelity


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class Rewind:
    """The moment that tickets start from, and what is rewound to it.

    Searches take the moment alone as a shorthand: `rewind_to="500 steps"`.

    Args:
        moment: "init", "N steps" or "N epochs" of the first round.
        fidelity: Which parts of the training state are rewound. "weights": weights,
            statistics and schedule, with a new optimizer (OpenLTH). "exact": the whole
            state (Renda et al. 2020). "learning_rate": the weights stay, the schedule
            restarts. "fine_tune": nothing. Or a `tf_tickets.Fidelity`.

    Example:

    >>> Rewind("500 steps", "exact")
    Rewind('500 steps', 'exact')
    """

    moment: str = "init"
    fidelity: Any = "weights"

    def __post_init__(self):
        _parse(self.moment)
        object.__setattr__(self, "moment", str(self.moment))
        object.__setattr__(self, "fidelity", Fidelity.get(self.fidelity))

    @classmethod
    def get(
        cls, identifier: "str | Rewind", fidelity: str | dict | Fidelity = "weights"
    ) -> "Rewind":
        """Returns a `Rewind` from a moment or an instance.

        Args:
            identifier: "init", "N steps", "N epochs", or a `Rewind`.
            fidelity: The fidelity of a moment that is passed alone.

        Example:

        >>> Rewind.get("2 epochs", "exact")
        Rewind('2 epochs', 'exact')
        """
        if isinstance(identifier, Rewind):
            return identifier
        return cls(identifier, fidelity)

    @property
    def unit(self) -> str:
        """ "steps" or "epochs"."""
        return _parse(self.moment)[0]

    @property
    def count(self) -> int:
        """Number of steps or epochs; 0 for the initialization."""
        return _parse(self.moment)[1]

    @property
    def to_init(self) -> bool:
        """Whether the moment is the initialization."""
        return self.count == 0

    def check_within(self, epochs: int) -> None:
        """Raises an error if the moment lies after the first round."""
        arguments.check_not_negative(epochs=epochs)
        if self.unit == "epochs" and self.count >= epochs:
            raise ValueError(
                "`rewind_to` must lie before the end of the first round. Received: "
                f"{self.moment!r}, but the first round has {epochs} epochs."
            )

    def __repr__(self) -> str:
        return f"Rewind({self.moment!r}, {fidelity_name(self.fidelity)!r})"

    def get_config(self) -> dict[str, Any]:
        name = fidelity_name(self.fidelity)
        return {
            "moment": self.moment,
            "fidelity": name if isinstance(name, str) else name.get_config(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Rewind":
        return cls(**config)


def fidelity_name(fidelity: Fidelity) -> "str | Fidelity":
    """Returns the name of a fidelity, or itself if it has none.

    Example:

    >>> fidelity_name(Fidelity())
    'weights'
    """
    return next((n for n, known in FIDELITIES.items() if known == fidelity), fidelity)


def _parse(moment):
    is_text = isinstance(moment, str)
    if is_text and moment == "init":
        return "steps", 0
    match = re.fullmatch(r"(\d{1,18}) (step|epoch)s?", moment) if is_text else None
    if match is None:
        raise ValueError(
            "`rewind_to` must be 'init', 'N steps' or 'N epochs', such as "
            f"'500 steps'. Received: {arguments.shown(moment)}"
        )
    count = int(match[1])
    return (f"{match[2]}s" if count else "steps"), count
