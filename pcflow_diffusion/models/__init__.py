"""Language models: how they are called, small ones of our own with texts and files, a judge.

`subwords`, whose tokenizer needs the extra `pcflow[subwords]`, is imported by its own name.
"""

from pcflow_diffusion.models.backbones import (
    PAST,
    Backbone,
    dream,
    llada,
    logits_of,
    mask_of,
    mdlm,
    narrow,
    past_argument,
    read_logits,
    takes,
    vocabulary_of,
)
from pcflow_diffusion.models.denoiser import Denoiser, DenoiserConfig, load_denoiser, save_denoiser
from pcflow_diffusion.models.judge import Judge, load_judge, save_judge, train_judge
from pcflow_diffusion.models.loop import Optimisation
from pcflow_diffusion.models.objective import (
    Schedule,
    elbo_weights,
    mask_exactly,
    mask_tokens,
    masked_diffusion_loss,
    sample_times,
    schedule_by_name,
    schedule_of,
)
from pcflow_diffusion.models.pieces import PieceTokenizer
from pcflow_diffusion.models.pretrained import Pretrained, PretrainedTokenizer, load_pretrained
from pcflow_diffusion.models.text import (
    BLOCK,
    CONTEXT,
    CharacterTokenizer,
    Text,
    Tokenizer,
    blocks,
    load_text,
    windows,
)
from pcflow_diffusion.models.training import TrainingConfig, train_denoiser
from pcflow_diffusion.models.transformer import TransformerConfig

__all__ = [
    "BLOCK",
    "CONTEXT",
    "PAST",
    "Backbone",
    "CharacterTokenizer",
    "Denoiser",
    "DenoiserConfig",
    "Judge",
    "Optimisation",
    "PieceTokenizer",
    "Pretrained",
    "PretrainedTokenizer",
    "Schedule",
    "Text",
    "Tokenizer",
    "TrainingConfig",
    "TransformerConfig",
    "blocks",
    "dream",
    "elbo_weights",
    "llada",
    "load_denoiser",
    "load_judge",
    "load_pretrained",
    "load_text",
    "logits_of",
    "mask_exactly",
    "mask_of",
    "mask_tokens",
    "masked_diffusion_loss",
    "mdlm",
    "narrow",
    "past_argument",
    "read_logits",
    "sample_times",
    "save_denoiser",
    "save_judge",
    "schedule_by_name",
    "schedule_of",
    "takes",
    "train_denoiser",
    "train_judge",
    "vocabulary_of",
    "windows",
]
