"""Put a circuit on a model that fills in tokens one by one, so that it stops mixing up cities."""

import torch

import pcflow as pf
from pcflow_diffusion import CircuitHead, Decoding, generate

torch.manual_seed(0)

WORDS = ["San", "Diego", "New", "York", "Los", "Angeles", "Las", "Vegas"]
MASK = len(WORDS)
CITIES = torch.arange(8).view(4, 2)  # [4, 2]: words 0 1, 2 3, 4 5, 6 7


def backbone(tokens: torch.Tensor) -> torch.Tensor:
    """A perfect denoiser of "I live in <city>": the right marginal at each position, [B, L, V]."""
    prior = torch.tensor([0.3, 0.4, 0.2, 0.1])
    logits = torch.full((*tokens.shape, len(WORDS)), -torch.inf)
    for place in range(2):
        other = tokens[:, -1 - place]  # the other word of the city
        for row, word in enumerate(other):
            fits = (CITIES[:, 1 - place] == word) | (word == MASK)
            logits[row, -2 + place, CITIES[:, place]] = (prior * fits).log()
    return logits


def mixed_up(tokens: torch.Tensor) -> float:
    """The share of rows that are no city."""
    return 1 - (tokens[:, None] == CITIES).all(dim=-1).any(dim=-1).double().mean().item()


# A hidden Markov model learns from text which words go together.
text = CITIES[torch.multinomial(torch.full((4,), 0.25), 500, replacement=True)]
circuit = pf.compile(pf.hmm(length=2, states=32, inputs=pf.Categorical(len(WORDS))))
pf.fit(circuit, text, pf.EM(pseudocount=1e-3), epochs=60)
head = CircuitHead(circuit, mask_token_id=MASK, coupling="projection")

# Both words at once, 2,000 times.
prompt = torch.empty(2_000, 0, dtype=torch.long)
settings = {"steps": 1, "gen_length": 2, "block_length": 2, "decoding": Decoding(temperature=1.0)}
alone = generate(backbone, prompt, mask_token_id=MASK, **settings)
coupled = generate(backbone, prompt, head, **settings)
print(f"mixed up in one step: independent {mixed_up(alone):.0%}, coupled {mixed_up(coupled):.0%}")
for row in coupled[:3]:
    print("I live in", *(WORDS[word] for word in row))

share = (coupled[:, 0] == 2).double().mean()
print(f"New York: {share:.1%}, and the backbone says 40 %")
