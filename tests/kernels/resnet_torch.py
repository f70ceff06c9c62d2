#!/usr/bin/env python3
"""ResNet-18's loss, logits and gradient by PyTorch, in double precision: what resnet_gradient_test.cpp expects.

resnet_torch.py FILE          writes FILE (tests/kernels/resnet18_gradient.json)
resnet_torch.py --check FILE  computes them again and compares: exits 1 where they differ

Layers and their names are torchvision's; the stem is the one for small images. Parameters and images are hashes of
their places, so the test in C++ makes the same ones.
"""
import json
import sys

import numpy as np
import torch
from torch import nn

IMAGES, SIDE, CLASSES, PROJECTIONS = 2, 32, 10, 16


class Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = None
        if stride != 1 or inputs != width:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for group in range(4):
            width, inputs = 64 << group, max(64, 32 << group)
            blocks = Block(inputs, width, 2 if group else 1), Block(width, width, 1)
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(512, CLASSES)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        for group in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = group(x)
        return self.fc(x.mean((2, 3)))


def hashes(seed, count):
    """Of the 32-bit numbers seed, seed + 1, ... (Chris Wellons' lowbias32)."""
    h = (np.arange(count, dtype=np.uint64) + np.uint64(seed)) & np.uint64(0xFFFFFFFF)
    for factor in (0x7FEB352D, 0x846CA68B):
        h ^= h >> np.uint64(16)
        h = h * np.uint64(factor) & np.uint64(0xFFFFFFFF)
    return h ^ (h >> np.uint64(16))


def uniform(seed, count, limit):
    """Floats in [-limit, limit), the same bits everywhere."""
    unit = (hashes(seed, count) >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return unit * np.float32(limit)


def seed_of(name):
    """A number for each name: its letters as digits of base 31, as a 32-bit number."""
    seed = 7
    for letter in name.encode():
        seed = (seed * 31 + letter) & 0xFFFFFFFF
    return seed


def values_of(name, shape):
    """A parameter: of a batch norm about 1 or 0, else uniform with a variance of 2 over its inputs."""
    count, seed = int(np.prod(shape)), seed_of(name)
    if len(shape) == 1 and name != "fc.bias":
        values = uniform(seed, count, 0.25) + np.float32(1 if name.endswith("weight") else 0)
    else:
        values = uniform(seed, count, np.sqrt(6 / (512 if name == "fc.bias" else np.prod(shape[1:]))))
    return torch.from_numpy(values.reshape(shape)).double()


def compute():
    net = ResNet18().double().train()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(values_of(name, tuple(parameter.shape)))
    shape = (IMAGES, 3, SIDE, SIDE)
    images = torch.from_numpy(uniform(0, int(np.prod(shape)), 1).reshape(shape)).double()
    logits = net(images)
    loss = nn.functional.cross_entropy(logits, torch.arange(IMAGES))
    loss.backward()
    gradients = {}
    for name, parameter in net.named_parameters():
        gradient = parameter.grad.numpy().ravel()
        bits = hashes(1, gradient.size)
        signs = [1.0 - 2.0 * ((bits >> np.uint64(k)) & np.uint64(1)).astype(np.float64) for k in range(PROJECTIONS)]
        places = sorted({0, gradient.size // 3, gradient.size - 1})
        gradients[name] = {
            "count": gradient.size,
            "norm": float(np.linalg.norm(gradient)),
            "projections": [float(np.dot(sign, gradient)) for sign in signs],
            "elements": [[place, float(gradient[place])] for place in places],
        }
    return {"loss": loss.item(), "logits": logits.detach().numpy().ravel().tolist(), "gradients": gradients}


def numbers_of(tree):
    if isinstance(tree, dict):
        return [number for key in sorted(tree) for number in numbers_of(tree[key])]
    if isinstance(tree, list):
        return [number for item in tree for number in numbers_of(item)]
    return [tree]


def main():
    torch.use_deterministic_algorithms(True)
    if len(sys.argv) == 3 and sys.argv[1] == "--check":
        with open(sys.argv[2], encoding="utf-8") as file:
            stored = json.load(file)
        fresh = compute()
        for name, gradient in fresh["gradients"].items():
            scale = gradient["norm"]
            old = stored["gradients"][name]
            for a, b in zip(numbers_of(gradient), numbers_of(old), strict=True):
                if abs(a - b) > 1e-9 * scale:
                    sys.exit(f"{name}: {a} now, {b} in the file; the gradient's norm is {scale}")
        for a, b in zip(fresh["logits"] + [fresh["loss"]], stored["logits"] + [stored["loss"]], strict=True):
            if abs(a - b) > 1e-9:
                sys.exit(f"logits or loss: {a} now, {b} in the file")
        print(f"PyTorch {torch.__version__} computes what the file says")
        return
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(compute(), file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
