"""The claims of the papers, one line each, with the evidence of every benchmark.

A benchmark adds a column by a `summary.json` in its folder whose "claims" are rows with
"claim" (a key of `CLAIMS`), "mean", "interval", "effect", "holm", "seeds", "verdict",
"where", "against", "levels", and "others": the same with other settings.
"""

from result_tables.mnist1d import NAMES, SETTINGS, p_value
from result_tables.reading import exists, grid, load, percent, table

# The folders in benchmarks/results, and the names of their columns.
BENCHMARKS = {"mnist1d": "MNIST-1D", "cifar10": "CIFAR-10"}

_LTH = "[Frankle and Carbin 2019](../methods/imp.md)"
_CS = "[Continuous Sparsification](../methods/continuous.md)"
_UNI = "[UniLTH, UniDLTH](../methods/unilth.md)"
_DLTH, _KDLTS = "[DLTH](../methods/dlth.md)", "[KDLTS](../methods/kdlts.md)"
# For each claim: the paper, what it claims, and what is compared.
CLAIMS = {
    "tickets-beat-random": (
        _LTH,
        "Tickets train better than random subnetworks",
        "IMP over random masks",
    ),
    "tickets-beat-shuffled": (
        _LTH,
        "Tickets train better than random subnetworks with as many weights a layer",
        "IMP over its masks, shuffled in each kernel",
    ),
    "tickets-as-good-as-dense": (
        _LTH,
        "Tickets of a fifth to a half of the weights are as good as the dense network",
        "IMP over dense, 50 to 80 %, at most one point lost",
    ),
    "tickets-beat-dense": (
        _LTH,
        "They are often better",
        "IMP over dense, 50 to 80 %",
    ),
    "small-weights-matter": (
        _LTH,
        "The large weights are those that matter",
        "IMP over IMP that keeps the smallest",
    ),
    "rewinding": (
        "[Frankle et al. 2020](../methods/imp.md)",
        "Tickets from early training are better than those from init",
        "IMP from epoch 1 (CIFAR-10: 2) over IMP from init",
    ),
    "cs-above-imp": (
        _CS,
        "Its frontier lies above that of IMP",
        "CS over IMP",
    ),
    "cs-at-a-fifth": (
        _CS,
        "It does so with a fifth of the epochs",
        "CS over IMP, at most a fifth of its epochs",
    ),
    "cs-as-good-at-a-fifth": (
        _CS,
        "(weaker) It loses at most one point with a fifth of the epochs",
        "CS over IMP, at most a fifth of its epochs, at most one point lost",
    ),
    "cs-above-iss": (
        _CS,
        "Deterministic masks are better than stochastic ones",
        "CS over ISS (iterative stochastic sparsification)",
    ),
    "unilth-above-lth": (_UNI, "UniLTH is better than LTH", "UniLTH over IMP"),
    "unilth-above-dlth": (_UNI, "UniLTH is better than DLTH", "UniLTH over DLTH"),
    "unidlth-above-lth": (_UNI, "UniDLTH is better than LTH", "UniDLTH over IMP"),
    "unidlth-above-dlth": (_UNI, "UniDLTH is better than DLTH", "UniDLTH over DLTH"),
    "dlth-as-good-as-lth": (
        _DLTH,
        "Random subnetworks can be transformed into as good ones",
        "DLTH over IMP, at most one point lost",
    ),
    "kdlts-as-good-as-imp": (
        _KDLTS,
        "Tickets at initialization are as good as those of IMP",
        "KDLTS over IMP, at most one point lost",
    ),
    "kdlts-above-init": (
        _KDLTS,
        "They are better than those of other methods before training",
        "KDLTS over SNIP",
    ),
    "kdlts-above-synflow": (
        _KDLTS,
        "They are better than those of another method before training",
        "KDLTS over SynFlow",
    ),
    "kdlts-teachers": (
        _KDLTS,
        "Teachers lead to better tickets",
        "KDLTS with teachers over KDLTS without",
    ),
    "kdlts-early": (
        _KDLTS,
        "Early tickets gain 1.5 to 2 points over those of other methods",
        "KDLTS over IMP, both from epoch 1, at least 1.5 points",
    ),
    "early-above-init": (
        _KDLTS,
        "Early tickets gain 1.5 to 2 points over those from init",
        "KDLTS from epoch 1 over KDLTS from init, at least 1.5 points",
    ),
    "early-stop": (
        _UNI,
        "Early stopping leads to better subnetworks",
        "IMP with rounds stopped early over IMP",
    ),
}


def _found():
    return {
        title: {row["claim"]: row for row in load(f"{name}/summary")["claims"]}
        for name, title in BENCHMARKS.items()
        if exists(f"{name}/summary") and "claims" in load(f"{name}/summary")
    }


# Settings that are named only where several of a method are compared.
_SETTINGS = {
    **SETTINGS,
    "rate=0.02": "rate 0.02 of the scores",
    "rate=0.005": "learning rate 0.005",
    "patience=5": "weights reset",
    "400": "400 examples",
    "100-passes": "100 passes",
    "low-score": "low score",
    "high-score": "high score",
    "accuracy": "by accuracy",
    "loss": "by loss",
}


@table
def claims():
    found = _found()
    rows = []
    for key, (paper, claim, compared) in CLAIMS.items():
        if any(key in by_claim for by_claim in found.values()):
            evidence = [_evidence(by_claim.get(key)) for by_claim in found.values()]
            rows.append([paper, f"{claim} (`{key}`)", compared, *evidence])
    return grid(["paper", "claim", "compared", *found], rows)


