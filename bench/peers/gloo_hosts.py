"""All-reduce of torch.distributed on Gloo between two hosts on this machine: network namespaces joined by veth.

    gloo_hosts.py BYTES...

Takes root (or CAP_SYS_ADMIN) and the program ip. The namespaces have no names: they go with their processes, and those
with this one, however it ends. As in `annulus bench bridge` a host is one process, bound to one core, and makes 2 GiB
worth of rounds, at least 15 and at most 1,000. Prints one JSON line per size. A round's time is that of its slower
host, from the end of a barrier to the end of the all-reduce.
"""
import ctypes
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import time

HOSTS = 2
WARMUP_ROUNDS = 3
CLONE_NEWNET, PR_SET_PDEATHSIG = 0x40000000, 1


def address(host):
    return f"10.86.23.{host + 1}"


def ip(*words):
    try:
        subprocess.run(["ip", *map(str, words)], check=True)
    except FileNotFoundError:
        sys.exit("hosts on one machine take the program ip (Debian: iproute2)")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(error.cmd)}` failed")


def enter_new_network():
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if libc.unshare(CLONE_NEWNET) != 0:
        sys.exit(f"network namespaces cannot be made: {os.strerror(ctypes.get_errno())}; it takes root, or "
                 "CAP_SYS_ADMIN")


def measure(host, sizes):
    import torch
    import torch.distributed as dist
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://{address(0)}:29500", rank=host, world_size=HOSTS)
    for size in sizes:
        values = torch.empty(size // 4)
        rounds = max(15, min(1000, (2 << 30) // size))
        times = []
        for _ in range(WARMUP_ROUNDS + rounds):
            values.fill_(host + 1)
            dist.barrier()
            start = time.perf_counter()
            dist.all_reduce(values)
            times.append(time.perf_counter() - start)
            assert values[0] == values[-1] == HOSTS * (HOSTS + 1) / 2, "wrong sum"
        slower = torch.tensor(times[WARMUP_ROUNDS:], dtype=torch.float64)
        dist.all_reduce(slower, op=dist.ReduceOp.MAX)
        median = sorted(slower.tolist())[rounds // 2]
        if host == 0:
            print(json.dumps({"peer": "gloo", "hosts": HOSTS, "bytes": size, "rounds": rounds,
                              "median_us": round(median * 1e6, 1), "gbps": round(size / median / 1e9, 3)}), flush=True)
    dist.destroy_process_group()


def run_host(host, sizes, launcher):
    enter_new_network()
    launcher.send("entered")
    launcher.recv()  # until the cable is there
    ip("link", "set", "lo", "up")
    ip("addr", "add", f"{address(host)}/24", "dev", "veth0")
    ip("link", "set", "veth0", "up")
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[host % len(cpus)]})
    os.environ["GLOO_SOCKET_IFNAME"] = "veth0"
    measure(host, sizes)


def main():
    sizes = [int(size) for size in sys.argv[1:]] or [4 << 10, 1 << 20, 100 << 20]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the hosts, which are daemons, are ended
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe() for _ in range(HOSTS)]
    hosts = [fork.Process(target=run_host, args=(host, sizes, pipes[host][1]), daemon=True) for host in range(HOSTS)]
    for host, (_, theirs) in zip(hosts, pipes):
        host.start()
        theirs.close()
    try:
        for ours, _ in pipes:
            ours.recv()
        ip("link", "add", "veth0", "netns", hosts[0].pid, "type", "veth", "peer", "name", "veth0", "netns",
           hosts[1].pid)
        for ours, _ in pipes:
            ours.send("joined")
    except (EOFError, BrokenPipeError):
        sys.exit(1)  # the host has said why
    while hosts:
        multiprocessing.connection.wait([host.sentinel for host in hosts])
        if any(host.exitcode for host in hosts):
            sys.exit(1)
        hosts = [host for host in hosts if host.exitcode is None]


main()
