"""What a file takes and gives: names, types and shapes, from the network and the program that was traced."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram


def input_names(model: nn.Module, count: int) -> list[str]:
    """Names of the inputs in a file: ``images`` if there is one, else what the network calls them."""
    if count == 1:
        return ["images"]
    known = inspect.signature(model.forward).parameters.values()
    names = [one.name for one in known if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)][:count]
    return names if len(names) == count else [f"input_{i}" for i in range(count)]


def output_names(program: ExportedProgram) -> list[str]:
    """Names of the outputs in a file, all tensors: the program's, but ``logits`` for one ``(B, classes)``."""
    given = program.graph_signature.user_outputs
    output = next(node for node in program.graph.nodes if node.op == "output")
    values = [getattr(leaf, "meta", {}).get("val") for leaf in output.args[0][-len(given) :]]
    found = [(str(name), value) for name, value in zip(given, values, strict=True) if isinstance(value, Tensor)]
    if len(found) == 1 and found[0][1].dim() == 2:
        return ["logits"]
    return [name for name, _ in found]


def program_device(program: ExportedProgram) -> torch.device:
    """Where a program's tensors are, and so where it takes its inputs; the CPU if it has none."""
    held = (*program.state_dict.values(), *program.constants.values())
    return next((value.device for value in held if isinstance(value, Tensor)), torch.device("cpu"))


def input_values(program: ExportedProgram) -> list[Tensor]:
    """The inputs as they were traced: without numbers, with symbols for sides that vary."""
    nodes = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [nodes[str(name)].meta["val"] for name in program.graph_signature.user_inputs]


def input_texts(program: ExportedProgram, names: Sequence[str]) -> dict[str, str]:
    """Type and shape of the inputs by name, such as ``float32 (batch, 3, height, width)``."""
    found = {}
    for name, value in zip(names, input_values(program), strict=True):
        letters = axis_names(value.dim())
        sides = [str(side) if isinstance(side, int) else letters[axis] for axis, side in enumerate(value.shape)]
        found[name] = f"{str(value.dtype).removeprefix('torch.')} ({', '.join(sides)})"
    return found


def axis_names(count: int) -> tuple[str, ...]:
    """What the axes of a tensor are called.

    Args:
        count: of axes.

    Example:
        >>> axis_names(4)
        ('batch', 'channels', 'height', 'width')
    """
    sides = {3: ("length",), 4: ("height", "width"), 5: ("depth", "height", "width")}.get(count)
    return ("batch", "channels", *(sides or (f"axis_{axis}" for axis in range(2, count))))[:count]
