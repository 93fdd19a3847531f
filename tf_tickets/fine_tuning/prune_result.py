"""The result of `prune`: the model, its ticket, and measurements before and after."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import keras

from tf_tickets.compaction.compact_report import CompactReport
from tf_tickets.environment import versions
from tf_tickets.exporting.export_report import ExportReport
from tf_tickets.fine_tuning.measurements import Measured
from tf_tickets.reports import tables
from tf_tickets.reports.summary import Report
from tf_tickets.tickets.ticket import Ticket

_COUNTS = {
    "weights": "weights",
    "nonzero": "weights not zero",
    "macs": "MACs",
    "macs_nonzero": "MACs of weights not zero",
}
# How remarks begin that come before the table.
URGENT = ("WORSE", "LARGER", "SLOWER")
HOW_TIMED = (
    "Latency: medians of 11 alternating pairs of calls, before and after, in one "
    "process; the change is the median of their ratios, with quartiles. Keras: "
    "predict_on_batch."
)
HOW_TIMED_TFLITE = " .tflite: LiteRT, one thread."


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PruneResult:
    """What `prune` returns. Prints as a table of the model before and after.

    Args:
        model: The pruned model: plain, compiled as the given one, with the weights of
            the best epoch. With channels it is the smaller model.
        ticket: The masks and the weights of the best epoch, in the shapes of the given
            model.
        before: The measurements of the given model.
        after: The measurements of the pruned model.
        latency: Dict from "Keras" and ".tflite" to a dict from batch size to the
            median "seconds" of both models, and the "median" and "quartiles" of the
            latency relative to the given model.
        summary: The sparsity of the pruned model by kernel.
        settings: All settings, with what was chosen by default.
        remarks: What to know about the result, the most important first.
        notes: How the model was trained, and how it was measured.
        seconds: Dict from each phase to how long it took.
        compaction: The report of `compact`, with channels.
        export: The report on the `.tflite` file, if one was written.
    """

    model: keras.Model
    ticket: Ticket
    before: Measured
    after: Measured
    latency: dict[str, dict[int, dict]]
    summary: Report
    settings: dict[str, Any]
    remarks: list[str]
    notes: list[str]
    seconds: dict[str, float]
    compaction: CompactReport | None = None
    export: ExportReport | None = None

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that is pruned."""
        return self.ticket.sparsity

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers and settings as plain Python data."""
        return {
            "sparsity": self.sparsity,
            "settings": self.settings,
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "latency": {
                name: {str(batch): ratio for batch, ratio in table.items()}
                for name, table in self.latency.items()
            },
            "seconds": self.seconds,
            "remarks": self.remarks,
            "notes": self.notes,
            "ticket": self.ticket.id,
            "compaction": self.compaction and self.compaction.to_dict(),
            "export": self.export and json.loads(self.export.to_json()),
            "versions": versions(),
        }

    def report(self) -> str:
        """Returns the table, and the reports by kernel, of `compact` and `export`."""
        parts = [self, self.summary, self.compaction, self.export]
        return "\n\n".join(str(part) for part in parts if part is not None)

    def __str__(self):
        table = tables.align(self._cells(), left=1)
        return "\n".join([*self._head(), "", table, "", *self._rest()])

    __repr__ = __str__

    def _repr_html_(self):
        head, rest = tables.html_lines(self._head()), tables.html_lines(self._rest())
        return head + tables.html(self._cells(), left=1) + rest

    def _head(self):
        size = sum(mask.size for mask in self.ticket.masks.values())
        what = self.settings["structure"]
        yield (
            f"Model {self.model.name!r}: {self.sparsity:.1%} of {size:,} prunable "
            f"weights are pruned ({what})."
        )
        yield from (text for text in self.remarks if text.startswith(URGENT))

    def _rest(self):
        yield from (text for text in self.remarks if not text.startswith(URGENT))
        yield from self.notes

    def _cells(self) -> Iterator[tuple[str, ...]]:
        yield ("", "before", "after", "change")
        for name, old in self.before.metrics.items():
            new = self.after.metrics[name]
            yield (name, f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}")
        for attribute, title in _COUNTS.items():
            pair = getattr(self.before, attribute), getattr(self.after, attribute)
            yield (title, *_numbers(*pair))
        for kind, size in self.before.bytes.items():
            if kind in self.after.bytes:
                yield (f"bytes, {kind}", *_numbers(size, self.after.bytes[kind]))
        for kind, table in self.latency.items():
            for batch, ratio in table.items():
                times = [f"{1000 * s:.3g}" for s in ratio["seconds"]]
                title = f"ms, {kind}, batch size {batch}"
                low, high = ratio["quartiles"]
                change = f"x {ratio['median']:.2f} ({low:.2f} to {high:.2f})"
                yield (title, *times, change)


def _numbers(old, new):
    """Returns the cells of two numbers, and the second one relative to the first."""
    return f"{old:,}", f"{new:,}", f"x {tables.fraction(new, old):.2f}"
