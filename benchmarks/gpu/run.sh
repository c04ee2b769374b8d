#!/usr/bin/env bash
# Tests on a GPU, its speed, and one more piece of a table: README.md beside this file says how.
#
#   bash benchmarks/gpu/run.sh OUT [DATA]
set -uo pipefail

OUT=${1:?give the folder that results go to, such as runs/gpu}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
DATA=${2:-${DATA:-}}                    # CIFAR-100; empty: no table
[ -z "$DATA" ] || DATA=$(cd "$DATA" && pwd) || exit 2
TEACHER=${TEACHER:-}                    # weights of the table's teacher; empty: it is trained first
PLAN=${PLAN:-benchmarks/gpu/table.yaml} # what is trained
BUDGET=${BUDGET:-690}                   # seconds, for all of it
DEVICE=${DEVICE:-gpu}                   # cpu: a rehearsal
WHEELS=${WHEELS:-}                      # a folder of packages that are missing here
SITE=${SITE:-${TMPDIR:-/tmp}/rlkd-gpu-site}
STAGES=${STAGES:-tests speed table}
SPEED=${SPEED:-}                        # more arguments of speed.py
TESTS=${TESTS:--m gpu tests/gpu}           # what pytest is given

absolute() { case $1 in '' | /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac }
TEACHER=$(absolute "$TEACHER") WHEELS=$(absolute "$WHEELS") SITE=$(absolute "$SITE")
[ "$PLAN" = benchmarks/gpu/table.yaml ] || PLAN=$(absolute "$PLAN")
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
if [ "$DEVICE" = cpu ]; then export CUDA_VISIBLE_DEVICES=; fi
if [ -n "$WHEELS" ]; then # beside what is installed, which stays as it is
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$SITE" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH="$SITE"
fi
export PYTHONPATH="src:.:benchmarks${PYTHONPATH:+:$PYTHONPATH}" DATA TEACHER PYTHONUNBUFFERED=1
if [ "$DEVICE" != cpu ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "gpu/run.sh: torch sees no CUDA device here: DEVICE=cpu rehearses without one" >&2
    exit 2
fi

left() { echo $((BUDGET - SECONDS > 1 ? BUDGET - SECONDS : 1)); }
least() { local left; left=$(left); echo $((left < $1 ? left : $1)); }
# A stage that has passed is not done again while the sources are the same.
sources=$(cat $(find src tests benchmarks -name '*.py' -o -name '*.yaml' -o -name '*.sh' | LC_ALL=C sort) | cksum)
key="$sources $DEVICE $TESTS $SPEED $("$PYTHON" -c 'import torch; print(torch.__version__)')"
passed() { [ "$(cat "$OUT/$1.passed" 2>/dev/null)" = "$key" ] && echo "$1: passed before"; }
worst=0
finish() { # stage, exit status
    echo "$1: exit $2 after ${SECONDS} s of $BUDGET"
    if [ "$2" = 0 ]; then echo "$key" >"$OUT/$1.passed"; else worst=1; fi
}

for stage in $STAGES; do
    case $stage in
    tests)
        passed tests && continue
        # Warnings of another torch than CI's are shown, and fail nothing.
        timeout -k 10 "$(least 320)" "$PYTHON" -m pytest -q -p no:cacheprovider -W default \
            -W ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning \
            --junitxml "$OUT/tests.xml" $TESTS 2>&1 | tee "$OUT/tests.log"
        finish tests "${PIPESTATUS[0]}"
        ;;
    speed)
        passed speed && continue
        timeout -k 10 "$(least 190)" "$PYTHON" benchmarks/gpu/speed.py --out "$OUT/speed.json" $SPEED 2>&1 |
            tee "$OUT/speed.log"
        finish speed "${PIPESTATUS[0]}"
        ;;
    table)
        "$PYTHON" benchmarks/gpu/table.py --plan "$PLAN" --out "$OUT" --seconds "$(left)"
        status=$?
        echo "table: exit $status after ${SECONDS} s of $BUDGET"
        [ "$status" = 0 ] || worst=1
        ;;
    *) echo "gpu/run.sh: no stage $stage: tests, speed or table" >&2 && exit 2 ;;
    esac
done
exit $worst
