"""Compares the methods, and what they cost: ResNet-8 on the whole of CIFAR-10.

    KERAS_BACKEND=tensorflow python benchmarks/cifar10.py --data-dir DIR

Every training follows the recipe of ResNet-8 with a cosine decay to its own end, for
`--epochs` epochs: the dense network, every ticket, and the narrower dense networks. So
final trainings are equal, searches are not; each point has the epochs of both. All
trainings of a seed have the same initial weights and the same order of the data. Of the
50,000 training images 5,000 are the validation set, by which settings are chosen;
accuracy is reported on the test set, after the last epoch.

dense                      The network that is pruned, and round 0 of IMP.
dense, twice               The same trained once more from there, without pruning: what
                           GradualPruning is to be compared with.
IMP, init and late         Four rounds to 50, 80, 90 and 95 %. Tickets start from the
                           initial weights, or from those after two epochs.
GradualPruning, trained    Prunes the trained dense network in the first half of one
                           more training.
GradualPruning, scratch    Prunes a new network, trained for twice as many epochs.
ContinuousSparsification   Two rounds from a low and from a high initial score. Its
                           sparsities follow from them.
random                     Random masks with ERK allocation.
narrow                     Dense networks with fewer channels, and as many weights as a
                           ticket keeps.
UniLTH, UniDLTH            Four rounds to 95 %, without weight decay in the search,
                           which these methods refuse.
DLTH, KDLTS                One search for each sparsity.
SNIP, SynFlow, RigL        Pruned before the training; RigL exchanges weights in it.
inverted                   Keeps the smallest weights of the trained dense network, from
                           the initial weights: as many in each kernel as a ranking of
                           all its kernels together leaves.

Each run writes a file into results/cifar10, which grows by one point for each trained
ticket. The same command resumes: trainings and the rounds of GradualPruning and RigL
after their last epoch, other searches after their last round. Without the work folder
of the command before, points that need no other training than the dense one are kept,
and the others are trained again. Each point says on what it was made, and what accuracy
the dense network had that it started from. `--status` lists what is done. `--export`
adds the size of the int8 file for microcontrollers to points whose ticket is still in
`--work`.
"""

import argparse
import pathlib

import cifar10_runs
import cifar10_sizes
import keras
from cifar10_plan import RUNS, plan
from cifar10_study import LATE, Study

HERE = pathlib.Path(__file__).parent


def parsed():
    """Returns the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", help="folder of tensorflow-datasets")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=12, help="of each training")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow")
    parser.add_argument("--status", action="store_true", help="only list the runs")
    parser.add_argument(
        "--export", action="store_true", help="only add sizes to finished points"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few random images, to try the script"
    )
    parser.add_argument("--work", type=pathlib.Path, default=HERE / "runs" / "cifar10")
    parser.add_argument(
        "--out", type=pathlib.Path, default=HERE / "results" / "cifar10"
    )
    options = parser.parse_args()
    defaults = {parser.get_default("work"), parser.get_default("out")}
    if options.quick and defaults & {options.work, options.out}:
        parser.error("--quick needs a --work and an --out of its own.")
    if options.epochs <= LATE:
        parser.error(f"--epochs must be more than {LATE}. Received: {options.epochs}")
    return options


def main():
    options = parsed()
    if options.status:
        return cifar10_runs.status(options)
    if keras.config.backend() == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(options.threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(options.threads)
    if options.export:
        return cifar10_sizes.export(options)
    left = [
        (run, seed)
        for run, seed in plan(options.seeds)
        if not cifar10_runs.complete(options, run, seed) and run.name in options.only
    ]
    if set(options.only) == set(RUNS):
        cifar10_runs.write_plan(options)
    studies = {}
    for run, seed in left:
        study = studies.setdefault(seed, Study(options, seed))
        cifar10_runs.perform(options, study, run)


if __name__ == "__main__":
    main()
