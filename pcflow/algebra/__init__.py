"""Circuits in, circuits or numbers out: products, powers, entropies, divergences, moments."""

from pcflow.algebra.bounds import (
    entropy_lower_bound,
    entropy_upper_bound,
    map_lower_bound,
    map_upper_bound,
    mpe_lower_bound,
    mpe_upper_bound,
)
from pcflow.algebra.elimination import eliminate
from pcflow.algebra.estimates import (
    Estimate,
    cross_entropy_estimate,
    entropy_estimate,
    expectation_estimate,
    kl_estimate,
    mutual_information_estimate,
)
from pcflow.algebra.exact import (
    MAP,
    cauchy_schwarz_divergence,
    cross_entropy,
    entropy,
    inner_product,
    kl_divergence,
    log_inner_product,
    marginal_map,
    renyi_divergence,
    renyi_entropy,
)
from pcflow.algebra.moments import (
    covariance,
    moment,
    mutual_information,
    pairwise_mutual_information,
)
from pcflow.algebra.overlap import covered, log_overlap
from pcflow.algebra.transform import (
    condition,
    from_one_hot,
    marginalize,
    mixture,
    multiply,
    power,
    powered_circuit,
    restrict,
)

__all__ = [
    "MAP",
    "Estimate",
    "cauchy_schwarz_divergence",
    "condition",
    "covariance",
    "covered",
    "cross_entropy",
    "cross_entropy_estimate",
    "eliminate",
    "entropy",
    "entropy_estimate",
    "entropy_lower_bound",
    "entropy_upper_bound",
    "expectation_estimate",
    "from_one_hot",
    "inner_product",
    "kl_divergence",
    "kl_estimate",
    "log_inner_product",
    "log_overlap",
    "map_lower_bound",
    "map_upper_bound",
    "marginal_map",
    "marginalize",
    "mixture",
    "moment",
    "mpe_lower_bound",
    "mpe_upper_bound",
    "multiply",
    "mutual_information",
    "mutual_information_estimate",
    "pairwise_mutual_information",
    "power",
    "powered_circuit",
    "renyi_divergence",
    "renyi_entropy",
    "restrict",
]
