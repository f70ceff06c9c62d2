"""All-reduce of DeepSpeed's shared-memory operation for the CPU; the first run builds it (ninja, C++ compiler).

    torchrun --standalone --nproc-per-node 2 deepspeed_allreduce.py [BYTES...]

Rank 0 prints one JSON line per size. The time is rank 0's, of the operation alone. It brings its own barriers; one of
Gloo before each round would let ranks start further apart than the operation takes, so there is one every 20 rounds.
"""
import glob
import json
import os
import sys
import time

import torch
import torch.distributed as dist
from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

sizes = [int(size) for size in sys.argv[1:]] or [4 << 10, 64 << 10, 1 << 20, 4 << 20, 25 << 20, 100 << 20]
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
os.environ["LOCAL_SIZE"] = str(world)
dist.init_process_group("gloo")
# Rank 0 builds the operation where it is not there yet; the others find it built.
if rank == 0:
    shm = ShareMemCommBuilder().load()
dist.barrier()
if rank != 0:
    shm = ShareMemCommBuilder().load()
# After the build, which may use all cores.
cpus = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cpus[rank % len(cpus)]})
torch.set_num_threads(1)
shm.initialize(world, rank)
dist.barrier()
# All ranks have mapped the buffers by now. DeepSpeed leaves their files behind, so they go here.
for path in glob.glob(f"/dev/shm/deepspeed_*_{os.environ['MASTER_PORT']}_{rank}"):
    os.unlink(path)

for size in sizes:
    values = torch.empty(size // 4)
    rounds = max(5, min(2000, (200 << 20) // size))
    warmup = rounds // 10 + 2
    times = []
    for k in range(warmup + rounds):
        values.fill_(rank + 1)
        if k % 20 == 0:
            dist.barrier()
        start = time.perf_counter()
        torch.ops.deepspeed.inference_all_reduce_(values)
        times.append(time.perf_counter() - start)
        assert values[0] == values[-1] == world * (world + 1) / 2, "wrong sum"
    if rank == 0:
        median = sorted(times[warmup:])[rounds // 2]
        print(json.dumps({"peer": "deepspeed_shm", "workers": world, "bytes": size, "result": "each",
                          "median_us": round(median * 1e6, 1), "gbps": round(size / median / 1e9, 3)}), flush=True)
dist.destroy_process_group()
