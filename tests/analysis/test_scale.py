from __future__ import annotations

import pytest
import torch
from torch import nn

import dynaconv
from dynaconv.analysis.scale import all_gather_bytes, all_reduce_bytes, count_training, norm_bytes, scaled
from dynaconv.errors import DynaconvError

SIZE, BATCH = (3, 8, 8), 5


def adamw(model):
    return torch.optim.AdamW(model.parameters())


def small() -> nn.Module:
    """Counted by hand: 108 + 8 + 288 + 16 + 24 + 3 parameters."""
    block = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), block, head)


def test_state_is_what_a_step_leaves():
    model, images = small(), torch.randn(BATCH, *SIZE)
    cost = count_training(model, SIZE, BATCH, optimizer=adamw, average=True)
    optimizer = adamw(model)
    model(images).sum().backward()
    optimizer.step()
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    assert cost.parameters == sum(p.numel() for p in model.parameters()) == 447
    assert cost.weight_bytes == 447 * 4
    assert cost.gradient_bytes == sum(p.grad.numel() * 4 for p in model.parameters())
    assert cost.optimizer_bytes == sum(v.nbytes for s in optimizer.state.values() for v in s.values())
    assert cost.buffer_bytes == buffers == 4 * 2 * (4 + 8) + 2 * 8
    assert cost.average_bytes == 447 * 4 + buffers
    assert cost.norms == (("1", 4), ("2.1", 8))


def test_activations_are_what_autograd_keeps():
    pixels = BATCH * 8 * 8
    # Both convolutions' outputs, for the norms; the first norm's, for the second convolution; ReLU's; means and
    # deviations of the norms; pooled features, for the classifier; images; log-probabilities, and a sum of weights.
    # Pooling over everything keeps nothing, and labels are whole numbers of eight bytes.
    numbers = pixels * (3 + 4 + 4 + 8 + 8) + 2 * 4 + 2 * 8 + BATCH * 8 + BATCH * 3 + 1
    cost = count_training(small(), SIZE, BATCH, optimizer=adamw)
    assert cost.activation_bytes == 4 * numbers + 8 * BATCH
    assert not cost.kernel_bytes
    assert not cost.keeps_kernels


@pytest.mark.parametrize(
    ("config", "kernels", "again"),
    [
        (dynaconv.KernelWarehouseConfig(budget=2), True, True),
        (dynaconv.DYConvConfig(), True, True),
        (dynaconv.CGCConfig(), True, False),
        (dynaconv.SEConfig(), False, False),
    ],
    ids=lambda value: getattr(value, "method", None),
)
def test_kernels(config, kernels, again):
    model = dynaconv.convert(small(), config, where="2.*")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    cost = count_training(model, SIZE, BATCH, optimizer=adamw)
    assert cost.kernels == kernels * 8 * 4 * 9
    assert cost.kernel_bytes == 4 * BATCH * cost.kernels
    assert cost.keeps_kernels == (kernels and not again)
    mixing = sum(row.mixing for row in dynaconv.profile(model, SIZE, BATCH).rows)
    assert cost.step_madds == 3 * cost.forward_madds + again * mixing
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_several():
    cost = count_training(small(), SIZE, BATCH, optimizer=adamw, blocks=["2"])
    one, four = scaled(cost, 1), scaled(cost, 4)
    assert one.ddp_sent == one.fsdp_sent == one.norms_sent == one.buffers_sent == 0
    assert one.ddp_memory == one.fsdp_memory
    assert (four.images, four.madds) == (4 * BATCH, 4 * cost.step_madds)
    assert four.ddp_sent == 2 * 3 * cost.gradient_bytes // 4
    assert cost.block_bytes == 4 * (288 + 16)
    assert cost.outside_bytes == cost.weight_bytes - cost.block_bytes
    padded = 4 * (4 * (27 + 2) + 4 * (8 + 1))  # the classifier has three rows, which become four
    assert four.fsdp_sent == 3 * (2 * padded + 3 * cost.block_bytes) // 4
    assert four.norms_sent == 3 * 4 * (2 * 4 + 1 + 2 * 8 + 1) + 3 * (2 * 4 + 2 * 8) * 4 // 2
    assert four.ddp_memory == one.ddp_memory + cost.gradient_bytes
    assert four.fsdp_memory < four.ddp_memory + cost.weight_bytes
    with pytest.raises(DynaconvError, match="gpus=0"):
        scaled(cost, 0)


def test_rings():
    assert all_reduce_bytes(100, 4) == 150
    assert all_gather_bytes(100, 4) == 75
    assert norm_bytes(1, 3) == 2 * 3 * 4 + round(4 / 3 * 8)


def test_an_input_that_does_not_fit():
    with pytest.raises(DynaconvError, match="could not be profiled"):
        count_training(small(), (1, 8, 8), BATCH, optimizer=adamw)
