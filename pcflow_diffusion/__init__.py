"""pcflow_diffusion: a probabilistic circuit as the output layer of a masked diffusion LM.

A masked diffusion language model gives one distribution per masked token; drawing several tokens
independently mixes up what belongs together. `CircuitHead` couples them through a circuit
(CoDD, arXiv 2603.00045): a joint distribution, exactly normalised and exactly sampled.
"""

from pcflow_diffusion.backbones import Backbone, dream, llada, mdlm, narrow
from pcflow_diffusion.decode import Decoding, Step, generate, infill, lengths_of, minimum_cover
from pcflow_diffusion.errors import DiffusionError
from pcflow_diffusion.head import (
    CircuitHead,
    Coupling,
    Draw,
    LogLinear,
    Marginals,
    Modulation,
    Projection,
    TransitionModulation,
    fingerprint,
)
from pcflow_diffusion.models import (
    CharacterTokenizer,
    Denoiser,
    DenoiserConfig,
    Schedule,
    elbo_weights,
    load_denoiser,
    mask_exactly,
    mask_tokens,
    masked_diffusion_loss,
    sample_times,
    save_denoiser,
    schedule_by_name,
)
from pcflow_diffusion.plugs import (
    CircuitLM,
    CircuitLogits,
    circuit_algorithm,
    circuit_decoder,
    circuit_policy,
    circuit_processor,
    circuit_remask,
    circuit_scheduler,
    circuit_transfer_index,
    dream_hook,
)
from pcflow_diffusion.train import (
    Blocks,
    StoredLogits,
    coupled_nats_over_time,
    fit_conditional,
    fit_jointly,
    fit_modulation,
    store_logits,
)

__all__ = [
    "Backbone",
    "Blocks",
    "CharacterTokenizer",
    "CircuitHead",
    "CircuitLM",
    "CircuitLogits",
    "Coupling",
    "Decoding",
    "Denoiser",
    "DenoiserConfig",
    "DiffusionError",
    "Draw",
    "LogLinear",
    "Marginals",
    "Modulation",
    "Projection",
    "Schedule",
    "Step",
    "StoredLogits",
    "TransitionModulation",
    "circuit_algorithm",
    "circuit_decoder",
    "circuit_policy",
    "circuit_processor",
    "circuit_remask",
    "circuit_scheduler",
    "circuit_transfer_index",
    "coupled_nats_over_time",
    "dream",
    "dream_hook",
    "elbo_weights",
    "fingerprint",
    "fit_conditional",
    "fit_jointly",
    "fit_modulation",
    "generate",
    "infill",
    "lengths_of",
    "llada",
    "load_denoiser",
    "mask_exactly",
    "mask_tokens",
    "masked_diffusion_loss",
    "mdlm",
    "minimum_cover",
    "narrow",
    "sample_times",
    "save_denoiser",
    "schedule_by_name",
    "store_logits",
]
