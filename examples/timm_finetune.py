"""timm: a trained classifier converted, the same function, then fine-tuned; a converted backbone for dense tasks.

A ResNet18 of timm learns to name digits on photographs; it stands for pretrained weights, which need a download. It is
converted with what it has learned, goes on training, is saved and loaded. Then a backbone with ``features_only=True``
is converted, and a preset is made by timm's own ``create_model``.
"""

import tempfile
from pathlib import Path

import timm
import torch
from common import check, convert, make_scenes, outputs, parse, same, tell, train
from torch.nn import functional as F

import dynaconv
import dynaconv.integrations.timm

SIZE = 48

# %% A classifier of timm learns digits on photographs; it stands for one with pretrained weights.
args = parse(__doc__, steps=20, backbone=("resnet18", "any model of timm"))
scenes = make_scenes(256, SIZE, seed=args.seed)
model = timm.create_model(args.backbone, num_classes=10)
batches = scenes.batches(32)


def loss() -> torch.Tensor:
    chosen = next(batches)
    return F.cross_entropy(model(scenes.images[chosen]), scenes.digits[chosen])


train(model, args.steps, loss)

# %% Convert it, with what it has learned: the same outputs. Then go on training.
facts = convert(model, args, scenes.images[:8])
first, last = train(model, args.steps, loss)
facts |= {"loss of the first fine-tuning steps": f"{first:.4f}", "loss of the last": f"{last:.4f}"}

# %% Save it and load it: the weights go into a network that was built and converted alike.
config = next(dynaconv.dynamic_layers(model)).config
expected = outputs(model, scenes.images[:8])
with tempfile.TemporaryDirectory() as folder:
    torch.save(model.state_dict(), Path(folder) / "weights.pt")
    again = dynaconv.convert(timm.create_model(args.backbone, num_classes=10), config, init="scratch")
    again.load_state_dict(torch.load(Path(folder) / "weights.pt", weights_only=True))
facts["difference after saving and loading"] = same(outputs(again, scenes.images[:8]), expected, "loaded", 1e-6)

# %% Convert a backbone that returns feature maps, for dense tasks: same channels, same outputs.
backbone = timm.create_model("mobilenetv3_small_050", features_only=True)
with torch.no_grad():
    backbone.train()(scenes.images[:64])  # statistics of normalisation, as of a trained network
features = convert(backbone, args, scenes.images[:8])
maps = backbone(scenes.images[:2])
check([m.shape[1] for m in maps] == backbone.feature_info.channels(), "feature maps have other channels")
key = "largest difference after conversion (of the largest output)"
facts["features_only backbone: layers converted"] = features["layers converted"]
facts["features_only backbone: largest difference"] = features[key]

# %% Or take a network of the papers from timm's own create_model, which knows the presets.
preset = timm.create_model("kw1d2x_resnet18", num_classes=10)
check(preset(scenes.images[:2]).shape == (2, 10), "the preset's output has another shape")
facts["preset kw1d2x_resnet18: parameters"] = sum(p.numel() for p in preset.parameters())
tell(facts)
