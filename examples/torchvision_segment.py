"""torchvision: segmentation networks and classifiers converted with what they have learned, then trained on.

LR-ASPP on MobileNetV3 learns where the ink of digits on photographs is; that stands for pretrained weights, which need
a download. It is converted, computes the same, and goes on training. FCN and DeepLabV3 on ResNet50 and two classifiers
are converted and compared on random weights.
"""

import torch
import torchvision
from common import convert, make_scenes, parse, tell, train
from torch.nn import functional as F

SIZE = 64
OTHERS = ("resnet18", "mobilenet_v3_small", "fcn_resnet50", "deeplabv3_resnet50")


def other(name: str) -> torch.nn.Module:
    """A network without weights, for two classes."""
    options = {"weights_backbone": None} if "_resnet50" in name else {}
    return torchvision.models.get_model(name, weights=None, num_classes=2, **options)


def main() -> None:
    args = parse(__doc__, steps=30, others=(len(OTHERS), f"how many of {', '.join(OTHERS)} are converted, too"))
    scenes = make_scenes(128, SIZE, seed=args.seed)
    batches = scenes.batches(16)
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2
    )

    def loss():
        chosen = next(batches)
        return F.cross_entropy(model(scenes.images[chosen])["out"], scenes.masks[chosen])

    train(model, args.steps, loss)
    facts = convert(model, args, scenes.images[:8])
    first, last = train(model, args.steps, loss)
    facts |= {"loss of the first fine-tuning steps": f"{first:.4f}", "loss of the last": f"{last:.4f}"}

    for name in OTHERS[: args.others]:
        network = other(name)
        with torch.no_grad():
            network.train()(scenes.images[:16])  # statistics of normalisation, as of a trained network
        found = convert(network, args, scenes.images[:4])
        facts[f"{name}: parameters before"] = found["parameters before"]
        facts[f"{name}: parameters after"] = found["parameters after"]
        facts[f"{name}: largest difference"] = found["largest difference after conversion (of the largest output)"]
    tell(facts)


if __name__ == "__main__":
    main()
