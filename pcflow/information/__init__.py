"""Entropies, divergences, moments and most probable states: exact, bounded or estimated."""

from pcflow.information.bounds import (
    entropy_lower_bound,
    entropy_upper_bound,
    map_lower_bound,
    map_upper_bound,
    mpe_lower_bound,
    mpe_upper_bound,
)
from pcflow.information.estimates import (
    Estimate,
    cross_entropy_estimate,
    entropy_estimate,
    expectation_estimate,
    kl_estimate,
    mutual_information_estimate,
)
from pcflow.information.exact import (
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
from pcflow.information.moments import (
    covariance,
    moment,
    mutual_information,
    pairwise_mutual_information,
)

__all__ = [
    "MAP",
    "Estimate",
    "cauchy_schwarz_divergence",
    "covariance",
    "cross_entropy",
    "cross_entropy_estimate",
    "entropy",
    "entropy_estimate",
    "entropy_lower_bound",
    "entropy_upper_bound",
    "expectation_estimate",
    "inner_product",
    "kl_divergence",
    "kl_estimate",
    "log_inner_product",
    "map_lower_bound",
    "map_upper_bound",
    "marginal_map",
    "moment",
    "mpe_lower_bound",
    "mpe_upper_bound",
    "mutual_information",
    "mutual_information_estimate",
    "pairwise_mutual_information",
    "renyi_divergence",
    "renyi_entropy",
]
