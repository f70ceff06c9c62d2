"""Training with PyTorch's DistributedDataParallel on the CPU, over Gloo.

    torchrun --standalone --nproc-per-node 2 torch_ddp.py --model simplecnn --batch 128 --pin [--compile]
    python torch_ddp.py --threads 2 --model simplecnn --batch 256      # one process with two threads

Data is synthetic and already in memory, so only training is timed. Rank 0 prints one JSON line.
"""
import argparse
import json
import os
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
                         nn.Linear(128, 10))


def simplecnn():
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 3), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64 * 6 * 6, 128), nn.ReLU(), nn.Linear(128, 10))


def conv_norm(inputs, outputs, kernel, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """relu(branch(x) + x), where x is projected if the branch changes its shape."""

    def __init__(self, branch, inputs, outputs, stride):
        super().__init__()
        self.branch = branch
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x):
        return F.relu(self.branch(x) + self.shortcut(x), inplace=True)


def basic(inputs, width, stride):
    branch = nn.Sequential(conv_norm(inputs, width, 3, stride), nn.ReLU(inplace=True), conv_norm(width, width, 3))
    return Residual(branch, inputs, width, stride), width


def bottleneck(inputs, width, stride):
    branch = nn.Sequential(conv_norm(inputs, width, 1), nn.ReLU(inplace=True), conv_norm(width, width, 3, stride),
                           nn.ReLU(inplace=True), conv_norm(width, 4 * width, 1))
    return Residual(branch, inputs, 4 * width, stride), 4 * width


def resnet(block, depths):
    """ResNet for images of 32x32: the first convolution is 3x3 with stride 1, and no pooling follows it."""
    layers, channels = [conv_norm(3, 64, 3), nn.ReLU(inplace=True)], 64
    for stage, depth in enumerate(depths):
        for k in range(depth):
            layer, channels = block(channels, 64 << stage, 2 if stage > 0 and k == 0 else 1)
            layers.append(layer)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


MODELS = {  # name: how it is made, shape of an image
    "mlp": (mlp, (1, 28, 28)),
    "simplecnn": (simplecnn, (3, 32, 32)),
    "resnet18": (lambda: resnet(basic, (2, 2, 2, 2)), (3, 32, 32)),
    "resnet50": (lambda: resnet(bottleneck, (3, 4, 6, 3)), (3, 32, 32)),
}


def pss_mib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=MODELS, default="simplecnn")
    parser.add_argument("--batch", type=int, default=128, help="images per worker")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="per worker")
    parser.add_argument("--bucket-mb", type=float, default=25)
    parser.add_argument("--pin", action="store_true", help="bind each worker to its own cores")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.set_num_threads(args.threads)
    if args.pin:
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cpus[(rank * args.threads + k) % len(cpus)] for k in range(args.threads)})
    if world > 1:
        dist.init_process_group("gloo")

    torch.manual_seed(0)
    make, shape = MODELS[args.model]
    layout = torch.channels_last if args.channels_last else torch.contiguous_format
    net = make().to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), lr=.01, momentum=.9, fused=True)
    if world > 1:
        net = DistributedDataParallel(net, bucket_cap_mb=args.bucket_mb, gradient_as_bucket_view=True)
    if args.compile:
        net = torch.compile(net)
    images = torch.randn(args.batch, *shape).to(memory_format=layout)
    labels = torch.randint(0, 10, (args.batch,))

    def step():
        optimizer.zero_grad(set_to_none=False)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    for _ in range(args.warmup):
        step()
    if world > 1:
        dist.barrier()
    times = []
    for _ in range(args.steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    # Between forward and backward, when a step holds the most: Annulus keeps the room for it all the time.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
        loss = F.cross_entropy(net(images), labels)
    memory = torch.tensor([pss_mib("self") + (pss_mib(os.getppid()) if rank == 0 and world > 1 else 0)])
    loss.backward()
    if world > 1:
        dist.all_reduce(memory)  # torchrun, which is the parent of rank 0, included
    if rank == 0:
        print(json.dumps({"peer": "torch_ddp", "torch": torch.__version__, "model": args.model, "workers": world,
                          "threads": args.threads, "batch_per_worker": args.batch, "bf16": args.bf16,
                          "channels_last": args.channels_last, "compile": args.compile,
                          "images_per_s": round(world * args.batch * args.steps / sum(times), 1),
                          "median_step_ms": round(1e3 * sorted(times)[len(times) // 2], 2),
                          "pss_mib": round(memory.item(), 1)}))
    if world > 1:
        dist.destroy_process_group()


main()
