"""What was found in a data set: how often, with the first few examples, and what becomes of it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from dynaconv.training.fields import shown

EXAMPLES = 5
"""Examples that are kept of every kind."""


class Kind(NamedTuple):
    """A kind of finding.

    Args:
        text: what it is, and what becomes of it.
        fault: the data should be mended; otherwise it is only worth knowing.
    """

    text: str
    fault: bool = True


KINDS = {
    "image_entry": Kind("entries of images that are malformed; left out with their objects"),
    "image_path": Kind("file names that lead out of the folder of images; left out with their objects"),
    "image_repeated": Kind("images whose file another image has already; kept"),
    "image_missing": Kind("images that are not on disk; count as unreadable"),
    "image_unreadable": Kind("images that can not be read"),
    "image_size": Kind("images whose size is not the file's; count as unreadable"),
    "image_unlisted": Kind("image files on disk that the annotations do not name; not used", fault=False),
    "image_empty": Kind("images without objects; loader.empty_images trains on them, too", fault=False),
    "category_entry": Kind("categories that are malformed; left out with their objects"),
    "category_name": Kind("categories without a name, or with the name of another; called by their id"),
    "category_gap": Kind("gaps between the ids of categories; labels have none", fault=False),
    "category_empty": Kind("categories without objects", fault=False),
    "object_entry": Kind("annotations that are malformed; left out"),
    "object_id": Kind("annotations without an id of their own; kept, all are numbered anew"),
    "object_image": Kind("annotations of images that are unknown or left out; left out"),
    "object_category": Kind("annotations of categories that are unknown or left out; left out"),
    "object_area": Kind("annotations without a usable area; their box's is taken", fault=False),
    "crowd": Kind("crowds; not trained on, and ignored in scores", fault=False),
    "box_values": Kind("boxes that are not four finite numbers x, y, width, height; left out"),
    "box_empty": Kind("boxes of no area; left out"),
    "box_outside": Kind("boxes outside their image; left out"),
    "box_clipped": Kind("boxes that reach more than a pixel beyond their image; cut at its edge"),
    "mask_missing": Kind("objects without a mask; left out where masks are trained"),
    "mask_type": Kind("masks that are neither polygons nor RLE; left out where masks are trained"),
    "mask_short": Kind("polygons of fewer than three points, or half a point; left out"),
    "mask_values": Kind("polygons of anything but finite numbers near the image; left out"),
    "mask_size": Kind("masks of another size than their image; left out where masks are trained"),
    "mask_counts": Kind("RLE masks whose counts are broken; left out where masks are trained"),
    "mask_empty": Kind("masks without a pixel; left out of training"),
    "mask_box": Kind("boxes that do not fit their mask; kept"),
}
"""Every kind of finding, in the order in which they are told."""


class Report:
    """Counts findings.

    Args:
        name: of the data, for people.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.counts: Counter[str] = Counter()
        self.examples: defaultdict[str, list[str]] = defaultdict(list)

    def note(self, kind: str, example: object, detail: str = "") -> None:
        """Count a finding.

        Args:
            kind: of :data:`KINDS`.
            example: where: an id or a name.
            detail: a few words on it.
        """
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES:
            text = example if isinstance(example, str) and example.isprintable() else shown(example)
            self.examples[kind].append(f"{text} ({detail})" if detail else text)

    @property
    def faults(self) -> int:
        """Findings that should be mended."""
        return sum(count for kind, count in self.counts.items() if KINDS[kind].fault)

    def to_dict(self) -> dict[str, Any]:
        """All findings, in plain types."""
        return {
            "name": self.name,
            "faults": self.faults,
            "found": [
                {
                    "kind": kind,
                    "fault": KINDS[kind].fault,
                    "count": self.counts[kind],
                    "text": KINDS[kind].text,
                    "examples": self.examples[kind],
                }
                for kind in KINDS
                if self.counts[kind]
            ],
        }

    def __str__(self) -> str:
        """The faults in one line."""
        found = [entry for entry in self.to_dict()["found"] if entry["fault"]]
        if not found:
            return f"{self.name}: no faults"
        parts = [f"{entry['count']:,} {entry['text']}: {', '.join(entry['examples'][:2])}" for entry in found]
        return f"{self.name}: {' | '.join(parts)}"
