"""What figures depend on besides the code: versions and hardware, as plain types."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dynaconv._version import __version__

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy")


def environment() -> dict[str, Any]:
    """Versions of what computes, and the machine it computes on."""
    versions: dict[str, str | None] = {"dynaconv": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "versions": versions,
        "hardware": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "ram_bytes": ram_bytes(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "system": platform.platform(terse=True),
        },
        "allocator": allocator(),
    }


ALLOCATORS = ("jemalloc", "tcmalloc", "mimalloc", "hoard", "snmalloc")
"""Allocators that people preload in place of the C library's."""


def allocator() -> str:
    """Who serves this process's memory, with what was set for it in the environment.

    Large temporaries are a good part of what dynamic convolution costs, and allocators differ in whether they give them
    back to the system at once.
    """
    preloaded = os.environ.get("LD_PRELOAD", "") + os.environ.get("DYLD_INSERT_LIBRARIES", "")
    library = " ".join(part for part in platform.libc_ver() if part) or platform.system()
    name = next((known for known in ALLOCATORS if known in preloaded), f"{library} malloc")
    tunables = [text for text in os.environ.get("GLIBC_TUNABLES", "").split(":") if text.startswith("glibc.malloc.")]
    settings = sorted(key for key in os.environ if key.startswith(("MALLOC_", "TCMALLOC_", "MIMALLOC_", "_RJEM_")))
    given = [f"{key}={os.environ[key]}" for key in settings] + tunables
    return f"{name}, {' '.join(given) or 'default'}"


def cpu_model() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def ram_bytes() -> int | None:
    """Memory of the machine, where the system says."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free on a device now, where the system says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def command_line() -> str:
    """How this process was called, ready to paste."""
    called = Path(sys.argv[0])
    name = "dynaconv" if called.parts[-3:] == ("dynaconv", "cli", "main.py") else called.name or sys.argv[0]
    return shlex.join([name, *sys.argv[1:]])


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def describe(values: dict[str, Any]) -> str:
    """An environment in one line."""
    hardware, versions = values["hardware"], values["versions"]
    ram = f", {hardware['ram_bytes'] / 2**30:.0f} GiB" if hardware["ram_bytes"] else ""
    gpu = f", {hardware['gpu']}" if hardware["gpu"] else ""
    packages = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    malloc = f"; {values['allocator']}" if "allocator" in values else ""
    return f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads{ram}{gpu}{malloc}; {packages}"
