"""How a circuit runs: a plan of batched steps, one pass up, one pass down."""

from pcflow.engine.autograd import differentiable_log_prob
from pcflow.engine.evaluate import Engine, Evaluation, Memory, RowCount
from pcflow.engine.kernels import rows_times_table, rows_times_transposed
from pcflow.engine.leaves.base import Leaf
from pcflow.engine.leaves.density import DensityLeaf
from pcflow.engine.leaves.finite import FiniteLeaf
from pcflow.engine.leaves.posteriors import log_flows, log_posterior, rank_over_same_variable
from pcflow.engine.log_semiring import MAX_PRODUCT, MaxInputs
from pcflow.engine.memory import Pool
from pcflow.engine.modes import in_ordinary_modes
from pcflow.engine.passes import follow, up
from pcflow.engine.plan import (
    BankRead,
    InputStep,
    Plan,
    ProductStep,
    Read,
    Step,
    SumStep,
    make_plan,
)
from pcflow.engine.routes import Best, Drawn
from pcflow.engine.semiring import SCALED, floor_of
from pcflow.engine.tables import BankSums, Tables
from pcflow.engine.versions import Stamp

__all__ = [
    "MAX_PRODUCT",
    "SCALED",
    "BankRead",
    "BankSums",
    "Best",
    "DensityLeaf",
    "Drawn",
    "Engine",
    "Evaluation",
    "FiniteLeaf",
    "InputStep",
    "Leaf",
    "MaxInputs",
    "Memory",
    "Plan",
    "Pool",
    "ProductStep",
    "Read",
    "RowCount",
    "Stamp",
    "Step",
    "SumStep",
    "Tables",
    "differentiable_log_prob",
    "floor_of",
    "follow",
    "in_ordinary_modes",
    "log_flows",
    "log_posterior",
    "make_plan",
    "rank_over_same_variable",
    "rows_times_table",
    "rows_times_transposed",
    "up",
]
