"""How tokens of a text are drawn: in windows of a circuit that see what is known around them.

Legend: B batch, N positions of a text, C of them before a span, R rows of a window, W its width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from pcflow import NoMassError
from pcflow_diffusion.decode.decoding import Decoding
from pcflow_diffusion.decode.windows import bridges, ends, next_window, window_starts
from pcflow_diffusion.head import CircuitHead, Draw, Marginals, rank


@dataclass(frozen=True, eq=False)
class Scene:
    """A span of text with masks, and as much of the text before it as a circuit may see.

    Attributes:
        said: what the backbone says of masked tokens, [B, N].
        likely: the same, of tokens that are considered.
        text: where a circuit may look, bool [B, N]: from somewhere on, to the end.
        before: C, how many of the N positions stand before the span.
    """

    said: Marginals
    likely: Marginals
    text: Tensor
    before: int

    @property
    def visible(self) -> Tensor:
        """Which tokens are known, bool [B, N]."""
        return self.text & ~self.likely.masked

    def showing(self, tokens: Tensor, drawn: Tensor) -> Scene:
        """The same where tokens [B, N] that were drawn are known."""
        masked = self.likely.masked & ~drawn
        tokens = torch.where(drawn, tokens, self.likely.tokens)
        said, likely = (replace(m, tokens=tokens, masked=masked) for m in (self.said, self.likely))
        return replace(self, said=said, likely=likely)

    def hiding(self, rows: Sequence[int], wanted: Tensor) -> Scene:
        """The same where a circuit sees nothing of some rows before what is wanted [B, N]."""
        text = self.text.clone()
        text[list(rows)] &= wanted[list(rows)].cumsum(dim=-1) > 0
        return replace(self, text=text)


@dataclass(frozen=True)
class Drawer:
    """Draws tokens of a scene, coupled by a head."""

    head: CircuitHead
    how: Decoding
    circuit_context: int | None
    generator: torch.Generator | None

    @property
    def context(self) -> int:
        """How many tokens a window shows at most of what is before."""
        most = self.head.length - 1
        return most if self.circuit_context is None else min(most, self.circuit_context)

    def scene(self, said: Marginals, likely: Marginals, before: Tensor) -> Scene:
        """A span behind as many known tokens as there is room for, from the last strange one on.

        Strange is a token that the circuit does not know, or the mask.
        """
        spare = self.head.length - said.length
        most = self.context if spare < 0 else min(self.context, spare)
        before = before[:, max(0, before.shape[1] - most) :]  # [B, C]
        size, mask = self.head.vocabulary_size, said.mask_token_id
        strange = (before < 0) | (before >= size) | (before == mask)
        text = pad(strange, (0, said.length)).flip(-1).cumsum(dim=-1).flip(-1) == 0
        before = before.masked_fill(strange, 0)
        if self.how.gamma is None:  # nobody asks for more than what the head takes
            likely = said = likely.few(self.head.top_k).after(before)
        else:
            said, likely = said.after(before), likely.after(before)
        return Scene(said, likely, text, before.shape[1])

    def together(self, scene: Scene, count: Tensor) -> Draw:
        """Masked tokens of spans no longer than the circuit: all, or `count` [B] in any order."""
        span = torch.arange(scene.text.shape[1], device=count.device) >= scene.before
        found = self.draw(scene, span.expand(scene.text.shape), count)
        return Draw(*(field[:, scene.before :] for field in vars(found).values()))

    def in_windows(self, scene: Scene, commit: Tensor) -> Tensor:
        """Tokens of a longer span, drawn where they are to be committed [B, N - C].

        Window after window, from the left: each sees what was drawn in those before it.
        """
        width, commit = self.head.length, pad(commit, (scene.before, 0))
        needed = commit | bridges(commit, scene.visible, width) if self.context else commit
        all_ = needed.new_full((len(needed),), width, dtype=torch.long)
        while bool(needed.any()):
            wanted = next_window(needed, scene.visible, width, self.context)
            found = self.draw(scene, wanted, all_)
            scene, needed = scene.showing(found.tokens, wanted), needed & ~wanted
        return scene.likely.tokens[:, scene.before :]

    def draw(self, scene: Scene, wanted: Tensor, count: Tensor) -> Draw:
        """Tokens of the scene that are wanted [B, N], by one window in every row that wants any.

        Where the circuit holds what is known impossible, nothing is shown before what is wanted.
        """
        try:
            return self.drawn(scene, wanted, count)
        except NoMassError as error:
            seeing = scene.hiding(error.rows, wanted)
            if torch.equal(seeing.text, scene.text):
                raise
            return self.draw(seeing, wanted, count)

    def drawn(self, scene: Scene, wanted: Tensor, count: Tensor) -> Draw:
        """The same, of what the circuit holds possible.

        Raises:
            NoMassError: naming rows of the scene that it does not.
        """
        likely = scene.likely
        nothing = torch.zeros_like(likely.tokens, dtype=likely.log_m.dtype)
        found = Draw(likely.tokens.clone(), 1 + nothing, wanted & False, nothing)
        for rows, places in self.windows(scene, wanted):
            coupled = self.coupled(likely.masked[rows.unsqueeze(-1), places])
            for some, how in ((~coupled, self.alone), (coupled, self.jointly)):
                if bool(some.any()):
                    part = how(scene, rows[some], places[some], count)
                    for whole, field in zip(vars(found).values(), vars(part).values(), strict=True):
                        whole[rows[some].unsqueeze(-1), places[some]] = field.to(whole.dtype)
        return replace(found, drawn=found.drawn & wanted)

    def windows(self, scene: Scene, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows [R] and places [R, W] of the windows, those of one width together."""
        first, _ = ends(scene.text)
        widths = (scene.text.shape[1] - first).clamp_max(self.head.length)
        for width in widths[wanted.any(dim=-1)].unique().tolist():
            rows = (wanted.any(dim=-1) & (widths == width)).nonzero().squeeze(-1)
            starts = window_starts(wanted[rows], scene.visible[rows], width, self.context)
            yield rows, starts.unsqueeze(-1) + torch.arange(width, device=wanted.device)

    def coupled(self, masked: Tensor) -> Tensor:
        """The rows [R] that the head couples, by what of their windows is masked [R, W]."""
        if self.how.gamma is None:
            return masked.new_ones(len(masked))
        return masked.double().mean(dim=-1) < self.how.gamma

    def alone(self, scene: Scene, rows: Tensor, places: Tensor, count: Tensor) -> Draw:
        """Tokens of windows [R, W], each by itself."""
        said, likely = (_window(one, rows, places) for one in (scene.said, scene.likely))
        return independent(said, likely, self.how, self.generator)

    def jointly(self, scene: Scene, rows: Tensor, places: Tensor, count: Tensor) -> Draw:
        """Tokens of windows [R, W], drawn from the coupled joint."""
        likely, how = _window(scene.likely, rows, places), self.how
        few = how.threshold is None and not how.defer
        try:
            return self.head.over(likely.length).draw(
                likely,
                temperature=how.temperature,
                order=how.drawing_order,
                ranking=how.ranking,
                count=torch.minimum(count[rows], likely.masked.sum(dim=-1)) if few else None,
                generator=self.generator,
            )
        except NoMassError as error:
            own = rows[list(error.rows)].tolist()
            raise NoMassError(own, "a window of the circuit", error.never) from error


def independent(
    said: Marginals, likely: Marginals, how: Decoding, generator: torch.Generator | None
) -> Draw:
    """Tokens drawn position by position; confidence is that before truncation."""
    tokens = likely.draw(how.temperature, generator)
    score = rank(how.ranking, likely.log_m, likely.log_prob(tokens), generator)
    return Draw(tokens, said.log_prob(tokens).exp(), said.masked, score)


def _window(said: Marginals, rows: Tensor, places: Tensor) -> Marginals:
    """Places [R, W] of rows [R], which nobody copies if they are all."""
    whole = places.shape == said.tokens.shape
    return said if whole else said.at(rows.unsqueeze(-1), places)
