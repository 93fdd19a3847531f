"""The searches that the command line knows by name, as a setting has them."""

import math
import os
import pathlib
from collections.abc import Callable, Iterable

from tf_tickets.cli.settings import Setting
from tf_tickets.pruning.saliency import SNIP, GraSP
from tf_tickets.search import teachers
from tf_tickets.search.methods.continuous import ContinuousSparsification
from tf_tickets.search.methods.dlth import DLTH
from tf_tickets.search.methods.kdlts import KDLTS
from tf_tickets.search.methods.prune_at_init import PruneAtInit
from tf_tickets.search.methods.stochastic import StochasticSparsification
from tf_tickets.search.methods.threshold import ThresholdPruning
from tf_tickets.search.methods.unilth import UniDLTH, UniLTH
from tf_tickets.search.ticket_search import TicketSearch

# The epochs of KDLTS's teachers, as shares of a training.
_TEACHERS = (1 / 8, 1 / 4, 1 / 2)


def searches(
    setting: Setting,
    names: Iterable[str],
    scores: Iterable[float],
    sparsities: Iterable[float],
) -> dict[str, TicketSearch]:
    """Dict from a label to a search; those of KDLTS have no teachers yet.

    Args:
        setting: A `Setting`.
        names: Of `NAMES`.
        scores: The initial scores of "cs", each a search of its own.
        sparsities: Those of the methods that come to one sparsity, each a search of
            its own.

    Example:

    >>> from tf_tickets.settings import Setting
    >>> setting = Setting("digits", "lenet300", options={"take": 50})
    >>> list(searches(setting, ["imp", "synflow"], [], [0.8, 0.9]))
    ['imp', 'synflow final_sparsity=0.8', 'synflow final_sparsity=0.9']
    """
    found: dict[str, TicketSearch] = {}
    for name in names:
        if name not in NAMES:
            known = list(NAMES)
            raise ValueError(f"Unknown method. Received: {name!r}. Known: {known}.")
        search = _SEARCHES[name](setting)
        if name == "cs":
            varied = search.varied(initial_score=scores)
        elif name in _TO_A_SPARSITY:
            varied = search.varied(final_sparsity=sparsities)
        else:
            found[name] = search
            continue
        found |= {f"{name} {label}": each for label, each in varied.items()}
    return found


def teach(
    found: dict[str, TicketSearch], setting: Setting, directory: os.PathLike | str
) -> None:
    """Trains teachers, and gives them to the searches that want some.

    Args:
        found: The searches.
        setting: The `Setting`.
        directory: Where the teachers are kept.
    """
    pupils = [search for search in found.values() if isinstance(search, KDLTS)]
    if not pupils:
        return
    epochs = [math.ceil(share * setting.recipe.epochs) for share in _TEACHERS]
    given = setting.build_model, setting.data, epochs, pathlib.Path(directory)
    trained = teachers.train_teachers(
        *given, setting.seed, batch_size=setting.batch_size
    )
    for search in pupils:
        search.taught_by(*trained, epochs=sum(epochs))


def _cs(setting):
    rounds = max(1, setting.rounds // 3)
    return ContinuousSparsification(rounds, **_rewound(setting))


def _iss(setting):
    return StochasticSparsification(setting.rounds, **_rewound(setting))


def _threshold(setting):
    return ThresholdPruning(setting.rounds, setting.recipe.epochs)


def _rewound(setting):
    return {
        "epochs_per_round": setting.recipe.epochs,
        "rewind_to": setting.rewind_to,
        "seed": setting.seed,
    }


def _dlth(setting):
    return DLTH(**_growing(setting))


def _unilth(setting):
    return UniLTH(**_two_stages(setting), rewind_to=setting.rewind_to)


def _unidlth(setting):
    return UniDLTH(**_two_stages(setting))


def _two_stages(setting):
    return {**_growing(setting), "stage_one": setting.recipe.epochs}


def _growing(setting):
    """To where IMP comes; the tickets are not trained by the search."""
    return {
        "final_sparsity": _final_sparsity(setting),
        "rounds": setting.rounds,
        "penalty": setting.recipe.epochs,
        "epochs_per_round": setting.recipe.epochs,
        "allocation": setting.recipe.allocation or "uniform",
        "train": "none",
        "seed": setting.seed,
    }


def _final_sparsity(setting):
    rate = setting.rate
    if isinstance(rate, dict):
        return {key: 1 - (1 - r) ** setting.rounds for key, r in rate.items()}
    return 1 - (1 - rate) ** setting.rounds


def _kdlts(setting):
    epochs, rewind_to = setting.recipe.epochs, setting.rewind_to
    return KDLTS(epochs=epochs, rewind_to=rewind_to, seed=setting.seed).taught_by()


def _at_init(setting, criterion):
    return PruneAtInit(
        epochs=setting.recipe.epochs, criterion=criterion, seed=setting.seed
    )


def _snip(setting):
    return _at_init(setting, SNIP(*setting.data.balanced(_EACH, setting.seed)))


def _grasp(setting):
    return _at_init(setting, GraSP(*setting.data.balanced(_EACH, setting.seed)))


def _synflow(setting):
    return _at_init(setting, "synflow")


# Examples of a class that criteria look at.
_EACH = 100
_TO_A_SPARSITY = ("kdlts", "snip", "grasp", "synflow")
_SEARCHES: dict[str, Callable[[Setting], TicketSearch]] = {
    "cs": _cs,
    "iss": _iss,
    "imp": Setting.search,
    "dlth": _dlth,
    "unilth": _unilth,
    "unidlth": _unidlth,
    "threshold": _threshold,
    "kdlts": _kdlts,
    "snip": _snip,
    "grasp": _grasp,
    "synflow": _synflow,
}
NAMES = tuple(_SEARCHES)
