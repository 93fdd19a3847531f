"""The contract of every public object with a configuration, in one table."""

import inspect
import json

import keras
import pytest
import tiny

import tf_tickets as tt
from tf_tickets import distillation, masks, optimizers, structures
from tf_tickets.configuration import Configured
from tf_tickets.masks import annealing
from tf_tickets.pruning import allocation, schedules
from tf_tickets.training.fidelity import Fidelity
from tf_tickets.wrapping import prunable

pytestmark = pytest.mark.turns


@keras.saving.register_keras_serializable("tests")
def everything_from_the_last(scores, masks, keep):
    return allocation.uniform(scores, masks, keep)


REWIND = tt.Rewind("5 steps", Fidelity("keep", "rewind", "rewind"))
MONITOR = tt.Monitor("loss", 0.02)
IMP = {
    "rounds": 3,
    "epochs_per_round": 7,
    "rate": {"output": 0.1, ".": 0.3},
    "rewind_to": REWIND,
    "criterion": "movement",
    "allocation": "erk",
    "stop_at": 0.9,
    "monitor": MONITOR,
    "seed": 4,
    "structure": tt.NM(2, 4),
    "target": None,
}
GRADUAL = {
    "schedule": schedules.ConstantSparsity(0.3, 4, 50, 5),
    "criterion": "random",
    "allocation": "uniform",
    "seed": 3,
    "structure": tt.Blocks(2, 2),
    "target": {"params": 0.5},
}
SCORES = keras.optimizers.SGD(3.0)
CS = {
    "rounds": 2,
    "epochs_per_round": 7,
    "initial_score": -0.1,
    "final_temperature": annealing.ExponentialTemperature(1.0, 50.0, "epoch"),
    "penalty": 1e-3,
    "scale_mask": False,
    "rewind": True,
    "rewind_to": REWIND,
    "score_optimizer": SCORES,
    "between_rounds": "code",
    "monitor": MONITOR,
    "seed": 4,
}
PLACES = {"teacher_layer_name": "a", "student_layer_name": 2}
KDLTS = {
    "final_sparsity": 0.7,
    "epochs": 7,
    "distillation_losses": [distillation.LogitsDistillation(2.0)],
    "distillation_loss_weights": [3.0],
    "student_loss_weight": 0.2,
    "mask": masks.SoftMask(0.5, 1e-3, scale_mask=False),
    "allocation": "erk",
    "train_weights": False,
    "rewind_to": REWIND,
    "score_optimizer": SCORES,
    "monitor": MONITOR,
    "seed": 4,
}
ISS = {
    "rounds": 2,
    "epochs_per_round": 7,
    "initial_score": 0.5,
    "penalty": 1e-3,
    "rewind": False,
    "rewind_to": REWIND,
    "evaluation": "threshold",
    "ticket_by": "threshold",
    "score_optimizer": SCORES,
    "monitor": MONITOR,
    "seed": 4,
}
SUPERMASK = {
    "epochs": 3,
    "mask": masks.TopKMask(0.3),
    "signed_constant": True,
    "score_optimizer": SCORES,
    "monitor": MONITOR,
    "seed": 4,
}
GROWING = annealing.GrowingPenalty(0.1, 2, 3.0, 2.0, 4)
DLTH = {
    "final_sparsity": {"output": 0.1, ".": 0.3},
    "rounds": 2,
    "penalty": tt.PenaltyPhase(7, GROWING, 0.1),
    "epochs_per_round": 9,
    "criterion": "movement",
    "allocation": "erk",
    "train": "each",
    "rewind_to": tt.Rewind("init", Fidelity("keep", "rewind", "rewind")),
    "monitor": MONITOR,
    "seed": 4,
    "structure": tt.NM(2, 4),
}
UNI = DLTH | {
    "stage_one": tt.StageOne(8, tt.EarlyStopRewind(2)),
    "rewind_to": REWIND,
}
SOFT = {
    "initial_score": 0.2,
    "penalty": 0.1,
    "temperature": annealing.ExponentialTemperature(2.0, 3.0),
    "scale_mask": False,
    "dynamic_scaling": True,
}
BUDGET = {
    "strength": 2.0,
    "initial_score": 0.3,
    "temperature": annealing.ExponentialTemperature(2.0, 7.0),
    "scale_mask": True,
}
STOCHASTIC = {
    "initial_score": 0.2,
    "penalty": 0.1,
    "evaluation": "threshold",
    "dynamic_scaling": True,
    "seed": 3,
}
TOPK = {"sparsity": 0.3, "absolute": False, "dynamic_scaling": True, "seed": 3}
# name: (class, a non-default value for every argument)
TABLE = {
    "IMP": (tt.IMP, IMP),
    "IMP with one rate": (tt.IMP, IMP | {"rate": 0.35, "stop_at": "below_dense"}),
    "IMP with a target": (
        tt.IMP,
        IMP | {"rate": 0.2, "stop_at": "below_dense", "target": {"macs": 0.5}},
    ),
    "IMP, own allocation": (tt.IMP, IMP | {"allocation": everything_from_the_last}),
    "GradualPruning": (tt.GradualPruning, GRADUAL),
    "GradualPruning, own allocation": (
        tt.GradualPruning,
        GRADUAL | {"allocation": everything_from_the_last},
    ),
    "ContinuousSparsification": (tt.ContinuousSparsification, CS),
    "StochasticSparsification": (tt.StochasticSparsification, ISS),
    "Supermask": (tt.Supermask, SUPERMASK),
    "DLTH": (tt.DLTH, DLTH),
    "UniLTH": (tt.UniLTH, UNI),
    "UniDLTH": (tt.UniDLTH, UNI),
    "ThresholdPruning": (
        tt.ThresholdPruning,
        {
            "rounds": 3,
            "epochs_per_round": 7,
            "quality": {"output": 0.1, ".": 0.3},
            "deviation": "once",
            "learning_rate_factor": 0.3,
            "rewind_to": REWIND,
            "monitor": MONITOR,
            "structure": tt.NM(2, 4),
        },
    ),
    "EarlyStopRewind": (
        tt.EarlyStopRewind,
        {
            "patience": 3,
            "min_delta": 0.1,
            "rewind": 2,
            "monitor": "loss",
            "fidelity": Fidelity("keep", "rewind", "rewind"),
            "directory": "here",
        },
    ),
    "GrowingPenalty": (
        annealing.GrowingPenalty,
        {"increment": 0.1, "interval": 2, "cap": 3.0, "power": 2.0, "hold": 4},
    ),
    "PenalizedMask": (
        masks.PenalizedMask,
        {"penalty": annealing.GrowingPenalty(0.1, 2, 3.0, 2.0, 4)},
    ),
    "SoftMask": (masks.SoftMask, SOFT),
    "BudgetMask": (masks.BudgetMask, BUDGET),
    "KDLTS": (tt.KDLTS, KDLTS),
    "DynamicSparsity": (
        tt.DynamicSparsity,
        {
            "sparsity": 0.7,
            "grow": "magnitude",
            "allocation": "uniform",
            "interval": 7,
            "drop_fraction": 0.4,
            "until": 0.5,
            "anneal": "constant",
            "seed": 4,
            "structure": tt.NM(2, 4),
        },
    ),
    "PruneAtInit": (
        tt.PruneAtInit,
        {
            "final_sparsity": 0.7,
            "epochs": 7,
            "criterion": "synflow",
            "allocation": "erk",
            "passes": 3,
            "monitor": MONITOR,
            "seed": 4,
            "structure": tt.NM(2, 4),
            "target": None,
        },
    ),
    "PruneAtInit with a target": (
        tt.PruneAtInit,
        {
            "final_sparsity": 0.9,
            "epochs": 7,
            "criterion": "synflow",
            "allocation": "erk",
            "passes": 3,
            "monitor": MONITOR,
            "seed": 4,
            "structure": tt.NM(2, 4),
            "target": {"macs": 0.5},
        },
    ),
    "LogitsDistillation": (
        distillation.LogitsDistillation,
        {**PLACES, "temperature": 2.0, "reverse": True, "from_logits": False},
    ),
    "FeatureDistillation": (
        distillation.FeatureDistillation,
        {**PLACES, "normalize": None, "project": True},
    ),
    **{
        relation.__name__: (relation, PLACES)
        for relation in (
            distillation.DistanceDistillation,
            distillation.AngleDistillation,
            distillation.SimilarityDistillation,
        )
    },
    "StochasticMask": (masks.StochasticMask, STOCHASTIC),
    "TopKMask": (masks.TopKMask, TOPK),
    "FixedMask": (masks.FixedMask, {"scaled": True}),
    "Grouped": (
        optimizers.Grouped,
        {"default": SCORES, "groups": {"a": SCORES}, "name": "two"},
    ),
    "ExponentialTemperature": (
        annealing.ExponentialTemperature,
        {"initial": 2.0, "final": 3.0, "per": "epoch"},
    ),
    "NM": (tt.NM, {"n": 2, "m": 4}),
    "Blocks": (tt.Blocks, {"rows": 2, "columns": 3, "pooling": "max"}),
    "Channels": (
        tt.Channels,
        {"round_to": 8, "floor": 0.2, "minimum": 2, "spared": (3,)},
    ),
    "Rewind": (tt.Rewind, {"moment": "5 steps", "fidelity": Fidelity("keep")}),
    "Monitor": (tt.Monitor, {"metric": "loss", "tolerance": 0.02}),
    "PenaltyPhase": (
        tt.PenaltyPhase,
        {"epochs": 7, "strength": GROWING, "learning_rate": 0.1},
    ),
    "StageOne": (
        tt.StageOne,
        {"epochs": 8, "early_stop": tt.EarlyStopRewind(2)},
    ),
    "Fidelity": (
        Fidelity,
        {
            "weights": "keep",
            "statistics": "keep",
            "optimizer": "keep",
            "learning_rate": "keep",
            "seeds": "rewind",
        },
    ),
    "ConstantSparsity": (
        schedules.ConstantSparsity,
        {"target_sparsity": 0.3, "begin_step": 4, "end_step": 50, "frequency": 5},
    ),
    "PolynomialDecay": (
        schedules.PolynomialDecay,
        {
            "initial_sparsity": 0.1,
            "final_sparsity": 0.7,
            "begin_step": 3,
            "end_step": 30,
            "power": 2,
            "frequency": 4,
        },
    ),
    "IterativeRate": (
        schedules.IterativeRate,
        {"rate": 0.3, "begin_step": 4, "end_step": 50, "frequency": 5},
    ),
}


