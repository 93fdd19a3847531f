"""Kill a search and let it go on; compare search settings by their frontiers.

    python examples/resume_a_search.py [folder]

`find_tickets` keeps every round in its folder. Interrupt this script whenever you
like and start it again: finished rounds are not trained anew.
"""

import pathlib
import sys

import tf_tickets as tt

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tickets/resumed")

digits = tt.datasets.load("digits")
settings = {
    "to init": {"rewind_to": "init"},
    "to epoch 2": {"rewind_to": "2 epochs"},
    "learning rate only": {"fidelity": "learning_rate"},
    "fine-tuning": {"fidelity": "fine_tune"},
}


def build_model():
    return tt.recipes.build("lenet300", digits.input_shape, digits.num_classes)


for name, setting in settings.items():
    search = tt.IMP(rounds=5, epochs_per_round=5, rate=0.4, **setting)
    folder = FOLDER / name.replace(" ", "-")
    tickets = tt.find_tickets(build_model, digits, search, folder, verbose=0)
    frontier = [f"{t.metrics['test_accuracy']:.3f}" for t in tickets]
    print(f"{name:>20}: {'  '.join(frontier)}")
