"""Mean and standard deviation over several seeds."""

import statistics


def spread(values):
    return {
        "mean": statistics.mean(values),
        "stdev": statistics.stdev(values) if len(values) > 1 else 0.0,
        "values": values,
    }


def show(found):
    """Formats mean and standard deviation in percent."""
    return f"{100 * found['mean']:.2f} ± {100 * found['stdev']:.2f}"
