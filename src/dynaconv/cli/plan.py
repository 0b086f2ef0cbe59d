"""`dynaconv plan`: the table of a conversion, without converting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dynaconv.cli.options import expand_method, make_parser, method_help
from dynaconv.errors import DynaconvError

EXAMPLES = """
dynaconv plan kw1d2x_resnet18
dynaconv plan resnet18 --method.budget 0.5
dynaconv plan mobilenetv2_100 --method odconv --method.num_kernels 4
dynaconv plan convnext_tiny --method.norm layer --where 'stages.*'
dynaconv plan efficientnet_b0 --config kernel_warehouse.yaml    # a file with 'method: {budget: 0.5}'
"""


def parser() -> Any:
    """Flags of the command."""
    flags = make_parser(
        "plan",
        "Show what a conversion would do: which layers, who shares what, parameters and multiply-adds.",
        EXAMPLES,
        "MODEL [options]",
    )
    flags.add_argument("model", type=str, help="a preset (dynaconv models) or a timm backbone")
    flags.add_argument("--config", action="config", help="YAML with method, where, backbone; flags override it")
    flags.add_argument("--method", type=dict[str, Any] | None, default=None, help=method_help().replace("%", "%%"))
    flags.add_argument("--where", type=str | list[str] | None, default=None, help="patterns of the layers to convert")
    flags.add_argument(
        "--backbone", type=dict[str, Any], default={}, help="arguments of the backbone: --backbone.KEY VALUE"
    )
    flags.add_argument("--image-size", type=int, default=224, help="side of the image that multiply-adds are for")
    flags.add_argument("--num_classes", type=int, default=1000, help="outputs of the classifier")
    flags.add_argument("--in_chans", type=int, default=3, help="channels of the images")
    return flags


def run(arguments: Sequence[str]) -> None:
    """Print the plan."""
    values = parser().parse_args(expand_method(arguments))
    import torch

    import dynaconv
    from dynaconv.models import get_preset

    name, where, backbone = values.model, values.where, dict(values.backbone)
    config: Any = dynaconv.config_from_dict(values.method or {})
    if name in dynaconv.list_models():
        if values.method is not None or where is not None:
            raise DynaconvError(
                f"'{name}' is a preset with a config of its own; to change it, give its backbone "
                f"'{get_preset(name).backbone}' with --method.* and --where"
            )
        preset = get_preset(name)
        name, config, backbone = preset.backbone, preset.config, {**preset.backbone_kwargs, **backbone}
        where = None if preset.where is None else list(preset.where)
    with torch.device("meta"):
        model = dynaconv.create_model(name, num_classes=values.num_classes, in_chans=values.in_chans, **backbone)
        plan = dynaconv.plan(model, config, where)
        print(plan)
        size = (values.in_chans, values.image_size, values.image_size)
        before = dynaconv.profile(model, size)
        after = dynaconv.profile(dynaconv.convert(model, plan), size)
    print(
        f"multiply-adds:     {before.madds:,} before, {after.madds:,} after ({after.madds / before.madds - 1:+.1%}; "
        f"one image of {values.image_size} pixels; mixing {after.mixing:,}, attention {after.attention:,})"
    )
