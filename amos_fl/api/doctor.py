"""What this machine and this installation have for amos-fl, and what to do about what they lack."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from amos_fl.api.settings import cache_folder
from amos_fl.deploy.running import OWN_PORT, is_free
from amos_fl.volumes.plausible_grid import memory_bytes
from amos_fl.wording import first_line, listed

GIB = 2**30
LEAST_MEMORY = 2 * GIB
"""The demonstration's training and scoring of one scan at a time take a gigabyte."""
LEAST_DISK = 2 * GIB
"""The demonstration, its phantom and the store of its prepared scans take one."""
PROGRAMS = ("flower-superexec", "flwr-serverapp")
"""What Flower's SuperLink starts by name."""
PORTS = {
    8000: ("a SuperLink's", "another for it: amos-fl deploy init --port"),
    OWN_PORT: ("a SuperNode's own", "another for it: amos-fl-site supernode SITE --port"),
}
BESIDES = {"test", "docs", "dev"}
"""Extras for those who change amos-fl."""
_OWN = "amos-fl"

State = Literal["fine", "lacks", "optional"]


@dataclass(frozen=True)
class Examined:
    """One line of the doctor: `lacks` is something that no run does without, `optional` what some can do without."""

    subject: str
    state: State
    found: str
    remedy: str = ""


def examine(runs: Path, *, ray: bool = True) -> Iterator[Examined]:
    """Examine this installation and this machine, one subject after another; `runs` is where run folders will go.

    Starting Ray, which takes seconds, is left out without `ray`.
    """
    yield _python()
    yield _packages()
    yield _torch()
    yield _programs()
    if ray:
        yield _ray()
    yield _gpu()
    yield _memory()
    yield Examined("CPU", "fine", f"{_cores()} cores, {platform.machine()}, {platform.system()} {platform.release()}")
    yield _disk("disk for runs", runs, "--out")
    yield _disk("disk for the cache", cache_folder(), "--store, or the variable AMOS_FL_CACHE,")
    yield from (_port(number, whose, remedy) for number, (whose, remedy) in PORTS.items())
    yield from _extras()


def _python() -> Examined:
    # The oldest allowed one is in the metadata, and pip installs nothing under an older one.
    return Examined("Python", "fine", f"{platform.python_version()} ({sys.executable})")


