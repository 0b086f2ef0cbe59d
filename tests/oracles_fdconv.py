"""Slow oracle of FDConv's layers, from its formulas: Fourier sums term by term, no transform of torch's."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import torch

from tests import oracles, oracles_methods


def distance(i: int, n: int) -> Fraction:
    """Cycles a sample of frequency i of n, without its sign."""
    return Fraction(min(i, n - i), n)


def groups_of_frequencies(rows: int, columns: int, kept: int, number: int) -> dict[tuple[int, int], int]:
    """Group of every place of the half spectrum that has a parameter, in order of frequency."""
    places = itertools.product(range(rows), range(columns // 2 + 1))
    ordered = sorted(places, key=lambda p: distance(p[0], rows) ** 2 + distance(p[1], columns) ** 2)[:kept]
    return {place: rank * number // kept for rank, place in enumerate(ordered)}


def spatial(values: torch.Tensor, places: dict[tuple[int, int], int], rows: int, columns: int) -> torch.Tensor:
    """Real part of sum_uv P_uv e^(2 pi i (u r / R + v c / C)) / (R C), where v > 0 stands for -v too."""
    total = values.new_zeros(rows, columns)
    r, c = torch.arange(rows, dtype=values.dtype).unsqueeze(1), torch.arange(columns, dtype=values.dtype)
    for (real, imaginary), (u, v) in zip(values, places, strict=True):
        twice = 1 if v == 0 or 2 * v == columns else 2
        angle = 2 * math.pi * (u * r / rows + v * c / columns)
        total = total + twice * (real * angle.cos() - imaginary * angle.sin()) / (rows * columns)
    return total


def gate(z):
    return 2 / (1 + (-z).exp())


def global_gates(w, name, pooled, training):
    """Name of a head -> ``(B, size)``."""
    z = pooled @ w[f"{name}.fc.weight"].T
    mean, var = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
    if training:
        mean, var = z.mean(0), z.var(0, correction=0)
    z = (z - mean) / (var + 1e-5).sqrt() * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
    z = w[f"{name}.scale"] * z.clamp(min=0) ** 2 + w[f"{name}.bias"]
    heads = {key.split(".")[-2] for key in w if key.startswith(f"{name}.heads.")}
    return {h: gate(z @ w[f"{name}.heads.{h}.weight"].T + w[f"{name}.heads.{h}.bias"]) for h in heads}


def local_gates(w, name, pooled):
    """Shape ``(B, gates, C)``: a weight of a gate meets the channels around its own."""
    z = (pooled - pooled.mean(1, keepdim=True)) / (pooled.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    z = z * w[f"{name}.norm.weight"] + w[f"{name}.norm.bias"]
    weight = w[f"{name}.conv.weight"].squeeze(1)
    channels, half = z.shape[1], weight.shape[1] // 2
    total = z.new_zeros(z.shape[0], weight.shape[0], channels)
    for i, tap in itertools.product(range(channels), range(weight.shape[1])):
        if 0 <= i + tap - half < channels:
            total[:, :, i] += weight[:, tap] * z[:, i + tap - half].unsqueeze(1)
    return gate(total)


def banded(w, name, x, bands):
    """sum_b A_b . x_b, x_b by the sums of its frequencies."""
    size = x.shape[2:]
    weight = w[f"{name}.maps.weight"]
    ones = (1,) * len(size)
    z = oracles.conv(x, weight.expand(x.shape[0], *weight.shape), ones, ones, ones, 1)
    maps = gate(z + w[f"{name}.maps.bias"].reshape(-1, *ones))
    places = list(itertools.product(*map(range, size)))
    angle = lambda f, p: 2 * math.pi * sum(a * b / n for a, b, n in zip(f, p, size, strict=True))  # noqa: E731
    y = torch.zeros_like(x)
    for f in places:
        highest = max(distance(i, n) for i, n in zip(f, size, strict=True))
        band = sum(highest <= Fraction(1, 2 * k) for k in bands)
        waves = torch.tensor([angle(f, p) for p in places], dtype=x.dtype).reshape(size)
        real, imaginary = ((x * waves.cos()).flatten(2).sum(2), -(x * waves.sin()).flatten(2).sum(2))
        shape = (*real.shape, *ones)
        part = (real.reshape(shape) * waves.cos() - imaginary.reshape(shape) * waves.sin()) / len(places)
        y = y + (maps[:, band : band + 1] if band < maps.shape[1] else 1) * part
    return y


def oracle(layer, x):
    """What a layer should make of a batch, from its weights."""
    w = {**dict(layer.named_parameters()), **dict(layer.named_buffers())}
    config, groups, size = layer.config, layer.groups, layer.kernel_size
    inner, outer = layer.in_channels // groups, layer.out_channels // groups
    rows, columns = layer.out_channels * math.prod(size[:-1]), inner * size[-1]
    half = rows * (columns // 2 + 1)
    kept = max(int(half * config.param_reduction), 1)
    number = min(config.num_kernels, kept)
    groups_of = groups_of_frequencies(rows, columns, kept, number)
    pooled = x.flatten(2).mean(2)
    has = {name.split(".")[1] for name in w if name.startswith("attention.")}
    heads = global_gates(w, "attention.ksm_global", pooled, layer.training) if "ksm_global" in has else {}
    local = local_gates(w, "attention.ksm_local", pooled) if "ksm_local" in has else None
    kernels = x.new_zeros(x.shape[0], *layer.kernel_shape)
    taps = list(itertools.product(*map(range, size)))
    weights = heads.get("kernel", x.new_ones(x.shape[0], config.param_ratio * number))
    for b in range(x.shape[0]):
        matrix = x.new_zeros(rows, columns)
        for copy_ in range(config.param_ratio):
            values = w["dft_weight"][copy_]
            if kept == half:
                values = torch.stack([values[u * (columns // 2 + 1) + v] for u, v in groups_of])
            scale = torch.stack([weights[b, copy_ * number + group] for group in groups_of.values()])
            matrix = matrix + spatial(values * scale.unsqueeze(1), groups_of, rows, columns)
        matrix = matrix * max(min(layer.out_channels, inner) // 2, 1) / config.param_ratio
        for o, i, (t, tap) in itertools.product(range(layer.out_channels), range(inner), enumerate(taps)):
            lead = 0
            for place, k in zip(tap[:-1], size[:-1], strict=True):
                lead = lead * k + place
            value = matrix[o * math.prod(size[:-1]) + lead, i * size[-1] + tap[-1]]
            channel = o // outer * inner + i
            for name, at in (("channel", channel), ("filter", o), ("spatial", t)):
                if name in heads:
                    value = value * heads[name][b, at]
            if local is not None:
                value = value * local[b, o % outer * len(taps) + t, channel]
            kernels[(b, o, i, *tap)] = value
    if "fbm" in has:
        x = banded(w, "attention.fbm", x, config.bands)
    y = oracles_methods.convolved(layer, x, kernels)
    return y if layer.bias is None else y + layer.bias.reshape(-1, *(1,) * layer.dims)
