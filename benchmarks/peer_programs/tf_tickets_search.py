"""The search of this library, as its users write it."""

import importlib.metadata

import job as jobs
import keras
import keras_networks as networks

import tf_tickets as tt
from tf_tickets.environment import versions


def main():
    job = jobs.read()
    train, test = jobs.data(job)
    epochs = jobs.Epochs(len(train[0]) // job["batch_size"])
    search = searches(job)
    counts = []

    def build():
        model = networks.build(keras, job["network"])
        counts.append(model.count_params())
        networks.compiled(keras, model, job)
        return search.wrap(model, filters=FILTERS, verbose=False)

    timer = networks.timer(keras, epochs, lambda epoch: epoch % job["epochs"] == 0)
    tickets = tt.find_tickets(
        build,
        (train, test),
        search,
        job["folder"],
        job["seed"],
        batch_size=job["batch_size"],
        callbacks=[timer],
        verbose=0,
    )
    dense = [search.dense] if search.dense else []
    metrics = [*dense, *(ticket.metrics for ticket in tickets)]
    accuracies = [values["val_accuracy"] for values in metrics]
    sparsities = [0.0] * len(dense) + [ticket.sparsity for ticket in tickets]
    backend = keras.config.backend()
    found = {**versions(), backend: importlib.metadata.version(backend)}
    jobs.write(job, epochs, accuracies, sparsities, counts[0], found)


FILTERS = "^(?!output)"


def searches(job):
    if job["method"] == "imp":
        return tt.IMP(job["rounds"], job["epochs"], job["rate"], seed=job["seed"])
    return tt.ContinuousSparsification(
        job["rounds"],
        job["epochs"],
        job["initial_score"],
        tt.schedules.ExponentialTemperature(1.0, job["final_temperature"], per="epoch"),
        job["penalty"],
        seed=job["seed"],
    )


if __name__ == "__main__":
    main()
