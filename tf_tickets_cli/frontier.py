"""`tf-tickets frontier`: compare searches by sparsity and accuracy."""

import argparse
import os

from tf_tickets_cli import arguments, choices

SUMMARY = "compare searches by sparsity and accuracy"
DESCRIPTION = f"""\
Runs several searches from the same weights, trains all their tickets under the same
conditions and shows which are Pareto-optimal. Run the same command again to resume
an interrupted comparison.

{choices.METHODS_HELP}
There is a search of cs for each of --scores, and of kdlts, snip, grasp and synflow for
each of --sparsities.
"""
EPILOG = """\
examples:
  tf-tickets frontier --methods cs imp --scores -0.2 -0.1 0.0
  tf-tickets frontier --data images.npz --model my_model.py:build
  tf-tickets frontier --methods imp dlth unilth unidlth threshold
  tf-tickets frontier --methods imp cs --seeds 0 1 2 --executor ray
  KERAS_BACKEND=jax tf-tickets frontier --seeds 0 1 2 3 --executor vmap
  tf-tickets frontier --methods imp kdlts snip grasp synflow --sparsities 0.9 0.98
"""
RESUMES = True
LOADS_TENSORFLOW = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    arguments.add_data(parser)
    group = parser.add_argument_group("searches")
    group.add_argument(
        "--methods",
        nargs="+",
        choices=choices.METHODS,
        default=["cs", "imp"],
        metavar="METHOD",
        help="the methods to compare, see above (default: cs imp)",
    )
    group.add_argument(
        "--scores",
        nargs="+",
        type=float,
        metavar="S",
        default=[-0.2, -0.1, 0.0],
        help="initial scores of cs; a greater score gives a denser ticket (default: "
        "-0.2 -0.1 0)",
    )
    group.add_argument(
        "--sparsities",
        nargs="+",
        type=float,
        metavar="S",
        default=[0.8, 0.9, 0.95],
        help="sparsities of kdlts, snip, grasp and synflow (default: 0.8 0.9 0.95)",
    )
    arguments.add_rounds(group)
    group.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        metavar="N",
        help="run every search with each of these seeds of weights and data order; "
        "the split of the data remains that of --seed (default: that of --seed)",
    )
    _add_execution(parser.add_argument_group("execution"))
    arguments.add_out(
        parser.add_argument_group("results"), default="tickets/DATA-MODEL-frontier"
    )
    arguments.add_settings(parser)


def _add_execution(group: arguments.Parser) -> None:
    group.add_argument(
        "--executor",
        choices=choices.EXECUTORS,
        default="serial",
        help="serial: one training after the other, in this process; ray: in parallel, "
        "in processes of Ray; vmap: several in one program of JAX, which pays for "
        "networks without convolutions whose steps are short (default: serial)",
    )
    group.add_argument(
        "--address",
        metavar="A",
        help="address of a Ray cluster, such as auto or ray://HOST:10001 (default: "
        "start Ray on this machine)",
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of trainings at the same time with vmap, or if Ray is started "
        "here (default: 8 with vmap, with ray as many as the cores allow)",
    )
    group.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each training, on which the last bits of results depend "
        "(default: with ray 1, otherwise as the backend chooses)",
    )


def run(options: argparse.Namespace) -> None:
    """Runs the searches and prints the frontier."""
    from tf_tickets_cli import methods
    from tf_tickets_cli.progress import Progress
    from tf_tickets_cli.recording import Recorder
    from tf_tickets_cli.settings import Setting

    executor = _executor(options)
    _check_before_teaching(options)
    folder = arguments.results_folder(options, "-frontier")
    setting = Setting.from_options(options)
    seeds = options.seeds or [setting.seed]
    tables_of = {
        seed: methods.build_searches(
            setting.seeded(seed), options.methods, options.scores, options.sparsities
        )
        for seed in seeds
    }
    methods.check_model(tables_of[seeds[0]], setting)
    effective = setting.effective()
    if "cs" in options.methods:
        # By default the methods have different numbers of rounds.
        effective["rounds"] = options.rounds
    recorder = Recorder(folder, options, effective)
    with Progress() as progress:
        progress.say(setting.summary())
        watch = recorder.watching(progress.of_training)
        for seed, searches in tables_of.items():
            teachers = folder / "teachers"
            teachers = teachers / f"seed_{seed}" if options.seeds else teachers
            methods.teach(searches, setting.seeded(seed), teachers, watch)
        comparison = progress.of_comparison(
            tables_of[seeds[0]],
            setting.recipe.epochs,
            options.seeds,
            together=options.executor == "vmap",
        )
        frontier = _found(
            setting.build_model,
            setting.data,
            tables_of.__getitem__,
            folder,
            0 if options.seeds else setting.seed,
            seeds=options.seeds,
            executor=executor,
            epochs=setting.recipe.epochs,
            monitor=setting.reported,
            batch_size=setting.fit_batch_size,
            watch=recorder.watching(comparison),
        )
        recorder.write()
    print(frontier)
    print(f"Tickets, frontier.json and frontier.png are in {folder}")


def _check_before_teaching(options):
    """Refuses what `find_frontier` would only refuse when all teachers are trained."""
    from tf_tickets.search.lockstep import checks

    seeds = options.seeds or []
    if len(set(seeds)) < len(seeds):
        raise ValueError(
            "--seeds must have each seed only once. Received: --seeds "
            f"{' '.join(map(str, seeds))}"
        )
    cluster = options.address or os.environ.get("RAY_ADDRESS") or "local"
    if options.executor == "ray" and options.workers and cluster != "local":
        raise ValueError(
            "--workers is for a Ray that is started here, but there is a cluster, "
            "which has its own. Leave --workers out, or --address, and unset "
            "RAY_ADDRESS. "
            f"Received: --workers {options.workers} with the cluster {cluster}"
        )
    if options.executor == "vmap":
        checks.check_backend()


def _found(*arguments, executor, **settings):
    """Returns the frontier; failed trainings are an error of a few lines."""
    import tf_tickets as tt

    with executor:
        try:
            return tt.find_frontier(*arguments, executor=executor, **settings)
        except tt.executors.TasksFailed as error:
            raise ValueError(error.summary) from error
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def _executor(options):
    """Returns the executor; refuses options that have no effect on it."""
    from tf_tickets import arguments as checks
    from tf_tickets import executors

    threads = 1 if options.threads is None else options.threads
    executors.thread_variables(threads)  # Refuses what is no number of threads.
    if options.executor == "ray":
        return executors.RayExecutor(options.address, options.workers, threads)
    _refuse_elsewhere(options, "address", ("ray",))
    _refuse_elsewhere(options, "workers", ("ray", "vmap"))
    if options.executor == "vmap":
        if options.workers is None:
            return executors.VmapExecutor()
        checks.check_counts(**{"--workers": options.workers})
        return executors.VmapExecutor(options.workers)
    return executors.SerialExecutor()


def _refuse_elsewhere(options, name, places):
    value = getattr(options, name)
    if value is not None and options.executor not in places:
        advice = " or ".join(f"--executor {place}" for place in places)
        raise ValueError(
            f"--{name} belongs to {advice}. Received: --{name} {value} with "
            f"--executor {options.executor}. Leave it out, or add {advice}."
        )
