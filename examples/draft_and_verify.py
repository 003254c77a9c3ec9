"""Write several characters in every call of a causal model, with exactly the model's law."""

import torch

from pcflow_diffusion import JudgeVerifier, MultiTokenHead, fit_multi_token, speculate
from pcflow_diffusion.models import (
    CharacterTokenizer,
    Optimisation,
    TransformerConfig,
    load_text,
    train_judge,
    windows,
)

torch.manual_seed(0)

# A small causal model of English, character by character.
text = load_text()
tokenizer = CharacterTokenizer.fit(text.train)
train = tokenizer.encode(text.train[:1_000_000])
config = TransformerConfig(tokenizer.vocabulary_size, width=64, depth=2)
how = Optimisation(batch_size=16, average=0.97, warmup=20)
judge = train_judge(train, config, steps=250, training=how, progress=False)
verifier = JudgeVerifier(judge.requires_grad_(False))

# Heads over the next six characters: each by itself, and a hidden Markov chain.
rows = windows(train, 96, 48)
prompts = windows(tokenizer.encode(text.held_out), 24, 1_000)[:16]
for kind in ("ff", "hmm"):
    head = MultiTokenHead(judge.head, length=6, kind=kind, states=16, rank=32)
    fit_multi_token(head, verifier, rows, steps=150, progress=False)
    found = speculate(verifier, head, prompts, gen_length=64)
    print(f"{kind}: {found.per_call:.2f} characters per call, of at most {head.length}")
print(repr(tokenizer.decode(found.tokens[0])))
