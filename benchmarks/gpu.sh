#!/usr/bin/env bash
# All that is tested and measured on a machine with an NVIDIA card, within nine minutes, or some of it:
#
#   bash benchmarks/gpu.sh                  # tests, peer, head, train, profile
#   bash benchmarks/gpu.sh peer head
#   bash benchmarks/gpu.sh --toy train      # at toy size, on a CPU too
#
# Every part prints Markdown and leaves it as LOGS/part.log (LOGS=folder, gpu-logs by default). A part
# that fails or takes too long does not stop the next; the exit status says whether there was one.
#
# It runs with the python3 at hand, or $PYTHON, which must have torch; pcflow is taken from this
# checkout if it is not installed. The tests need pytest, pytest-xdist, hypothesis and what else
# '.[test]' names, the peer `pip install pyjuice==2.6.3 networkx`, the backbone transformers. Where
# there is no network, WHEELS=folder is a folder of wheels to be taken from, with nothing else.
set -uo pipefail

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}

declare -A seconds=([tests]=150 [peer]=135 [head]=110 [train]=75 [profile]=60) # at most
toy=() parts=()
for word in "$@"; do
  if [[ $word == --toy ]]; then
    toy=(--toy)
  elif [[ -n ${seconds[$word]:-} ]]; then
    parts+=("$word")
  else
    echo "no part is called $word; there are tests, peer, head, train and profile" >&2
    exit 2
  fi
done
((${#parts[@]})) || parts=(tests peer head train profile)

mkdir -p "${LOGS:=gpu-logs}" || exit 2
LOGS=$(cd "$LOGS" && pwd)
cd "$checkout" || exit 2

if [[ -n ${WHEELS:-} ]]; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --target "$site" "$WHEELS"/*.whl
  export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH}
fi
"$python" -P -c 'import pcflow' 2>/dev/null || export PYTHONPATH=$checkout${PYTHONPATH:+:$PYTHONPATH}

"$python" - <<'PY' || exit 2
from importlib.util import find_spec

wanted = "torch numpy triton transformers pyjuice networkx pytest xdist hypothesis safetensors sklearn"
missing = [name for name in wanted.split() if find_spec(name) is None]
print("missing packages:", ", ".join(missing) or "none")
PY

command_of() { # PART: leaves it in the array `command`
  if [[ $1 != tests ]]; then
    command=("$python" "benchmarks/gpu_$1.py" "${toy[@]}")
    return
  fi
  local files # those that choose their device by what there is
  mapfile -t files < <(grep -lE '\bDEVICE\b|\bdevice: torch\.device\b' tests/{,*/}test_*.py)
  ((${#toy[@]})) && files=(tests/test_chosen.py)
  # warnings are no errors here: the versions of that machine are not those of constraints.txt
  command=(env OMP_NUM_THREADS=1 "PCFLOW_EXAMPLES=${PCFLOW_EXAMPLES:-8}" "$python" -m pytest
    "${files[@]}" -W default -q --no-header --tb=short -p no:cacheprovider
    -n "$(nproc)" --maxprocesses=32)
}

failed=0 rows=()
for part in "${parts[@]}"; do
  printf '\n## %s\n\n' "$part"
  began=$SECONDS
  command_of "$part"
  timeout --kill-after=5 "${seconds[$part]}" "${command[@]}" 2>&1 | tee "$LOGS/$part.log"
  case ${PIPESTATUS[0]} in
    0) outcome=passed ;;
    124 | 137) outcome="stopped after ${seconds[$part]} s" ;;
    *) outcome=failed ;;
  esac
  [[ $outcome == passed ]] || failed=1
  if [[ $part == tests ]]; then
    outcome+=": $(tail -n 1 "$LOGS/tests.log")"
  fi
  rows+=("| $part | $outcome | $((SECONDS - began)) |")
done

printf '\n| part | outcome | s |\n|---|---|---|\n'
printf '%s\n' "${rows[@]}"
exit "$failed"
