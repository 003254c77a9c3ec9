"""Where the largest numbers are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def largest(x: Tensor, k: int) -> Tensor:
    """Where the k largest of x [..., V] are, in any order.

    They all lie in the k groups with the largest maxima, and so on: on a CPU these are found
    quickly, and numpy chooses among them with vector instructions, which torch does not.
    """
    count = x.shape[-1]
    if x.device.type != "cpu":
        return x.topk(k, dim=-1, sorted=False).indices
    size = min(8, int((count / k) ** 0.5))
    if size < 4:
        numbers = (x if x.dtype == torch.float64 else x.float()).numpy()
        return torch.from_numpy(np.argpartition(numbers, count - k, axis=-1)[..., count - k :])
    groups = count // size  # group g holds the places g, g + groups, g + 2 groups, ...
    peaks = x[..., : size * groups].unflatten(-1, (size, groups)).amax(dim=-2)
    offset = torch.arange(0, size * groups, groups).unsqueeze(-1)
    rest = torch.arange(size * groups, count).expand(*x.shape[:-1], -1)
    inside = (largest(peaks, k).unsqueeze(-2) + offset).flatten(-2)
    among = torch.cat([inside, rest], dim=-1)
    return among.gather(-1, largest(x.gather(-1, among), k))
