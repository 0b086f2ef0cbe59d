"""The flags that name a network, for the commands that look at one without training it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dynaconv.cli.options import method_help
from dynaconv.errors import DynaconvError

USUAL_SIZE = 224


def add_network_flags(flags: Any, model: str = "a preset (dynaconv models) or a timm backbone") -> None:
    """Add the model, how to convert it, and the size of an image.

    Args:
        flags: of the command.
        model: what may be named.
    """
    flags.add_argument("model", type=str, help=model)
    flags.add_argument("--config", action="config", help="YAML with method, where, backbone; flags override it")
    flags.add_argument("--method", type=dict[str, Any] | None, default=None, help=method_help().replace("%", "%%"))
    flags.add_argument("--where", type=str | list[str] | None, default=None, help="patterns of the layers to convert")
    flags.add_argument(
        "--backbone", type=dict[str, Any], default={}, help="arguments of the backbone: --backbone.KEY VALUE"
    )
    flags.add_argument("--num_classes", type=int, default=1000, help="outputs of the classifier")
    flags.add_argument("--in_chans", type=int, default=3, help="channels of the images")
    flags.add_argument(
        "--image-size", type=int | None, default=None, help="side of a square image; the network's usual if not given"
    )


@dataclass(frozen=True)
class StaticNetwork:
    """A backbone without memory, and what would be done with it.

    Args:
        model: the static network, on the meta device.
        config: the method's, None if none was named.
        where: which layers.
        input_size: channels and spatial sizes of an image.
    """

    model: Any
    config: Any
    where: Any
    input_size: tuple[int, int, int]


def read_network(values: Any) -> StaticNetwork:
    """The network that the flags name.

    Raises:
        DynaconvError: if a preset is given a method, or a name is unknown.
    """
    import torch

    import dynaconv
    from dynaconv.models import get_preset

    name, where, backbone = values.model, values.where, dict(values.backbone)
    if name in dynaconv.list_models():
        preset = get_preset(name)
        if values.method is not None or where is not None:
            raise DynaconvError(
                f"'{name}' is a preset with a config of its own; to change it, give its backbone "
                f"'{preset.backbone}' with --method and --where"
            )
        name, config, backbone = preset.backbone, preset.config, {**preset.backbone_kwargs, **backbone}
        where = None if preset.where is None else list(preset.where)
    else:
        config = None if values.method is None else dynaconv.config_from_dict(values.method)
    with torch.device("meta"):
        model = dynaconv.create_model(name, num_classes=values.num_classes, in_chans=values.in_chans, **backbone)
    usual = getattr(model, "pretrained_cfg", {}).get("input_size", (3, USUAL_SIZE, USUAL_SIZE))[1:]
    size = usual if values.image_size is None else (values.image_size, values.image_size)
    return StaticNetwork(model, config, where, (values.in_chans, *size))
