"""Hugging Face transformers: ConvNeXt and ResNet classifiers converted, trained by its Trainer, saved and reloaded.

Networks are made from a config, with random weights that a few steps train; that stands for ``from_pretrained``, which
needs a download. ``save_pretrained`` of a converted network works as it is. For ``from_pretrained`` to make one again,
its class converts itself by what its config says: two classes of four lines each below.
"""

import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from common import check, convert, make_scenes, outputs, parse, same, tell
from torch.utils.data import Dataset
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import dynaconv

SIZE = 32


# transformers reads the task, and with it the loss, off the end of a class's name.
class DynamicConvNextForImageClassification(ConvNextForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        dynaconv.convert(self, dynaconv.config_from_dict(config.dynaconv), init="scratch")


class DynamicResNetForImageClassification(ResNetForImageClassification):
    def __init__(self, config):
        super().__init__(config)
        dynaconv.convert(self, dynaconv.config_from_dict(config.dynaconv), init="scratch")


def networks() -> dict[str, tuple]:
    """Small networks of both architectures, and the classes that load them again."""
    convnext = ConvNextConfig(num_stages=3, depths=[1, 1, 2], hidden_sizes=[32, 64, 128], num_labels=10)
    resnet = ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, 128], depths=[1, 1, 2], layer_type="basic", num_labels=10
    )
    return {
        "ConvNeXt": (ConvNextForImageClassification(convnext), DynamicConvNextForImageClassification),
        "ResNet": (ResNetForImageClassification(resnet), DynamicResNetForImageClassification),
    }


class Digits(Dataset):
    """Scenes as transformers' Trainer takes them."""

    def __init__(self, scenes):
        self.scenes, self.labels = scenes, scenes.digits

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return {"pixel_values": self.scenes.images[index], "labels": self.labels[index]}


class Temperature(TrainerCallback):
    """Lets the temperature fall over the first tenth of the steps."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):
        dynaconv.schedule_temperature(model, min(10 * (state.global_step + 1) / state.max_steps, 1.0))


def fit(model, data, steps: int, folder: str, resume: bool = False) -> list[float]:
    """Train by the Trainer; the losses that it logs."""
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=32,
        learning_rate=2e-3,
        logging_steps=1,
        save_steps=max(steps // 2, 1),
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[Temperature()])
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    args = parse(__doc__, steps=30)
    scenes = make_scenes(256, SIZE, seed=args.seed)
    data, x, facts = Digits(scenes), scenes.images[:8], {}
    for name, (model, dynamic) in networks().items():
        with tempfile.TemporaryDirectory() as folder:
            fit(model, data, args.steps, f"{folder}/static")
            facts |= {f"{name}: {key}": value for key, value in convert(model, args, x).items()}
            losses = fit(model, data, args.steps, f"{folder}/runs")
            few = max(args.steps // 5, 1)
            first, last = sum(losses[:few]) / few, sum(losses[-few:]) / few
            check(args.steps < 20 or last < first, f"the loss of {name} did not fall: {first:.4f} to {last:.4f}")
            facts[f"{name}: loss of the first steps after conversion, of the last"] = f"{first:.4f}, {last:.4f}"

            model.config.dynaconv = next(dynaconv.dynamic_layers(model)).config.to_dict()
            model.save_pretrained(f"{folder}/saved")
            check((Path(folder) / "saved/model.safetensors").is_file(), "nothing was saved as safetensors")
            loaded = dynamic.from_pretrained(f"{folder}/saved")
            differs = same(outputs(loaded, x), outputs(model, x), f"{name}, reloaded", 1e-6)
            facts[f"{name}: largest difference after save_pretrained and from_pretrained"] = f"{differs:.1e}"
            more = fit(loaded, data, args.steps + 2, f"{folder}/runs", resume=True)
            check(len(more) == args.steps + 2, f"the resumed run has {len(more)} losses, expected {args.steps + 2}")
            facts[f"{name}: steps after resuming"] = args.steps + 2
            check(all(torch.isfinite(p).all() for p in loaded.parameters()), "weights are not finite")
    tell(facts)


if __name__ == "__main__":
    main()
