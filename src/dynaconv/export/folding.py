"""A traced network before it is written: what does not depend on its input is computed, and what does nothing goes.

Constants are found and folded by PyTorch's own ``ConstantFolder``. Normalisations with known statistics become part of
the convolution or linear layer before them, where that is static, and a factor and a summand elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch._export.passes.constant_folding import ConstantFolder
from torch.export import ExportedProgram

from dynaconv.errors import DynaconvError

aten: Any = torch.ops.aten

CHECKS = {aten._assert_tensor_metadata.default, aten._assert_scalar.default, aten.sym_constrain_range_for_size.default}
"""What only looks at values, while a network runs."""
LOOKAHEAD = 20
"""Nodes that tracing anew may leave out one after the other, such as sizes that were asked for twice."""
CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
TABLE_BYTES = 512
"""Whole numbers that take no more are shapes and axes."""
SAME = {aten.alias.default, aten.detach.default, aten.detach_.default}
"""What gives its first input, or a view of all of it."""
DROPOUTS = {
    getattr(aten, f"{kind}dropout{end}").default
    for kind in ("", "feature_", "alpha_", "feature_alpha_")
    for end in ("", "_")  # in place
}


def fold(module: fx.GraphModule) -> None:
    """Fold a network, in place.

    Args:
        module: of ``ExportedProgram.module(check_guards=False)``, in evaluation.

    Raises:
        DynaconvError: if it draws a dropout although it is in evaluation.
    """
    drop_what_does_nothing(module)
    fold_norms(module)
    fold_constants(module)
    forget_unread(module)
    module.graph.lint()
    module.recompile()


def drop_what_does_nothing(module: fx.GraphModule) -> None:
    """Checks, what gives the very tensor that it is given, dropout that is off, and what nobody reads."""
    for node in list(module.graph.nodes):
        if node.target in CHECKS:
            module.graph.erase_node(node)
        elif node.target in SAME or _finds_it_done(node) or _is_dropout_that_is_off(node):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def _is_dropout_that_is_off(node: fx.Node) -> bool:
    """Whether a node is dropout that gives its input; one that draws in evaluation is refused."""
    if node.target not in DROPOUTS:
        return False
    _, share, training = node.args
    if training and share:
        owners = [name.removeprefix("L['self'].") for name, _ in (node.meta.get("nn_module_stack") or {}).values()]
        where = f" in {owners[-1]}" if owners and owners[-1] not in ("", "L['self']") else ""
        raise DynaconvError(
            f"dropout of {share:g}{where} is active in evaluation, so that no file can compute the same; where the "
            "network calls F.dropout, give it training=self.training, or use nn.Dropout"
        )
    return True


def _finds_it_done(node: fx.Node) -> bool:
    """Whether a tensor has the layout or type already that it is asked for in, and no copy is wanted."""
    if node.target not in (aten.contiguous.default, aten.to.dtype):
        return False
    source = node.args[0]
    before, after = (n.meta.get("val") if isinstance(n, fx.Node) else None for n in (source, node))
    if not isinstance(before, Tensor) or not isinstance(after, Tensor) or node.kwargs or len(node.args) > 2:
        return False
    return before.is_contiguous() if node.target == aten.contiguous.default else before.dtype == after.dtype


def _is_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable and bool(node.args)


def fold_norms(module: fx.GraphModule) -> None:
    """Compute every BatchNorm whose parameters are constants otherwise; exact in float64, and rounded once."""
    for node in module.graph.find_nodes(op="call_function", target=aten.batch_norm.default):
        known = _scale_and_shift(module, node)
        if known is None:
            continue
        scale, shift = known
        before = node.args[0]
        weight = _static_weight(module, before)
        with module.graph.inserting_before(node):
            if weight is None:
                result = _scaled(module, before, scale, shift, node)
            else:
                result = _absorbed(module, before, weight, scale, shift, node)
        result.meta = dict(node.meta if weight is None else before.meta)
        node.replace_all_uses_with(result)
        module.graph.erase_node(node)
    module.graph.eliminate_dead_code()


def why_norm_stays(node: fx.Node, is_constant: Callable[[Any], bool]) -> str | None:
    """Why a BatchNorm can not be folded; None if it can."""
    _, weight, bias, mean, variance, training, *_ = node.args
    if training:
        return "it normalises by the batch"
    if mean is None or variance is None:
        return "it has no running statistics"
    if not all(t is None or is_constant(t) for t in (weight, bias, mean, variance)):
        return "its parameters are computed from the input"
    return None


def norms_left(program: ExportedProgram) -> dict[str, str]:
    """BatchNorms that are still in a program, each with the reason."""
    inputs = set(program.graph_signature.user_inputs)

    def is_constant(node: fx.Node) -> bool:
        return node.op == "placeholder" and node.name not in inputs

    nodes = program.graph.find_nodes(op="call_function", target=aten.batch_norm.default)
    return {node.name: why_norm_stays(node, is_constant) or "it came after folding" for node in nodes}


def _scale_and_shift(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor] | None:
    """What a norm multiplies channels by and adds then, in float64; None if it is not known."""
    if why_norm_stays(node, lambda t: t.op == "get_attr") is not None:
        return None
    _, weight, bias, mean, variance, _, _, eps, *_ = node.args
    weight, bias, mean, variance = (
        None if t is None else _value(module, t).double() for t in (weight, bias, mean, variance)
    )
    assert mean is not None  # see why_norm_stays
    assert variance is not None
    scale = (variance + eps).rsqrt()  # pyright: ignore[reportOperatorIssue]
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def _static_weight(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The weight of a static convolution, or linear layer over rows, whose output nobody else sees."""
    linear = node.target == aten.linear.default and node.meta["val"].dim() == 2
    if len(node.users) != 1 or not (linear or node.target in CONVOLUTIONS):
        return None
    constants = [t for t in node.args[1:3] if t is not None]
    if not all(isinstance(t, fx.Node) and t.op == "get_attr" for t in constants):
        return None
    return _value(module, node.args[1])


