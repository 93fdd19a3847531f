"""The metric that tickets are compared by, and the choice of the best."""

import dataclasses
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tf_tickets import arguments
from tf_tickets.tickets.ticket import Ticket

_SMALLER_IS_BETTER = re.compile(
    "loss|err|mse|mae|mape|msle|crossentropy|divergence|hinge|poisson|perplexity"
)
# The name of an output comes before that of its metric, as in "terrain_accuracy".
_LARGER_IS_BETTER = re.compile("(accuracy|acc|auc|precision|recall|iou)(_[0-9]+)?$")


@keras.saving.register_keras_serializable("tf_tickets")
@dataclasses.dataclass(frozen=True)
class Monitor:
    """The logged metric that tickets are judged by, and the tolerance.

    Searches take the name of the metric alone as a shorthand: `monitor="val_loss"`.

    Args:
        metric: The name of the metric, as `fit` logs it.
        tolerance: How much worse than the dense network a ticket may be.

    Example:

    >>> monitor = Monitor("val_loss", tolerance=0.1)
    >>> monitor.falls_below({"val_loss": 1.05}, {"val_loss": 1.0})
    False
    >>> monitor.falls_below({"val_loss": 1.2}, {"val_loss": 1.0})
    True
    """

    metric: str = "val_accuracy"
    tolerance: float = 0.0

    def __post_init__(self):
        if not isinstance(self.metric, str):
            raise TypeError(
                "`monitor` must be the name of a metric or a Monitor. Received: "
                f"{arguments.shown(self.metric)}"
            )
        object.__setattr__(self, "metric", str(self.metric))
        arguments.check_between(0.0, float("inf"), tolerance=self.tolerance)

    @classmethod
    def get(cls, identifier: "str | Monitor") -> "Monitor":
        """Returns a `Monitor` from the name of a metric or an instance.

        Example:

        >>> Monitor.get("loss")
        Monitor(metric='loss', tolerance=0.0)
        """
        return identifier if isinstance(identifier, Monitor) else cls(identifier)

    def best(self, tickets: Sequence[Ticket], dense: dict[str, float]) -> Ticket:
        """Returns the sparsest ticket within tolerance of the dense network.

        If none qualifies, returns the best-scoring ticket. If a search trains no dense
        network, tickets are compared with the best ticket.
        """
        tickets = arguments.listed(Ticket, tickets=tickets)
        _check_metrics(self.metric, dense=dense)
        trained = [t for t in tickets if self.metric in t.metrics]
        if not trained or (dense and self.metric not in dense):
            logged = {name for t in tickets for name in t.metrics} | set(dense)
            raise ValueError(
                f"No trained ticket has the metric {self.metric!r}. Received: "
                f"{arguments.shown(tickets)}. Logged: "
                f"{sorted(logged, key=str)}. Set `monitor` to one of them, and let the "
                "search train at least one round."
            )
        reference = dense or max((t.metrics for t in trained), key=self.merit)
        good = [t for t in trained if not self.falls_below(t.metrics, reference)]
        if good:
            return max(good, key=lambda ticket: ticket.sparsity)
        return max(trained, key=lambda ticket: self.merit(ticket.metrics))

    def falls_below(self, metrics: dict[str, float], dense: dict[str, float]) -> bool:
        """Whether a metric is worse than the dense one by more than the tolerance."""
        _check_metrics(self.metric, metrics=metrics, dense=dense)
        return self.merit(metrics) < self.merit(dense) - self.tolerance

    def check_logged(self, logs: dict[str, float]) -> None:
        """Raises an error if an epoch did not log the metric.

        Only a warning is given if no metric of validation data was logged, since `fit`
        may validate less often. Metrics of test data come after a round.

        Args:
            logs: The logs of the first epoch.
        """
        _check_metrics(self.metric, logs=logs)
        if self.metric in logs or self.metric.startswith("test_"):
            return
        message = (
            f"The first epoch did not log the monitored metric {self.metric!r}. "
            f"Logged: {sorted(logs, key=str)}. Set `monitor` to one of them, or pass "
            "validation_data."
        )
        validated = any(name.startswith("val_") for name in logs)
        if validated or not self.metric.startswith("val_"):
            raise ValueError(message)
        warnings.warn(message, stacklevel=2)

    def merit(self, metrics: dict[str, float]) -> float:
        """Returns the metric as a number; larger is better.

        Example:

        >>> Monitor("val_loss").merit({"val_loss": 0.3})
        -0.3
        """
        _check_metrics(self.metric, metrics=metrics)
        if self.metric not in metrics:
            raise ValueError(
                f"There is no metric {self.metric!r}. Received: "
                f"{sorted(metrics, key=str)}. Set `monitor` to one of them."
            )
        value = metrics[self.metric]
        if _LARGER_IS_BETTER.search(self.metric):
            return value
        return -value if _SMALLER_IS_BETTER.search(self.metric) else value

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Monitor":
        return cls(**config)


def _check_metrics(metric, **tables):
    """Refuses what is not a dict of metrics, and a metric that is no number."""
    for name, table in tables.items():
        arguments.check_type(Mapping, **{name: table})
        for key in table:
            arguments.check_type(str, **{name: key})
        value = table.get(metric, 0.0)
        if not arguments.is_real(value):
            raise TypeError(
                f"`{name}` must be a dict from a metric's name to a number. Received: "
                f"{metric!r}: {arguments.shown(value)}"
            )
