"""How a circuit runs: a plan of batched steps, one pass up, one pass down."""

from pcflow.engine.autograd import (
    banks_of,
    differentiable_leaves,
    differentiable_log_prob,
    refuse_edits,
)
from pcflow.engine.evaluate import Engine, Memory, RowCount
from pcflow.engine.evaluation import Evaluation, Taped
from pcflow.engine.expected import expected_flows
from pcflow.engine.folded import Folded
from pcflow.engine.halves import best_path, stay
from pcflow.engine.kernels import add_rows, named_sums
from pcflow.engine.leaves.base import Leaf
from pcflow.engine.leaves.density import DensityLeaf
from pcflow.engine.leaves.finite import FiniteLeaf
from pcflow.engine.leaves.posteriors import log_flows, log_posterior, rank_over_same_variable
from pcflow.engine.log_matrix import LogMatrix
from pcflow.engine.log_semiring import MaxInputs, MaxProduct
from pcflow.engine.machine import MACHINE, Machine
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
from pcflow.engine.semiring import Scaled, floor_of
from pcflow.engine.tables import BankSums, Normalizer, Tables, select
from pcflow.engine.timing import StepTime, StepTimes, time_steps
from pcflow.engine.told import Shares, share_of, told_below
from pcflow.engine.versions import Stamp

__all__ = [
    "MACHINE",
    "BankRead",
    "BankSums",
    "Best",
    "DensityLeaf",
    "Drawn",
    "Engine",
    "Evaluation",
    "FiniteLeaf",
    "Folded",
    "InputStep",
    "Leaf",
    "LogMatrix",
    "Machine",
    "MaxInputs",
    "MaxProduct",
    "Memory",
    "Normalizer",
    "Plan",
    "Pool",
    "ProductStep",
    "Read",
    "RowCount",
    "Scaled",
    "Shares",
    "Stamp",
    "Step",
    "StepTime",
    "StepTimes",
    "SumStep",
    "Tables",
    "Taped",
    "add_rows",
    "banks_of",
    "best_path",
    "differentiable_leaves",
    "differentiable_log_prob",
    "expected_flows",
    "floor_of",
    "follow",
    "in_ordinary_modes",
    "log_flows",
    "log_posterior",
    "make_plan",
    "named_sums",
    "rank_over_same_variable",
    "refuse_edits",
    "select",
    "share_of",
    "stay",
    "time_steps",
    "told_below",
    "up",
]