def _absorbed(
    module: fx.GraphModule, layer: fx.Node, weight: Tensor, scale: Tensor, shift: Tensor, norm: fx.Node
) -> fx.Node:
    """The static layer with a scaled weight, and a bias."""
    source, old, bias, *rest = *layer.args, *[None] * (3 - len(layer.args))
    if bias is not None:
        shift = shift + scale * _value(module, bias).double()
    scaled = weight.double() * scale.reshape(-1, *(1,) * (weight.dim() - 1))
    name = str(old.target)  # pyright: ignore
    new_weight = _constant(module, f"{name}_folded", scaled.to(weight.dtype), norm)
    new_bias = _constant(module, f"{name}_folded_bias", shift.to(weight.dtype), norm)
    return module.graph.call_function(layer.target, (source, new_weight, new_bias, *rest))  # pyright: ignore


def _scaled(module: fx.GraphModule, x: fx.Node, scale: Tensor, shift: Tensor, norm: fx.Node) -> fx.Node:
    """A factor and a summand, channel by channel."""
    value = x.meta["val"]
    shape = (-1, *(1,) * (value.dim() - 2))
    name = str(norm.args[3].target).rpartition(".")[0]  # pyright: ignore
    factor = _constant(module, f"{name}_scale", scale.to(value.dtype).reshape(shape), norm)
    summand = _constant(module, f"{name}_shift", shift.to(value.dtype).reshape(shape), norm)
    product = module.graph.call_function(aten.mul.Tensor, (x, factor))
    product.meta = dict(norm.meta)
    return module.graph.call_function(aten.add.Tensor, (product, summand))