CONFIGURED = [
    name
    for name, (cls, _) in TABLE.items()
    if issubclass(cls, Configured | tt.Rewind | tt.Monitor | tt.PenaltyPhase)
]


def plain(value):
    """Converts a value to a form that can be compared."""
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {key: plain(v) for key, v in value.items()}
    return value.get_config() if isinstance(value, WITH_CONFIG) else value


WITH_CONFIG = (
    tt.Rewind,
    tt.Monitor,
    tt.PenaltyPhase,
    tt.StageOne,
    distillation.DistillationLoss,
    Fidelity,
    schedules.ConstantSparsity,
    annealing.ExponentialTemperature,
    annealing.GrowingPenalty,
    tt.EarlyStopRewind,
    keras.optimizers.Optimizer,
    masks.Mask,
)
# Entries in the configuration of every Keras layer.
OF_LAYERS = {"name", "trainable", "dtype"}


def parameters(cls):
    return inspect.signature(cls.__init__).parameters


@pytest.mark.parametrize("name", TABLE)
def test_the_table_gives_every_argument_another_value_than_the_default(name):
    cls, arguments = TABLE[name]
    own = [n for n in parameters(cls) if n not in ("self", "kwargs")]
    defaults = {n: parameters(cls)[n].default for n in own}
    assert set(arguments) == set(defaults)
    # A setting that another one replaces has its value in another row.
    rows = [row for other, row in TABLE.values() if other is cls]
    unset = [n for n in own if all(row[n] == defaults[n] for row in rows)]
    assert unset == []


