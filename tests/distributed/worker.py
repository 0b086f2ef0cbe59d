"""One of several processes: `python -m tests.distributed.worker RANK PORT FOLDER DEVICE` leaves RANK.pt there."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import dynaconv
from dynaconv.training.sharding import shard
from tests.distributed.networks import WORLD, joint_batch, make_network, network_names, sharded_names, step
from tests.distributed.norms import NORMS, normalise


def steps(rank: int, device: str) -> dict[str, dict[str, Tensor]]:
    """A step of every network on this process's share of the batch; every other image, as training deals them."""
    images, labels = (tensor[rank::WORLD].to(device) for tensor in joint_batch())
    found = {}
    for name in network_names():
        model = dynaconv.synchronise_norms(make_network(name)).to(device)
        found[name] = step(DistributedDataParallel(model), images, labels)
        dist.all_reduce(found[name]["loss"])
        found[name]["loss"] /= WORLD
    return found


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
        "gloo", f"tcp://127.0.0.1:{port}", timedelta(seconds=60), world_size=WORLD, rank=rank
    )  # fmt: skip
    found = {"steps": steps(rank, device), "sharded": sharded_steps(rank, device), "norms": {}}
    for name, case in NORMS.items():
        norm = dynaconv.synchronise_norms(nn.Sequential(case.make())).to(device)
        found["norms"][name] = normalise(norm, [x.to(device) for x in case.shares(rank)])
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
