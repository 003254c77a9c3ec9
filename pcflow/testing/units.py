"""Other units for the same columns, and the law that learning does not depend on them.

Legend: N rows, D columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from hypothesis import strategies as st
from torch import Tensor

from pcflow.testing.breach import Breach, demand

Density = Callable[[Tensor], Tensor]
"""Takes rows [N, D], gives their log-densities [N]."""


@st.composite
def units(draw: st.DrawFn, columns: int, farthest: float = 1e9) -> tuple[Tensor, Tensor]:
    """Units for standardised columns, in double: what they are times [D], once something is added.

    Scales are from 1e-6 to 1e6. What is added [D] counts standard deviations, and is often zero.

    Args:
        draw: given by Hypothesis.
        columns: how many, D.
        farthest: at most so many standard deviations are added; 0 for families of values whose
            zero means something.

    Examples:
        >>> from hypothesis import find
        >>> find(units(2), lambda found: found[0].min() > 1)
        (tensor([10., 10.], dtype=torch.float64), tensor([0., 0.], dtype=torch.float64))
    """
    exponents = st.sampled_from([0, 1, -1, 3, -3, 6, -6])
    sizes = [size for size in (0.0, 1.0, 1e3, 1e5, 1e7, 1e9) if size <= farthest]
    shifts = st.sampled_from([sign * size for size in sizes for sign in (1, -1)])
    scale = [10.0 ** draw(exponents) for _ in range(columns)]
    shift = [draw(shifts) for _ in range(columns)]
    return torch.tensor(scale, dtype=torch.float64), torch.tensor(shift, dtype=torch.float64)


def check_units(
    learn: Callable[[Tensor], Density],
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    slack: float = 1e-4,
) -> None:
    """Check that what is learned from a table does not depend on the units of its columns.

    Learned from scale (x + shift), the density is that learned from x, less the logarithms of the
    scales, where a value is known.

    Args:
        learn: makes a density of rows, the same of the same rows.
        x: rows [N, D] in double, columns with a standard deviation of about one; NaN is missing.
        scale: positive, [D].
        shift: [D].
        slack: by how many nats per column the mean log-density may differ.

    Raises:
        LawBroken: if it does.

    Examples:
        >>> import pcflow as pf
        >>> def learn(x):
        ...     return pf.compile(pf.learn_spn(x, pf.Gaussian()), dtype=torch.float64).log_prob
        >>> x = torch.tensor([[-1.0], [0.5], [0.5]], dtype=torch.float64)
        >>> check_units(learn, x, scale=torch.tensor([1e-6]).double(), shift=torch.zeros(1))
    """
    demand([lambda: _same_density(learn, x, scale, shift, slack)])


def _same_density(
    learn: Callable[[Tensor], Density], x: Tensor, scale: Tensor, shift: Tensor, slack: float
) -> Iterator[Breach]:
    other = scale * (x + shift)
    lost = (~x.isnan()).double() @ scale.log()  # [N]
    wanted = float((_scores(learn, x) - lost).mean())
    found = float(_scores(learn, other).mean())
    if not math.isclose(found, wanted, rel_tol=0.0, abs_tol=slack * x.shape[1]):
        law = "in other units the same density is learned, per unit"
        told = f"{scale.tolist()} times (x + {shift.tolist()})"
        yield Breach(law, told, f"{wanted:.8g} on average", f"{found:.8g}")


def _scores(learn: Callable[[Tensor], Density], x: Tensor) -> Tensor:
    return learn(x)(x).detach().double().cpu()
