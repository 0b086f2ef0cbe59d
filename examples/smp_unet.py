"""segmentation_models_pytorch: a U-Net whose encoder becomes dynamic, trained to find the ink of digits.

A U-Net on ResNet18 learns; that stands for pretrained weights, which need a download. Its encoder is converted with
what it has learned (``where="encoder"``; the decoder too with ``--where "*"``), computes the same, and goes on training
with smp's own Dice loss.
"""

import segmentation_models_pytorch as smp
import torch
from common import convert, make_scenes, parse, tell, train

SIZE = 64


def main() -> None:
    args = parse(__doc__, steps=20, where=("encoder", "which layers are converted"), encoder=("resnet18", "smp's name"))
    scenes = make_scenes(128, SIZE, seed=args.seed)
    batches = scenes.batches(16)
    model = smp.Unet(args.encoder, encoder_weights=None, classes=1)
    dice = smp.losses.DiceLoss("binary")

    def loss():
        chosen = next(batches)
        return dice(model(scenes.images[chosen]), scenes.masks[chosen].unsqueeze(1).float())

    train(model, args.steps, loss)
    facts = convert(model, args, scenes.images[:8], where=args.where)
    first, last = train(model, args.steps, loss)
    with torch.no_grad():
        ink = model.eval()(scenes.images[:32]).squeeze(1) > 0
    scores = smp.metrics.get_stats(ink.long(), scenes.masks[:32], mode="binary")
    facts |= {
        "loss of the first fine-tuning steps": f"{first:.4f}",
        "loss of the last": f"{last:.4f}",
        "intersection over union on training scenes": f"{smp.metrics.iou_score(*scores, reduction='micro'):.3f}",
    }
    tell(facts)


if __name__ == "__main__":
    main()
