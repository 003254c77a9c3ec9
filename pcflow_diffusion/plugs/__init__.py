"""Other people's samplers: logits of which they commit draws from the joint, or its marginals."""

from pcflow_diffusion.plugs.language_model import CircuitLM
from pcflow_diffusion.plugs.logits import CircuitLogits
from pcflow_diffusion.plugs.samplers import (
    circuit_algorithm,
    circuit_decoder,
    circuit_policy,
    circuit_processor,
    circuit_remask,
    circuit_scheduler,
    circuit_transfer_index,
    dream_hook,
)

__all__ = [
    "CircuitLM",
    "CircuitLogits",
    "circuit_algorithm",
    "circuit_decoder",
    "circuit_policy",
    "circuit_processor",
    "circuit_remask",
    "circuit_scheduler",
    "circuit_transfer_index",
    "dream_hook",
]
