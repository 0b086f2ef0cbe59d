"""Draw the pictures of the pages on concepts and on the start from plans of the networks they speak of.

``python docs/make_pictures.py`` writes docs/pictures/*.svg.
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib
import timm
from torch import nn

import dynaconv
from dynaconv.analysis.plan_picture import draw_plan

DOCS = Path(__file__).parent
SETTINGS = {"svg.fonttype": "none", "svg.hashsalt": "dynaconv", "font.family": "sans-serif"}


def save(name: str, model: nn.Module, config: dynaconv.KernelWarehouseConfig, warehouses: list[str] | None) -> None:
    """Draw one plan."""
    with matplotlib.rc_context(SETTINGS):
        figure = draw_plan(dynaconv.plan(model, config), warehouses)
        path = DOCS / "pictures" / f"{name}.svg"
        figure.savefig(path, format="svg", metadata={"Date": None})
    print(path)


def network_of_the_start() -> nn.Module:
    """The network that docs/index.md defines in its first block of Python."""
    names: dict[str, object] = {}
    code = re.findall(r"^```python\n(.*?)^```$", (DOCS / "index.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    exec(code, names)
    model = names["model"]
    assert isinstance(model, nn.Module)
    return model


def main() -> None:
    """Draw all."""
    resnet18 = timm.create_model("resnet18")
    half = dynaconv.KernelWarehouseConfig(budget=0.5)
    save("start", network_of_the_start(), half, None)
    save("resnet18-1x", resnet18, dynaconv.KernelWarehouseConfig(), None)
    save("resnet18-2x-stage3", resnet18, dynaconv.KernelWarehouseConfig(budget=2), ["stage3_conv"])
    save("resnet18-half-stage3", resnet18, half, ["stage3_conv"])


if __name__ == "__main__":
    main()
