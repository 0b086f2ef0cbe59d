"""Fully sharded data parallelism (PyTorch's FSDP2): every process holds its part of weights, gradients and moments.

A block's own parameters are gathered while it runs. Cells of warehouses, and whatever else stands outside blocks,
belong to the network itself: they are gathered once a step, as layers everywhere draw on them; their gradients and
their optimiser's moments stay sharded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from dynaconv.convert.select import layer_spec
from dynaconv.errors import DynaconvError
from dynaconv.nn.base import DynamicLayer
from dynaconv.nn.conv import DynamicConvNd
from dynaconv.nn.linear import DynamicLinear
from dynaconv.planning import read_structure


def shard(model: nn.Module, device: torch.device) -> None:
    """Shard a network over all processes, in place; does nothing to one that is sharded.

    Args:
        model: a network, converted or not, the same in every process.
        device: of this process; its type says how processes talk.

    Raises:
        DynaconvError: if there is one process only.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if isinstance(model, FSDPModule):
        return
    world_size = torch.distributed.get_world_size()
    if world_size < 2:
        raise DynaconvError("run.strategy='fsdp' with one process has nothing to shard; expected several devices")
    for parameter in model.parameters():  # FSDP takes no other layout; cells have one of their own
        parameter.data = parameter.data.contiguous()
    mesh = init_device_mesh(device.type, (world_size,))
    for name in block_names(model):
        fully_shard(model.get_submodule(name), mesh=mesh)
    fully_shard(model, mesh=mesh)


def block_names(model: nn.Module) -> list[str]:
    """Names of a network's blocks, as plans see them, in order; dynamic layers count as the static ones they were."""
    layers, inside = [], ()
    for name, module in model.named_modules():
        if inside and name.startswith(inside):
            continue
        if isinstance(module, DynamicLayer):
            inside = (*inside, f"{name}.")
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear | DynamicConvNd | DynamicLinear):
            layers.append(layer_spec(name, module))
    blocks = read_structure(layers).block_of.values() if layers else ()
    return list(dict.fromkeys(name for name in blocks if name is not None))


def agree_on_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers (running statistics above all), as DDP does at every step."""
    for buffer in model.buffers():
        torch.distributed.broadcast(buffer, src=0)


def full_state(model: nn.Module) -> Mapping[str, Tensor] | None:
    """The whole state dict of a sharded network, on the CPU; None for one that is not sharded.

    All processes have to call it; only the first gets the tensors, the others an empty mapping.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.fsdp import FSDPModule

    if not isinstance(model, FSDPModule):
        return None
    state = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}
