"""One of two processes: scores its share of the images, gathers, and leaves RANK.json, the scores of all."""

from __future__ import annotations

import json
from pathlib import Path

from torch import distributed

from dynaconv.detection import CocoScorer
from tests.detection.evaluation.random_results import CATEGORIES, random_outputs, random_truth


def main(rank: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    truth = random_truth(30)
    outputs = random_outputs(truth, 31)
    ids = sorted(outputs)
    scorer = CocoScorer(truth, CATEGORIES, masks=True)
    for number in [*ids[rank::2], ids[0]]:  # the first image comes to both
        scorer.add([number], [outputs[number]])
    scorer.gather()
    found = {"scores": scorer.scores().to_dict(), "results": scorer.results()}
    (folder / f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