@table
def claims_missing():
    """The claims for which there are no runs."""
    found = _found()
    missing = [
        f"{claim[0].lower()}{claim[1:]} (`{key}`; {paper})"
        for key, (paper, claim, _) in CLAIMS.items()
        if not any(key in by_claim for by_claim in found.values())
    ]
    return f"Not measured: {'; '.join(missing)}." if missing else ""


@table
def claims_supermasks():
    """The section about supermasks, if they were measured."""
    if not load("mnist1d/summary")["supermasks"]:
        return ""
    return (
        "## Supermasks\n\nContinuous Sparsification is said to find better masks over "
        "random weights than stochastic ones: [measured](mnist1d.md#supermasks)."
    )


@table
def claims_cost():
    """The ratios of epochs at the highest sparsity."""
    costs = load("mnist1d/summary")["costs"]
    parts = []
    for name, label in (
        ("KDLTS teachers", "KDLTS"),
        ("ContinuousSparsification", "Continuous Sparsification"),
    ):
        if name in costs and costs[name]["ratios"]:
            found = costs[name]
            level, ratio = list(found["ratios"].items())[-1]
            parts.append(
                f"{label} took {ratio:.1f} times fewer epochs than IMP at "
                f"{percent(float(level), 0)}, and {found['whole']} epochs for all "
                "levels"
            )
    if "IMP init" not in costs:
        return ""
    whole = costs["IMP init"]["whole"]
    return (
        f"{'; '.join(parts)}. IMP takes {whole} for all. The tickets are not equally "
        "[accurate](mnist1d.md#accuracy-by-sparsity)."
    )


@table
def claims_settings():
    """The verdicts with other settings of the same methods."""
    rows = [
        [
            f"`{row['claim']}`",
            title,
            " over ".join(map(_named, _pair(other))),
            _evidence(other),
            "same" if other["verdict"] == row["verdict"] else "**other**",
        ]
        for title, by_claim in _found().items()
        for row in by_claim.values()
        for other in _decided(row)
    ]
    return grid(["claim", "data", "compared", "evidence", "verdict"], rows)


@table
def claims_chosen():
    """The settings of MNIST-1D that stand for their methods."""
    content = load("mnist1d/summary")
    names = {name.split()[0] for row in content["claims"] for name in _pair(row)}
    chosen = [
        f"{NAMES.get(method, method)}: {_SETTINGS.get(setting, f'`{setting}`')}"
        for method, setting in content["chosen"].items()
        if method in names and content["swept"][method]
    ]
    return f"Chosen on MNIST-1D: {'; '.join(chosen)}."


def _decided(row):
    """Returns the claim with other settings that have enough seeds and sparsities."""
    others = row.get("others", ())
    return [other for other in others if not other["verdict"].startswith("too few")]


def _pair(row):
    return row["first"], row["second"]


def _named(name):
    """Returns how a method in a setting is written."""
    method, _, setting = name.partition(" ")
    method = NAMES.get(method, method)
    setting = _SETTINGS.get(setting, f"`{setting}`")
    return f"{method} ({setting})" if setting else method


def _evidence(row):
    if row is None:
        return "not measured"
    verdict = f"**{row['verdict']}**{_where(row)}"
    if row["interval"] is None:
        return f"{verdict}; {row['mean']:+.2f} points, one seed"
    low, high = row["interval"]
    text = f"{verdict}; {row['mean']:+.2f} points ({low:+.2f} to {high:+.2f})"
    if row["effect"] is not None:
        p = row["holm_below" if row["verdict"] == "contradicted" else "holm"]
        text += f", g = {row['effect']:.1f}, p {_equals(p_value(p))}"
    text += f", {row['seeds']} seeds"
    if any(other["verdict"] != row["verdict"] for other in _decided(row)):
        text += "; not so in [other settings](#with-other-settings)"
    return text


def _where(row):
    """Returns at which sparsities a verdict holds, or what it rests on."""
    found = ""
    if row["verdict"] == "seen under conditions":
        found = ": at " + ", ".join(
            f"{percent(each['level'], 0)} (p {_equals(p_value(each['holm']))})"
            for each in row["levels"]
            if each["level"] in row["where"]
        )
    elif row["verdict"] == "seen" and len(row["where"]) < len(row["levels"]):
        found = _on_average(row["where"])
    elif row.get("partial"):
        found = f" (only at {_listed(row['partial'])})"
    if row.get("sparsities"):
        _, _, setting = row["first"].partition(" ")
        name = f"{_SETTINGS.get(setting, setting)}, " if setting else ""
        found += f" ({name}at {_listed(row['sparsities'])})"
    if row["verdict"] == "contradicted":
        if len(row["against"]) < len(row["levels"]):
            found += _on_average(row["against"])
    elif row["against"]:
        found += f", contradicted at {_listed(row['against'])}"
    return found


def _on_average(levels):
    """Returns how a verdict on the mean is written that some sparsities have alone."""
    alone = f"alone at {_listed(levels)}" if levels else "at no sparsity alone"
    return f" on average, {alone}"


def _listed(levels):
    return ", ".join(dict.fromkeys(percent(level, 0) for level in levels))


def _equals(text):
    return text if text.startswith("<") else f"= {text}"