def _requirements(extra: str = "") -> list[Requirement]:
    """What this distribution requires here, or what one of its extras adds to that."""
    wanted = [Requirement(line) for line in requires(_OWN) or ()]
    always = [one for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    added = [one for one in wanted if one.marker is not None and one.marker.evaluate({"extra": extra})]
    return [one for one in added if one not in always]


def _missing(wanted: list[Requirement]) -> list[str]:
    """Those of the requirements that are not met, each with what is there."""
    found = []
    for one in wanted:
        try:
            here = version(one.name)
        except PackageNotFoundError:
            found.append(f"{one.name} is not installed")
            continue
        if not one.specifier.contains(here, prereleases=True):
            found.append(f"{one.name} is {here}, not {one.specifier}")
    return found


def _packages() -> Examined:
    try:
        own, wanted = version(_OWN), _requirements()
    except PackageNotFoundError:
        return Examined("amos-fl", "lacks", "runs from source, without an installation", "pip install -e .")
    here = f"{own}, with {', '.join(f'{name} {_version(name)}' for name in ('flwr', 'ray', 'monai'))}"
    if wrong := _missing(wanted):
        return Examined("amos-fl", "lacks", listed(wrong, 5), f"{_installer()} --upgrade {_OWN}=={own}")
    return Examined("amos-fl", "fine", here)


def _installer() -> str:
    """What installs packages beside this program; uv leaves its receipt in the environment of a tool."""
    return "uv tool install" if (Path(sys.prefix) / "uv-receipt.toml").is_file() else "pip install"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(none)"


def _torch() -> Examined:
    try:
        import torch
    except Exception as error:  # a broken build raises OSError for a library, and others
        return Examined("PyTorch", "lacks", f"cannot be imported ({first_line(error)})", "install torch again")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "a build for CPUs"
    return Examined("PyTorch", "fine", f"{torch.__version__}, {build}")


def _programs() -> Examined:
    """Flower's programs, on the path or beside this Python, where the SuperLink finds them as well."""
    beside = Path(sys.executable).parent
    missing = [name for name in PROGRAMS if shutil.which(name) is None and not (beside / name).is_file()]
    if missing:
        return Examined("Flower", "lacks", f"{listed(missing)} not found", "pip install --force-reinstall flwr")
    return Examined("Flower", "fine", f"{_version('flwr')}, its programs are there")


def _ray() -> Examined:
    from amos_fl_server.federation.engines.ray_cluster import running_ray

    quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
    try:
        with running_ray(address="local", num_cpus=1, **quiet):
            pass
    except Exception as error:  # whatever Ray says when it does not start
        found, remedy = f"does not start ({first_line(error)})", "leave --engine ray and --parallel out; see Ray's log"
        return Examined("Ray", "optional", found, remedy)
    return Examined("Ray", "fine", f"{_version('ray')} starts, for sites and runs side by side")


def _gpu() -> Examined:
    try:
        import torch
    except Exception:  # said by its own line
        return Examined("GPU", "optional", "unknown without PyTorch", "")
    if torch.cuda.is_available():
        cards = []
        for index in range(torch.cuda.device_count()):
            about, (free, total) = torch.cuda.get_device_properties(index), torch.cuda.mem_get_info(index)
            cards.append(f"cuda:{index} {about.name}, {free / GIB:.1f} of {total / GIB:.1f} GiB free")
        return Examined("GPU", "fine", "; ".join(cards))
    if torch.backends.mps.is_available():
        return Examined("GPU", "fine", "mps, Apple's")
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        built = torch.version.cuda is not None
        found = f"NVIDIA's driver is here, and PyTorch {'finds no GPU' if built else 'is a build for CPUs'}"
        remedy = "update the driver" if built else "install the build for CUDA that PyTorch's installation page names"
        return Examined("GPU", "optional", found, remedy)
    return Examined("GPU", "optional", "none: trains on the CPU, good for the demonstration and small networks", "")


def _memory() -> Examined:
    total, free = memory_bytes(), free_memory()
    said = f"{total / GIB:.1f} GiB, {free / GIB:.1f} GiB of it free"
    if free < LEAST_MEMORY:
        return Examined("memory", "lacks", said, f"end other programs; a run needs {LEAST_MEMORY // GIB} GiB and more")
    return Examined("memory", "fine", said)


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that are free, on the machine or in this process's container if that is less."""
    found, group = memory_bytes(), root / "sys/fs/cgroup"
    if (about := root / "proc/meminfo").is_file():
        free = re.search(r"^MemAvailable:\s+(\d+) kB$", about.read_text(encoding="ascii"), re.MULTILINE)
        found = int(free[1]) * 1024 if free else found
    try:
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return found
    return min(found, max(0, limit - used))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _disk(subject: str, folder: Path, option: str) -> Examined:
    """Whether a folder, which need not be there yet, can be written and has room."""
    there = next(path for path in (folder, *folder.resolve().parents) if path.is_dir())
    remedy = f"choose another place with {option} or free some"
    if not os.access(there, os.W_OK):
        return Examined(subject, "lacks", f"{there} may not be written", remedy)
    free = shutil.disk_usage(there).free
    said = f"{free / GIB:.1f} GiB free in {folder}"
    return Examined(subject, "lacks", said, remedy) if free < LEAST_DISK else Examined(subject, "fine", said)


def _port(number: int, whose: str, remedy: str) -> Examined:
    if is_free(number):
        return Examined(f"port {number}", "fine", f"free ({whose} port)")
    return Examined(f"port {number}", "optional", f"taken ({whose} port)", f"end what has it, or choose {remedy} N")


def _extras() -> Iterator[Examined]:
    for name in _names_of_extras():
        wanted = _requirements(name)
        if not wanted:  # nothing of it exists for this Python
            continue
        if missing := _missing(wanted):
            remedy = f"if wanted: {_installer()} '{_OWN}[{name}]'"
            yield Examined(f"extra {name}", "optional", listed(missing, 3), remedy)
        else:
            yield Examined(f"extra {name}", "fine", listed([one.name for one in wanted]))


def _names_of_extras() -> list[str]:
    try:
        return sorted(set(metadata(_OWN).get_all("Provides-Extra") or ()) - BESIDES)
    except PackageNotFoundError:
        return []
