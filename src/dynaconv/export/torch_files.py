"""PyTorch's own files: programs saved, and programs compiled by AOTInductor for the machine they are compiled on."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import fx
from torch.export import ExportedProgram

from dynaconv.errors import DynaconvError

TRACES = ("stack_trace", "from_node", "torch_fn")
"""What PyTorch notes of every node's origin beside its module, a third of a program's text."""


def write_program(program: ExportedProgram, path: Path) -> None:
    """Save a program, without the lines of code and the steps that it came from: they name folders of this machine.

    Args:
        program: of :func:`dynaconv.export.program.trace`.
        path: the file, ending in ``.pt2``.

    Raises:
        DynaconvError: if inputs or outputs are of a class that files do not know.
    """
    graphs = [module.graph for module in program.graph_module.modules() if isinstance(module, fx.GraphModule)]
    for graph in graphs:
        assert isinstance(graph, fx.Graph)
        for node in graph.nodes:
            for trace in TRACES:
                node.meta.pop(trace, None)
    content = io.BytesIO()  # PyTorch's own writer ends the process where the disk is full
    try:
        torch.export.save(program, content)
    except NotImplementedError as error:  # named tuples, and classes of the network's own
        raise DynaconvError(
            f"torch.export can not save what the network takes or gives: {str(error).splitlines()[0]} Let it give a "
            "tuple or a dictionary"
        ) from error
    path.write_bytes(content.getbuffer())


def write_aoti(program: ExportedProgram, path: Path) -> None:
    """Compile a program for the device that its tensors are on, and write the package.

    Args:
        program: of :func:`dynaconv.export.program.trace`.
        path: the package, ending in ``.pt2``.

    Raises:
        DynaconvError: without a C++ compiler, or if it does not compile.
    """
    from torch._inductor import aoti_compile_and_package, config
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except (InvalidCxxCompiler, OSError) as error:
        asked = config.cpp.cxx if isinstance(config.cpp.cxx, list | tuple) else (config.cpp.cxx,)
        tried = ", ".join(f"'{name}'" for name in asked if name) or "none"
        raise DynaconvError(
            f"AOTInductor compiles C++, and no compiler works here (tried: {tried}); install one, or name it in the "
            "environment variable CXX"
        ) from error
    try:
        content = io.BytesIO()
        aoti_compile_and_package(program, package_path=content)
    except Exception as error:  # whatever the compiler, or what it makes of a network of somebody's, may raise
        raise DynaconvError(
            f"AOTInductor does not compile the network: {str(error).strip().splitlines()[0]}"
        ) from error
    path.write_bytes(content.getbuffer())
