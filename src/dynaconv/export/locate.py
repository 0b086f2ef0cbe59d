"""Where a file leaves its network: the first module whose output differs, and all that comes of it.

Values in the file are compared with the outputs of the network's modules. Which value is a module's output stands in
the program that the file was made from: the last node that was traced in the module. A module may differ by right,
where a norm behind it was folded into it: then what follows it agrees again. The first that differs without anything
after it agreeing is the one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from dynaconv.errors import require
from dynaconv.export.network import copied
from dynaconv.export.parity import Expected, error_of
from dynaconv.export.runtimes import Runtime, open_session
from dynaconv.export.signature import program_device


@dataclass(frozen=True)
class Fault:
    """The first layer that differs.

    Args:
        module: its name in the network.
        kind: its class.
        error: worst difference of its output, relative to its largest number.
    """

    module: str
    kind: str
    error: float

    def __str__(self) -> str:
        where = f"the first layer whose output differs is {self.module} ({self.kind})"
        return f"{where}, by {self.error:.1e} of its largest number"


def locate(
    model: nn.Module, program: ExportedProgram, path: Path, runtime: Runtime, expected: Expected, tolerance: float
) -> Fault | None:
    """Find the first layer whose output differs in a file.

    Args:
        model: the network, as the user has it.
        program: that the file's values are named after, see :class:`dynaconv.export.onnx_file.OnnxFile`.
        path: the file; of a format that hides its values, the program is looked at in its place.
        runtime: in which the file differed.
        expected: on which inputs.
        tolerance: of differences.

    Returns:
        The layer; None if all that can be seen agrees.
    """
    last = last_nodes(program.graph)
    names = {node.name for node in last.values()}
    if runtime in ("onnxruntime", "openvino"):
        found = onnx_values(path, runtime, names, expected.inputs, output_nodes(program))
    else:
        found = program_values(program, names, expected.inputs)
    wanted = module_outputs(model, last, expected.inputs)
    return first_fault(program.graph, last, wanted, found, tolerance, model)


def last_nodes(graph: fx.Graph) -> dict[str, fx.Node]:
    """The last node of every module, by name, in the order in which modules end."""
    last: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        for path, _ in (node.meta.get("nn_module_stack") or {}).values():
            name = path.removeprefix("L['self'].").split("@")[0]
            if name and name != "L['self']":
                last.pop(name, None)
                last[name] = node
    return last


def module_outputs(model: nn.Module, names: Iterable[str], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """What modules of a network give, those that are called once and give one tensor, in float64 on the CPU."""
    found: dict[str, Tensor] = {}
    often: set[str] = set()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if name in found:
                often.add(name)
            if isinstance(output, Tensor):
                found[name] = output.detach().clone()

        return hook

    exact = copied(model).cpu().eval()
    kind = torch.float64
    modules = dict(exact.named_modules())
    for name in names:
        if name in modules:
            modules[name].register_forward_hook(keep(name))
    try:
        _call(exact.double(), inputs, kind)
    except (RuntimeError, TypeError):
        kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        found.clear()
        often.clear()
        _call(exact.to(kind), inputs, kind)
    return {name: y for name, y in found.items() if name not in often}


def _call(model: nn.Module, inputs: tuple[Tensor, ...], kind: torch.dtype) -> None:
    with torch.no_grad():
        model(*(x.to(kind) if x.is_floating_point() else x for x in inputs))


def program_values(program: ExportedProgram, names: set[str], inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Values of nodes in a program, run in PyTorch."""
    found: dict[str, Tensor] = {}

    class Watching(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in names and isinstance(value, Tensor):
                found[n.name] = value.detach().cpu().clone()
            return value

    module = program.module()
    assert isinstance(module, fx.GraphModule)
    with torch.no_grad():
        Watching(module).run(*(x.to(program_device(program)) for x in inputs))
    return found


def output_nodes(program: ExportedProgram) -> list[str]:
    """Names of the nodes that a program gives, in order; a file may call its outputs otherwise."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    return [leaf.name for leaf in output.args[0] if isinstance(leaf, fx.Node)]


def onnx_values(
    path: Path, runtime: Runtime, names: set[str], inputs: tuple[Tensor, ...], outputs: Sequence[str]
) -> dict[str, Tensor]:
    """Values in an ONNX file: a copy that gives them as outputs is run.

    Args:
        path: the file.
        runtime: that runs it.
        names: of the values.
        inputs: of the file.
        outputs: nodes that its own outputs are.
    """
    onnx = require("onnx", "export")
    model = onnx.load(str(path), load_external_data=False)
    given = [value.name for value in model.graph.output]
    known = [name for node in model.graph.node for name in node.output if name in names and name not in given]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in known)
    watched = path.with_name(f"{path.stem}.watched{path.suffix}")  # beside it: numbers may stand in a file there
    try:
        watched.write_bytes(model.SerializeToString())
        session = open_session(runtime, watched)
        values = session.run(*inputs)
    finally:
        watched.unlink(missing_ok=True)
    return dict(zip([*outputs[: len(given)], *known], values, strict=True))


def first_fault(
    graph: fx.Graph,
    last: Mapping[str, fx.Node],
    wanted: Mapping[str, Tensor],
    found: Mapping[str, Tensor],
    tolerance: float,
    model: nn.Module,
) -> Fault | None:
    """The first module that differs, and after which nothing that depends on it agrees.

    Args:
        graph: that was traced.
        last: node of every module's output, in order.
        wanted: outputs of modules.
        found: values of nodes.
        tolerance: of differences, relative to a module's largest number.
        model: the network, for names of classes.
    """
    errors: dict[str, float] = {}
    for name, node in last.items():
        if name in wanted and node.name in found and wanted[name].shape == found[node.name].shape:
            scale = float(wanted[name].abs().max()) if wanted[name].numel() else 1.0
            errors[name] = error_of(found[node.name], wanted[name], scale or 1.0)
    agrees = {last[name] for name, error in errors.items() if error <= tolerance}
    redeemed: set[fx.Node] = set()
    for node in reversed(list(graph.nodes)):
        if any(user in agrees or user in redeemed for user in node.users):
            redeemed.add(node)
    modules = dict(model.named_modules())
    for name, error in errors.items():
        if error > tolerance and last[name] not in redeemed:
            return Fault(name, type(modules[name]).__name__ if name in modules else "module", error)
    return None
