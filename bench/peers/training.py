"""Training: what bench/compare runs of Annulus and of PyTorch, and the table of it."""
import argparse
import dataclasses
import json

from systems import PROGRAMS, System, find_package, torchrun


@dataclasses.dataclass
class Workload:
    model: str
    batch: int  # images per worker
    steps: int  # that Annulus measures
    peer_steps: int
    bf16: bool = False
    peer_flags: tuple = ("--channels-last",)


WORKLOADS = {
    "mlp": Workload("mlp", 128, 1500, 500, peer_flags=()),
    "simplecnn": Workload("simplecnn", 128, 120, 30),
    "simplecnn-bf16": Workload("simplecnn", 128, 200, 30, bf16=True),
    "resnet18": Workload("resnet18", 64, 6, 4, peer_flags=("--channels-last", "--warmup", "2")),
    "resnet18-bf16": Workload("resnet18", 64, 6, 4, True, ("--channels-last", "--warmup", "2")),
    "resnet50": Workload("resnet50", 32, 4, 3, peer_flags=("--channels-last", "--warmup", "2")),
}
ANNULUS = "Annulus"
ONE_PROCESS = "PyTorch, one process"


def parse_workloads(text):
    names = text.split(",")
    for name in names:
        if name not in WORKLOADS:
            raise argparse.ArgumentTypeError(f"there is no workload {name}; there are {', '.join(WORKLOADS)}")
    return names


def training_systems(options):
    """(system, workload's name, label of its row) of Annulus and, where PyTorch is found, of its DDP with a process
    per worker and of one process with as many threads and the same images; eager and compiled."""
    python, version = find_package(options.peers, "torch")
    workers, systems = options.workers, []
    for name in options.training:
        load = WORKLOADS[name]

        def add(label, system, name=name):
            systems.append((system, name, label))

        ways = [(f"{ANNULUS}, {workers} workers", workers, 1)]
        if workers > 1:
            ways.append((f"{ANNULUS}, 1 worker of {workers} threads", 1, workers))
        for label, processes, threads in ways:
            add(label, System(f"{label}: {name}", [
                options.annulus, "bench", "train", "--model", load.model, "--workers", processes,
                "--threads-per-worker", threads, "--batch-per-worker", load.batch * threads, "--precision",
                "bf16" if load.bf16 else "fp32", "--steps", load.steps, "--json"]))
        flags = ["--model", load.model, "--steps", load.peer_steps, *load.peer_flags, *["--bf16"] * load.bf16]
        for setting, more in (("eager", []), ("compiled", ["--compile"])) if python else ():
            label = f"PyTorch {version}, DDP, {setting}"
            add(label, torchrun(f"{label}: {name}", python, workers, "torch_ddp.py",
                                [*flags, "--batch", load.batch, "--pin", *more]))
            label = f"{ONE_PROCESS} of {workers} threads, {setting}"
            add(label, System(f"{label}: {name}",
                              [python, PROGRAMS / "torch_ddp.py", *flags, "--batch", load.batch * workers, "--threads",
                               workers, *more], {"OMP_NUM_THREADS": str(workers)}))
    return systems


def compare_training(options, systems, make_table, measure):
    """Measures and returns what prints the tables: images/s, and memory."""
    speed, memory = make_table(options.training), make_table(options.training)
    places = {id(system): (name, label) for system, name, label in systems}

    def take(system, record):
        name, label = places[id(system)]
        speed.add("training", label, name, record["images_per_s"])
        if "pss_mib" in record:
            memory.add("memory", label, name, record["pss_mib"])

    measure([system for system, *_ in systems], options, take)

    def best(table, name, better, test):
        return table.best(name, better, lambda group, label: test(label))

    def is_ddp(label):
        return "DDP" in label

    def is_one_process(label):
        return label.startswith(ONE_PROCESS)

    def is_own(label):
        return label == f"{ANNULUS}, {options.workers} workers"

    def is_own_threads(label):
        return label.startswith(f"{ANNULUS}, 1 worker of")

    ratios = {}
    for what, table, better, own, peer in (
            ("workers / best DDP", speed, max, is_own, is_ddp),
            ("workers / best one process", speed, max, is_own, is_one_process),
            ("one worker's threads / best one process", speed, max, is_own_threads, is_one_process),
            ("memory of workers / least of DDP", memory, min, is_own, is_ddp)):
        ratios[what] = {}
        for name in options.training:
            ours, theirs = best(table, name, better, own), best(table, name, better, peer)
            if ours and theirs:
                ratios[what][name] = ours[0] / theirs[0]

    def show():
        if options.json:
            speed.print_json("training_images_per_s")
            memory.print_json("training_pss_mib")
            for what, row in ratios.items():
                for name, ratio in row.items():
                    print(json.dumps({"table": "training_ratio", "what": what, "column": name, "ratio": ratio}))
            return
        print(f"\nTraining, {options.workers} workers, images/s: median over rounds; below it min..max over rounds\n")
        speed.line("", options.training)
        speed.show("training")
        for what in list(ratios)[:3]:
            speed.show_ratios(what, ratios[what])
        print("\nMemory in MiB, proportional set size of all processes\n")
        memory.line("", options.training)
        memory.show("memory")
        memory.show_ratios(list(ratios)[3], ratios[list(ratios)[3]])
    return show
