"""Training a circuit against a backbone, or both together."""

from pcflow_diffusion.train.blocks import Blocks, block_logits
from pcflow_diffusion.train.conditional import fit_conditional
from pcflow_diffusion.train.joint import coupled_nats_over_time, fit_jointly
from pcflow_diffusion.train.modulation import fit_modulation
from pcflow_diffusion.train.stored import StoredLogits, store_logits

__all__ = [
    "Blocks",
    "StoredLogits",
    "block_logits",
    "coupled_nats_over_time",
    "fit_conditional",
    "fit_jointly",
    "fit_modulation",
    "store_logits",
]
