"""A network's levels with a feature pyramid on them: what stands below torchvision's detectors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal, Self

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dynaconv.detection.models.levels import Levels, features_of
from dynaconv.detection.models.trimming import still_modules, trim
from dynaconv.errors import DynaconvError, require
from dynaconv.nn import DynamicLayer

Norms = Literal["train", "eval", "frozen"]


class Taken:
    """The maps that a network gave on its way, by level. Copies and pickles of it are empty."""

    def __init__(self) -> None:
        self.maps: dict[int, Tensor] = {}
        self.open = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Taken, ()


class Tap:
    """A forward hook that takes a module's output while its network runs, and not when it is computed again.

    Args:
        taken: where it goes.
        level: by which number.
    """

    def __init__(self, taken: Taken, level: int) -> None:
        self.taken, self.level = taken, level

    def __call__(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Take a map, shape ``(B, C, H, W)``."""
        if self.taken.open:
            self.taken.maps[self.level] = output


class PyramidBackbone(nn.Module):
    """A network's levels, and five maps of as many channels made from them.

    The network runs its own code; hooks take the levels on their way, so that it may be anybody's, converted or not,
    and keeps its names. Modules are called as in torchvision: ``body`` and ``fpn``.

    Args:
        body: the network; its head is taken out.
        levels: where its maps come out, see :func:`dynaconv.detection.models.levels.find_levels`.
        channels: of every map of the pyramid.
        norms: its batch normalisation: train, eval or frozen; attention branches' included.
        freeze_stages: levels from the finest whose stages stand still, with all that comes before; cells that a
            stage shares with one that is trained are trained.

    Raises:
        DynaconvError: if there are fewer stages.
    """

    def __init__(
        self, body: nn.Module, levels: Levels, channels: int = 256, norms: Norms = "train", freeze_stages: int = 0
    ) -> None:
        super().__init__()
        ops = require("torchvision.ops", "detection")
        if freeze_stages > len(levels.names):
            raise DynaconvError(f"freeze_stages={freeze_stages}, but the backbone has {len(levels.names)} stages")
        trim(body, frozenset().union(*levels.needs))
        self.body, self.norms, self.out_channels = body, norms, channels
        self._taken = Taken()
        for number, name in enumerate(levels.names):
            body.get_submodule(name).register_forward_hook(Tap(self._taken, number))
        self.level_names = levels.names
        self.level_norms = nn.ModuleList(_norms_for(body, levels.channels))
        self.fpn = ops.FeaturePyramidNetwork(
            list(levels.channels), channels, extra_blocks=ops.feature_pyramid_network.LastLevelMaxPool()
        )
        self.still = still_modules(body, levels.needs[freeze_stages - 1]) if freeze_stages else []
        for name in self.still:
            body.get_submodule(name).requires_grad_(False)
        if norms == "frozen":
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self.train(self.training)

    def levels(self, images: Tensor) -> list[Tensor]:
        """The network's maps of ``(B, in_chans, H, W)``: ``(B, C_i, H / stride_i, W / stride_i)``, finest first."""
        taken = self._taken
        taken.maps, taken.open = {}, True
        try:
            features_of(self.body, images)
            maps = [taken.maps[number] for number in range(len(self.level_names))]
        finally:
            taken.maps, taken.open = {}, False
        return maps

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The pyramid, by name: ``"0"``, ``"1"``, ... and ``"pool"``, each ``(B, out_channels, H_i, W_i)``."""
        maps = self.levels(images)
        if len(self.level_norms):
            maps = [norm(map) for norm, map in zip(self.level_norms, maps, strict=True)]
        return self.fpn(OrderedDict((str(number), map) for number, map in enumerate(maps)))

    def train(self, mode: bool = True) -> Self:
        """Training mode for all but what stands still."""
        super().train(mode)
        for name in self.still:
            self.body.get_submodule(name).eval()
        if self.norms != "train":
            for norm in self._batch_norms():
                norm.eval()
        return self

    def _batch_norms(self) -> list[_BatchNorm]:
        return [module for module in self.body.modules() if isinstance(module, _BatchNorm)]


def _norms_for(body: nn.Module, channels: Sequence[int]) -> list[nn.Module]:
    """A normalisation a level for networks that do not normalise what goes from block to block, such as ConvNeXt.

    As ConvNeXt's authors do for detection; a network with batch normalisation needs none.
    """
    inside = {part for module in body.modules() if isinstance(module, DynamicLayer) for part in module.modules()}
    own = [module for module in body.modules() if module not in inside]
    if any(isinstance(module, _BatchNorm) for module in own) or not any(isinstance(m, nn.LayerNorm) for m in own):
        return []
    layer_norm = require("torchvision.models.convnext", "detection").LayerNorm2d
    return [layer_norm(count, eps=1e-6) for count in channels]