@pytest.mark.parametrize("name", TABLE)
def test_every_argument_is_in_the_configuration(name):
    cls, arguments = TABLE[name]
    assert set(cls(**arguments).get_config()) - set(arguments) <= (
        OF_LAYERS if issubclass(cls, keras.layers.Layer) else set()
    )
    assert set(arguments) <= set(cls(**arguments).get_config())


@pytest.mark.parametrize("name", TABLE)
def test_the_values_are_kept_as_attributes(name):
    cls, arguments = TABLE[name]
    made = cls(**arguments)
    kept = {n: getattr(made, n) for n in arguments if n not in ("criterion", "grow")}
    assert {n: plain(v) for n, v in kept.items()} == {
        n: plain(arguments[n]) for n in kept
    }


@pytest.mark.parametrize("name", TABLE)
def test_every_argument_survives_being_saved(name):
    cls, arguments = TABLE[name]
    original = cls(**arguments)
    text = json.dumps(keras.saving.serialize_keras_object(original))
    restored = keras.saving.deserialize_keras_object(json.loads(text))
    assert type(restored) is cls
    assert restored.get_config() == original.get_config()
    for argument in arguments:
        result = getattr(restored, argument)
        assert plain(result) == plain(getattr(original, argument))


def test_the_criterion_that_was_given_is_in_the_configuration():
    assert tt.IMP(**IMP).get_config()["criterion"] == "movement"


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_setting_cannot_change_after_construction(name):
    cls, arguments = TABLE[name]
    made = cls(**arguments)
    before = made.get_config()
    for argument in arguments:
        with pytest.raises(AttributeError, match="cannot change|cannot assign"):
            setattr(made, argument, None)
    assert made.get_config() == before


