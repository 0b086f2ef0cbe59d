"""What one of several processes does: it leaves RANK.pt in a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import dynaconv
from dynaconv.training.engine.sharding import shard
from tests.distributed.networks import WORLD, joint_batch, make_network, network_names, sharded_names, step
from tests.distributed.norms import NORMS, normalise


class Sent:
    """Counts the numbers of gradients that are reduced, and those that synchronised norms send in rings."""

    def __init__(self) -> None:
        self.gradients = self.statistics = 0.0

    def reduce(self, group, bucket):  # torch checks annotations, and not as text
        self.gradients += bucket.buffer().numel()
        return allreduce_hook(group, bucket)

    @contextmanager
    def counting(self) -> Iterator[None]:
        def gather(parts: list[Tensor], own: Tensor) -> Any:
            self.statistics += (WORLD - 1) * own.numel()
            return dist.all_gather(parts, own)

        def reduce(tensor: Tensor) -> Any:
            self.statistics += 2 * (WORLD - 1) / WORLD * tensor.numel()
            return dist.all_reduce(tensor)

        names = {name: getattr(dist, name) for name in ("is_available", "is_initialized", "get_world_size")}
        counted = SimpleNamespace(all_gather=gather, all_reduce=reduce, **names)
        with mock.patch("dynaconv.nn.synchronised.dist", counted):
            yield


def steps(rank: int, device: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, tuple[float, float]]]:
    """A step of every network on this process's share of the batch; every other image, as training deals them.

    And the numbers of gradients and of statistics that it sent.
    """
    images, labels = (tensor[rank::WORLD].to(device) for tensor in joint_batch())
    found, numbers = {}, {}
    for name in network_names():
        sent = Sent()
        model = DistributedDataParallel(dynaconv.synchronise_norms(make_network(name)).to(device))
        model.register_comm_hook(None, sent.reduce)
        with sent.counting():
            found[name] = step(model, images, labels)
        numbers[name] = (sent.gradients, sent.statistics)
        dist.all_reduce(found[name]["loss"])
        found[name]["loss"] /= WORLD
    return found, numbers


def sharded_steps(rank: int, device: str) -> dict[str, dict[str, Tensor]]:
    """The same with FSDP2, of one network a config."""
    images, labels = (tensor[rank::WORLD].to(device) for tensor in joint_batch())
    found = {}
    for name in sharded_names():
        model = dynaconv.synchronise_norms(make_network(name)).to(device)
        shard(model, torch.device(device))
        # All processes gather every tensor, in the same order.
        found[name] = {
            key: value.full_tensor() if isinstance(value, DTensor) else value
            for key, value in step(model, images, labels).items()
        }
        dist.all_reduce(found[name]["loss"])
        found[name]["loss"] /= WORLD
    return found


def main(rank: int, port: int, folder: Path, device: str) -> None:
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=300), world_size=WORLD, rank=rank
    )  # fmt: skip
    one_step, sent = steps(rank, device)
    found = {"steps": one_step, "sent": sent, "sharded": sharded_steps(rank, device), "norms": {}}
    for name, case in NORMS.items():
        norm = dynaconv.synchronise_norms(nn.Sequential(case.make())).to(device)
        found["norms"][name] = normalise(norm, [x.to(device) for x in case.shares(rank)])
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
