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

PACKAGES = ("torch", "torchvision", "timm", "lightning", "numpy")


def environment() -> dict[str, Any]:
    """Versions of what computes, and the machine it computes on."""
    from dynaconv import __version__

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
    }


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
    return f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads{ram}{gpu}; {packages}"
