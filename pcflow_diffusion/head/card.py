"""The model card of a head: what somebody who finds it needs to know."""

from __future__ import annotations

import json
import re

from pcflow import CompiledCircuit, PropertyRequired

Facts = dict[str, object]

PAPER = "[CoDD](https://arxiv.org/abs/2603.00045)"
NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # of a model on the hub

CARD = """---
library_name: pcflow
tags:
- pcflow
- probabilistic-circuit
- masked-diffusion
- arxiv:2603.00045
{of}---

# A circuit for a masked diffusion language model

A probabilistic circuit that draws the masked tokens of a diffusion language model jointly, as its
output layer ({paper}). It is no language model of its own: it couples what its base model says.

| | |
|---|---|
{rows}

## Use

```python
from pcflow_diffusion import CircuitHead, fingerprint, generate

head = CircuitHead.from_pretrained({name}, tokenizer=tokenizer)  # refused with another tokenizer
tokens = generate(model, prompt, head, steps=16, gen_length=128, block_length={length})
```

It is one safetensors file, `head.safetensors`; nothing in it is executed.
"""


def model_card(name: str, model: CompiledCircuit, length: int, facts: Facts) -> str:
    """The text of a README.md with its front matter.

    Args:
        name: of the folder or repository.
        model: the circuit.
        length: of its window.
        facts: what is told in the table, by what it is about; None where nobody said.
    """
    base, told = facts.get("base model"), {"circuit": kind_and_size(model), **facts}
    of = f'base_model: "{base}"\n' if isinstance(base, str) and NAME.fullmatch(base) else ""
    rows = "\n".join(f"| {about} | {_cell(fact)} |" for about, fact in told.items())
    return CARD.format(of=of, paper=PAPER, rows=rows, name=json.dumps(name), length=length)


def kind_and_size(model: CompiledCircuit) -> str:
    """What a circuit is, in a few words.

    Examples:
        >>> import pcflow as pf
        >>> kind_and_size(pf.compile(pf.hmm(4, states=2, inputs=pf.Categorical(3))))
        'hidden Markov chain of 2 states, 12 parameters, float32'
    """
    try:
        kind = f"hidden Markov chain of {model.filter(1).next_log_states().shape[-1]} states"
    except PropertyRequired:
        kind = f"circuit of {len(model.circuit.layers)} layers"
    count = sum(parameter.numel() for parameter in model.parameters())
    return f"{kind}, {count:,} parameters, {model.dtype}".replace("torch.", "")


def _cell(fact: object) -> str:
    """A fact in one cell of a table."""
    text = "not said" if fact is None else " ".join(str(fact).split())
    return text.replace("\\", "\\\\").replace("|", "\\|")
