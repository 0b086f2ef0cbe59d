"""What a file takes and gives: names, types and shapes, from the network and the program that was traced."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence

import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn
from torch.export import ExportedProgram


def input_names(model: nn.Module, count: int) -> list[str]:
    """Names of the inputs in a file: ``images`` if there is one, else what the network calls them."""
    if count == 1:
        return ["images"]
    names = list(inspect.signature(model.forward).parameters)[:count]
    return names if len(names) == count else [f"input_{i}" for i in range(count)]


def output_names(program: ExportedProgram) -> list[str]:
    """Names of the outputs in a file: of a mapping its keys; ``logits`` of one tensor, ``(B, classes)``."""
    output = next(node for node in program.graph.nodes if node.op == "output")
    count = len(program.graph_signature.user_outputs)
    leaves = list(output.args[0])[-count:] if count else []
    values = [leaf.meta["val"] if isinstance(leaf, torch.fx.Node) else leaf for leaf in leaves]
    spec = program.call_spec.out_spec
    return names_of(values if spec is None else pytree.tree_unflatten(values, spec))


def names_of(outputs: object) -> list[str]:
    """Names of a network's tensors, in the order in which a file gives them.

    Example:
        >>> names_of({"coarse": torch.zeros(1, 2), "pair": (torch.zeros(1), torch.zeros(1))})
        ['coarse', 'pair_0', 'pair_1']
        >>> names_of([torch.zeros(1)]), names_of(torch.zeros(1, 10))
        (['output_0'], ['logits'])
    """
    if isinstance(outputs, Tensor):
        return ["logits" if outputs.dim() == 2 else "output"]
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    names = []
    for path, value in leaves:
        if isinstance(value, Tensor):
            keys = [str(getattr(key, "key", getattr(key, "idx", key))) for key in path]
            names.append("_".join(keys if isinstance(outputs, Mapping) else ["output", *keys]))
    return names


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


def fixed_sides(program: ExportedProgram) -> tuple[int | None, tuple[int, ...] | None]:
    """The batch if a program is for one only, and the sides of its images likewise; None of what varies."""
    values = [value for value in input_values(program) if value.dim()]
    batch = next((value.shape[0] for value in values if isinstance(value.shape[0], int)), None)
    sides = next((value.shape[2:] for value in values if any(isinstance(side, int) for side in value.shape[2:])), None)
    return batch, None if sides is None else tuple(sides)


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
