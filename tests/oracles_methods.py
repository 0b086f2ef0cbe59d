"""Slow oracles of whole layers, written from the papers' formulas: a layer's weights and an input in, its output out.

Every method is a function ``(weights, layer, x) -> (kernels, bias)``: one kernel ``(B, O, I / groups, *k)`` and one
bias ``(B, O)`` for every sample. ``layer`` is read for its sizes, config and training flag only. DCD, which adds a
second path, and the gates, which have no kernel, give their output instead.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests import oracles


def output(layer: nn.Module, x: Tensor) -> Tensor:
    """What a layer should make of a batch."""
    weights = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    method = layer.config.method
    if method in GATES:
        return GATES[method](weights, layer, x)
    linear = not hasattr(layer, "kernel_size")
    channels_first = x.reshape(x.shape[0], -1, x.shape[-1]).transpose(1, 2) if linear else x
    if method == "dcd":
        y = dcd(weights, layer, channels_first)
    else:
        kernels, bias = KERNELS[method](weights, layer, channels_first)
        y = convolved(layer, channels_first, kernels)
        if bias is not None:
            y = y + bias.reshape(*bias.shape, *[1] * (y.dim() - 2))
    return y.transpose(1, 2).reshape(*x.shape[:-1], -1) if linear else y


def pooled(x: Tensor) -> Tensor:
    return x.flatten(2).sum(2) / math.prod(x.shape[2:])


def normalised(z: Tensor, weights: dict[str, Tensor], name: str, training: bool) -> Tensor:
    """BatchNorm of shape ``(B, C, ...)``: (z - mean) / sqrt(var + 1e-5) * gamma + beta, for every channel."""
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        values = z.transpose(0, 1).flatten(1)
        mean, var = values.mean(1), values.var(1, correction=0)
    shape = (-1, *[1] * (z.dim() - 2))
    gamma, beta = weights[f"{name}.weight"].view(shape), weights[f"{name}.bias"].view(shape)
    return (z - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * gamma + beta


def affine(weights: dict[str, Tensor], name: str, z: Tensor) -> Tensor:
    """z W^T + b over the last dimension; no b where the layer has none."""
    product = torch.einsum("...i,oi->...o", z, weights[f"{name}.weight"])
    return product + weights[f"{name}.bias"] if f"{name}.bias" in weights else product


def padded(layer: nn.Module, x: Tensor) -> Tensor:
    """The input as the kernel sees it. ``"same"`` gives ceil(length / stride) positions, the odd one out behind."""
    pads = []
    for dim in reversed(range(x.dim() - 2)):
        if isinstance(layer.padding, str):
            length, step = x.shape[dim + 2], layer.stride[dim]
            reach = layer.dilation[dim] * (layer.kernel_size[dim] - 1) + 1
            total = reach - 1 if step == 1 else max((-(-length // step) - 1) * step + reach - length, 0)
            total = total if layer.padding == "same" else 0
            pads += [total // 2, total - total // 2]
        else:
            pads += [layer.padding[dim]] * 2
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    return F.pad(x, pads, mode) if any(pads) else x


def convolved(layer: nn.Module, x: Tensor, kernels: Tensor) -> Tensor:
    """Every sample with its own kernel; kernels without extent are a linear layer's."""
    if kernels.dim() == 3:
        return torch.einsum("boi,bil->bol", kernels, x)
    none = (0,) * (x.dim() - 2)
    return oracles.conv(padded(layer, x), kernels, layer.stride, none, layer.dilation, layer.groups)


def shared_by_all(weights: dict[str, Tensor], x: Tensor) -> Tensor | None:
    return weights["bias"].expand(x.shape[0], -1) if "bias" in weights else None


def kernel_warehouse(weights, layer, x):
    """w_i = sum_j alpha_ij e_j, alpha from fc2(ReLU(BN(fc1(GAP x)))) by contrast (see :mod:`tests.oracles`)."""
    hidden = normalised(affine(weights, "attention.fc1", pooled(x)), weights, "attention.norm", layer.training)
    logits = affine(weights, "attention.fc2", hidden.clamp(min=0)).reshape(x.shape[0], layer.plan.num_mixtures, -1)
    tau = weights["attention.temperature"].item()
    added = {"unit": 0.0, "paper": 1e-3}[layer.config.normaliser]
    attention = oracles.contrasting(logits, layer.attention.beta.double(), tau, added)
    size = getattr(layer, "kernel_size", ())
    kernels = oracles.mixed_kernels(attention, weights["warehouse.cells"], layer.plan.grid, size)
    return kernels, shared_by_all(weights, x)


def condconv(weights, layer, x):
    """W = sum_k sigmoid(r_k) W_k, r = R GAP(x) + b; the bias likewise."""
    return _mixed(weights, affine(weights, "attention", pooled(x)).sigmoid())


