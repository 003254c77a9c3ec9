"""Learn 8 x 8 handwritten digits, draw new ones, and fill in halves that were hidden.

    python examples/inpaint_digits.py                        # seconds; writes digits.png
    python examples/inpaint_digits.py --grow 2 --epochs 60   # the picture in the documentation

Needs scikit-learn for the images: pip install 'pcflow[sklearn]'.
"""

import argparse
import math

import torch
from matplotlib import pyplot

import pcflow as pf

parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
parser.add_argument("--trees", type=int, default=10, help="one for each cluster of images")
parser.add_argument("--units", type=int, default=4, help="states per pixel to begin with")
parser.add_argument("--grow", type=int, default=1, help="how often to double them")
parser.add_argument("--epochs", type=int, default=15, help="each time")
parser.add_argument("--out", default="digits.png")
given = parser.parse_args()
torch.manual_seed(0)

# 1,797 images, 64 grey levels from 0 to 16 each. A hidden tree learns which pixels go together.
data = pf.datasets.read_digits()
circuit = pf.hclt(data.train, given.units, inputs=pf.Binomial(16))
for round_ in range(given.grow + 1):
    if round_:
        circuit = pf.grow(circuit)
    model = pf.compile(circuit)
    pf.fit(
        model,
        data.train,
        pf.EM(pseudocount=0.1),
        epochs=given.epochs,
        validation=data.validation,
        patience=5,
    )
    circuit = model.circuit

# Hide one half of eight test images: the left half of four, the lower half of the others.
seen = data.test[:8].float()
images = seen.clone().view(8, 8, 8)
images[:4, :, :4] = torch.nan
images[4:, 4:] = torch.nan
hidden = images.view(8, 64)
rows = {
    "drawn": model.sample(8),
    "drawn ": model.sample(8),
    "test image": seen,
    "half hidden": hidden,
    "one draw": model.sample(1, evidence=hidden)[0],  # what is seen is kept
    "mean": model.mean(hidden),
}

figure, axes = pyplot.subplots(len(rows), 8, figsize=(6.4, 5.2))
for line, (name, digits) in zip(axes, rows.items(), strict=True):
    for place, digit in zip(line, digits, strict=True):
        shown = pyplot.get_cmap("gray_r").with_extremes(bad="#f4a261")
        place.imshow(digit.view(8, 8), cmap=shown, vmin=0, vmax=16)
        place.set_xticks([])
        place.set_yticks([])
    line[0].set_ylabel(name, rotation=0, ha="right", va="center")
figure.tight_layout(pad=0.4)
figure.savefig(given.out, dpi=120)
with torch.no_grad():
    nats = -model.log_prob(data.test).mean()  # per image of 64 pixels
print(f"test: {nats / 64 / math.log(2):.3f} bits per dimension; wrote {given.out}")
