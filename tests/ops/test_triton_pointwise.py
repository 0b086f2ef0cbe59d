"""The Triton kernels against the equation in float64, on CUDA or in Triton's interpreter, and compiled without a GPU.

Triton decides at its import whether it interprets, so the interpreted tests run in a process of their own:
``test_everything_in_the_interpreter`` runs this file once more with ``TRITON_INTERPRET=1``.
"""

import importlib
import itertools
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from dynaconv.errors import DynaconvError
from dynaconv.ops import triton_pointwise
from dynaconv.ops.triton_pointwise import available, fuses, pointwise_mixture_conv

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NAMES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

# batch, map, blocks (out, in), cell (out, in), cells
CASES = {
    "odd": (3, (5, 7), (2, 3), (7, 9), 5),
    "a block of each": (16, (4, 4), (1, 1), (16, 16), 16),
    "one sample": (1, (3, 5), (3, 2), (4, 6), 3),
    "more rows than a block": (6, (3, 2), (3, 4), (5, 3), 7),
    "more of all but rows": (2, (9, 8), (1, 2), (18, 33), 40),
    "one cell, one channel, one position": (2, (1, 1), (1, 1), (1, 1), 1),
    "1-D": (2, (11,), (2, 1), (6, 5), 4),
    "3-D": (2, (2, 3, 2), (1, 2), (3, 8), 4),
    "empty batch": (0, (5, 5), (2, 2), (3, 2), 4),
    "empty map": (2, (0, 3), (2, 1), (3, 2), 4),
}