def dyconv(weights, layer, x):
    """W = sum_k pi_k W_k, pi = softmax(fc2(ReLU(fc1(GAP x))) / tau); the bias likewise."""
    z = affine(weights, "attention.fc2", affine(weights, "attention.fc1", pooled(x)).clamp(min=0))
    e = (z / weights["attention.temperature"].item()).exp()
    return _mixed(weights, e / e.sum(1, keepdim=True))


def _mixed(weights, attention):
    experts = range(attention.shape[1])
    kernels = [sum(a[k] * weights["kernel"][k] for k in experts) for a in attention]
    bias = [sum(a[k] * weights["bias"][k] for k in experts) for a in attention] if "bias" in weights else None
    return torch.stack(kernels), None if bias is None else torch.stack(bias)


def odconv(weights, layer, x):
    """W = sum_k a_k(kernel) * a(filter) * a(channel) * a(spatial) * W_k, all logits over the temperature."""
    hidden = normalised(affine(weights, "attention.fc", pooled(x)), weights, "attention.norm", layer.training)
    tau, hidden = weights["attention.temperature"].item(), hidden.clamp(min=0)

    def head(name):
        if f"attention.heads.{name}.weight" not in weights:
            return None
        return affine(weights, f"attention.heads.{name}", hidden) / tau

    channel, filters, spatial, kernel = (head(name) for name in ("channel", "filter", "spatial", "kernel"))
    experts = weights["kernel"]
    kernels = []
    for b in range(x.shape[0]):
        share = torch.ones(1, dtype=x.dtype, device=x.device) if kernel is None else kernel[b].softmax(0)
        w = sum(share[k] * experts[k] for k in range(experts.shape[0]))
        if spatial is not None:
            w = w * spatial[b].sigmoid().reshape(layer.kernel_size)
        if filters is not None:
            w = w * filters[b].sigmoid().reshape(-1, *[1] * (w.dim() - 1))
        if channel is not None:
            w = w * _of_input_channels(layer, channel[b].sigmoid())
        kernels.append(w)
    return torch.stack(kernels), shared_by_all(weights, x)


