"""Which ticket is the best, and which is worse than the dense network."""

import re

from tf_tickets.tickets.ticket import Ticket

_SMALLER_IS_BETTER = re.compile(
    "loss|err|mse|mae|mape|msle|crossentropy|divergence|hinge|poisson|perplexity"
)


class Judge:
    """Compares by one metric, with a tolerance below the dense network.

    Args:
        monitor: The name of the metric.
        tolerance: How far below the dense network a ticket may be.

    Example:

    >>> judge = Judge("val_loss", tolerance=0.1)
    >>> judge.falls_below({"val_loss": 1.05}, {"val_loss": 1.0})
    False
    >>> judge.falls_below({"val_loss": 1.2}, {"val_loss": 1.0})
    True
    """

    def __init__(self, monitor: str, tolerance: float) -> None:
        self.monitor = monitor
        self.tolerance = tolerance

    def best(self, tickets: list[Ticket], dense: dict[str, float]) -> Ticket:
        """The sparsest ticket within tolerance; without one, that of best metric.

        Tolerance is below the dense network, or where a search trains none, below
        the best of the tickets.
        """
        trained = [t for t in tickets if self.monitor in t.metrics]
        if not trained or (dense and self.monitor not in dense):
            logged = {name for t in tickets for name in t.metrics} | set(dense)
            raise ValueError(
                f"No trained ticket has the metric {self.monitor!r}. Logged: "
                f"{sorted(logged)}. Set `monitor` to one of them, and let the "
                "search train one round at least."
            )
        reference = dense or max((t.metrics for t in trained), key=self._merit)
        good = [t for t in trained if not self.falls_below(t.metrics, reference)]
        if good:
            return max(good, key=lambda t: t.sparsity)
        return max(trained, key=lambda t: self._merit(t.metrics))

    def falls_below(self, metrics: dict[str, float], dense: dict[str, float]) -> bool:
        """Whether the metric is worse than the dense one by more than tolerance."""
        return self._merit(metrics) < self._merit(dense) - self.tolerance

    def _merit(self, metrics):
        return merit(metrics, self.monitor)


def merit(metrics: dict[str, float], monitor: str) -> float:
    """A metric as a number of which more is better.

    Example:

    >>> merit({"val_loss": 0.3}, "val_loss")
    -0.3
    """
    if monitor not in metrics:
        raise ValueError(
            f"There is no metric {monitor!r}. Received: {sorted(metrics)}. Set "
            "`monitor` to one of them."
        )
    value = metrics[monitor]
    return -value if _SMALLER_IS_BETTER.search(monitor) else value
