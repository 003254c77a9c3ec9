"""Does this version compute the same numbers as another? Both in one run, case by case.

    python benchmarks/same_numbers.py                     # the working tree against b86f764
    python benchmarks/same_numbers.py --against HEAD~3

The cases (the folder `cases` of the working tree, for both versions) use public names only; where
one has changed, its place is the section "names that changed" of cases/given.py. The other commit
is unpacked into a temporary folder, and each version runs in a process of its own that imports its
own packages, on one thread. Prints a Markdown table; exits with 1 if a number differs that has not
changed on purpose (CHANGED), or if a case is missing on one side. At toy size, the cases of the
working tree just have to run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import traceback
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from torch import Tensor
from toy import TOY, arguments
from versions import ROOT, checkout

CLOSE = 1e-6  # of a number, or of one if it is smaller: what arithmetic in another order may change
DIFFERENT = "DIFFERENT"
OTHER_TYPES = f"{DIFFERENT}: other types"
Numbers = dict[str, list[Tensor]]

WARM = "warm|margin|entropy|random|any order|sharpened|gamma|threshold|top p|suppressed|ending"
LISTED = "(product|ratio|log-linear( by share)?), top 3, .*"
BY_COUNTS = "(MiniBatchEM|Anemone)(, decaying)?(, (gaps|conditional|resumed))?"
TOLD = "what a row says nothing of is not counted (a5091f2)"
KEPT = "what no row uses is kept: a pseudocount made it uniform (a74591b)"
BY_ROWS = "momentum goes by rows, not by batches (2ce06b5)"
WITH_STEP = "a pseudocount weighs with the step (410d4e7)"
CHANGED = {
    f"(generation|infilling): (product|projection|listed), ({WARM}|padded)": (
        "rows that a head draws no longer take factorised draws from the generator first (5a86262)"
    ),
    "(generation|infilling): .*best of a path": (
        "windows of a step are drawn one after another, each given those before (2466968)"
    ),
    "(generation|infilling): no head, top k": "draws are among k tokens, no longer among all",
    "inputs: Binomial.*|mixed inputs: (log prob|queries)": (
        "one unit is fitted for all, and smoothed towards one start, not each to its own (2a14acc)"
    ),
    r"inputs: \w+(, log prob)?|structures: hclt.*|growing.*(ini|hclt).*ed": (
        "parameters that start from data are in double, but for logits (55cc61d)"
    ),
    r"inputs: \w+, Anemone": f"{TOLD}; {BY_ROWS}; {WITH_STEP}",
    "mixed inputs: learned": f"starts as above; {TOLD}; {BY_ROWS}; {WITH_STEP}",
    "learning: by hand, (EM|Anemone.*)(, gaps)?": f"{KEPT}; {BY_ROWS}; {TOLD}",
    "learning: .*, EM(, unsmoothed)?, gaps": TOLD,
    "learning: .*, MiniBatchEM, unsmoothed, gaps": TOLD,
    f"learning: (.*, )?{BY_COUNTS}|learning: (validation|batches)": (
        f"{WITH_STEP}; of Anemone, {BY_ROWS}; with gaps, {TOLD}"
    ),
    "estimator: .*": f"{TOLD}; widths are floored by the spread of columns (55cc61d); {BY_ROWS}",
    "log space: Gaussians, torch.float32, gradients": (
        "distances are from what a mean was before it was rounded to float32 (55cc61d)"
    ),
    f"heads: {LISTED}": "what is not listed has the backbone's probability (543b297)",
    "heads: (pooled )?projection, top 3, .*": (
        "fitting starts at the circuit's posterior (507db08); all tokens have mass (543b297)"
    ),
    "heads: pooled projection, torch.float.*, coupled": (
        "what has no mass is out from the start; it weighed nothing before (6b9cf0f)"
    ),
    "choosing a coupling: .*, top 4": "examples of tokens that are not listed count, too (543b297)",
    "denoisers: stored, top 3": "stay listed, where the others were spread out (e07a406)",
    "answers: .*, projection": "scales are doubles; fits in float32 stop elsewhere, no farther off",
    "learning: .*, Gradient.*|training: modulated (gates|latents)": (
        "scales are doubles, products are divided by their mean (9084b46), steps amplify it"
    ),
    "ways to compile: bfloat16": "products are divided by their mean (9084b46): 1.0e-6",
    "derivatives: (hmm|by hand)": (
        "products are multiplied by one over their mean (63ca472); no farther from float64"
    ),
    "training: conditional, (product|ratio|projection), Anemone|training: .* listed .*": (
        f"{BY_ROWS}; {WITH_STEP}, and is 1e-9 by default (ccde34d)"
    ),
}
"""Cases (regular expressions) whose numbers are others than at b86f764 on purpose, why, and since
when. That nothing else happens to them is seen beside them, where the old setting can be asked for:
cases unsmoothed, among the listed, and the largest of those stored, are not in this table."""


def main() -> int:
    """Compute both sides, compare and print."""
    parser = arguments(__doc__)
    parser.add_argument("--against", default="b86f764", metavar="COMMIT")
    only = "only write down the numbers of the packages that are imported"
    parser.add_argument("--record", type=Path, metavar="FILE", help=only)
    given = parser.parse_args()
    if given.record is not None:
        torch.save((str(imported()), recorded()), given.record)
        return 0
    now = numbers_of(ROOT)
    if TOY:  # that every case runs
        return report(now, now)
    with checkout(given.against) as folder:
        return report(numbers_of(folder), now)


def numbers_of(version: Path) -> Numbers:
    """Every number of every case, computed by the packages in a folder."""
    env = os.environ | {"PYTHONPATH": str(version), "OMP_NUM_THREADS": "1"}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "numbers.pt"
        command = [sys.executable, str(Path(__file__).resolve()), "--record", str(file)]
        subprocess.run(command, env=env, cwd=folder, check=True)
        source, found = torch.load(file, weights_only=True)
    assert Path(source) == version, f"{source} was imported, and not what is in {version}"
    return cast(Numbers, found)


def imported() -> Path:
    """Where this process has its packages from."""
    import pcflow

    return Path(pcflow.__file__).resolve().parent.parent


def recorded() -> Numbers:
    """Run the cases; a group that fails ends there, so that its other cases are missing."""
    from cases import GROUPS
    from cases.given import tensors

    torch.set_num_threads(1)
    found: Numbers = {}
    for group in GROUPS:
        kind = group.__name__.replace("_", " ")
        torch.manual_seed(0)
        try:
            for name, answer in group():
                assert f"{kind}: {name}" not in found, f"two cases are called {kind}: {name}"
                found[f"{kind}: {name}"] = tensors(answer)
        except Exception:
            print(f"\n{kind}, of the packages in {imported()}:", file=sys.stderr)
            traceback.print_exc()
            found[f"{kind}: fails"] = []
    return found


def report(before: Numbers, now: Numbers) -> int:
    """Print one row per case, and what comes out; 1 if a case differs."""
    verdicts: list[str] = []
    print("| case | numbers | largest difference | relative | verdict |\n|---|---|---|---|---|")
    either = before | now
    ended = tuple(case.removesuffix("fails") for case, found in either.items() if not found)
    for case, found in either.items():
        if found and case.startswith(ended) and not (case in before and case in now):
            continue  # its group ended before it, which is told once
        *cells, verdict = compared(before.get(case), now.get(case))
        if verdict.startswith(DIFFERENT) and before.get(case) and now.get(case):
            reasons = (why for cases, why in CHANGED.items() if re.fullmatch(cases, case))
            verdict = next((f"changed: {why}" for why in reasons), verdict)
        verdicts.append(verdict)
        print("|", " | ".join([case, *cells, verdict]), "|")
    kinds = Counter(verdict.partition(":")[0] for verdict in verdicts)
    print(f"\n{len(verdicts)} cases:", ", ".join(f"{n} {kind}" for kind, n in kinds.items()))
    return int(kinds[DIFFERENT] > 0)


def compared(before: list[Tensor] | None, now: list[Tensor] | None) -> list[str]:
    """How many numbers a case has, how far they are apart, and the verdict."""
    if before is None or now is None:
        return ["", "", "", f"{DIFFERENT}: only {'now' if before is None else 'before'}"]
    if [] in (before, now):
        return ["0", "", "", f"{DIFFERENT}: there are no numbers"]
    count = str(sum(tensor.numel() for tensor in before))
    if [t.shape for t in before] != [t.shape for t in now]:
        return [count, "", "", f"{DIFFERENT}: other shapes"]
    alike = [t.dtype for t in before] == [t.dtype for t in now]
    a, b = (torch.cat([t.flatten().double() for t in side]) for side in (before, now))
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()) and alike:
        return [count, "0", "0", "identical"]
    apart = torch.where(same, 0.0, (a - b).abs())
    apart = apart.nan_to_num(torch.inf, torch.inf)  # NaN on one side only
    relative = torch.where(same, 0.0, apart / a.abs()).nan_to_num(torch.inf, torch.inf)
    near = (torch.minimum(apart, relative) <= CLOSE).all()
    verdict = DIFFERENT if not near else f"within {CLOSE:g}" if alike else OTHER_TYPES
    return [count, f"{apart.amax():.1e}", f"{relative.amax():.1e}", verdict]


if __name__ == "__main__":
    sys.exit(main())
