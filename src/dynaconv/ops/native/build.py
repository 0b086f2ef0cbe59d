"""Compiling the CPU kernels: once a machine, at first use, with the system's C compiler.

As torch.compile and Triton do, the library compiles for the processor it meets and keeps the result in a cache folder,
so that one wheel of plain Python serves every machine. The kernels know nothing of Python or PyTorch: no version of
either makes them stale. Without a compiler the layers compute with PyTorch's own operators.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dynaconv.files import sync

SOURCES = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-std=gnu11", "-fPIC", "-shared", "-pthread", "-fno-math-errno")
PARALLEL = "-fopenmp"
ATTEMPTS = ((*FLAGS, PARALLEL), FLAGS)
"""Flags to try in turn: a compiler without OpenMP still gives kernels of one thread."""
SECONDS = 300


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``DYNACONV_CACHE``, or dynaconv in the user's cache folder."""
    named = os.environ.get("DYNACONV_CACHE")
    if named:
        return Path(named)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dynaconv"


def _processor() -> str:
    """What ``-march=native`` depends on: a cache folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("flags", "model name", "Features"))}))


def _compile(compiler: str, target: Path) -> str | None:
    """Compile to a file; what the compiler said if it could not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    said = ""
    for flags in ATTEMPTS:
        handle, name = tempfile.mkstemp(dir=target.parent, suffix=".so")
        os.close(handle)
        command = [compiler, *flags, "-o", name, str(SOURCES / "kernels.c")]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
            if done.returncode == 0:
                sync(Path(name))  # what is kept once is taken for whole from then on
                Path(name).replace(target)
                return None
            said = done.stderr.strip()
        except (OSError, subprocess.TimeoutExpired) as error:
            said = str(error)
        finally:
            Path(name).unlink(missing_ok=True)
    return said.splitlines()[0] if said else "the compiler failed without a word"


@functools.cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    """The loaded kernels and where they are, or None and why not."""
    if os.environ.get("DYNACONV_NATIVE", "1") == "0":
        return None, "switched off by DYNACONV_NATIVE=0"
    if sys.platform == "win32":
        return None, "not built on Windows"
    sources = b"".join((SOURCES / name).read_bytes() for name in sorted(p.name for p in SOURCES.glob("*.[ci]*")))
    key = hashlib.sha256(sources + repr((ATTEMPTS, _processor(), platform.machine())).encode()).hexdigest()[:16]
    try:
        target = cache_folder() / f"kernels-{key}.so"
        if not target.exists():
            compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
            if compiler is None:
                return None, "no C compiler found (cc, gcc, clang, or CC); install one for faster layers on the CPU"
            said = _compile(compiler, target)
            if said is not None:
                return None, f"{compiler} can not compile them: {said}"
        return ctypes.CDLL(str(target)), str(target)
    except (OSError, RuntimeError) as error:  # no home, no space, a file system that refuses to run code
        return None, f"{error}; DYNACONV_CACHE names another folder"


def library() -> ctypes.CDLL | None:
    """The kernels, compiled and loaded at the first call; None without them."""
    return _library()[0]


def native_status() -> str:
    """Where the compiled kernels are, or why there are none.

    Example:
        >>> "kernels" in native_status() or "compiler" in native_status() or "off" in native_status()
        True
    """
    found, text = _library()
    return f"compiled kernels: {text}" if found is not None else f"no compiled kernels: {text}"
