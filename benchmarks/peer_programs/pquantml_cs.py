"""Continuous Sparsification with PQuantML on PyTorch, without quantization."""

import importlib.metadata

import job as jobs
import pquant
import torch
import torch_networks as networks
from torch.nn import functional


def main():
    job = jobs.read()
    torch.manual_seed(job["seed"])
    train, test = (networks.tensors(arrays) for arrays in jobs.data(job))
    size = job["batch_size"]
    epochs = jobs.Epochs(-(-len(train[0]) // size))
    model = networks.build(job["network"])
    weights = networks.count(model)
    config = configuration(job)
    model = pquant.add_compression_layers(model, config, (1, *train[0].shape[1:]))
    optimizer = torch.optim.SGD(
        model.parameters(), job["learning_rate"], job["momentum"]
    )
    accuracies, sparsities = [], []

    def train_epoch(model, epoch):
        if epoch % job["epochs"] == 0:
            epochs.training()
        epochs.begin()
        for rows in torch.randperm(len(train[1])).split(size):
            loss = functional.cross_entropy(model(train[0][rows]), train[1][rows])
            loss = pquant.get_model_losses(model, loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        epochs.end()

    def validate(model, epoch):
        accuracy = networks.accuracy(model, *test)
        if (epoch + 1) % job["epochs"] == 0:
            level = int(epoch) // job["epochs"]
            accuracies.append(accuracy)
            sparsities.append(sparsity(model))
            torch.save(model.state_dict(), jobs.level_path(job, level, "pt"))

    pquant.train_model(model, config, train_epoch, validate)
    versions = {
        "pquant_ml": importlib.metadata.version("pquant-ml"),
        "torch": torch.__version__,
    }
    jobs.write(job, epochs, accuracies, sparsities, weights, versions)


def configuration(job):
    config = pquant.cs_config()
    config.quantization_parameters.enable_quantization = False
    pruning = config.pruning_parameters
    pruning.disable_pruning_for_layers = ["output"]
    pruning.final_temp = job["final_temperature"]
    pruning.threshold_init = job["initial_score"]
    pruning.threshold_decay = job["penalty"]
    training = config.training_parameters
    training.rounds, training.epochs = job["rounds"], job["epochs"]
    training.pretraining_epochs = training.fine_tuning_epochs = 0
    training.rewind = "never"
    return config


def sparsity(model):
    """Returns the fraction of weights that the hard masks remove."""
    masks = [
        layer.pruning_layer.get_hard_mask()
        for layer in model.modules()
        if getattr(layer, "enable_pruning", False)
    ]
    kept = sum(float(mask.sum()) for mask in masks)
    return 1.0 - kept / sum(mask.numel() for mask in masks)


if __name__ == "__main__":
    main()
