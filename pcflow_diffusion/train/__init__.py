"""Training a circuit against a backbone, or both together."""

from pcflow_diffusion.train.blocks import Blocks, block_logits
from pcflow_diffusion.train.conditional import fit_conditional
from pcflow_diffusion.train.joint import coupled_nats_over_time, fit_jointly
from pcflow_diffusion.train.modulation import fit_modulation
from pcflow_diffusion.train.objective import (
    Schedule,
    elbo_weights,
    mask_exactly,
    mask_tokens,
    masked_diffusion_loss,
    sample_times,
    schedule_by_name,
)
from pcflow_diffusion.train.stored import StoredLogits, store_logits

__all__ = [
    "Blocks",
    "Schedule",
    "StoredLogits",
    "block_logits",
    "coupled_nats_over_time",
    "elbo_weights",
    "fit_conditional",
    "fit_jointly",
    "fit_modulation",
    "mask_exactly",
    "mask_tokens",
    "masked_diffusion_loss",
    "sample_times",
    "schedule_by_name",
    "store_logits",
]
