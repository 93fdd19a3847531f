"""The networks of benchmarks/peers.py in PyTorch."""

import torch
from torch import nn
from torch.nn import functional


class LeNet(nn.Module):
    """LeNet-300-100."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(784, 300)
        self.fc2 = nn.Linear(300, 100)
        self.output = nn.Linear(100, 10)

    def forward(self, x):
        x = functional.relu(self.fc1(x.flatten(1)))
        return self.output(functional.relu(self.fc2(x)))


def convolution(channels, filters, size, strides=1):
    return nn.Conv2d(channels, filters, size, strides, padding=size // 2)


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels, filters, strides):
        super().__init__()
        self.conv1 = convolution(channels, filters, 3, strides)
        self.bn1 = nn.BatchNorm2d(filters, eps=1e-3)
        self.conv2 = convolution(filters, filters, 3)
        self.bn2 = nn.BatchNorm2d(filters, eps=1e-3)
        self.shortcut = None
        if strides > 1:
            self.shortcut = convolution(channels, filters, 1, strides)

    def forward(self, x):
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet8(nn.Module):
    """ResNet-8 of MLPerf Tiny."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 16, 3)
        self.stem_bn = nn.BatchNorm2d(16, eps=1e-3)
        self.stage1 = Block(16, 16, 1)
        self.stage2 = Block(16, 32, 2)
        self.stage3 = Block(32, 64, 2)
        self.output = nn.Linear(64, 10)

    def forward(self, x):
        x = functional.relu(self.stem_bn(self.stem(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        return self.output(x.mean((2, 3)))


def build(name):
    """Returns a network with weights as Keras's `he_normal` draws them."""
    model = {"lenet300": LeNet, "resnet8": ResNet8}[name]()
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return model


def tensors(arrays):
    """Returns images, channels first, and labels as tensors."""
    images, labels = arrays
    images = torch.from_numpy(images)
    if images.ndim == 4:
        images = images.permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(labels).long()


@torch.no_grad()
def accuracy(model, images, labels):
    """Returns the fraction of right predictions."""
    model.eval()
    right = 0
    for x, y in zip(images.split(1000), labels.split(1000), strict=True):
        right += int((model(x).argmax(1) == y).sum())
    return right / len(labels)


def count(model):
    """Returns the number of weights, with moving statistics."""
    state = model.state_dict()
    return sum(v.numel() for k, v in state.items() if "num_batches" not in k)
