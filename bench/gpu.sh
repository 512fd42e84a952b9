#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes: build, GPU tests, microbenchmarks, stages of an update, the ladder
# of whole updates, acting, peers, compute-sanitizer. No network. A step that fails or takes too long is recorded, and
# the next one runs; the most telling come first, for all of them at their limits would take longer.
#
#   bench/gpu.sh OUT                     results into the folder OUT: eight files at most
#   HDFAST_LIBRARY_DIR=DIR bench/gpu.sh OUT    a library built elsewhere; hdfast/_ops.abi3.so in the source tree does it
#                                              too (bench/gpu_library.sh)
#   PYTHON=python3.12                    the interpreter that has torch
#   WHEELS=wheels                        a folder of wheels of what that interpreter lacks; for the peers, made where
#                                        there is a network, as by
#     pip download --no-deps --python-version 3.12 --platform manylinux_2_28_x86_64 --only-binary=:all: -d wheels \
#       sheeprl==0.8.4 hydra-core 'omegaconf<2.4' moviepy proglog decorator python-dotenv gymnasium \
#       farama-notifications \
#       torchrl==0.14.1 'tensordict<0.15' pyvers hoptorch lightning lightning-utilities pytorch-lightning torchmetrics
#     pip wheel --no-deps -w wheels antlr4-python3-runtime==4.9.3
#   GPU_SITE=build/gpu/site              where they are installed
#   HDFAST_GPU_DEVICE=cpu, HDFAST_GPU_PRESET=reduced, HDFAST_GPU_ONLY='facts policy'    another device, sizes, or steps
set -uo pipefail

if [ $# -ne 1 ]; then
  echo "usage: bench/gpu.sh OUT" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 2
python=${PYTHON:-python3}
# shellcheck source=/dev/null
source bench/gpu_library.sh
device=${HDFAST_GPU_DEVICE:-cuda}
preset=${HDFAST_GPU_PRESET:-full}
only=${HDFAST_GPU_ONLY:-}
limit=530 # seconds for everything
site=${GPU_SITE:-$PWD/build/gpu/site}
export PYTHONPATH="$site:$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # for the tests of --deterministic; cuBLAS reads it once

if [ "$device" = cuda ] &&
  ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "bench/gpu.sh: $python has no torch with a usable CUDA device. Run it on a machine with an NVIDIA GPU, name" \
    "the interpreter in PYTHON, or set HDFAST_GPU_DEVICE=cpu to see that the measurements run." >&2
  exit 1
fi
rm -f "$out"/{steps.csv,log.txt,rows.jsonl,rows.csv,report.txt,facts.json,pytest.txt,sanitizer.txt}

# step NAME SECONDS FILE COMMAND...: run it within its time and what is left of all, its output into OUT/FILE. Then it
# is interrupted, and tells where it was; pytest alone, for a second signal to its workers would cut its report off.
step() {
  local name=$1 seconds=$2 file=$3 start=$SECONDS status group=()
  shift 3
  if [ -n "$only" ] && [[ " $only " != *" ${name%% *} "* ]]; then
    return 0
  fi
  ((seconds = seconds < limit - SECONDS ? seconds : limit - SECONDS))
  if ((seconds < 5)); then
    echo "$name,no time left,0" >>"$out/steps.csv"
    return 1
  fi
  printf '\n==== %s\n' "$name" >>"$out/$file"
  [[ $name == pytest* ]] && group=(--foreground)
  timeout "${group[@]}" --signal=INT --kill-after=10 "$seconds" "$@" >>"$out/$file" 2>&1
  status=$?
  case $status in
  0) status=ok ;;
  124 | 137) status="stopped after $seconds s" ;;
  *) status="failed with $status" ;;
  esac
  echo "$name,$status,$((SECONDS - start))" >>"$out/steps.csv"
  echo "$name: $status, $((SECONDS - start)) s"
  [ "$status" = ok ]
}

measure() { # measure NAME SECONDS STEP [OPTION...]
  local name=$1 seconds=$2
  shift 2
  step "$name" "$seconds" log.txt \
    "$python" -m hdfast.bench.gpu "$1" "$out" --device "$device" --preset "$preset" "${@:2}"
}

if compgen -G "${WHEELS:-wheels}/*.whl" >/dev/null; then
  only="" step wheels 60 log.txt "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir \
    --disable-pip-version-check --root-user-action ignore --upgrade --target "$site" "${WHEELS:-wheels}"/*.whl
fi

# The exchanges of bench/micro print rows of their own.
exchange() { build/gpu/micro | tee -a "$out/rows.jsonl"; }

# gpu_tests FILTER FILE...: tests marked gpu. Interrupted, as when its time is over, pytest tells what failed before.
gpu_tests() {
  local workers=()
  [[ $1 == not* ]] && "$python" -c 'import xdist' 2>/dev/null && workers=(-n 8)
  exec "$python" -m pytest "${@:2}" -m gpu -k "$1" -q --tb=short --durations=5 -p no:cacheprovider "${workers[@]}"
}

sanitize() { # sanitize TOOL: every native op once or twice, on small tensors
  local tool
  # Within one block of torch's cache of memory an overrun is none.
  [ "$1" = memcheck ] && export PYTORCH_NO_CUDA_MEMORY_CACHING=1
  tool=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
  "$tool" --tool "$1" --error-exitcode 9 --print-limit 20 "$python" -m pytest tests/native -q -x -p no:cacheprovider \
    -k 'cuda and (strided or alone or slow_copy)'
}

export python out
export -f build find_nvcc exchange gpu_tests sanitize
if [ "$device" = cuda ]; then
  if has_library >/dev/null 2>&1; then
    echo "build,a library with CUDA kernels is there,0" >>"$out/steps.csv"
  else
    step build 240 log.txt bash -c 'build _ops' && export HDFAST_LIBRARY_DIR="$PWD/build/gpu"
  fi
fi
measure facts 30 facts
measure "update graphs" 45 update --rung graphs
if [ "$device" = cuda ]; then
  [ -x build/gpu/micro ] || step "build micro" 60 log.txt bash -c 'build micro'
  step exchange 30 log.txt bash -c 'set -o pipefail; exchange'
  # Files that have such tests; others need environments, which may not be here. Alone: tests that look at times, and
  # last those that break captures on purpose.
  step pytest 150 pytest.txt bash -c 'gpu_tests "not milliseconds and not failed_capture" \
    tests/gpu/test_gpu.py tests/native'
  step "pytest times" 40 pytest.txt bash -c 'gpu_tests milliseconds tests/gpu/test_gpu.py'
  step "pytest captures" 30 pytest.txt bash -c 'gpu_tests failed_capture tests/gpu/test_gpu.py'
fi
measure stages 60 stages
measure micro 45 micro
measure policy 30 policy
measure "update tuned" 45 update --rung tuned
measure "update native" 30 update --rung native
measure "update reference" 45 update --rung reference
measure peers 150 peers
if [ "$device" = cuda ]; then
  for tool in memcheck racecheck synccheck; do
    step "sanitizer $tool" 45 sanitizer.txt bash -c "sanitize $tool"
  done
  measure "update compile" 90 update --rung compile
fi
limit=$((limit + 10))
step report 10 log.txt "$python" -m hdfast.bench.report "$out" && cat "$out/report.txt"
! grep -qv -e ',ok,' -e 'is there' "$out/steps.csv"