def test_a_function_that_is_not_registered_cannot_be_configured():
    search = tt.IMP(criterion=lambda weight: weight)
    with pytest.raises(ValueError, match="register"):
        search.get_config()


@pytest.mark.parametrize(
    "mask, structure",
    [
        (masks.FixedMask(), "2:4"),
        ("fixed", tt.Blocks(2, 3)),
        ("penalized", "4x1"),
        ("penalized", "channels"),
        (masks.SoftMask(**SOFT), "unstructured"),
        ("stochastic", "unstructured"),
        ("topk", "unstructured"),
    ],
    ids=str,
)
def test_a_prunable_layer_survives_being_saved(mask, structure):
    layer = prunable.Prunable(
        keras.layers.Dense(3), kernels=["kernel"], mask=mask, structure=structure
    )
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.get_config() == layer.get_config()
    assert restored.structure == layer.structure == structures.get(structure)
    # Without one, files can be read by versions that know none.
    without = {"structure"} if structure == "unstructured" else set()
    arguments = set(parameters(prunable.Prunable)) - {"self", "kwargs"} - without
    assert arguments <= set(layer.get_config())


@pytest.mark.parametrize(
    "cls, arguments, error, message",
    [
        (tt.IMP, {"rounds": 0}, ValueError, "`rounds`.*Received: 0"),
        (tt.IMP, {"rounds": 1.5}, ValueError, "`rounds`.*Received: 1.5"),
        (
            tt.IMP,
            {"epochs_per_round": -1},
            ValueError,
            "`epochs_per_round`.*Received: -1",
        ),
        (tt.IMP, {"rate": 1.0}, ValueError, "Received: rate=1.0"),
        (tt.IMP, {"rate": -0.1}, ValueError, "Received: rate=-0.1"),
        (tt.IMP, {"rate": {"a": 20}}, ValueError, "Received: rate={'a': 20}"),
        (tt.IMP, {"rate": "fast"}, ValueError, "Received: rate='fast'"),
        (tt.IMP, {"rewind_to": "soon"}, ValueError, "Received: 'soon'"),
        (tt.IMP, {"rewind_to": 3}, ValueError, "Received: 3"),
        (tt.IMP, {"rewind_to": "20 epochs"}, ValueError, "'20 epochs'"),
        (tt.Rewind, {"fidelity": "full"}, ValueError, "Received: 'full'"),
        (tt.IMP, {"seed": -1}, ValueError, "`seed`.*Received: -1"),
        (tt.IMP, {"monitor": 3}, TypeError, "Received: 3"),
        (tt.Monitor, {"tolerance": float("nan")}, ValueError, "tolerance=nan"),
        (tt.IMP, {"criterion": "size"}, ValueError, "Received: 'size'"),
        (tt.IMP, {"criterion": lambda gradient: 1}, ValueError, "'gradient'"),
        (tt.IMP, {"allocation": "even"}, ValueError, "Received: 'even'"),
        (tt.IMP, {"stop_at": 90}, ValueError, "Received: 90"),
        (tt.IMP, {"stop_at": 1.0}, ValueError, "Received: 1.0"),
        (tt.IMP, {"stop_at": "dense"}, ValueError, "Received: 'dense'"),
        (tt.ContinuousSparsification, {"rounds": 0}, ValueError, "Received: 0"),
        (tt.ContinuousSparsification, {"penalty": -1.0}, ValueError, "penalty=-1.0"),
        (
            tt.ContinuousSparsification,
            {"final_temperature": 0.5},
            ValueError,
            "final=0.5",
        ),
        (
            tt.ContinuousSparsification,
            {"rewind_to": "20 epochs"},
            ValueError,
            "'20 epochs'",
        ),
        (
            tt.ContinuousSparsification,
            {"initial_score": "low"},
            TypeError,
            "Received: 'low'",
        ),
        (tt.StochasticSparsification, {"evaluation": "x"}, ValueError, "'x'"),
        (tt.Supermask, {"epochs": 0}, ValueError, "Received: 0"),
        (tt.Supermask, {"mask": "hard"}, ValueError, "Received: 'hard'"),
        (tt.GradualPruning, {"schedule": 0.5}, TypeError, "Received: 0.5"),
        (tt.GradualPruning, GRADUAL | {"criterion": "size"}, ValueError, "'size'"),
        (tt.GradualPruning, GRADUAL | {"allocation": "even"}, ValueError, "'even'"),
        (Fidelity, {"seeds": "fresh"}, ValueError, "Received: 'fresh'"),
        (
            schedules.ConstantSparsity,
            {"target_sparsity": 80, "begin_step": 0},
            ValueError,
            "Received: target_sparsity=80. For percent",
        ),
        (schedules.IterativeRate, {"rate": 0.2, "begin_step": -1}, ValueError, ": -1"),
    ],
)
def test_bad_arguments_raise_with_what_was_received(cls, arguments, error, message):
    with pytest.raises(error, match=message):
        cls(**arguments)