@pytest.fixture(params=["cpu"] if INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda" and not (torch.cuda.is_available() and available(torch.empty(0, device="cuda"))):
        pytest.skip("no CUDA device that Triton can use")
    return torch.device(request.param)


@pytest.fixture(autouse=INTERPRETED)
def _products_of_numbers(monkeypatch):
    """Triton's interpreter keeps bfloat16 as bits and multiplies those as integers; here they become numbers first."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    language = importlib.import_module("triton.language")
    create_dot = interpreter.InterpreterBuilder.create_dot

    def number(handle):
        if handle.dtype.scalar != language.bfloat16:
            return handle
        return interpreter.TensorHandle((handle.data.astype("uint32") << 16).view("float32"), language.float32)

    def patched(builder, a, b, *rest):
        return create_dot(builder, number(a), number(b), *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", patched)


def make(case, device, dtype=torch.float32):
    batch, size, (out_blocks, in_blocks), cell, num_cells = CASES[case]
    x = torch.randn(batch, in_blocks * cell[1], *size).to(device, dtype)
    attention = torch.randn(batch, out_blocks * in_blocks, num_cells).to(device, dtype)
    cells = torch.randn(num_cells, *cell, *(1 for _ in size)).to(device, dtype)
    return x, attention, cells, (1, out_blocks, in_blocks)


def equation(x, attention, cells, grid):
    """y[b, (P, o), p] = sum_q sum_j alpha[b, (P, q), j] sum_c cells[j, o, c] x[b, (q, c), p], in float64."""
    _, out_blocks, in_blocks = grid
    batch, (num_cells, cell_out, cell_in) = x.shape[0], cells.shape[:3]
    positions = x.shape[2:].numel()
    y = torch.einsum(
        "bPqj,joc,bqcp->bPop",
        attention.double().reshape(batch, out_blocks, in_blocks, num_cells),
        cells.double().reshape(num_cells, cell_out, cell_in),
        x.double().reshape(batch, in_blocks, cell_in, positions),
    )
    return y.reshape(batch, out_blocks * cell_out, *x.shape[2:])


def assert_is_the_equation(y, x, attention, cells, grid):
    """Within a few roundings of the dtype, relative to the sum of the sizes of what is added up."""
    expected = equation(x, attention, cells, grid)
    sizes = equation(x.abs(), attention.abs(), cells.abs(), grid)
    assert y.shape == expected.shape
    assert y.dtype == x.dtype
    assert ((y.double() - expected).abs() <= 3 * torch.finfo(x.dtype).eps * sizes).all()


@pytest.mark.parametrize(
    ("case", "dtype", "fused"), [*itertools.product(CASES, NAMES, (True, False)), ("odd", torch.float32, None)]
)
def test_the_equation(case, dtype, fused, device):
    inputs = make(case, device, dtype)
    y = pointwise_mixture_conv(*inputs, fused=fused)
    assert_is_the_equation(y, *inputs)
    if y.dim() == 4 and y.numel():
        assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fused", [True, False])
def test_any_layout(fused, device):
    x, attention, cells, grid = make("odd", device)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    every_second = torch.stack([x, x], dim=-1).flatten(-2)[..., ::2]
    cells_inner = cells.transpose(0, 1).contiguous().transpose(0, 1)  # memory (o, n, c)
    inputs_outer = cells.transpose(0, 2).contiguous().transpose(0, 2)  # memory (c, o, n)
    turned = attention.mT.contiguous().mT
    for variant in (
        (channels_last, attention, cells),
        (every_second, attention, cells),
        (x.transpose(2, 3), attention, cells),
        (x, attention, cells_inner),
        (channels_last, turned, inputs_outer),
        (x, attention[:1].expand_as(attention), cells[:1].expand_as(cells)),
    ):
        assert_is_the_equation(pointwise_mixture_conv(*variant, grid, fused=fused), *variant, grid)


def test_channels_last_input_is_not_copied(device, monkeypatch):
    x, attention, cells, grid = make("odd", device)
    x = x.contiguous(memory_format=torch.channels_last)
    seen = []
    convolved = triton_pointwise._convolved
    monkeypatch.setattr(
        triton_pointwise, "_convolved", lambda x, *rest: seen.append(x.data_ptr()) or convolved(x, *rest)
    )
    pointwise_mixture_conv(x, attention, cells, grid, fused=True)
    assert seen == [x.data_ptr()]


def differentiate(function, inputs):
    """First derivatives along fixed directions, and those of their squares."""
    leaves = [i.detach().requires_grad_() for i in inputs]
    y = function(*leaves)
    direction = torch.linspace(-1, 1, y.numel(), device=y.device).reshape(y.shape).to(y.dtype)
    first = torch.autograd.grad((y * direction).sum() + (y * y).sum() / 8, leaves, create_graph=True)
    second = torch.autograd.grad(sum((g * g).sum() for g in first), leaves)
    return first, second


@pytest.mark.parametrize("case", ["odd", "one sample", "1-D", "empty batch", "empty map"])
def test_first_and_second_derivatives(case, device):
    *inputs, grid = make(case, device)
    got = differentiate(lambda *i: pointwise_mixture_conv(*i, grid, fused=True), inputs)
    expected = differentiate(lambda *i: equation(*i, grid), [i.double() for i in inputs])
    for ours, theirs in zip(itertools.chain(*got), itertools.chain(*expected), strict=True):
        scale = theirs.abs().max().item() if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=3e-6 * scale)


@pytest.mark.parametrize("wanted", range(3))
def test_one_gradient_alone_in_half_precision(wanted, device):
    *inputs, grid = make("odd", device, torch.float16)
    inputs[wanted].requires_grad_()
    pointwise_mixture_conv(*inputs, grid).sum().backward()
    double = [i.detach().double().requires_grad_() for i in inputs]
    equation(*double, grid).sum().backward()
    expected = double[wanted].grad
    assert inputs[wanted].grad.dtype == torch.float16
    scale = expected.abs().max().item()
    torch.testing.assert_close(inputs[wanted].grad.double(), expected, rtol=0, atol=2e-3 * scale)
    assert all(i.grad is None for at, i in enumerate(inputs) if at != wanted)


def test_autocast(device):
    x, attention, cells, grid = make("odd", device)
    cells.requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        y = pointwise_mixture_conv(x, attention, cells, grid)
    half = [i.bfloat16() for i in (x, attention, cells)]
    assert_is_the_equation(y.detach(), *(i.detach() for i in half), grid)
    y.sum().backward()
    assert cells.grad.dtype == torch.float32


def test_compiles_as_one_graph(device):
    *inputs, grid = make("odd", device)
    leaves = [i.requires_grad_() for i in inputs]
    compiled = torch.compile(lambda *i: pointwise_mixture_conv(*i, grid) * 2, fullgraph=True, backend="aot_eager")
    y = compiled(*leaves)
    torch.testing.assert_close(y, 2 * pointwise_mixture_conv(*leaves, grid))
    y.sum().backward()
    assert all(leaf.grad is not None for leaf in leaves)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own
def test_operator_is_declared_as_it_behaves(device):
    x, attention, cells, grid = make("one sample", device)
    points = x.flatten(2).transpose(1, 2).requires_grad_()
    arguments = (points, attention.requires_grad_(), cells.flatten(2).requires_grad_(), *grid[1:], True)
    torch.library.opcheck(triton_pointwise._pointwise_mixture, arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, a, c, g: (x[:, :5], a, c, g), "input has 5 channels; 3 in-blocks of 9 expect 27"),
        (lambda x, a, c, g: (x, a[:2], c, g), r"attention has shape \(2, 6, 5\), expected \(B, m, n\) = \(3, 6, 5\)"),
        (lambda x, a, c, g: (x, a, c, (2, 1, 3)), "does 1x1 kernels, got cells .* in a grid"),
        (lambda x, a, c, g: (x, a, c.expand(-1, -1, -1, 3, 3), g), "does 1x1 kernels"),
        (lambda x, a, c, g: (x, a.half(), c, g), "dtypes differ: input torch.float32, attention torch.float16"),
        (lambda x, a, c, g: (x.double(), a, c, g), "the tensor is torch.float64, not one of"),
    ],
)
def test_inputs_that_do_not_fit(change, message, device):
    with pytest.raises(ValueError, match=message):
        pointwise_mixture_conv(*change(*make("odd", device)))


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="this is the interpreted run")
def test_everything_in_the_interpreter(tmp_path):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


def compile_for(kernel, dtype, pointers, constants, capability):
    """The machine code of a kernel for a GPU that need not be here."""
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget("cuda", capability, 32)
    constants = constants | {"cells_c": 1}
    names = [parameter.name for parameter in kernel.params]
    types = {n: "constexpr" if n in constants else NAMES[dtype] if n in pointers else "i32" for n in names}
    whole = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(names) if types[name] != "constexpr"}
    source = compiler.ASTSource(kernel, types, {(names.index(n),): v for n, v in constants.items()}, whole)
    return compiler.compile(source, target=target, options={"num_warps": 8, "num_stages": 2})


@needs_triton
@pytest.mark.skipif(INTERPRETED, reason="compiles for a GPU")
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", NAMES)
def test_compiles_without_a_gpu(dtype, capability, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    convolve, mix = triton_pointwise._load()
    positions = triton_pointwise._position_block(49, dtype)
    products = triton_pointwise._products(torch.empty(100, 1, 1, dtype=dtype))
    blocks = {"ROWS": 16, "BLOCK_P": positions, "BLOCK_O": 16, "BLOCK_C": 16, **products}
    code = compile_for(convolve, dtype, {"y", "x", "attention", "cells"}, blocks | {"x_c": 1}, capability)
    assert code.metadata.shared <= 64 * 1024
    assert ("mma.sync" in code.asm["ptx"]) == (dtype != torch.float32)  # half precision on tensor cores
    blocks = {"ROWS": 64, "BLOCK_O": 4, "BLOCK_C": 32, **products}
    assert compile_for(mix, dtype, {"kernels", "attention", "cells"}, blocks, capability).asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="the interpreter takes the CPU")
def test_says_why_it_can_not_run(monkeypatch):
    inputs = make("odd", torch.device("cpu"))
    monkeypatch.setattr(triton_pointwise, "_INSTALLED", True)
    assert not available(inputs[0])
    with pytest.raises(DynaconvError, match="the tensor is on cpu, not on CUDA; use backend='auto'"):
        pointwise_mixture_conv(*inputs)
    monkeypatch.setattr(triton_pointwise, "_INSTALLED", False)
    assert not available(inputs[0])
    with pytest.raises(DynaconvError, match="Triton is not installed"):
        pointwise_mixture_conv(*inputs)


@pytest.mark.skipif(INTERPRETED, reason="needs Triton")
def test_importing_the_file_does_without_triton():
    probe = "; ".join(
        [
            "import sys",
            "sys.modules['triton'] = None",  # as if it were not installed
            "import torch",
            "from dynaconv.ops.triton_pointwise import available",
            "print(available(torch.ones(1)))",
        ]
    )
    assert subprocess.check_output([sys.executable, "-c", probe], text=True).strip() == "False"


def test_fuses_small_maps_few_cells_and_full_machines():
    shapes = {"rows": 256, "positions": 49, "num_cells": 16, "cell_out": 256, "block": 64}
    assert fuses(**shapes)
    assert not fuses(**shapes | {"positions": 28 * 28})
    assert not fuses(**shapes | {"num_cells": 200})
    assert not fuses(**shapes | {"rows": 1})
