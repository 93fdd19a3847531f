"""What to know about a pruned model: what it lost, and what it does not gain."""

import dataclasses
from collections.abc import Iterator, Sequence

from tf_tickets.fine_tuning.measurements import Measured
from tf_tickets.structures.channels import Channels
from tf_tickets.structures.structure import Structure
from tf_tickets.tickets.monitor import Monitor

# A metric such as the accuracy counts as worse from here on.
_FALL = 0.01
# A loss or an error does from here on, relative to what it was.
_RISE = 0.1
# A model counts as faster below this latency relative to the given one.
_FASTER = 0.9
# It counts as slower if three quarters of the pairs are above this latency.
_SLOWER = 1.05


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the remarks are about.

    Args:
        before: The measurements of the given model.
        after: The measurements of the pruned model.
        latency: The latencies, as in `PruneResult`.
        structure: What was pruned.
        monitor: The metric by which the best epoch was chosen.
        epochs_left: Whether longer training may help: the best epoch was the last.
        removed: Number of channels that were removed.
        of_tflite: Why the `.tflite` file is no faster, from its export.
    """

    before: Measured
    after: Measured
    latency: dict[str, dict[int, dict]]
    structure: Structure
    monitor: str
    epochs_left: bool = False
    removed: int = 0
    of_tflite: Sequence[str] = ()


def remarks(outcome: Outcome) -> list[str]:
    """Returns sentences about a result, the most important first.

    Example:

    >>> from tf_tickets.structures.structure import Unstructured
    >>> before = Measured({"val_accuracy": 0.95}, 40, 40, 32, 32, {".keras": 900})
    >>> after = Measured({"val_accuracy": 0.9}, 40, 10, 32, 8, {".keras": 900})
    >>> outcome = Outcome(before, after, {}, Unstructured(), "val_accuracy")
    >>> remarks(outcome)[0]
    'WORSE: val_accuracy fell from 0.9500 to 0.9000. Try a lower sparsity, or more...'
    """
    urgent = [*_losses(outcome), *_larger(outcome), *_slower(outcome)]
    return [*urgent, *_sizes(outcome), *_speed(outcome)]


def _losses(outcome) -> Iterator[str]:
    old, new = outcome.before.metrics, outcome.after.metrics
    tested = f"test_{outcome.monitor.removeprefix('val_')}"
    for name in (tested, outcome.monitor):
        if name not in old:
            continue
        monitor = Monitor(name)
        before, after = monitor.merit(old), monitor.merit(new)
        is_error = before != old[name]
        limit = _RISE * abs(before) if is_error else _FALL
        if not before - after <= limit:
            yield (
                f"WORSE: {name} {'rose' if is_error else 'fell'} from {old[name]:.4f} "
                f"to {new[name]:.4f}. Try a lower sparsity, or more epochs"
                + (": the last epoch was the best one." if outcome.epochs_left else ".")
            )
            return


def _larger(outcome) -> Iterator[str]:
    for kind, size in outcome.after.bytes.items():
        old = outcome.before.bytes.get(kind, size)
        if size > old:
            yield (
                f"LARGER: the {kind} has {size:,} bytes, {size / old - 1:.1%} more "
                f"than the {old:,} of the given model."
            )


def _sizes(outcome) -> Iterator[str]:
    if not isinstance(outcome.structure, Channels):
        yield (
            "An ordinary .keras file stores zeros like other numbers, so only the "
            "compressed one is smaller. That is the one that is written."
        )


def _slower(outcome) -> Iterator[str]:
    for kind, table in outcome.latency.items():
        slow = {
            batch: f"x {ratio['median']:.2f} with batch size {batch}"
            for batch, ratio in table.items()
            if ratio["quartiles"][0] > _SLOWER
        }
        if slow:
            yield f"SLOWER: a call of {kind} takes {', '.join(slow.values())}."


def _speed(outcome) -> Iterator[str]:
    tables = outcome.latency
    faster = {
        name
        for name, table in tables.items()
        if any(ratio["median"] < _FASTER for ratio in table.values())
    }
    structure = outcome.structure
    if isinstance(structure, Channels):
        if not outcome.removed:
            yield "No channel could be removed, so the model is not smaller or faster."
        elif "Keras" in tables and "Keras" not in faster:
            yield (
                "Fewer multiply-adds did not make Keras faster here: calling it takes "
                "longer than computing. See the .tflite file."
            )
        return
    if "Keras" in tables:
        yield (
            "Zeros do not make Keras faster: its dense kernels multiply by them. "
            'structure="channels" makes the model itself smaller.'
        )
    for text in outcome.of_tflite:
        yield f".tflite: {text}"
