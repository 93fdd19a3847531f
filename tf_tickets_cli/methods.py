"""Searches that the command line builds by name."""

import math
import os
from collections.abc import Callable, Iterable, Mapping

import keras

import tf_tickets as tt
from tf_tickets_cli.settings import Setting

# Epochs of KDLTS's teachers, as fractions of a training.
_TEACHERS = (1 / 8, 1 / 4, 1 / 2)
# Examples per class for the criteria at initialization.
_EXAMPLES = 100
# What `search` sets where a method has one.
_SCORE = 0.0
_SPARSITY = 0.9

Searches = Mapping[str, tt.TicketSearch]


def build_searches(
    setting: Setting,
    names: Iterable[str],
    scores: Iterable[float] = (),
    sparsities: Iterable[float] = (),
) -> dict[str, tt.TicketSearch]:
    """Returns a dict from a label to a search; those of KDLTS have no teachers yet.

    Args:
        setting: A `Setting`.
        names: Names in `BUILDERS`.
        scores: The initial scores of "cs", which has a search for each.
        sparsities: The sparsities of "kdlts", "snip", "grasp" and "synflow", which
            have a search for each.

    Example:

    >>> from tf_tickets_cli.settings import Setting
    >>> setting = Setting("digits", "lenet300", options={"take": 50})
    >>> list(build_searches(setting, ["imp", "synflow"], [], [0.8, 0.9]))
    ['imp', 'synflow final_sparsity=0.8', 'synflow final_sparsity=0.9']
    """
    searches: dict[str, tt.TicketSearch] = {}
    for name in names:
        search = BUILDERS[name](setting)
        if name in _VARIED:
            choices = {"initial_score": scores, "final_sparsity": sparsities}
            argument = _VARIED[name]
            varied = search.varied(**{argument: choices[argument]})
            searches |= {f"{name} {label}": one for label, one in varied.items()}
        else:
            searches[name] = search
    return searches


def build_search(
    setting: Setting,
    name: str,
    score: float | None = None,
    sparsity: float | None = None,
) -> tt.TicketSearch:
    """Returns the search of one method; that of KDLTS has no teachers yet.

    Args:
        setting: A `Setting`.
        name: A name in `BUILDERS`.
        score: The initial score of "cs"; 0 by default.
        sparsity: The sparsity of "kdlts", "snip", "grasp" and "synflow"; 0.9 by
            default.

    Example:

    >>> from tf_tickets_cli.settings import Setting
    >>> setting = Setting("digits", "lenet300", options={"take": 50})
    >>> build_search(setting, "synflow", sparsity=0.8).final_sparsity
    0.8
    """
    score = _SCORE if score is None else score
    sparsity = _SPARSITY if sparsity is None else sparsity
    [search] = build_searches(setting, [name], [score], [sparsity]).values()
    return search


def used_options(name: str, score: float | None, sparsity: float | None) -> dict:
    """Returns the options that only some methods have, with their effective values.

    Options of other methods are refused.

    Args:
        name: A name in `BUILDERS`.
        score: The value of `--score`, or None.
        sparsity: The value of `--sparsity`, or None.

    Example:

    >>> used_options("snip", None, None), used_options("imp", None, None)
    ({'sparsity': 0.9}, {})
    """
    argument = _VARIED.get(name)
    given = {"initial_score": score, "final_sparsity": sparsity}
    for other, value in given.items():
        if value is not None and other != argument:
            option = {"initial_score": "score", "final_sparsity": "sparsity"}[other]
            fitting = [n for n, varied in _VARIED.items() if varied == other]
            raise ValueError(
                f"--{option} belongs to the method {', '.join(fitting)}. Received: "
                f"--{option} {value:g} with --method {name}. Leave it out."
            )
    if argument == "initial_score":
        return {"score": _SCORE if score is None else score}
    if argument == "final_sparsity":
        return {"sparsity": _SPARSITY if sparsity is None else sparsity}
    return {}


