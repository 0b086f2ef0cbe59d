"""A network of one's own from start to file: convert it, train it, look inside, take its attention away, export it.

Cells begin with `# %%`: editors (VS Code, PyCharm, Spyder, Jupyter with jupytext) run them one by one, as a notebook.
"""

# %% A network that knows nothing of dynaconv, and scikit-learn's digits.
import tempfile
from pathlib import Path

import torch
from common import outputs, parse, same, tell
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import dynaconv
from dynaconv.analysis.attention import collect_attention, perturbations_for, perturbed
from dynaconv.export import open_session


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class OwnNetwork(nn.Module):
    def __init__(self, channels: int = 32, blocks: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU())
        self.blocks = nn.Sequential(*(Block(channels) for _ in range(blocks)))
        self.head = nn.Linear(channels, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


args = parse(__doc__, steps=150)
source = load_digits()
images = torch.from_numpy(source.images).float().unsqueeze(1) / 8 - 1  # 8 x 8 pixels, -1 to 1
labels = torch.from_numpy(source.target)
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
learn, judge = order[:1400], order[1400:]

# %% Convert it: print what would happen, then let it.
model = OwnNetwork()
before = sum(p.numel() for p in model.parameters())
options = {"budget": args.budget} if args.method == "kernel_warehouse" else {}
config = dynaconv.config_from_dict({"method": args.method, **options})
print(dynaconv.plan(model, config))
dynaconv.convert(model, config)
facts = {
    "parameters before and after": f"{before:,} and {sum(p.numel() for p in model.parameters()):,}",
    f"layers converted to {args.method}": len(list(dynaconv.dynamic_layers(model))),
}

# %% Train it as ever; the only new line is the temperature's, which releases attention over the first third.
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
for step in range(args.steps):
    dynaconv.schedule_temperature(model, min(1.0, 3 * step / args.steps))
    chosen = learn[torch.randint(len(learn), (64,))]
    loss = F.cross_entropy(model.train()(images[chosen]), labels[chosen])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
dynaconv.schedule_temperature(model, 1.0)


@torch.no_grad()
def accuracy() -> str:
    right = (model.eval()(images[judge]).argmax(1) == labels[judge]).float().mean()
    return f"{float(right):.1%}"


facts["loss at the end"] = f"{loss.item():.3f}"
facts["top-1"] = accuracy()

# %% Look inside: what do layers attend to, and do they need it?
maps = collect_attention(model, zip(images[judge].split(100), labels[judge].split(100), strict=True))
print(maps)
for way in perturbations_for(maps):
    with perturbed(model, maps, way):
        facts[f"top-1, attention {way}"] = accuracy()

# %% Export it: the file is run in onnxruntime and OpenVINO, and compared, before it is there.
with tempfile.TemporaryDirectory() as folder:
    report = dynaconv.export(model, Path(folder) / "own.onnx", input_size=(1, 8, 8), dynamic_batch=True)
    print(report)
    expected = outputs(model, images[judge])
    found = open_session("onnxruntime", report.path).run(images[judge])
facts["largest difference in onnxruntime"] = f"{same(found, expected, 'exported', 1e-4):.1e}"
tell(facts)
