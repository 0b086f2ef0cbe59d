"""Whether a variant is told apart from the reference: differences paired by seed, for all rows of a table at once.

Two networks with the same seed see the same batches, so that their difference varies less than either. Differences are
taken to be normal; the interval is Student's, with its level shared among the rows (Bonferroni), so that in a table
where nothing differs one wrong "separated" turns up in 5 % of the cases at most. Their standard deviation counts as one
validation image at least: accuracies come in steps of an image, and three equal differences are no certainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from dynaconv.errors import require

ALPHA = 0.05
FEWEST = 2
"""Seeds without which there is no spread."""
SEPARATED, NOT_SEPARATED, TOO_FEW = "separated", "not separated on this data", "too few seeds"
RULE = (
    "separated: the 95 % interval of the mean difference over the seeds (Student's t, paired by seed, the level shared "
    "among the table's variants, standard deviation at least one validation image) leaves out zero"
)


@dataclass(frozen=True)
class Difference:
    """A difference of accuracies over seeds.

    Args:
        mean: of the differences.
        low: end of the interval; None with too few seeds.
        high: end of the interval; None with too few seeds.
        seeds: how many.
        verdict: :data:`SEPARATED`, :data:`NOT_SEPARATED` or :data:`TOO_FEW`; None for a row that is not judged.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: int
    verdict: str | None


def difference_of(differences: Sequence[float], rows: int, step: float = 0.0) -> Difference:
    """Judge the differences of one row.

    Args:
        differences: variant less reference, by seed; at least one.
        rows: of the table that are judged.
        step: least standard deviation, one validation image's share.

    Example:
        >>> difference_of([0.02, 0.03, 0.025, 0.03], rows=1).verdict
        'separated'
    """
    middle, count = mean(differences), len(differences)
    if count < FEWEST:
        return Difference(middle, None, None, count, TOO_FEW)
    stats = require("scipy.stats", "train")
    reach = float(stats.t.ppf(1 - ALPHA / (2 * rows), count - 1))
    half = reach * max(stdev(differences), step) / math.sqrt(count)
    low, high = middle - half, middle + half
    return Difference(middle, low, high, count, SEPARATED if low > 0 or high < 0 else NOT_SEPARATED)
