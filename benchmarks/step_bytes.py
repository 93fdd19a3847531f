"""Bytes that a training step reads and writes, by the cost analysis of XLA on JAX.

    KERAS_BACKEND=jax python benchmarks/step_bytes.py

The steps are those of benchmarks/step_time.py for LeNet-300-100: Adam, batches of 60;
dense, with masks at a sparsity of 0.8, and with a growing penalty on a random half of
each kernel. Nothing is timed: XLA counts the bytes of the compiled program, each
operand of each loop once.
"""

import argparse
import json
import pathlib

import jax
import keras
import step_time

HERE = pathlib.Path(__file__).parent
NETWORK = "lenet300"


def steps(arguments):
    """Yields the name and the model of each step."""
    setup = step_time.SETUPS[NETWORK]
    yield "dense", step_time.dense_model(setup, arguments)
    yield "masks", step_time.wrapped_model(setup, arguments, step_time.SPARSITY)
    yield "growing", step_time.penalized_model(setup, arguments)


def bytes_of(model, batch):
    """Returns the bytes that XLA counts in the compiled step of a model."""
    model.fit(*batch, batch_size=len(batch[1]), verbose=0)
    batch = keras.tree.map_structure(keras.ops.convert_to_tensor, batch)
    step = jax.jit(model.train_step, donate_argnums=0)
    costs = step.lower(step_time.jax_state(model), batch).compile().cost_analysis()
    return int(costs["bytes accessed"])


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = HERE / "results" / "step_bytes.json"
    parser.add_argument("--out", type=pathlib.Path, default=out)
    options = parser.parse_args()
    arguments = step_time.parse([])
    batch = step_time.SETUPS[NETWORK].data(1, arguments.seed)
    found = {
        **step_time.origin(arguments, "step_bytes.py"),
        "network": NETWORK,
        "bytes": {name: bytes_of(model, batch) for name, model in steps(arguments)},
    }
    print(found["bytes"])
    options.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
