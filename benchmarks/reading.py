"""How many images a second one core reads, decodes and augments: a folder, WebDataset shards, Parquet files.

    python benchmarks/reading.py --images 1000 --rounds 5

Images are crops of scikit-learn's two photographs, 500 x 375 pixels, JPEG, about as large as ImageNet's. Kinds take
turns within one process; time is the process's own (CPU), so that other work on the machine counts less.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from dynaconv.analysis.environment import describe, environment
from dynaconv.training import ImageDataModule, LoaderConfig

PER_SHARD = 250


def make_images(count: int) -> list[bytes]:
    """JPEG files."""
    photos, draw, files = load_sample_images().images, np.random.default_rng(0), []
    for number in range(count):
        photo = Image.fromarray(photos[number % 2])
        left, top = int(draw.integers(0, photo.width - 500)), int(draw.integers(0, photo.height - 375))
        file = io.BytesIO()
        photo.crop((left, top, left + 500, top + 375)).save(file, "JPEG", quality=95)
        files.append(file.getvalue())
    return files


def write(root: Path, files: list[bytes]) -> dict[str, str]:
    """The same images in every way; returns names of sources."""
    import datasets

    shards, tables = root / "shards", root / "tables"
    shards.mkdir(), tables.mkdir()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1"])})
    for split, folder in (("train", "train"), ("validation", "val")):
        kept = files if split == "train" else files[:2]
        for number, data in enumerate(kept):
            path = root / "folder" / folder / str(number % 2) / f"{number:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        for first in range(0, len(kept), PER_SHARD):
            part = range(first, min(first + PER_SHARD, len(kept)))
            with tarfile.open(shards / f"{split}-{first:06}.tar", "w") as tar:
                for number in part:
                    for ending, data in (("jpg", kept[number]), ("cls", str(number % 2).encode())):
                        member = tarfile.TarInfo(f"{number:06}.{ending}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
            rows = {"image": [{"bytes": kept[i], "path": None} for i in part], "label": [i % 2 for i in part]}
            datasets.Dataset.from_dict(rows, features=features).to_parquet(tables / f"{split}-{first:06}.parquet")
    return {"folder": f"folder:{root}/folder", "wds": f"wds:{shards}", "hfids": f"timm:hfids/{tables}"}


def main() -> None:
    """Measure and print."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--images", type=int, default=1000)
    flags.add_argument("--rounds", type=int, default=5)
    values = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = make_images(values.images)
        size = sum(map(len, files)) / len(files) / 1e3
        print(f"{values.images} images of {size:.0f} kB, {values.rounds} rounds; {describe(environment())}")
        modules = {}
        for kind, name in write(Path(folder), files).items():
            classes = 2 if kind == "wds" else None
            modules[kind] = ImageDataModule(name, LoaderConfig(workers=0, num_classes=classes, batch_size=50))
            modules[kind].setup()
        rates: dict[str, list[float]] = {kind: [] for kind in modules}
        for _ in range(values.rounds):
            for kind, module in modules.items():
                start = time.process_time()
                count = sum(len(labels) for _, labels in module.train_dataloader())
                rates[kind].append(count / (time.process_time() - start))
        for kind, found in rates.items():
            ratios = [rate / base for rate, base in zip(found, rates["folder"], strict=True)]
            print(
                f"{kind:<8}{median(found):7.1f} images/s ({min(found):.1f} to {max(found):.1f}), "
                f"{median(ratios):.3f} times the folder ({min(ratios):.3f} to {max(ratios):.3f})"
            )


if __name__ == "__main__":
    main()
