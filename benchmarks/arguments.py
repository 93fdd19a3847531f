"""Calls every public callable with bad arguments, one at a time.

    KERAS_BACKEND=jax python benchmarks/arguments.py --examples 30

A value is accepted if the argument's annotation allows it. Otherwise it must be refused
by a ValueError or TypeError that shows the received value and says what is expected.
Each argument gets all values of `POOL` in tests/bad_values.py, and examples that
Hypothesis draws. Trainings and exports are replaced by an exception, so that only the
checks before them run.
"""

import argparse
import collections
import contextlib
import io
import json
import pathlib
import platform
import sys

import hypothesis
import keras
from hypothesis import strategies as st

import tf_tickets as tt

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import bad_values  # noqa: E402
import calls  # noqa: E402

KINDS = [
    *(bad_values.ACCEPTED, bad_values.REFUSED, bad_values.WRONG, bad_values.UNCLEAR),
    *(bad_values.LAX, bad_values.UNUSABLE),
]


def parse(argv):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=30, help="drawn per argument")
    parser.add_argument("--only", nargs="+", default=list(calls.CALLS), metavar="NAME")
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "arguments.json"
    )
    return parser.parse_args(argv)


def values(argument, good, examples):
    """Yields the values of the pool and drawn ones."""
    yield from bad_values.every_value(argument, good)
    drawn = []

    @hypothesis.settings(
        max_examples=examples,
        database=None,
        derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.generate],
    )
    @hypothesis.given(data=st.data())
    def draw(data):
        drawn.append(data.draw(bad_values.values(argument, good))())

    if examples:
        draw()
    yield from drawn


def main(argv=None):
    options = parse(argv)
    counts: collections.Counter = collections.Counter()
    arguments, bad, messages = 0, [], set()
    for name in options.only:
        for argument, good in calls.CALLS[name]()[1].items():
            arguments += 1
            for value in values(argument, good, options.examples):
                with contextlib.redirect_stdout(io.StringIO()):
                    kind, message = bad_values.judge(name, argument, value)
                counts[kind] += 1
                if kind not in (bad_values.ACCEPTED, bad_values.REFUSED):
                    messages.add(message)
                    bad.append([f"{name}({argument}={value!r:.60})", kind, message])
    results = {
        "command": f"KERAS_BACKEND={keras.config.backend()} python "
        f"benchmarks/arguments.py --examples {options.examples}",
        "callables": len(options.only),
        "arguments": arguments,
        "values": counts.total(),
        **{kind: counts[kind] for kind in KINDS},
        "distinct bad messages": len(messages),
        "versions": {
            "python": platform.python_version(),
            "tf_tickets": tt.__version__,
            "keras": keras.version(),
            "hypothesis": hypothesis.__version__,
        },
    }
    options.out.write_text(json.dumps(results, indent=1) + "\n")
    for call, kind, message in bad:
        print(f"{call}: {kind}: {message:.200}")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
