"""From a network to a graph: torch.export, with batch and size as symbols where they may vary."""

from __future__ import annotations

import inspect
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config
from torch.fx.experimental.symbolic_shapes import is_concrete_int

from dynaconv.errors import DynaconvError
from dynaconv.export.folding import fold, tell_modules
from dynaconv.export.settings import ExportSettings
from dynaconv.ops.graphs import graph_for

BATCH = "batch"
LONGEST_REASON = 300
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def undisturbed() -> Iterator[None]:
    """One thread, as torch.export changes PyTorch while it follows a network; and no autocast of the caller's."""
    accelerator = torch.accelerator.current_accelerator()
    with ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        for kind in ("cpu", *(() if accelerator is None else (accelerator.type,))):
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def trace(model: nn.Module, example: tuple[Tensor, ...], settings: ExportSettings) -> ExportedProgram:
    """Follow a network, and fold what does not depend on its input (:mod:`dynaconv.export.folding`).

    Inputs are named as the arguments of its ``forward``; a single output is ``output``, several bear their keys
    (``program.graph_signature.user_inputs`` and ``user_outputs``).

    Args:
        model: of :func:`dynaconv.export.network.deployable`.
        example: inputs, each ``(B, C, *size)``; a batch that may vary has at least 2 here.
        settings: what may vary, and the runtime.

    Returns:
        A program whose batch, if it may vary, is any number from 1 on.

    Raises:
        DynaconvError: if the network can not be followed, or allows no other batch or size.
    """
    if settings.dynamic_size and all(x.dim() < 3 for x in example):
        taken = ", ".join(str(tuple(x.shape)) for x in example)
        raise DynaconvError(
            f"no side of the input {taken} could vary: sizes follow batch and channels; expected inputs such as (B, C, "
            "length), or no dynamic_size"
        )
    batch = Dim(BATCH, min=1)
    shapes = tuple(
        {
            **({0: batch} if settings.dynamic_batch else {}),
            **(dict.fromkeys(range(2, x.dim()), Dim.AUTO) if settings.dynamic_size else {}),
        }
        for x in example
    )
    with (
        torch.no_grad(),
        # A batch of one is a batch like any other: without this, torch.export makes two graphs of them, from 2 on.
        symbolic_config.patch(backed_size_oblivious=True),  # pyright: ignore[reportAttributeAccessIssue]
        graph_for(settings.runtime, settings.dynamic_batch),
    ):
        try:
            program = torch.export.export(model, example, dynamic_shapes=_by_argument(model, shapes), strict=False)
            _check_inputs(program, settings)
            folded = program.module(check_guards=False)
            fold(folded)
            _part_outputs(folded, settings)
            program = torch.export.export(folded, example, dynamic_shapes=_by_argument(folded, shapes), strict=False)
        except DynaconvError:
            raise
        except Exception as error:  # whatever a network's own code may raise where values are symbols
            raise DynaconvError(_why_not(model, example, error, settings)) from error
        tell_modules(program, folded)
    check_groups(program)
    _name_outputs(program)
    return program


def _by_argument(model: nn.Module, shapes: tuple[Any, ...]) -> tuple[Any, ...]:
    """What varies, argument by argument: ``*args`` is one that takes several inputs."""
    try:
        return tuple(inspect.signature(model.forward).bind(*shapes).arguments.values())
    except TypeError:  # the network takes another number, as will be told
        return shapes


def _part_outputs(module: fx.GraphModule, settings: ExportSettings) -> None:
    """Give every output a value of its own, and drop from ONNX what is no tensor.

    What is given twice, an input, or a constant would otherwise bear one name alone.
    """
    (output,) = module.graph.find_nodes(op="output")
    parts: list[Any] = []
    for part in output.args[0]:
        tensor = isinstance(part, fx.Node) and isinstance(part.meta.get("val"), Tensor)
        if tensor and (part in parts or part.op in ("placeholder", "get_attr")):
            with module.graph.inserting_before(output):
                part, source = module.graph.call_function(torch.ops.aten.clone.default, (part,)), part
            part.meta = dict(source.meta)
        parts.append(part if tensor or settings.format != "onnx" else None)
    output.args = (tuple(parts),)
    module.recompile()


