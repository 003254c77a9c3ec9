"""What depends on the machine: sizes, and the products that are cut by them.

Legend: F folds, B batch, K units of the layer, J units read by a sum, N rows, V categories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcflow.checks import check_kind, check_whole
from pcflow.engine.kernels import log_total, times_by_row


@dataclass(frozen=True)
class Machine:
    """Sizes that suit a machine: they decide how fast a query is, never what it answers.

    The defaults are for CPUs with a megabyte or two of cache a core; `of` knows others.

    Attributes:
        strip: units of one strip. With 128 rows of float32, 4,096 make 2 MB: inputs and outputs
            stay in a cache.
        sheets: what a pool keeps while nobody uses any: one for values, one for slopes; and as many
            of a single row.
        block, large: categories at a time, where few rows meet a large table; and how many blocks
            make a table large.
        columns: of a product, that a thread has at least.
        few, some: rows that are few for any table; and for a large one.
        numbers: at a time, of what is worked out piece by piece: a megabyte or two.
        entries: sums or inputs at a time that choose: they stay in a cache.
        choices: alternatives that are weighed at a time: they stay in a cache.
        cached: numbers at a time of what is gone over several times in log space, or beside its
            exponentials.
        long, halves: positions of a chain, at least, and rows times squared states, at most, where
            `some` rows go by halves: what is computed while the calls of a position are made.
        edges: the most that a step in log space holds at a time.
        weights: of a step, one for every draw and input, that draws hold at a time: 64 MB.
        values: of draws at a time, where averages are estimated.
        records: whether the kernels that sums and products launch are recorded, the second time
            that a batch of one size passes, and played back from then on (CUDA graphs).

    Raises:
        SettingError: if a size is not a positive integer.

    Examples:
        >>> import pcflow as pf
        >>> circuit = pf.build_circuit(pf.structure.quad_tree((4, 4)), pf.Bernoulli(), units=2)
        >>> [len(pf.compile(circuit, machine=pf.Machine(strip=n)).plan.steps) for n in (8, 4096)]
        [12, 6]
    """

    strip: int = 1 << 12
    sheets: int = 2
    block: int = 1 << 10
    large: int = 16
    columns: int = 256
    few: int = 4
    some: int = 64
    numbers: int = 1 << 18
    entries: int = 1 << 15
    choices: int = 1 << 18
    cached: int = 1 << 17
    long: int = 1 << 7
    halves: int = 1 << 10
    edges: int = 1 << 24
    weights: int = 1 << 24
    values: int = 1 << 22
    records: bool = False

    def __post_init__(self) -> None:
        """Check the sizes."""
        check_kind("records", self.records, bool, "True or False")
        for name, size in vars(self).items():
            if name != "records":
                check_whole(name, size)

    @staticmethod
    def of(device: torch.device | str) -> Machine:
        """What suits a device: a GPU has no cache to stay in, and launches are dear.

        Args:
            device: a torch device, or its name.

        Examples:
            >>> import pcflow as pf
            >>> pf.Machine.of("cpu") == pf.Machine(), pf.Machine.of("cuda").records
            (True, True)
        """
        return MACHINE if torch.device(device).type == "cpu" else _GPU

    def matmul(self, x: Tensor, weight: Tensor, out: Tensor) -> None:
        """Write x @ weight to `out`; flat if all folds share a weight.

        Args:
            x: [F, B, J].
            weight: [F or 1, J, K]; [F or 1, B, J, K] where every row has one of its own.
            out: [F, B, K].
        """
        if weight.dim() == 4:
            out.copy_(times_by_row(x, weight))
        elif weight.shape[0] == x.shape[0]:
            parts = self._parts(x, weight.shape[-1]) if x.shape[:2] == (1, 1) else 1
            if parts > 1:  # one row: a part of the columns for every thread
                split = weight[0].unflatten(1, (parts, -1)).transpose(0, 1)  # [parts, J, K / parts]
                torch.bmm(x.expand(parts, -1, -1), split, out=out.view(parts, 1, -1))
            else:
                torch.bmm(x, weight, out=out)
        elif out.is_contiguous() and x.is_contiguous():
            torch.mm(x.flatten(0, 1), weight[0], out=out.flatten(0, 1))
        else:
            out.copy_(x @ weight[0])

    def rows_times_table(self, rows: Tensor, table: Tensor) -> Tensor:
        """`rows @ table`, [N, K], by pieces that suit the machine.

        On a CPU every thread takes its share of the columns, or block by block of the table where
        there is little to do but to read it.

        Args:
            rows: [N, V].
            table: [V, K], in the precision of the rows or another one.
        """
        if table.dtype != rows.dtype:
            return self._by_blocks(rows, table)
        if rows.device.type != "cpu":
            return rows @ table
        is_large = len(table) >= self.large * self.block
        if len(rows) < self.few or (len(rows) <= self.some and is_large):
            return self._by_blocks(rows, table)
        parts = self._parts(rows, table.shape[1])
        if parts < 2:
            return rows @ table
        columns = table.unflatten(1, (parts, -1)).transpose(0, 1)  # [parts, V, K / parts]
        return torch.bmm(rows.expand(parts, -1, -1), columns).transpose(0, 1).flatten(1)

    def rows_times_transposed(self, rows: Tensor, table: Tensor) -> Tensor:
        """`rows @ table.t()`, [N, V]; on a CPU by blocks that are read where they lie.

        Args:
            rows: [N, K].
            table: [V, K], in the precision of the rows or another one.
        """
        if table.dtype != rows.dtype:
            return (rows.to(table.dtype) @ table.t()).to(rows.dtype)
        blocks = len(table) // self.block
        if rows.device.type != "cpu" or blocks < 2:
            return rows @ table.t()
        split = blocks * self.block
        out = rows.new_empty(len(rows), len(table))
        parts = torch.matmul(rows, table[:split].unflatten(0, (blocks, self.block)).transpose(1, 2))
        out[:, :split].unflatten(1, (blocks, self.block)).copy_(parts.transpose(0, 1))
        if split < len(table):
            out[:, split:] = rows @ table[split:].t()
        return out

    def log_normalizer(self, logits: Tensor) -> tuple[Tensor, Tensor, bool]:
        """Log-sum-exp [F, 1, K] over categories.

        And a number that no log-softmax is below, and whether all logits are `moderate`.

        Args:
            logits: [F, V, K].
        """
        if not len(logits):
            return logits.sum(dim=1, keepdim=True), logits.new_zeros(()), True
        size = max(1, self.cached // logits[0].numel())
        rows = max(1, self.cached // logits.shape[-1])  # of one that is too large for a cache
        found = [log_total(block.split(rows, 1), block.amin()) for block in logits.split(size)]
        totals, lowest, moderate = zip(*found, strict=True)
        return torch.cat(totals), torch.stack(lowest).min(), all(moderate)

    def _parts(self, like: Tensor, columns: int) -> int:
        """Among how many threads so many columns are shared out, 1 if they cannot be."""
        if columns < 2 * self.columns:
            return 1
        parts = min(torch.get_num_threads(), columns // self.columns)
        return parts if like.device.type == "cpu" and parts > 1 and columns % parts == 0 else 1

    def _by_blocks(self, rows: Tensor, table: Tensor) -> Tensor:
        """The same block by block of V, in the table's precision: rounded before it is added up."""
        low, size = rows.to(table.dtype), max(self.block, len(table) // (2 * self.large))
        blocks = len(table) // size
        split = blocks * size
        rest = (low[:, split:] @ table[split:]).to(rows.dtype)
        if blocks == 0:
            return rest
        parts = low[:, :split].unflatten(1, (blocks, size)).transpose(0, 1)  # [blocks, N, size]
        product = torch.bmm(parts, table[:split].unflatten(0, (blocks, size)))
        return product.sum(dim=0, dtype=rows.dtype).add_(rest)


MACHINE = Machine()

_GPU = Machine(
    sheets=6,
    numbers=1 << 26,
    entries=1 << 22,
    choices=1 << 26,
    cached=1 << 26,
    halves=1 << 14,
    edges=1 << 27,
    weights=1 << 26,
    values=1 << 26,
    records=True,
)
