"""Multi-token prediction for causal models: a circuit drafts several tokens, which they verify."""

from pcflow_diffusion.multi_token.acceptance import Accepted, accept
from pcflow_diffusion.multi_token.head import Draft, Kind, MultiTokenHead
from pcflow_diffusion.multi_token.loss import multi_token_loss
from pcflow_diffusion.multi_token.speculation import Speculated, speculate
from pcflow_diffusion.multi_token.training import fit_multi_token
from pcflow_diffusion.multi_token.verifier import (
    CausalVerifier,
    JudgeVerifier,
    Reading,
    Verifier,
)

__all__ = [
    "Accepted",
    "CausalVerifier",
    "Draft",
    "JudgeVerifier",
    "Kind",
    "MultiTokenHead",
    "Reading",
    "Speculated",
    "Verifier",
    "accept",
    "fit_multi_token",
    "multi_token_loss",
    "speculate",
]
