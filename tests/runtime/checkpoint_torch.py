#!/usr/bin/env python3
"""Annulus' checkpoints in PyTorch's hands: same names, same shapes, same logits.

checkpoint_torch.py MODEL DIRECTORY EXPORTED

DIRECTORY has what tests/runtime/checkpoint_logits.cpp has written, EXPORTED is what `annulus checkpoint export` made
of its checkpoint. ResNet-18 is torchvision's where it can be imported, with the stem for small images, and else the
module of tests/kernels/resnet_torch.py, which has the same names.
"""
import glob
import os
import sys

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

CLASSES = 10


def resnet18():
    try:
        import torchvision
    except (ImportError, RuntimeError):  # the latter where it was built for another PyTorch
        sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "kernels"))
        import resnet_torch

        return resnet_torch.ResNet18(), "tests/kernels/resnet_torch.py"
    net = torchvision.models.resnet18(num_classes=CLASSES)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    net.maxpool = nn.Identity()
    return net, f"torchvision {torchvision.__version__}"


class SimpleCNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(64 * 6 * 6, 128)
        self.fc2 = nn.Linear(128, CLASSES)

    def forward(self, x):
        x = nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2)
        x = nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2)
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


def check_checkpoint(path, net, exported):
    """The checkpoint itself, with all that training needs, opens as well."""
    with safe_open(path, "pt") as file:
        metadata, names = file.metadata(), list(file.keys())
        if metadata["annulus_checkpoint"] != "1" or metadata["step"] != "40":
            sys.exit(f"{path}: metadata {metadata}")
        wanted = set(exported) | {f"optimizer.momentum_buffer.{name}" for name, _ in net.named_parameters()}
        if set(names) != wanted:
            sys.exit(f"{path}: it has {sorted(set(names) ^ wanted)} too many or too few")
        for name, tensor in exported.items():
            if not torch.equal(file.get_tensor(name), tensor):
                sys.exit(f"{path}: {name} is not what the exported file has")
        for name, _ in net.named_parameters():  # the made-up moments are copies of the weights
            if not torch.equal(file.get_tensor(f"optimizer.momentum_buffer.{name}"), exported[name]):
                sys.exit(f"{path}: optimizer.momentum_buffer.{name} is not what was written")


def main():
    model, directory, exported_path = sys.argv[1:]
    net, origin = resnet18() if model == "resnet18" else (SimpleCNN(), "torch.nn")
    exported = load_file(exported_path)
    print(f"{model} of {origin}: {net.load_state_dict(exported, strict=True)}")
    counts = [int(tensor) for name, tensor in exported.items() if name.endswith("num_batches_tracked")]
    if any(count != 40 for count in counts):
        sys.exit(f"num_batches_tracked are {counts}")
    check_checkpoint(glob.glob(os.path.join(directory, "step-*.safetensors"))[0], net, exported)

    images = np.fromfile(os.path.join(directory, "images.bin"), np.float32).reshape(-1, 3, 32, 32)
    logits = np.fromfile(os.path.join(directory, "logits.bin"), np.float32).reshape(-1, CLASSES)
    with torch.no_grad():
        expected = net.double().eval()(torch.from_numpy(images).double()).numpy()
    largest = float(np.abs(logits - expected).max())
    print(f"{len(images)} images, logits up to {np.abs(expected).max():.3f}, largest difference {largest:.2e}")
    if not largest <= 1e-4:
        sys.exit("logits differ by more than 1e-4")


if __name__ == "__main__":
    main()
