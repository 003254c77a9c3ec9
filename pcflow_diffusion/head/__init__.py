"""The adapter: logits and tokens to evidence by a coupling, and draws from the joint."""

from pcflow_diffusion.head.coupling import Coupling, LogLinear, Projection
from pcflow_diffusion.head.derived import Stretch, narrowed
from pcflow_diffusion.head.head import CircuitHead
from pcflow_diffusion.head.listing import TopK
from pcflow_diffusion.head.marginals import Marginals, temper, without
from pcflow_diffusion.head.modulation import Modulation
from pcflow_diffusion.head.ranking import Ranking, best, check_ranking, rank
from pcflow_diffusion.head.sampling import Draw, Order, check_order
from pcflow_diffusion.head.tokenizers import fingerprint
from pcflow_diffusion.head.transitions import TransitionModulation
from pcflow_diffusion.head.widening import label_of, widened

__all__ = [
    "CircuitHead",
    "Coupling",
    "Draw",
    "LogLinear",
    "Marginals",
    "Modulation",
    "Order",
    "Projection",
    "Ranking",
    "Stretch",
    "TopK",
    "TransitionModulation",
    "best",
    "check_order",
    "check_ranking",
    "fingerprint",
    "label_of",
    "narrowed",
    "rank",
    "temper",
    "widened",
    "without",
]