def rounds_of(setting: Setting, name: str) -> int:
    """Returns the rounds of a method: those of `--rounds`, or the default.

    By default "cs" has a third of the rounds, since each of them prunes more.

    Args:
        setting: The `Setting`.
        name: A name in `BUILDERS`.

    Example:

    >>> setting = Setting("digits", "lenet300", options={"take": 50})
    >>> rounds_of(setting, "cs"), rounds_of(setting, "imp")
    (4, 12)
    >>> setting = Setting("digits", "lenet300", options={"take": 50, "rounds": 2})
    >>> rounds_of(setting, "cs"), rounds_of(setting, "imp")
    (2, 2)
    """
    if name == "cs" and "rounds" not in setting.given:
        return max(1, setting.rounds // 3)
    return setting.rounds


def check_model(searches: Searches, setting: Setting) -> None:
    """Raises an error if a search cannot prune the model, before any training.

    Args:
        searches: The searches by label.
        setting: The `Setting`.
    """
    steps = setting.steps_per_epoch()
    for label, search in searches.items():
        search.set_model(search.wrap(setting.build_model(), verbose=False))
        search.set_params({"steps": steps, "epochs": search.epochs})
        try:
            search.check_structure()
            search.engine.plan.check(search.engine)
        except ValueError as error:
            raise ValueError(f"Method {label!r}: {error}") from None


def teach(
    searches: Searches,
    setting: Setting,
    folder: os.PathLike | str,
    watch: Callable[[str], Iterable[keras.callbacks.Callback]] | None = None,
) -> None:
    """Trains teachers and gives them to the searches that need some.

    Args:
        searches: The searches by label.
        setting: The `Setting`.
        folder: Where the teachers are kept.
        watch: As in `tf_tickets.train_teachers`.
    """
    students = [search for search in searches.values() if isinstance(search, tt.KDLTS)]
    if not students:
        return
    epochs = [math.ceil(share * setting.recipe.epochs) for share in _TEACHERS]
    teachers = tt.train_teachers(
        setting.build_model,
        setting.data,
        epochs,
        folder,
        setting.seed,
        batch_size=setting.fit_batch_size,
        watch=watch,
    )
    for student in students:
        student.taught_by(*teachers, epochs=sum(epochs))


# One function for each name. Only these know the constructors of the searches.


def imp(setting: Setting) -> tt.IMP:
    """Returns the search by the recipe."""
    limit = 1.0 if setting.structure is None else setting.structure.most_sparse
    # A target replaces the recipe's rate; one from the command line is refused.
    rates = {"rate": setting.rate}
    if setting.target is not None:
        limit = 1.0
        rates = {k: v for k, v in setting.options.items() if k == "rate"}
    return tt.IMP(
        rounds=setting.rounds,
        epochs_per_round=setting.recipe.epochs,
        **rates,
        rewind_to=setting.rewind_to,
        allocation=setting.allocation,
        stop_at=limit if limit < 1.0 else None,
        monitor=tt.Monitor(setting.monitor, tolerance=setting.tolerance),
        seed=setting.seed,
        structure=setting.structure,
        target=setting.target,
    )


def _cs(setting):
    rounds = rounds_of(setting, "cs")
    return tt.ContinuousSparsification(rounds, **_rewound(setting))


def _iss(setting):
    return tt.StochasticSparsification(setting.rounds, **_rewound(setting))


def _rewound(setting):
    return {
        "epochs_per_round": setting.recipe.epochs,
        "rewind_to": setting.rewind_to,
        "monitor": setting.monitor,
        "seed": setting.seed,
    }


def _threshold(setting):
    return tt.ThresholdPruning(
        setting.rounds, setting.recipe.epochs, monitor=setting.monitor
    )


def _dlth(setting):
    return tt.DLTH(**_growing(setting))


def _unilth(setting):
    return tt.UniLTH(
        **_growing(setting),
        stage_one=setting.recipe.epochs,
        rewind_to=setting.rewind_to,
    )


def _unidlth(setting):
    return tt.UniDLTH(**_growing(setting), stage_one=setting.recipe.epochs)


def _growing(setting):
    """Returns settings with IMP's final sparsity and without training of tickets."""
    return {
        "final_sparsity": _final_sparsity(setting.rate, setting.rounds),
        "rounds": setting.rounds,
        "penalty": setting.recipe.epochs,
        "epochs_per_round": setting.recipe.epochs,
        "allocation": setting.allocation,
        "train": "none",
        "monitor": setting.monitor,
        "seed": setting.seed,
    }


def _final_sparsity(rate, rounds):
    if isinstance(rate, dict):
        return {path: _final_sparsity(value, rounds) for path, value in rate.items()}
    return 1 - (1 - rate) ** rounds


def _kdlts(setting):
    epochs = setting.recipe.epochs
    search = tt.KDLTS(
        epochs=epochs,
        rewind_to=setting.rewind_to,
        monitor=setting.monitor,
        seed=setting.seed,
    )
    return search.taught_by()


def _snip(setting):
    return _at_init(setting, tt.saliency.SNIP(*_examples(setting)))


def _grasp(setting):
    return _at_init(setting, tt.saliency.GraSP(*_examples(setting)))


def _synflow(setting):
    return _at_init(setting, "synflow")


def _at_init(setting, criterion):
    return tt.PruneAtInit(
        epochs=setting.recipe.epochs,
        criterion=criterion,
        monitor=setting.monitor,
        seed=setting.seed,
    )


def _examples(setting):
    return setting.own_data.for_criteria(_EXAMPLES, setting.seed)


# The argument that varies among the searches of a method.
_VARIED = {
    "cs": "initial_score",
    "kdlts": "final_sparsity",
    "snip": "final_sparsity",
    "grasp": "final_sparsity",
    "synflow": "final_sparsity",
}
BUILDERS: dict[str, Callable[[Setting], tt.TicketSearch]] = {
    "cs": _cs,
    "iss": _iss,
    "imp": imp,
    "dlth": _dlth,
    "unilth": _unilth,
    "unidlth": _unidlth,
    "threshold": _threshold,
    "kdlts": _kdlts,
    "snip": _snip,
    "grasp": _grasp,
    "synflow": _synflow,
}