def _of_input_channels(layer, values: Tensor) -> Tensor:
    """Values of all input channels, ``(C_in, ...)``, set out as weight[o, i] reads them: ``(O, I / groups, ...)``."""
    outputs, per_group = layer.out_channels // layer.groups, layer.in_channels // layer.groups
    rows = [values[o // outputs * per_group : (o // outputs + 1) * per_group] for o in range(layer.out_channels)]
    rows = torch.stack(rows)
    return rows if values.dim() > 1 else rows.reshape(*rows.shape, *[1] * len(layer.kernel_size))


def dcd(weights, layer, x):
    """y = lambda * (conv(x) + b) + P(BN(Phi BN(Q x)) + BN(Q x)); lambda = relu6(s + 3) / 3.

    The paper's layers have no bias; here the static layer's is part of what lambda scales.
    """
    size = [_dcd_positions(layer)] * (x.dim() - 2)
    context = _averaged_to(x, size).flatten(1)
    u = affine(weights, "attention.squeeze", context)
    u = u * (affine(weights, "attention.gate", u) + 3).clamp(0, 6) / 3
    rank = weights["residual.expand.weight"].shape[1]
    phi = affine(weights, "attention.phi", u).reshape(-1, rank, rank)
    scale = (affine(weights, "attention.scale", u) + 3).clamp(0, 6) / 3
    kernels = weights["kernel"].expand(x.shape[0], *weights["kernel"].shape)
    y = convolved(layer, x, kernels)
    if "bias" in weights:
        y = y + weights["bias"].reshape(-1, *[1] * (y.dim() - 2))
    y = y * scale.reshape(*scale.shape, *[1] * (y.dim() - 2))

    middle = _under_middle(layer, x, y.shape[2:]).flatten(2)
    q = torch.einsum("li,bip->blp", weights["residual.reduce.weight"], middle)
    q = normalised(q, weights, "residual.norm1", layer.training)
    fused = normalised(torch.einsum("blm,bmp->blp", phi, q), weights, "residual.norm2", layer.training) + q
    return y + torch.einsum("ol,blp->bop", weights["residual.expand.weight"], fused).reshape(y.shape)


def _dcd_positions(layer) -> int:
    """2 in basic blocks, and where MobileNetV2 widens; else 1, also before a classifier."""
    if not hasattr(layer, "kernel_size"):
        return 1
    widens = layer.config.layout == "mobile" and layer.in_channels < layer.out_channels
    return 2 if layer.config.layout == "basic" or widens else 1


def _under_middle(layer, x: Tensor, size) -> Tensor:
    """The input under the kernel's middle, position k // 2, wherever the kernel stands."""
    if not hasattr(layer, "kernel_size"):
        return x
    x, y = padded(layer, x), x.new_zeros(*x.shape[:2], *size)
    for place in itertools.product(*map(range, size)):
        geometry = zip(place, layer.stride, layer.kernel_size, layer.dilation, strict=True)
        at = [p * s + k // 2 * d for p, s, k, d in geometry]
        y[(slice(None), slice(None), *place)] = x[(slice(None), slice(None), *at)]
    return y


def _averaged_to(x: Tensor, size) -> Tensor:
    """Adaptive average pooling: cell i of n spans floor(i L / n) up to ceil((i + 1) L / n)."""
    y = x.new_zeros(*x.shape[:2], *size)
    for place in itertools.product(*map(range, size)):
        spans = [
            slice(i * length // n, -(-(i + 1) * length // n))
            for i, n, length in zip(place, size, x.shape[2:], strict=True)
        ]
        y[(slice(None), slice(None), *place)] = x[(slice(None), slice(None), *spans)].flatten(2).mean(2)
    return y


def weightnet(weights, layer, x):
    """w = grouped FC(sigmoid(FC(reduce(GAP x)))): M / G values write each of G parts of an output channel's kernel."""
    values = affine(weights, "attention.fc", affine(weights, "attention.reduce", pooled(x))).sigmoid()
    experts = weights["kernel"].reshape(layer.out_channels, -1, weights["kernel"].shape[-1])
    outputs, numbers, width = experts.shape
    parts = values.shape[1] // (outputs * width)
    kernels = values.new_zeros(x.shape[0], outputs, numbers)
    for o, n, r in itertools.product(range(outputs), range(numbers), range(width)):
        part = o * parts + n // (numbers // parts)
        kernels[:, o, n] += experts[o, n, r] * values[:, part * width + r]
    return kernels.reshape(x.shape[0], *weights["kernel"].shape[:-1]), shared_by_all(weights, x)


def cgc(weights, layer, x):
    """W[o, i] gated by sigmoid(in[i] + out[o]); code e = encode(pool x), in = decode(ReLU(BN(e))),
    out = decode(ReLU(BN(interact(ReLU(BN(e)))))), the interaction in runs of channels, one weight for all runs.
    """
    training, name = layer.training, "attention."
    encoded = affine(weights, f"{name}encode", _averaged_to(x, layer.kernel_size).flatten(2))
    to_in = normalised(encoded, weights, f"{name}norm_in", training).clamp(min=0)
    to_in = affine(weights, f"{name}decode_in", to_in)
    mixed = normalised(encoded, weights, f"{name}norm_mix", training).clamp(min=0)
    width, interact = weights[f"{name}interact.weight"].shape[1], weights[f"{name}interact.weight"]
    runs = [torch.einsum("oi,bid->bod", interact, run) for run in mixed.split(width, dim=1)]
    to_out = normalised(torch.cat(runs, dim=1), weights, f"{name}norm_out", training).clamp(min=0)
    to_out = affine(weights, f"{name}decode_out", to_out)
    kernels = []
    for b in range(x.shape[0]):
        logits = _of_input_channels(layer, to_in[b]) + to_out[b].unsqueeze(1)
        kernels.append(weights["kernel"] * logits.sigmoid().reshape(weights["kernel"].shape))
    return torch.stack(kernels), shared_by_all(weights, x)


def se(weights, layer, x):
    """x_c * sigmoid(fc2(ReLU(fc1(GAP x))))_c."""
    gate = affine(weights, "fc2", affine(weights, "fc1", pooled(x)).clamp(min=0)).sigmoid()
    return x * gate.reshape(*gate.shape, *[1] * (x.dim() - 2))


def cbam(weights, layer, x):
    """Channels by sigmoid(MLP(avg) + MLP(max)), then positions by sigmoid(conv([avg over channels; max]))."""
    descriptors = (pooled(x), x.flatten(2).max(2).values)
    gate = sum(affine(weights, "fc2", affine(weights, "fc1", d).clamp(min=0)) for d in descriptors).sigmoid()
    x = x * gate.reshape(*gate.shape, *[1] * (x.dim() - 2))
    maps = torch.stack([x.mean(1), x.max(1).values], dim=1)
    kernel = weights["spatial.weight"]
    dims, half = x.dim() - 2, kernel.shape[-1] // 2
    each = kernel.expand(x.shape[0], *kernel.shape)
    return x * oracles.conv(maps, each, (1,) * dims, (half,) * dims, (1,) * dims, 1).sigmoid()


def eca(weights, layer, x):
    """x_c * sigmoid(sum_j w_j GAP(x)_{c + j}), zeros beyond the first and the last channel."""
    means, kernel = pooled(x), weights["along.weight"].flatten()
    gate = torch.zeros_like(means)
    for c, j in itertools.product(range(means.shape[1]), range(len(kernel))):
        if 0 <= (at := c + j - len(kernel) // 2) < means.shape[1]:
            gate[:, c] += kernel[j] * means[:, at]
    return x * gate.sigmoid().reshape(*gate.shape, *[1] * (x.dim() - 2))


KERNELS = {f.__name__: f for f in (kernel_warehouse, condconv, dyconv, odconv, weightnet, cgc)}
GATES = {f.__name__: f for f in (se, cbam, eca)}
