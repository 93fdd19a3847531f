"""Time of a frontier, serially and in parallel."""

from result_tables.reading import exists, grid, load, table

_BACKENDS = {"TensorFlow": "tensorflow", "JAX": "jax"}
_WAYS = {
    "serial": "one process",
    "one": "one process, one thread",
    "kept": "one process, one thread, compiled programs kept",
    "ray": "Ray, one thread a process",
}


def _time(way):
    return f"{way['seconds']:.0f} s" if way else "–"


@table
def frontier_executors():
    rows = []
    for title, backend in _BACKENDS.items():
        if not exists(f"executors/{backend}"):
            continue
        found = load(f"executors/{backend}")
        times = [_time(found["ways"].get(way)) for way in _WAYS]
        ratios = [found["ratio_to_serial"], found["ratio_to_one_thread"]]
        size = f"{found['searches']} searches, {found['ways']['ray']['points']} tickets"
        same = "yes" if found["identical_results"] else "no"
        cells = [*times, *(f"{ratio:.2f}" for ratio in ratios), same]
        rows.append([title, size, found["workers"], *cells])
    if not rows:
        return "Not measured yet."
    over = ["Ray over one process", "Ray over one thread", "same results"]
    return grid(["backend", "frontier", "workers", *_WAYS.values(), *over], rows)


@table
def networks_in_one_program():
    if not exists("vmap/cpu"):
        return "Not measured yet."
    rows = []
    for each in load("vmap/cpu")["rows"]:
        times = [f"{1000 * each['seconds'][way]:.1f} ms" for way in _TOGETHER]
        low, high = each["gain_quartiles"]
        gain = f"{each['gain']:.2f} ({low:.2f} to {high:.2f})"
        difference = f"{each['difference_after_first_epoch']:.1g}"
        rows.append([each["network"], each["networks"], *times, gain, difference])
    columns = [*_TOGETHER.values(), "gain", "difference of weights"]
    return grid(["network", "K", *columns], rows)


_TOGETHER = {"alone": "one after the other", "together": "in one program"}
