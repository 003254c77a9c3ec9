"""Training a circuit on text or against a backbone, or both together.

`python -m pcflow_diffusion.train` makes a head of a folder of text.
"""

from pcflow_diffusion.train.blocks import Blocks, block_logits
from pcflow_diffusion.train.chain import text_chain
from pcflow_diffusion.train.conditional import fit_conditional
from pcflow_diffusion.train.joint import coupled_nats_over_time, fit_jointly
from pcflow_diffusion.train.modulation import fit_modulation
from pcflow_diffusion.train.stored import StoredLogits, store_logits
from pcflow_diffusion.train.texts import Texts
from pcflow_diffusion.train.tokens import TokenStore
from pcflow_diffusion.train.windows import Windows

__all__ = [
    "Blocks",
    "StoredLogits",
    "Texts",
    "TokenStore",
    "Windows",
    "block_logits",
    "coupled_nats_over_time",
    "fit_conditional",
    "fit_jointly",
    "fit_modulation",
    "store_logits",
    "text_chain",
]
