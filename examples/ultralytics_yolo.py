"""ultralytics YOLO: a detection network converted, trained by ultralytics' own trainer, validated and exported.

ultralytics is licensed under AGPL-3.0. It is no dependency of dynaconv, and in none of its extras; you install it for
this example alone, and its licence then applies to what you make of the two. dynaconv contains nothing of it.

The network comes from its YAML, with random weights (pretrained ones need a download); a short static training stands
for them. A data set of digits on photographs is written in YOLO's format. The network is converted, computes the same,
takes one image in training mode, is copied, fused and halved as ultralytics does it, trained, validated, loaded from
its checkpoint, exported to TorchScript by ultralytics for one image at a time, and to ONNX by dynaconv for any number.
"""

import copy
import os
import sys
import tempfile
import time
from pathlib import Path

from common import check, convert, make_scenes, method_config, outputs, parse, same, tell
from PIL import Image

SIZE = 128


def write_data(folder: Path, split: str, number: int, seed: int) -> None:
    """Images and their labels: class, centre and size in shares of the image."""
    scenes = make_scenes(number, SIZE, digits=2, seed=seed)
    for kind in ("images", "labels"):
        (folder / kind / split).mkdir(parents=True)
    for i, (image, boxes) in enumerate(zip(scenes.images, scenes.boxes, strict=True)):
        pixels = (image.permute(1, 2, 0) * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / "images" / split / f"{i}.png")
        rows = [
            f"{digit} {(x + s / 2) / SIZE:.6f} {(y + s / 2) / SIZE:.6f} {s / SIZE:.6f} {s / SIZE:.6f}\n"
            for digit, x, y, s in boxes
        ]
        (folder / "labels" / split / f"{i}.txt").write_text("".join(rows))


def main() -> None:
    args = parse(
        __doc__,
        steps=16,
        network=("yolo11n.yaml", "ultralytics' name of a network"),
        export=("torchscript", "format to export to, or none"),
    )
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("YOLO_CONFIG_DIR", folder)
        os.environ.setdefault("YOLO_OFFLINE", "true")
        run(args, Path(folder))


def run(args, folder: Path) -> None:
    try:
        import torch
        from ultralytics import YOLO
        from ultralytics.models.yolo.detect import DetectionTrainer
    except ModuleNotFoundError as error:
        sys.exit(f"FAILED: {error}; pip install -r examples/requirements.txt")

    import dynaconv
    from dynaconv.integrations.ultralytics import ConvertingTrainer

    class Trainer(ConvertingTrainer, DetectionTrainer):
        dynamic = method_config(args)

    batch = 8
    images, val = max(min(args.steps, 8), 1) * batch, 16
    epochs = max(args.steps * batch // images, 1)
    for split, number, seed in (("train", images, 1), ("val", val, 2)):
        write_data(folder / "data", split, number, seed)
    names = {digit: str(digit) for digit in range(10)}
    data = folder / "data.yaml"
    data.write_text(f"path: {folder / 'data'}\ntrain: images/train\nval: images/val\nnames: {names}\n")
    common = {"data": str(data), "imgsz": SIZE, "device": "cpu", "workers": 0, "plots": False, "verbose": False}
    training = {**common, "epochs": epochs, "batch": batch, "project": str(folder / "runs"), "amp": False}
    training |= {"mosaic": 0.0, "seed": args.seed, "optimizer": "AdamW", "lr0": 2e-3, "warmup_epochs": 0}

    YOLO(args.network, verbose=False).train(**training, name="static")
    static = folder / "runs" / "static" / "weights" / "last.pt"

    # What the trainer will do, by hand: convert, and what YOLO's tools do with a network.
    x = torch.rand(2, 3, SIZE, SIZE)
    model = YOLO(static).model.float()
    facts = convert(model, args, x)
    with torch.no_grad():
        model.train()(x[:1])
    expected = outputs(model, x)
    same(outputs(copy.deepcopy(model), x), expected, "copied", 1e-6)
    fused = copy.deepcopy(model).fuse(verbose=False)
    check(fused.is_fused(), "ultralytics says that the network is not fused")
    facts["largest difference after fuse()"] = f"{same(outputs(fused, x)[:1], expected[:1], 'fused'):.1e}"
    check(all(t.isfinite().all() for t in outputs(copy.deepcopy(model).half(), x.half())), "half precision overflows")

    start = time.perf_counter()
    yolo = YOLO(static)
    yolo.train(**training, name="dynamic", trainer=Trainer)
    facts["seconds of training and validation"] = f"{time.perf_counter() - start:.1f}"
    layers = list(dynaconv.dynamic_layers(yolo.model))
    check(len(layers) == facts["layers converted"], f"{len(layers)} dynamic layers were trained")
    if args.method != "kernel_warehouse" or args.budget >= 1:
        start_report = dynaconv.warm_start_report(yolo.trainer.model)
        check(start_report.exact, f"the trainer did not start from the trained kernels: {start_report}")
    rows = (folder / "runs" / "dynamic" / "results.csv").read_text().splitlines()
    columns = [name.strip() for name in rows[0].split(",")]
    losses = [float(row.split(",")[columns.index("train/box_loss")]) for row in rows[1:]]
    check(all(loss == loss for loss in losses), f"the loss is not finite: {losses}")
    facts["box loss of every epoch"] = ", ".join(f"{loss:.3f}" for loss in losses)
    average = yolo.trainer.ema.ema
    check(dynaconv.get_temperature(average) == dynaconv.get_temperature(yolo.trainer.model), "the average lags behind")

    best = YOLO(yolo.trainer.best)
    scores = best.val(**common)
    facts["mAP50 after so few steps"] = f"{scores.box.map50:.4f}"
    image = str(folder / "data" / "images" / "val" / "0.png")
    quiet = {"imgsz": SIZE, "device": "cpu", "verbose": False, "conf": 1e-4}
    boxes = best.predict(image, **quiet)[0].boxes
    if args.export != "none":
        exported = YOLO(best.export(format=args.export, imgsz=SIZE, device="cpu"), task="detect")
        found = exported.predict(image, **quiet)[0].boxes
        check(len(found) == len(boxes), f"{len(found)} boxes from {args.export}, {len(boxes)} before")
        far = float((found.xyxy - boxes.xyxy).abs().max()) if len(boxes) else 0.0
        check(far < 0.1, f"boxes from {args.export} are off by {far} pixels")
        facts[f"boxes from {args.export}"] = f"{len(found)}, the same to {far:.1e} pixels"
    deployed = copy.deepcopy(best.model).float().fuse(verbose=False)
    for module in deployed.modules():
        if hasattr(module, "export"):  # ultralytics' own switches: one tensor comes out, anchors are made anew
            module.export, module.dynamic, module.format = True, True, "onnx"
    report = dynaconv.export(deployed, folder / "yolo.onnx", input_size=(3, SIZE, SIZE), dynamic_batch=True)
    errors = (f"{error:.1e} in {runtime}" for runtime, error in report.worst_errors().items())
    facts["ONNX for any number of images"] = f"off by {', '.join(errors)} (PyTorch itself: {report.own_error:.1e})"
    facts["licence of ultralytics"] = "AGPL-3.0"
    tell(facts)


if __name__ == "__main__":
    main()
