"""IMP in plain PyTorch, as one writes it by hand; the data are tensors in memory."""

import copy

import job as jobs
import numpy as np
import torch
import torch_networks as networks
from torch.nn import functional


def main():
    job = jobs.read()
    torch.manual_seed(job["seed"])
    train, test = (networks.tensors(arrays) for arrays in jobs.data(job))
    model = networks.build(job["network"])
    start = copy.deepcopy(model.state_dict())
    prunable = {
        name: weight
        for name, weight in model.named_parameters()
        if name.endswith("weight") and weight.ndim > 1 and not name.startswith("output")
    }
    masks = {
        name: torch.ones_like(weight, dtype=torch.bool)
        for name, weight in prunable.items()
    }
    size = job["batch_size"]
    epochs = jobs.Epochs(-(-len(train[0]) // size))
    batches = loaded(train, size) if job["loader"] else sliced(train, size)
    accuracies, sparsities = [], []
    for level in range(job["rounds"] + 1):
        if level:
            masks = pruned(prunable, masks, job["rate"])
            model.load_state_dict(start)
        accuracies.append(fit(model, prunable, masks, batches, test, epochs, job))
        sparsities.append(1.0 - kept(masks))
        path = jobs.level_path(job, level, "pt")
        torch.save({"weights": model.state_dict(), "masks": masks}, path)
    weights = networks.count(model)
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    jobs.write(job, epochs, accuracies, sparsities, weights, versions)


def sliced(data, size):
    """Returns a function that yields the shuffled batches of an epoch."""
    images, labels = data

    def batches():
        for rows in torch.randperm(len(labels)).split(size):
            yield images[rows], labels[rows]

    return batches


def loaded(data, size):
    """Returns the same of PyTorch's DataLoader."""
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(TensorDataset(*data), batch_size=size, shuffle=True)
    return lambda: loader


def fit(model, prunable, masks, batches, test, epochs, job):
    """Trains with masks and returns the test accuracy after the last epoch."""
    optimizer = torch.optim.SGD(
        model.parameters(), job["learning_rate"], job["momentum"]
    )
    weights = list(prunable.values())
    factors = [masks[name].float() for name in prunable]
    apply_masks(weights, factors)
    epochs.training()
    for _ in range(job["epochs"]):
        model.train()
        epochs.begin()
        for x, y in batches():
            loss = functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            apply_masks(weights, factors)
        epochs.end()
        accuracy = networks.accuracy(model, *test)
    return accuracy


@torch.no_grad()
def apply_masks(weights, factors):
    torch._foreach_mul_(weights, factors)


@torch.no_grad()
def pruned(prunable, masks, rate):
    """Returns masks without the smallest of the remaining weights of all layers."""
    remaining = torch.cat([prunable[n][mask].abs() for n, mask in masks.items()])
    threshold = remaining.kthvalue(round(rate * len(remaining))).values
    return {n: mask & (prunable[n].abs() > threshold) for n, mask in masks.items()}


def kept(masks):
    """Returns the fraction of weights that masks keep."""
    ones = sum(int(mask.sum()) for mask in masks.values())
    return ones / sum(mask.numel() for mask in masks.values())


if __name__ == "__main__":
    main()
