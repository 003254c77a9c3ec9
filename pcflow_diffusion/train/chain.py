"""The hidden Markov model of a text, as it is before it has learned.

Legend: K states, V tokens of the vocabulary.
"""

from __future__ import annotations

import torch

import pcflow as pf
from pcflow_diffusion.checks import check_count
from pcflow_diffusion.train.tokens import TokenStore

UNSEEN = 0.1  # times that a token counts which does not occur

LEARNER = pf.Anemone(0.5, momentum=0.3, pseudocount=1e-9, decay=True)
"""How it learns. A pseudocount is for every token of every state, so it is small."""


def text_chain(
    store: TokenStore, states: int, length: int, generator: torch.Generator | None = None
) -> pf.Circuit:
    """A hidden Markov model whose states begin near the frequency of tokens, each differently.

    Args:
        store: whose documents are counted, as far as they are not held out.
        states: how many states the chain has, K.
        length: L, tokens of a window.
        generator: source of the differences; torch's global one by default.

    Returns:
        The circuit, over `length` tokens.

    Raises:
        SettingError: if a number is below 1.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> letters = lambda texts: [[ord(c) - 97 for c in text] for text in texts]
        >>> with TemporaryDirectory() as folder:
        ...     store = TokenStore.write(f"{folder}/tokens", ["abcab", "ba"] * 20, letters, 3)
        ...     print(text_chain(store, states=2, length=4))
        Circuit(4 variables, 11 layers, 12 parameters)
    """
    check_count("states", states)
    chain = pf.hmm(length, states, pf.Categorical(store.vocabulary_size), generator=generator)
    inputs = [layer for layer in chain.layers if isinstance(layer, pf.InputLayer)]
    logits = inputs[0].parameters["logits"]  # of all positions, standard normal
    common = torch.from_numpy(store.counts).float().add(UNSEEN).log().unsqueeze(-1)  # [V, 1]
    return chain.replace({logits: logits.value + common})  # [V, K]
