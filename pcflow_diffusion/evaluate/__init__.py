"""How good is it? Gap closed on text, and an exact world; `python -m pcflow_diffusion.evaluate`.

`gap` compares couplings on held-out text with what the backbone does alone; `exact_world` compares
joints with a known truth by enumeration; `cost` times the circuit against the backbone. `setting`
is what evaluations on text run on. `bound` says how probable an answer is, and `harness`, which is
imported by its own name, has lm-eval ask for it (extra: `pcflow[lm-eval]`).
"""

from pcflow_diffusion.evaluate.bound import likelihood_bound
from pcflow_diffusion.evaluate.cost import measure_any_order, measure_head
from pcflow_diffusion.evaluate.exact_world import ExactWorld, exact_backbone
from pcflow_diffusion.evaluate.few_step import Decoder, ladder
from pcflow_diffusion.evaluate.gap import (
    Examples,
    gap_closed,
    gap_table,
    make_examples,
    markdown,
    mean_and_spread,
    sequential_nats,
)

__all__ = [
    "Decoder",
    "ExactWorld",
    "Examples",
    "exact_backbone",
    "gap_closed",
    "gap_table",
    "ladder",
    "likelihood_bound",
    "make_examples",
    "markdown",
    "mean_and_spread",
    "measure_any_order",
    "measure_head",
    "sequential_nats",
]