def _why_not(model: nn.Module, example: tuple[Tensor, ...], error: Exception, settings: ExportSettings) -> str:
    """One line: the network, what it or torch.export minded, and what to do."""
    try:
        with torch.no_grad():
            model(*example)
    except Exception as own:  # then nothing is wrong with the export
        shapes = ", ".join(str(tuple(x.shape)) for x in example)
        said = " ".join(str(own).split())[:LONGEST_REASON]
        return (
            f"{type(model).__name__} itself fails on inputs of shape {shapes}: {type(own).__name__}: {said}; give "
            "input_size=(channels, *sides) of one sample, or example= inputs that it takes"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line.removeprefix("- ") for line in lines if line.startswith("- ")] or lines[:1]
    reason = " ".join(reasons)[:LONGEST_REASON] or "no reason given"
    wanted = [name for name in ("dynamic_batch", "dynamic_size") if getattr(settings, name)]
    advice = f"; try without {' or '.join(wanted)}" if wanted else ""
    return f"torch.export can not follow {type(model).__name__}: {type(error).__name__}: {reason}{advice}"


def _inputs_of(program: ExportedProgram) -> list[Tensor]:
    """Inputs with symbols for sizes, in order."""
    names = set(program.graph_signature.user_inputs)
    nodes = [node for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    return [node.meta["val"] for node in nodes if isinstance(node.meta.get("val"), Tensor)]


def _check_inputs(program: ExportedProgram, settings: ExportSettings) -> None:
    """Refuse a program in which the network itself fixes what was to vary."""
    for x in _inputs_of(program):
        if settings.dynamic_batch and is_concrete_int(x.shape[0]):
            raise DynaconvError(f"the network takes batches of {x.shape[0]} alone; export it without dynamic_batch")
        fixed = [is_concrete_int(n) for n in x.shape[2:]]
        if settings.dynamic_size and any(fixed):
            size = " x ".join(str(n) if known else "any" for n, known in zip(x.shape[2:], fixed, strict=True))
            raise DynaconvError(
                f"the network's own code fixes the size of its input, to {size}; export it without dynamic_size, or "
                "build it so that it takes any size (vision transformers of timm: dynamic_img_size=True)"
            )


def check_groups(program: ExportedProgram) -> None:
    """Refuse a graph in which a convolution's number of groups depends on the number of samples.

    Runtimes want that number when they load a file.

    Raises:
        DynaconvError: which names the convolution.
    """
    for node in _calls(program.graph_module):
        if "conv" not in str(node.target):
            continue
        schema = getattr(node.target, "_schema", None)
        values = dict(zip([a.name for a in schema.arguments] if schema else [], node.args, strict=False))
        groups = {**values, **node.kwargs}.get("groups", 1)
        if not isinstance(groups, int):
            raise DynaconvError(
                f"the convolution {node.name} has groups that depend on its input ({groups}), which no runtime reads; "
                "export without dynamic_batch, or with dynaconv.use_backend('auto')"
            )


def _calls(module: fx.GraphModule) -> list[fx.Node]:
    graphs = [part.graph for part in module.modules() if isinstance(part, fx.GraphModule)]
    return [node for graph in graphs for node in graph.nodes if node.op == "call_function"]


def _name_outputs(program: ExportedProgram) -> None:
    """Name what the network gives: ``output``, or the keys and places of its parts, where the names are free."""
    signature = program.graph_signature
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    output.name = "outputs"  # torch.fx's own node of all outputs holds the name otherwise
    taken = {node.name for node in program.graph.nodes}
    parts: list[Any] = list(output.args[0])
    first = len(signature.output_specs) - len(signature.user_outputs)
    for node, name in zip(parts[first:], _output_names(program), strict=True):
        if not isinstance(node, fx.Node) or node.op == "placeholder" or name in taken:
            continue
        for spec in signature.output_specs:
            if getattr(spec.arg, "name", None) == node.name:
                spec.arg.name = name  # pyright: ignore[reportAttributeAccessIssue]
        node.name = name
        taken.add(name)


def _output_names(program: ExportedProgram) -> list[str]:
    """Of all outputs, in order."""
    spec = program.call_spec.out_spec
    assert spec is not None  # of every program that was traced
    tree: Any = pytree.tree_unflatten([None] * spec.num_leaves, spec)
    paths: Sequence[Any] = [path for path, _ in pytree.tree_flatten_with_path(tree, is_leaf=lambda v: v is None)[0]]
    names = [re.sub(r"\W", "_", "_".join(map(_key, path))) for path in paths]
    return [name if name.isidentifier() else f"output_{name}".rstrip("_") for name in names]


def _key(step: Any) -> str:
    """A dictionary's key, a place in a sequence, or the name of a named tuple's field."""
    return str(getattr(step, "key", getattr(step, "idx", getattr(step, "name", step))))
