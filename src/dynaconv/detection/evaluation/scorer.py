"""From a detector's outputs, image by image and process by process, to COCO's scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, distributed

from dynaconv.detection.evaluation.coco import Kind, Measured, index_truth, measure
from dynaconv.detection.evaluation.encoding import encode_output
from dynaconv.detection.evaluation.scores import DetectionScores, collect_scores
from dynaconv.errors import DynaconvError


class CocoScorer:
    """Gathers what a detector finds, and judges it by COCO's scores.

    Judged are the images that were added, each once: those that could not be read, or were left out for a quick try,
    count neither as found nor as missed.

    Args:
        truth: a mapping in COCO's format, or what has one as ``content``.
        category_ids: the data set's number of each label, label 1 first; in the order of their numbers if None.
        masks: judge masks, too.

    Example:
        scorer = CocoScorer(annotations, masks=True)
        for images, targets in loader:
            scorer.add([target["image_id"] for target in targets], detector(images))
        scorer.gather()
        print(scorer.scores())
    """

    def __init__(self, truth: Any, category_ids: Sequence[int] | None = None, masks: bool = False) -> None:
        self.content: Mapping[str, Any] = getattr(truth, "content", truth)
        self.category_ids = tuple(category_ids or sorted(category["id"] for category in self.content["categories"]))
        self.masks = masks
        self._known = {image["id"] for image in self.content["images"]}
        self._entries: dict[int, list[dict[str, Any]]] = {}

    def add(self, image_ids: Iterable[Any], outputs: Sequence[Mapping[str, Tensor]]) -> None:
        """Keep what was found in some images; of an image that comes again, the first is kept.

        Args:
            image_ids: of the data set, numbers or tensors of one.
            outputs: of torchvision's detectors, on any device, see
                :func:`dynaconv.detection.evaluation.encoding.encode_output`. Masks are packed at once.

        Raises:
            DynaconvError: if an image is none of the truth's, or an output is not a detector's.
        """
        numbers = [int(number) for number in image_ids]
        if len(numbers) != len(outputs):
            raise DynaconvError(f"{len(outputs)} outputs came with {len(numbers)} image ids; expected one for each")
        for number, output in zip(numbers, outputs, strict=True):
            if number not in self._known:
                raise DynaconvError(f"image id {number} is none of the {len(self._known)} in the annotations")
            if number not in self._entries:
                self._entries[number] = encode_output(number, output, self.category_ids, self.masks)

    def gather(self) -> None:
        """Give every process of the group what all of them found; without a group nothing happens.

        All processes have to call it. Of an image that several judged, the first process's is kept.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, self._entries)
        self._entries = {}
        for part in parts:
            self._entries = part | self._entries

    def results(self) -> list[dict[str, Any]]:
        """COCO's results entries, by image: ``image_id``, ``category_id``, ``bbox``, ``score``, ``segmentation``."""
        return [entry for number in sorted(self._entries) for entry in self._entries[number]]

    def scores(self) -> DetectionScores:
        """COCO's scores of what this process has, see :func:`score_results`.

        Raises:
            DynaconvError: if no image was added.
        """
        if not self._entries:
            raise DynaconvError("no image was added to the scorer; there is nothing to judge")
        kinds: tuple[Kind, ...] = ("bbox", "segm") if self.masks else ("bbox",)
        return score_results(self.content, self.results(), kinds, self.category_ids, list(self._entries))


def score_results(
    content: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    kinds: Sequence[Kind],
    category_ids: Sequence[int] | None = None,
    image_ids: Sequence[int] | None = None,
) -> DetectionScores:
    """Judge results entries.

    Args:
        content: the truth, a mapping in COCO's format.
        results: COCO's results entries.
        kinds: what to judge: "bbox", "segm" or both.
        category_ids: the classes, in the order of the answer; all, by their numbers, if None.
        image_ids: the images to judge; all if None. Without results, all their objects are missed.

    Cost: about 10 ms an image and kind at 80 classes and 100 detections, on one core.
    """
    truth = index_truth(content, image_ids)
    numbers = tuple(category_ids or sorted(truth.cats))
    measured: dict[Kind, Measured] = {kind: measure(truth, results, kind, numbers) for kind in kinds}
    return collect_scores(measured, truth, numbers, len(results))
