"""Compress handwritten digits without loss: arithmetic coding with the conditionals of a circuit.

    python examples/compress_digits.py

A filter says how probable every grey level of the next pixel is, given those before it; a range
coder spends as many bits as that is worth. Whoever decodes asks the same filter, which is told
what has been decoded so far. Both must see the same numbers to the last bit: the same model, on
the same machine, with as many rows side by side. The model itself is not counted: it is for many
images.

Needs scikit-learn for the images: pip install 'pcflow[sklearn]'.
"""

import argparse
import lzma
import math
import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import pcflow as pf

BITS = 16  # shares of a coder's range are whole numbers of 2^-BITS
TOP = 1 << 48  # the range is below this, and above a 256th of it
LEVELS = 17

Coder = Callable[[list[int], int], int]
"""Takes where symbols begin in 0, ..., 2^BITS, and a symbol; gives the symbol that is coded."""


class Encoder:
    """Narrows a range to the share of every symbol, and writes its digits once they are certain."""

    def __init__(self) -> None:
        """Everything is possible."""
        self.low, self.width, self.code = 0, TOP, bytearray()

    def __call__(self, starts: list[int], symbol: int) -> int:
        """Spend as much of the range as the symbol has of the shares."""
        step = self.width >> BITS
        self.raise_low(starts[symbol] * step)
        self.width = (starts[symbol + 1] - starts[symbol]) * step
        while self.width < TOP >> 8:
            self.write()
            self.width <<= 8
        return symbol

    def raise_low(self, by: int) -> None:
        """A carry goes as far back as there are digits of 255."""
        self.low += by
        if self.low >= TOP:
            self.low -= TOP
            place = len(self.code) - 1
            while self.code[place] == 255:
                self.code[place] = 0
                place -= 1
            self.code[place] += 1

    def write(self) -> None:
        """The first digit of the lower end."""
        self.code.append(self.low // (TOP >> 8))
        self.low = self.low % (TOP >> 8) << 8

    def finish(self) -> bytes:
        """As many digits as any number in the range needs; zeros follow."""
        self.raise_low(self.width - 1)
        self.write()
        self.write()
        return bytes(self.code)


class Decoder:
    """Follows the encoder: a symbol is that in whose share the number lies."""

    def __init__(self, code: bytes) -> None:
        """Read the first digits."""
        self.rest, self.number, self.width = iter(code), 0, TOP
        for _ in range(6):
            self.read()

    def __call__(self, starts: list[int], symbol: int) -> int:
        """Find the symbol, whatever was given for it."""
        step = self.width >> BITS
        share = min(self.number // step, (1 << BITS) - 1)
        symbol = next(s for s in range(LEVELS) if share < starts[s + 1])
        self.number -= starts[symbol] * step
        self.width = (starts[symbol + 1] - starts[symbol]) * step
        while self.width < TOP >> 8:
            self.read()
            self.width <<= 8
        return symbol

    def read(self) -> None:
        """One more digit."""
        self.number = self.number << 8 | next(self.rest, 0)


def shares(log_p: Tensor) -> Iterator[list[int]]:
    """For every row of log-probabilities [B, V] where symbols begin; each has a share."""
    counts = 1 + (log_p.exp() * ((1 << BITS) - LEVELS)).long()
    left = (1 << BITS) - counts.sum(dim=1, keepdim=True)
    counts.scatter_add_(1, counts.argmax(dim=1, keepdim=True), left)
    for row in counts.cumsum(dim=1).tolist():
        yield [0, *row]


def code(
    model: pf.CompiledCircuit, rows: int, coder: Coder, images: Tensor | None = None
) -> Tensor:
    """Pixel after pixel through a coder, all images [B, D] side by side; what was coded."""
    seen, pixels = model.filter(rows), []
    for pixel in range(model.num_variables):
        told = [0] * rows if images is None else images[:, pixel].tolist()
        each = zip(shares(seen.next_log_probs()), told, strict=True)
        pixels.append(torch.tensor([coder(starts, symbol) for starts, symbol in each]))
        seen.observe(pixels[-1])
    return torch.stack(pixels, dim=1)


parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
parser.add_argument("--units", type=int, default=12, help="states per pixel")
parser.add_argument("--trees", type=int, default=4, help="one for each cluster of images")
parser.add_argument("--epochs", type=int, default=40)
given = parser.parse_args()
torch.manual_seed(0)

# 1,797 images of 8 x 8 pixels: some to learn from, some to choose by, and 300 to compress.
data = pf.datasets.read_digits()
circuit = pf.hclt(data.train, given.units, inputs=pf.Categorical(LEVELS), trees=given.trees)
model = pf.compile(circuit)
learner = pf.EM(pseudocount=0.1)
pf.fit(model, data.train, learner, epochs=given.epochs, validation=data.validation, patience=5)

encoder = Encoder()
code(model, len(data.test), encoder, data.test)
written = encoder.finish()
assert torch.equal(code(model, len(data.test), Decoder(written)), data.test)

with torch.no_grad():
    ideal = -model.log_prob(data.test).double().sum().item() / math.log(2)
assert 8 * len(written) < 1.01 * ideal
plain = bytes(data.test.flatten().tolist())
packets = {"zlib": zlib.compress(plain, 9), "lzma": lzma.compress(plain), "circuit": written}
for name, packet in packets.items():
    size = len(packet)
    print(f"{name:<8}{size:>6,} bytes, {8 * size / len(plain):.3f} bits per pixel")
print(f"{8 * len(written) / ideal - 1:.2%} above the log-likelihood of the model, decoded exactly")
