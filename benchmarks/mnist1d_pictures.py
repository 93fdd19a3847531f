"""The pictures of the runs on MNIST-1D, drawn from `summary.json`."""

import io

from tf_tickets.reports import plots

SEARCHES = {
    "IMP init": "IMP",
    "IMP 1-epoch": "IMP, rewound to 1 epoch",
    "ContinuousSparsification": "Continuous Sparsification",
    "StochasticSparsification": "stochastic (ISS)",
    "StochasticSparsification rate=20": "ISS, penalty of its paper",
    "UniLTH patience=5": "UniLTH",
    "UniLTH kept": "UniLTH, weights kept",
    "UniDLTH": "UniDLTH",
    "DLTH": "DLTH",
    "KDLTS teachers": "KDLTS",
    "KDLTS labels": "KDLTS without teachers",
    "random": "random, ERK",
    "controls shuffled-masks": "masks of IMP, shuffled",
}
CHEAP = {
    "IMP init": "IMP",
    "GradualPruning": "gradual pruning",
    "RigL": "RigL",
    "SET": "SET",
    "SNIP": "SNIP",
    "SynFlow": "SynFlow",
    "GraSP": "GraSP",
    "magnitude": "magnitude at init",
    "inverted": "inverted IMP",
    "narrow": "narrow dense network",
    "random": "random",
}
KINDS = {
    "ticket": ("ticket", "#0b5fa5", "o"),
    "reinit": ("its masks, other weights", "#d9730d", "s"),
    "shuffled_masks": ("shuffled masks", "#3a8f5c", "^"),
    "dense": ("dense network", "#6b6b6b", "D"),
}
SIGNALS = {
    "new": "new signals",
    "backwards": "backwards",
    "halves": "exchanged halves",
    "shuffled": "shuffled positions",
    "reshuffled": "shuffled otherwise",
}


def draw(content, out):
    """Draws all pictures for which there are runs."""
    for name, methods, title in (
        ("searches", SEARCHES, "Searches on MNIST-1D"),
        ("cheap", CHEAP, "One training and controls on MNIST-1D"),
    ):
        lines = {}
        for key, label in methods.items():
            line = _line(content, key)
            if line:
                lines[label] = line
        if lines:
            _frontier(content, lines, out / f"{name}.png", title)
    if content["adjacency"]["signals"]:
        _adjacency(content, out / "adjacency.png")
    if content["transfers"]:
        _transfers(content, out / "transfers.png")


def _line(content, key):
    method, _, setting = key.partition(" ")
    setting = setting or content["chosen"][method]
    wanted = {"method": method, "setting": setting}
    rows = [row for row in content["frontier"] if row.items() >= wanted.items()]
    if not rows:
        return []
    spots = []
    for level, found in rows[0]["levels"].items():
        mean, ends = found["mean"] / 100, found["interval"]
        # The interval of two seeds says nothing.
        ends = [end / 100 for end in ends] if found["seeds"] > 2 else [mean, mean]
        spots.append((1 - float(level), mean, *ends))
    return sorted(spots, reverse=True)


def _frontier(content, lines, path, title):
    dense = content["dense"]
    ends = dense["interval"]
    plots.plot_frontier(
        lines,
        [],
        path,
        dense["mean"] / 100,
        "test_accuracy",
        title,
        dense_interval=tuple(end / 100 for end in ends) if ends else None,
        note="Bands: 95 % intervals of the mean over the seeds in the table",
    )


def _adjacency(content, path):
    figure = _figure(7.2, 4.2)
    axes = figure.add_subplot()
    views = (
        ("signals", "in_time", "signals", "#0b5fa5", "o"),
        ("shuffled", "in_time", "shuffled signals, order of time", "#d9730d", "s"),
        ("shuffled", "as_given", "shuffled signals, order of inputs", "#3a8f5c", "^"),
    )
    handles = []
    for order, view, label, color, marker in views:
        rows = content["adjacency"][order]
        rows = [row for row in rows if row[view]["ratio"]["interval"]]
        if not rows:
            continue
        kept = [100 * (1 - row["sparsity"]) for row in rows]
        low, high = zip(*(row[view]["ratio"]["interval"] for row in rows), strict=True)
        means = [row[view]["ratio"]["mean"] for row in rows]
        [line] = axes.plot(kept, means, color=color, marker=marker, label=label)
        axes.fill_between(kept, low, high, color=color, alpha=0.15, linewidth=0)
        handles.append((means[-1], line))
    axes.axhline(1.0, color="#6b6b6b", linestyle=(0, (6, 3)), linewidth=1.3)
    axes.set_xscale("log")
    axes.invert_xaxis()
    ticks = [50, 20, 10, 5, 2]
    axes.set_xticks(ticks, [f"{tick} %" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("weights kept")
    axes.set_ylabel("adjacent pairs over chance")
    axes.set_title("Weights of one unit at neighbouring positions, first layer")
    handles.sort(key=lambda pair: -pair[0])
    lines = [line for _, line in handles]
    axes.legend(
        handles=lines, frameon=False, title="tickets found on", loc="upper left"
    )
    _save(figure, path)


def _transfers(content, path):
    rows = content["transfers"]
    orders = [o for o in ("signals", "shuffled") if any(r["order"] == o for r in rows)]
    figure = _figure(9.6, 4.2)
    all_axes = figure.subplots(1, len(orders), sharey=True, squeeze=False)[0]
    titles = {"signals": "found on signals", "shuffled": "found on shuffled signals"}
    for axes, order in zip(all_axes, orders, strict=True):
        shown = [row for row in rows if row["order"] == order]
        for index, (kind, (label, color, marker)) in enumerate(KINDS.items()):
            means = [row[kind]["mean"] for row in shown]
            ends = [row[kind]["interval"] or [row[kind]["mean"]] * 2 for row in shown]
            errors = [
                [mean - low for mean, (low, _) in zip(means, ends, strict=True)],
                [high - mean for mean, (_, high) in zip(means, ends, strict=True)],
            ]
            places = [place + 0.14 * (index - 1.5) for place in range(len(shown))]
            style = {"color": color, "marker": marker, "linestyle": "", "capsize": 3}
            axes.errorbar(places, means, errors, label=label, **style)
        names = [SIGNALS[row["signals"]].replace(" ", "\n") for row in shown]
        axes.set_xticks(range(len(shown)), names)
        axes.set_title(titles[order])
        axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    all_axes[0].set_ylabel("test accuracy, %")
    sparsity = 100 * rows[0]["sparsity"]
    figure.suptitle(f"Tickets of {sparsity:.0f} % zeros, trained on changed signals")
    all_axes[-1].legend(frameon=False, fontsize=9)
    _save(figure, path)


def _figure(width, height):
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure, path):
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=150)
    path.write_bytes(drawn.getvalue())
