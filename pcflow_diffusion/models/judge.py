"""A judge of text: a causal transformer, which no decoder sees and every decoder is measured by.

A denoiser learns from the tokens that happen to be masked, a causal model from all tokens of every
row; of two that are trained alike, the causal one knows a text better.

Tensor letters: B batch, N rows, L positions, V categories.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pcflow import SettingError
from pcflow_diffusion.checks import check_rows, check_tokens
from pcflow_diffusion.models.loop import Budget, Loop, Optimisation
from pcflow_diffusion.models.text import BLOCK, Tokenizer
from pcflow_diffusion.models.training import held_out_rows, training_rows
from pcflow_diffusion.models.transformer import Transformer, TransformerConfig
from pcflow_diffusion.models.weights import load_weights, save_weights

FORMAT = "pcflow_diffusion.judge.1"


class Judge(Transformer):
    """A small causal transformer: how probable is every token, given those before it?

    Args:
        config: its shape. The caller's random state gives the initial weights.

    Examples:
        >>> judge = Judge(TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2))
        >>> judge(torch.tensor([[6, 3, 0]])).shape
        torch.Size([1, 3])
    """

    def __init__(self, config: TransformerConfig) -> None:
        """Build the layers and draw their weights."""
        super().__init__(config, causal=True)

    def forward(self, tokens: Tensor) -> Tensor:
        """Log p(x_i | x_1, ..., x_{i-1}) of every token x_i.

        Args:
            tokens: real tokens, long [B, L]; any L.

        Returns:
            Log-probabilities (nats), [B, L]; their sum is the row's.

        Raises:
            ShapeMismatch: if `tokens` is not [B, L].
            TokenOutOfRange: if a token is not real.
        """
        start = self.config.vocabulary_size
        check_rows("tokens", tokens)
        check_tokens("tokens", tokens, start)
        before = functional.pad(tokens[:, :-1], (1, 0), value=start)  # [B, L]
        logits = super().forward(before)  # [B, L, V]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return -functional.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")

    @torch.no_grad()
    def nats(self, rows: Tensor, last: int, batch_size: int = 64) -> Tensor:
        """Nats of each of the last tokens of every row, given all before it.

        Args:
            rows: real tokens, [N, L].
            last: how many tokens to judge.
            batch_size: rows at a time.

        Returns:
            [N, last]; the mean is what is usually told.

        Raises:
            ShapeMismatch: if `rows` is not [N, L].
            SettingError: if `last` is not in 1 to L.
            TokenOutOfRange: if a token is not real.

        Examples:
            >>> judge = Judge(TransformerConfig(vocabulary_size=7, width=16, depth=1, heads=2))
            >>> judge.nats(torch.tensor([[6, 3, 0]]), last=2).shape
            torch.Size([1, 2])
        """
        check_rows("rows", rows)
        SettingError.check(
            "last", last, f"in 1 to {rows.shape[1]}", lambda n: 1 <= n <= rows.shape[1]
        )
        return torch.cat([-self(part)[:, -last:] for part in rows.split(batch_size)])


def train_judge(
    tokens: Tensor,
    config: TransformerConfig,
    *,
    held_out: Tensor | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    training: Optimisation | None = None,
    progress: bool | None = None,
) -> Judge:
    """Train a judge on one row of tokens, for a number of steps or minutes.

    The same seed and `steps` give the same weights on the same machine. The caller's random state
    is left as it was.

    Args:
        tokens: the training text, [N]; or windows of it, [R, L], of any integers.
        config: shape of the judge.
        held_out: another text, [M], or windows of it: the weights that are best on it are kept.
        minutes: wall-clock budget.
        steps: number of steps instead.
        seed: of weights, windows and dropout.
        training: how to train; `Optimisation()` by default.
        progress: whether to show a bar with train and held-out loss, in nats per token (held-out,
            of the last `BLOCK` tokens of a window); by default if standard error is a terminal.

    Returns:
        The judge with averaged weights, in evaluation mode.

    Raises:
        DiffusionError: unless exactly one of `minutes` and `steps` is given, and positive.
        TextError: if the text is shorter than one window.
        ShapeMismatch: if `tokens` is neither a row nor windows.
        TokenOutOfRange: if a token is not real.

    Examples:
        >>> config = TransformerConfig(5, width=16, depth=1, heads=2)
        >>> judge = train_judge(torch.arange(400) % 5, config, steps=2, progress=False)
        >>> judge.nats(torch.tensor([[0, 1, 2, 3]]), last=1).shape
        torch.Size([1, 1])
    """
    budget, how = Budget(minutes, steps), training or Optimisation()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        score = None if held_out is None else _score(held_out_rows(held_out))
        rows = tokens if tokens.ndim == 2 else training_rows(tokens)
        objective = _Windows(rows, how.batch_size)
        return Loop(Judge(config), objective, how, score).train(budget, progress)


@dataclass(frozen=True, eq=False)
class _Windows:
    """The negative log-likelihood of windows, per token."""

    rows: Tensor
    batch_size: int

    def __call__(self, ask: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """What is minimised is what is shown."""
        nats = -ask(self.rows[torch.randint(len(self.rows), (self.batch_size,))].long()).mean()
        return nats, nats


def _score(rows: Tensor) -> Callable[[Judge], float]:
    return lambda judge: float(judge.nats(rows, min(BLOCK, rows.shape[1])).mean())


def save_judge(judge: Judge, path: str | Path, tokenizer: Tokenizer) -> None:
    """Write weights (half precision), configuration and tokenizer to one safetensors file.

    Args:
        judge: the judge.
        path: where to; its directory must exist. The file is replaced in one step.
        tokenizer: what makes tokens of text, V of them.

    Raises:
        CheckpointError: if the tokenizer does not have V tokens, or half precision cannot hold a
            weight.

    Examples:
        >>> judge = Judge(TransformerConfig(vocabulary_size=3, width=8, depth=1, heads=1))
        >>> import tempfile
        >>> from pcflow_diffusion.models import CharacterTokenizer
        >>> path = Path(tempfile.mkdtemp()) / "tiny.safetensors"
        >>> save_judge(judge, path, CharacterTokenizer("ab\ufffd"))
        >>> _, tokenizer = load_judge(path)
        >>> tokenizer.decode(tokenizer.encode("abba"))
        'abba'
    """
    save_weights(judge, path, tokenizer, FORMAT)


def load_judge(path: str | Path) -> tuple[Judge, Tokenizer]:
    """Read a file of `save_judge`; nothing in it is executed.

    Args:
        path: the file.

    Returns:
        The judge in float32 and evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: if the file is truncated, not of this format, or contradicts itself, or a
            weight is NaN or infinite.
        ImportError: if its tokens are subwords and `pcflow[subwords]` is not installed.
        OSError: if there is no such file, or it is no file that can be read.

    Examples:
        >>> import tempfile
        >>> from pcflow_diffusion.models import CharacterTokenizer
        >>> judge = Judge(TransformerConfig(vocabulary_size=3, width=8, depth=1, heads=1))
        >>> path = Path(tempfile.mkdtemp()) / "tiny.safetensors"
        >>> save_judge(judge, path, CharacterTokenizer("ab\ufffd"))
        >>> judge, tokenizer = load_judge(path)
        >>> tokenizer.vocabulary_size
        3
    """
    return load_weights(path, FORMAT, TransformerConfig, Judge)
