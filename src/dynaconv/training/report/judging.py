"""What a network makes of validation images: accuracy, confusions, and the images that it is most sure of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from dynaconv.errors import DynaconvError

SHOWN = 12
"""Images of each sort."""
LARGEST_MATRIX = 20
"""Classes up to which the whole matrix of confusions is kept."""
LISTED = 20
"""Confusions and classes that are listed of a network with more classes."""


@dataclass(frozen=True, eq=False)
class Example:
    """An image and what the network said.

    Args:
        number: place among the images, from 0.
        true: number of its class.
        predicted: number of the class that the network took it for.
        probability: of that class.
        image: as the network saw it, normalised, shape ``(C, H, W)``.
    """

    number: int
    true: int
    predicted: int
    probability: float
    image: Tensor


@dataclass(frozen=True)
class ClassScore:
    """How one class fared: its name, its images, and how many of them were right."""

    name: str
    images: int
    right: int


@dataclass(frozen=True)
class Confusion:
    """How many images of a class were taken for another."""

    true: str
    predicted: str
    count: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Figures over all images.

    Args:
        images: how many.
        classes: names.
        loss: mean cross-entropy.
        top1: share of images whose most probable class is right.
        top5: whose class is among the five most probable; None with five classes or fewer.
        by_class: every class of which there were images, in order.
        matrix: images by true and predicted class; None with more than :data:`LARGEST_MATRIX` classes.
        confusions: the most frequent ones.
        sure_right: images that the network is most sure of, and right.
        sure_wrong: and wrong.
    """

    images: int
    classes: tuple[str, ...]
    loss: float
    top1: float
    top5: float | None
    by_class: tuple[ClassScore, ...]
    matrix: tuple[tuple[int, ...], ...] | None
    confusions: tuple[Confusion, ...]
    sure_right: tuple[Example, ...]
    sure_wrong: tuple[Example, ...]

    @property
    def worst(self) -> list[ClassScore]:
        """The classes with the smallest share of right images, worst first."""
        return sorted(self.by_class, key=lambda one: one.right / one.images)[:LISTED]


@dataclass
class Judge:
    """Sums up batch by batch; memory does not grow with the images.

    Args:
        classes: names.
        shown: how many images of each sort to keep.
    """

    classes: Sequence[str]
    shown: int = SHOWN
    images: int = 0
    loss: float = 0.0
    top1: int = 0
    top5: int = 0
    seen: Counter[int] = field(default_factory=Counter)
    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    right: list[Example] = field(default_factory=list)
    wrong: list[Example] = field(default_factory=list)

    def add(self, images: Tensor, labels: Tensor, logits: Tensor) -> None:
        """Take in a batch.

        Args:
            images: shape ``(B, C, H, W)``.
            labels: shape ``(B,)``.
            logits: shape ``(B, classes)``.
        """
        labels, logits = labels.cpu(), logits.detach().float().cpu()
        self.loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        probability, predicted = logits.softmax(1).max(1)
        correct = predicted == labels
        self.top1 += int(correct.sum())
        if len(self.classes) > 5:
            self.top5 += int((logits.topk(5, dim=1).indices == labels.unsqueeze(1)).sum())
        self.seen.update(labels.tolist())
        self.pairs.update(zip(labels.tolist(), predicted.tolist(), strict=True))
        for kept, chosen in ((self.right, correct), (self.wrong, ~correct)):
            places = chosen.nonzero().flatten()
            places = places[probability[places].argsort(descending=True, stable=True)][: self.shown]
            for place in places.tolist():
                said = int(labels[place]), int(predicted[place]), float(probability[place])
                kept.append(Example(self.images + place, *said, images[place].detach().cpu().clone()))
            kept.sort(key=lambda one: (-one.probability, one.number))
            del kept[self.shown :]
        self.images += len(labels)

    def result(self) -> Judged:
        """The figures.

        Raises:
            DynaconvError: if there was no image.
        """
        if not self.images:
            raise DynaconvError("there was no validation image that could be read; expected at least one")
        names, wrong = tuple(self.classes), [pair for pair in self.pairs.most_common() if pair[0][0] != pair[0][1]]
        matrix = None
        if len(names) <= LARGEST_MATRIX:
            matrix = tuple(tuple(self.pairs[i, j] for j in range(len(names))) for i in range(len(names)))
        return Judged(
            images=self.images,
            classes=names,
            loss=self.loss / self.images,
            top1=self.top1 / self.images,
            top5=self.top5 / self.images if len(names) > 5 else None,
            by_class=tuple(
                ClassScore(name, self.seen[i], self.pairs[i, i]) for i, name in enumerate(names) if self.seen[i]
            ),
            matrix=matrix,
            confusions=tuple(Confusion(names[i], names[j], count) for (i, j), count in wrong[:LISTED]),
            sure_right=tuple(self.right),
            sure_wrong=tuple(self.wrong),
        )


def as_pixels(image: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An image as it was before it was normalised, uint8.

    Args:
        image: shape ``(C, H, W)``.
        mean: per channel.
        std: per channel.
    """
    back = image.float() * torch.tensor(std).view(-1, 1, 1) + torch.tensor(mean).view(-1, 1, 1)
    return (back.clamp(0, 1) * 255).round().to(torch.uint8)
