"""All-reduce of torch.distributed on Gloo, which moves bytes through loopback TCP: it has no shared-memory path.

    torchrun --standalone --nproc-per-node 2 torch_allreduce.py [BYTES...]

Rank 0 prints one JSON line per size. The time is rank 0's, from the end of a barrier to the end of the all-reduce.
"""
import json
import os
import sys
import time

import torch
import torch.distributed as dist

sizes = [int(size) for size in sys.argv[1:]] or [4 << 10, 64 << 10, 1 << 20, 4 << 20, 25 << 20, 100 << 20]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpus[rank % len(cpus)]})
torch.set_num_threads(1)
dist.init_process_group("gloo")
for size in sizes:
    values = torch.empty(size // 4)
    rounds = max(5, min(2000, (200 << 20) // size))
    warmup = max(2, rounds // 10)
    times = []
    for _ in range(warmup + rounds):
        values.fill_(rank + 1)
        dist.barrier()
        start = time.perf_counter()
        dist.all_reduce(values)
        times.append(time.perf_counter() - start)
        assert values[0] == values[-1] == world * (world + 1) / 2, "wrong sum"
    if rank == 0:
        median = sorted(times[warmup:])[rounds // 2]
        print(json.dumps({"peer": "gloo", "workers": world, "bytes": size, "result": "each",
                          "median_us": round(median * 1e6, 1), "gbps": round(size / median / 1e9, 3)}), flush=True)
dist.destroy_process_group()
