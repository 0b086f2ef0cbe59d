"""Tables and a picture of how the cost of training grows with images, budget and GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dynaconv.analysis.figures import new_figure, save_figure
from dynaconv.analysis.scale import Scaled, TrainingCost, count_training, scaled
from dynaconv.analysis.table import format_bytes, format_count
from dynaconv.planning.table import align
from dynaconv.training.config import OptimizerConfig
from dynaconv.training.engine.optimizer import make_optimizer
from dynaconv.training.engine.sharding import block_names

ONE_GPU: tuple[str, ...] = (
    "network", "images", "params", "weights", "gradients", "optimiser", "average", "activations", "together",
    "kernels/image", "of the batch", "MAdds/step"
)  # fmt: skip
MANY: tuple[str, ...] = (
    "network", "GPUs", "images", "memory: DDP", "FSDP", "sent: DDP", "its buffers", "FSDP", "norms", "MAdds/step"
)  # fmt: skip
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """A network on one or several GPUs.

    Args:
        label: what tells it from the others.
        budget: KernelWarehouse's, where that is varied.
        on: by number of GPUs, ascending.
    """

    label: str
    budget: float | None
    on: tuple[Scaled, ...]

    @property
    def cost(self) -> TrainingCost:
        """Of one GPU."""
        return self.on[0].cost


def count_case(
    label: str,
    model: nn.Module,
    input_size: Sequence[int],
    batch_size: int,
    gpus: Sequence[int],
    optimizer: str = "adamw",
    average: bool = False,
    budget: float | None = None,
) -> Case:
    """Count a step of a network, see :mod:`dynaconv.analysis.scale`.

    Args:
        label: what tells it from the others.
        model: the network, which may have no memory.
        input_size: channels and spatial sizes of an image.
        batch_size: images on every GPU.
        gpus: how many, one figure each.
        optimizer: one of timm's factory.
        average: keep a moving average of the weights.
        budget: KernelWarehouse's, where that is varied.
    """
    config = OptimizerConfig(name=optimizer)
    cost = count_training(
        model,
        input_size,
        batch_size,
        optimizer=lambda network: make_optimizer(network, config),
        blocks=block_names(model),
        average=average,
    )
    return Case(label, budget, tuple(scaled(cost, n) for n in sorted(set(gpus))))


def scale_table(cases: Sequence[Case]) -> str:
    """What one GPU does, a row a network; then what several do, a row a number of GPUs."""
    alone, many = [ONE_GPU], [MANY]
    for case in cases:
        c = case.cost
        one = c.state_bytes + c.buffer_bytes + c.activation_bytes
        sizes = (c.weight_bytes, c.gradient_bytes, c.optimizer_bytes, c.average_bytes, c.activation_bytes, one)
        made = (format_count(c.kernels), format_bytes(c.kernel_bytes) + " kept" * c.keeps_kernels)
        held = map(format_bytes, sizes)
        alone.append((case.label, str(c.batch_size), f"{c.parameters:,}", *held, *made, format_count(c.step_madds)))
        for s in case.on:
            sizes = (s.ddp_memory, s.fsdp_memory, s.ddp_sent, s.buffers_sent, s.fsdp_sent, s.norms_sent)
            row = (case.label, str(s.gpus), str(s.images), *map(format_bytes, sizes), format_count(s.madds))
            many.append(row)
    blocks = []
    for title, rows in (("one GPU", alone), ("each of several GPUs; sent in a step by one, MAdds of all", many)):
        lines = align(rows, left=1)
        blocks.append("\n".join([title, lines[0], "-" * max(map(len, lines)), *lines[1:]]))
    return "\n\n".join(blocks)


def scale_rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """All figures as plain types."""
    rows = []
    for case in cases:
        on = [{k: v for k, v in asdict(s).items() if k != "cost"} for s in case.on]
        cost = {k: v for k, v in asdict(case.cost).items() if k != "shapes"}
        rows.append({"label": case.label, "budget": case.budget, **cost, "on": on})
    return rows


def save_scale_picture(cases: Sequence[Case], path: str | Path) -> Path:
    """Draw memory over images, memory over budget, and bytes sent and memory over GPUs, as far as each is varied.

    Args:
        cases: of :func:`count_case`.
        path: the PNG, written in one move.

    Raises:
        MissingExtraError: without matplotlib.
    """
    largest = max(case.cost.batch_size for case in cases)
    budgets = [case for case in cases if case.budget is not None and case.cost.batch_size == largest]
    panels = [_over_gpus_sent, _over_gpus_memory]
    if len({case.cost.batch_size for case in cases}) > 1:
        panels.insert(0, _over_images)
    if len({case.budget for case in budgets}) > 1:
        panels.insert(0, _over_budgets)
    rows = -(-len(panels) // 2)
    figure = new_figure(9.6, 4.4 * rows)
    shown = [case for case in cases if case.cost.batch_size == largest]
    places = figure.subplots(rows, 2).flatten()
    for axes in places[len(panels) :]:
        axes.remove()
    for axes, panel in zip(places, panels, strict=False):
        panel(axes, cases if panel is _over_images else budgets if panel is _over_budgets else shown)
        axes.grid(alpha=0.3)
        axes.set_ylim(bottom=0)
        axes.legend(
            fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False
        )  # covers nothing
    return save_figure(figure, path)


def _over_images(axes: Any, cases: Sequence[Case]) -> None:
    for label in dict.fromkeys(case.label for case in cases):
        points = sorted((c.cost.batch_size, c.on[0].ddp_memory / GIB) for c in cases if c.label == label)
        axes.plot(*zip(*points, strict=True), marker="o", label=label)
    axes.set(xlabel="images per GPU", ylabel="GiB", title="memory of one GPU")


def _over_budgets(axes: Any, cases: Sequence[Case]) -> None:
    cases = sorted(cases, key=lambda case: case.budget or 0)
    parts = ("weights", "gradients", "optimiser", "average", "activations")
    sizes = [
        (c.weight_bytes, c.gradient_bytes, c.optimizer_bytes, c.average_bytes, c.activation_bytes)
        for c in (case.cost for case in cases)
    ]
    below = [0.0] * len(cases)
    for name, values in zip(parts, zip(*sizes, strict=True), strict=True):
        heights = [value / GIB for value in values]
        if any(heights):
            axes.bar([f"{case.budget:g}" for case in cases], heights, bottom=below, label=name)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set(xlabel="budget b", ylabel="GiB", title=f"memory of one GPU, {cases[0].cost.batch_size} images")


def _over_gpus_sent(axes: Any, cases: Sequence[Case]) -> None:
    for colour, case in enumerate(cases):
        gpus = [s.gpus for s in case.on]
        axes.plot(gpus, [s.ddp_sent / GIB for s in case.on], f"C{colour}o-", label=f"{case.label}, DDP")
        axes.plot(gpus, [s.fsdp_sent / GIB for s in case.on], f"C{colour}s--", label=f"{case.label}, FSDP")
        axes.plot(gpus, [s.norms_sent / GIB for s in case.on], f"C{colour}x:", label=f"{case.label}, norms")
    axes.set(xlabel="GPUs", ylabel="GiB", title="sent by a GPU in a step")


def _over_gpus_memory(axes: Any, cases: Sequence[Case]) -> None:
    for colour, case in enumerate(cases):
        gpus = [s.gpus for s in case.on]
        axes.plot(gpus, [s.ddp_memory / GIB for s in case.on], f"C{colour}o-", label=f"{case.label}, DDP")
        axes.plot(gpus, [s.fsdp_memory / GIB for s in case.on], f"C{colour}s--", label=f"{case.label}, FSDP")
    axes.set(xlabel="GPUs", ylabel="GiB", title=f"memory of a GPU, {cases[0].cost.batch_size} images on each")
