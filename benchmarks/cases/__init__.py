"""The cases of same_numbers.py: the whole public face, each part asked a little.

A group is a function that yields names and answers; what an answer holds is compared number by
number. Everything random has a seed. Cases use public names only; those that have changed since are
in `given`.
"""

from __future__ import annotations

from collections.abc import Callable

from cases import algebra, diffusion, inputs, learning, queries
from cases.given import Cases

GROUPS: list[Callable[[], Cases]] = [
    queries.structures,
    queries.proofs,
    queries.answers,
    queries.derivatives,
    queries.ways_to_compile,
    queries.many_categories,
    queries.log_space,
    inputs.inputs,
    inputs.mixed_inputs,
    learning.learning,
    learning.growing_and_pruning,
    learning.files,
    learning.estimator,
    algebra.algebra,
    algebra.information,
    algebra.bounds_and_estimates,
    algebra.logic,
    diffusion.heads,
    diffusion.other_lengths,
    diffusion.choosing_a_coupling,
    diffusion.generation,
    diffusion.infilling,
    diffusion.training,
    diffusion.denoisers,
    diffusion.masks_and_conventions,
]
