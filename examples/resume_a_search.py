"""Interrupt and resume a search; compare settings of the rewind.

    python examples/resume_a_search.py [folder]

`find_tickets` stores every round in its folder. Interrupt this script at any time and
start it again: finished rounds are not trained again.
"""

import pathlib
import sys

import tf_tickets as tt

FOLDER = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tickets/resumed")

digits = tt.datasets.load("digits")
settings = {
    "to init": "init",
    "to epoch 2": "2 epochs",
    "learning rate only": tt.Rewind("init", "learning_rate"),
    "fine-tuning": tt.Rewind("init", "fine_tune"),
}


def build_model():
    return tt.recipes.build("lenet300", digits.input_shape, digits.num_classes)


for name, rewind in settings.items():
    search = tt.IMP(rounds=5, epochs_per_round=5, rate=0.4, rewind_to=rewind)
    folder = FOLDER / name.replace(" ", "-")
    tickets = tt.find_tickets(build_model, digits, search, folder, verbose=0)
    frontier = [f"{t.metrics['test_accuracy']:.3f}" for t in tickets]
    print(f"{name:>20}: {'  '.join(frontier)}")