class _Folder(ConstantFolder):
    """Finds what follows from constants; there are no quantised weights, which it would pass over."""

    def is_impure(self, node: fx.Node) -> bool:
        """Tables of whole numbers stay as small as they are: nothing is computed that takes more room."""
        value, sources = node.meta.get("val"), [source.meta.get("val") for source in node.all_input_nodes]
        if not isinstance(value, Tensor) or value.is_floating_point():
            return False
        taken = sum(source.nbytes for source in sources if isinstance(source, Tensor))
        return value.nbytes > max(taken, TABLE_BYTES)


def fold_constants(module: fx.GraphModule) -> None:
    """Compute what follows from constants alone; equal results of one constant, such as shared cells, are kept once.

    Views of a constant that is also read in another shape stay views: each would be stored again. What the network
    writes into stays as well.
    """
    with torch.no_grad():
        folder = _Folder(module, skip_constructors=True)
        folder.run()
    found = folder.node_replacements
    shapes = defaultdict(set)
    for node in (*module.graph.find_nodes(op="get_attr"), *found):
        if node in found or any(user not in found for user in node.users):
            value = found[node] if node in found else _value(module, node)
            shapes[value.untyped_storage().data_ptr()].add(_place(value))
    written = {
        found[node.args[0]].untyped_storage().data_ptr()
        for node in module.graph.nodes
        if node not in found and _is_in_place(node) and node.args[0] in found
    }
    kept: dict[tuple[Any, ...], str] = {}
    for node, value in found.items():
        storage = value.untyped_storage().data_ptr()
        if len(shapes[storage]) > 1 or storage in written:
            continue
        shared = kept.get((storage, *_place(value)))
        with module.graph.inserting_before(node):
            if shared is None:
                new = _constant(module, f"{_source(node)}_{node.name}", value.contiguous(), node)
                kept[(storage, *_place(value))] = str(new.target)
            else:
                new = module.graph.get_attr(shared)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
    module.graph.eliminate_dead_code()


def tell_modules(program: ExportedProgram, module: fx.GraphModule) -> None:
    """Note at every node of a program, traced from a folded network, which module of the first network it is of."""
    waiting = [node for node in module.graph.nodes if node.op == "call_function"]
    for node in program.graph.nodes:
        ahead = [i for i, other in enumerate(waiting[:LOOKAHEAD]) if other.target == node.target]
        if node.op == "call_function" and ahead:
            stack = waiting[ahead[0]].meta.get("nn_module_stack")
            waiting = waiting[ahead[0] + 1 :]
            if stack is not None:
                node.meta["nn_module_stack"] = stack


def forget_unread(module: fx.GraphModule) -> None:
    """Drop parameters and buffers that the graph reads no more."""
    read = {str(node.target) for node in module.graph.find_nodes(op="get_attr")}
    for name, _ in (
        *list(module.named_parameters(remove_duplicate=False)),
        *list(module.named_buffers(remove_duplicate=False)),
    ):
        if name not in read:
            owner, _, last = name.rpartition(".")
            delattr(module.get_submodule(owner), last)


def _place(value: Tensor) -> tuple[Any, ...]:
    return (value.storage_offset(), tuple(value.shape), value.stride(), value.dtype)


def _source(node: fx.Node) -> str:
    """The name of the first constant that a folded node was computed from."""
    while node.all_input_nodes:
        node = node.all_input_nodes[0]
    return str(node.target)


def _value(module: fx.GraphModule, node: Any) -> Tensor:
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value.detach()


def _constant(module: fx.GraphModule, name: str, value: Tensor, like: fx.Node) -> fx.Node:
    """A new constant of the network, before the node that is being inserted."""
    name = name.replace(".", "_")
    while hasattr(module, name):
        name += "_"
    module.register_buffer(name, value)
    node = module.graph.get_attr(name)
    fake = like.meta["val"].fake_mode if hasattr(like.meta.get("val"), "fake_mode") else None
    node.meta["val"] = value if fake is None else fake.from_tensor(value, static_shapes=True)
    return node
