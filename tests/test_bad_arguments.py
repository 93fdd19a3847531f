"""Bad arguments of every public callable: legal, or refused with a clear message."""

import functools
import inspect

import bad_values
import calls
import hypothesis
import pytest
from bad_values import ACCEPTED, LAX, REFUSED, UNCLEAR, WRONG
from hypothesis import strategies as st
from test_public_api import KERAS_CALLS, PUBLIC

import tf_tickets as tt

pytestmark = pytest.mark.turns("jax")

# Networks take the same arguments, and on JAX each new shape is compiled.
_LARGE = ["search_recipes.SearchRecipe.build"]
_LARGE += [f"models.{name}" for name in tt.models.__all__ if name != "lenet300"]
_COMPILED = ["curvature.gauss_newton", "curvature.hutchinson", "saliency.synflow"]


def _underlying(function):
    return getattr(function, "__func__", function)


def _methods(prefix, cls):
    """Yields the public methods with arguments that classes of this package define."""
    for name, member in inspect.getmembers(cls, inspect.isroutine):
        function = _underlying(member)
        module = getattr(function, "__module__", None) or ""
        own = module.startswith("tf_tickets")
        if not own or name.startswith(("_", "on_")) or name in KERAS_CALLS:
            continue
        parameters = set(inspect.signature(function).parameters) - {"self", "cls"}
        if parameters:
            yield f"{prefix}.{name}", function


def public_callables():
    """Returns a dict from name to every public class, function and method."""
    names = {name: vars(tt)[name] for name in tt.__all__}
    for module, content in PUBLIC.items():
        names |= {f"{module}.{n}": vars(content)[n] for n in content.__all__}
    found = {name: value for name, value in names.items() if callable(value)}
    for name, value in list(found.items()):
        if inspect.isclass(value):
            found |= dict(_methods(name, value))
    return found


def test_every_public_callable_has_a_call():
    called = {id(_underlying(make()[0])) for make in calls.CALLS.values()}
    # Inherited methods are those of the class that defines them.
    hooks = {public_callables().get(name) for name in calls.HOOKS}
    missing = [
        name
        for name, function in public_callables().items()
        if id(_underlying(function)) not in called and function not in hooks
    ]
    assert missing == [], "Add a call to tests/calls.py."


def test_hooks_exist():
    known = {name.rpartition(".")[2] for name in public_callables()}
    assert {name.rpartition(".")[2] for name in calls.HOOKS} <= known


@functools.cache
def _arguments(name):
    """Returns the arguments of a call; the value of strings, else None."""
    good = calls.CALLS[name]()[1]
    return {k: v if isinstance(v, str) else None for k, v in good.items()}


def _marked(names, slow=()):
    slow = [*_LARGE, *slow]
    return [
        pytest.param(name, marks=pytest.mark.matrix) if name in slow else name
        for name in names
    ]


def _check(name, argument, value):
    outcome = bad_values.judge(name, argument, value)
    assert outcome.kind in (ACCEPTED, REFUSED), (
        f"{name}({argument}={value!r}): {outcome.kind}: {outcome.message}"
    )


@pytest.mark.on("jax")
@pytest.mark.parametrize("name", _marked(calls.CALLS))
@hypothesis.settings(
    max_examples=4,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    phases=[hypothesis.Phase.generate],
)
@hypothesis.given(data=st.data())
def test_a_bad_argument_is_legal_or_refused_clearly(name, data):
    argument = data.draw(st.sampled_from(list(_arguments(name))), "argument")
    make = data.draw(bad_values.values(argument, _arguments(name)[argument]), "value")
    _check(name, argument, make())


@pytest.mark.matrix
@pytest.mark.parametrize("name", calls.CALLS)
def test_every_bad_value_is_legal_or_refused_clearly(name):
    for argument, good in _arguments(name).items():
        for value in bad_values.every_value(argument, good):
            _check(name, argument, value)


@pytest.mark.on("jax")
@pytest.mark.parametrize("name", _marked(calls.CALLS, _COMPILED))
def test_the_call_works_with_its_good_arguments(name):
    function, arguments = calls.CALLS[name]()
    try:
        with bad_values.stopped():
            bad_values.invoke(function, arguments)
    except calls.Began:
        begins = ("export", "train", "find", "prune", "tf_keras", "instability")
        assert any(word in name for word in begins)


# What the checker itself tells apart: with a check that says nothing, it must fail.
def says_nothing(rate: float = 0.5, flag: bool = True) -> object:
    if rate is None:
        raise KeyError("rate")
    return rate < 1.0


def says_what(rate: float = 0.5, flag: bool = True) -> object:
    tt.PenaltyPhase(learning_rate=rate)
    return flag


@pytest.mark.parametrize(
    "function, argument, value, kind",
    [
        (says_nothing, "rate", "x", UNCLEAR),
        (says_nothing, "rate", None, WRONG),
        (says_nothing, "flag", "no", LAX),
        (says_nothing, "rate", float("nan"), LAX),
        (says_nothing, "rate", 0.25, ACCEPTED),
        (says_what, "rate", "x", REFUSED),
        (says_what, "rate", float("nan"), REFUSED),
        (says_what, "flag", None, LAX),
    ],
)
def test_the_checker_tells_clear_errors_from_others(
    function, argument, value, kind, monkeypatch
):
    monkeypatch.setitem(calls.CALLS, "f", lambda: (function, {"rate": 0.5}))
    assert bad_values.judge("f", argument, value).kind == kind


def test_a_search_with_a_large_seed_trains():
    search = tt.IMP(1, 1, 0.5, monitor="val_loss", seed=5000)
    tickets = tt.find_tickets(
        calls.compiled, calls.DATA, search, seed=5000, batch_size=4, verbose=0
    )
    assert tickets[0].sparsity == 0.5