NUMBERS = {
    "tolerance": (tt.Monitor, {}),
    "learning_rate": (tt.PenaltyPhase, {}),
    "learning_rate_factor": (tt.ThresholdPruning, {}),
    "strength": (masks.BudgetMask, {}),
    "temperature": (distillation.LogitsDistillation, {}),
    "cap": (schedules.GrowingPenalty, {}),
    "power": (schedules.GrowingPenalty, {}),
    "increment": (schedules.GrowingPenalty, {}),
    "interval": (schedules.GrowingPenalty, {"increment": 0.1}),
    "hold": (schedules.GrowingPenalty, {"increment": 0.1}),
    "initial": (schedules.ExponentialTemperature, {}),
    "final": (schedules.ExponentialTemperature, {}),
    "final_temperature": (tt.ContinuousSparsification, {}),
    "min_delta": (tt.EarlyStopRewind, {}),
    "student_loss_weight": (tt.KDLTS, {}),
}


@pytest.mark.parametrize("value", [float("nan"), -1.0, "x"])
@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_no_number_or_negative_is_refused_at_construction(name, value):
    cls, others = NUMBERS[name]
    with pytest.raises(ValueError, match=f"Received: .*{value}"):
        cls(**{**others, name: value})


SEEDED = [
    (tt.IMP, {}),
    (tt.KDLTS, {}),
    (tt.DLTH, {"final_sparsity": 0.5}),
    (tt.GradualPruning, GRADUAL),
    (tt.DynamicSparsity, {}),
]


@pytest.mark.parametrize(("cls", "others"), SEEDED)
@pytest.mark.parametrize("seed", [-1, "x", 1.5, float("nan"), None])
def test_a_bad_seed_is_refused_at_construction(cls, others, seed):
    with pytest.raises(ValueError, match=f"`seed` .*Received: .*{seed}"):
        cls(**{**others, "seed": seed})


@pytest.mark.parametrize("seed", [-1, "x"])
def test_a_trainer_with_a_bad_seed_is_refused_at_construction(seed):
    with pytest.raises(ValueError, match=f"`seed` .*Received: .*{seed}"):
        tt.TicketTrainer(tiny.build_compiled, tiny.splits(), seed=seed)
