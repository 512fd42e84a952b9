#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes: build, GPU tests, compute-sanitizer, microbenchmarks, stages of an
# update, the ladder of whole updates, acting. No network. A step that fails or takes too long is recorded, and the next
# one runs.
#
#   bench/gpu.sh OUT                     results into the folder OUT: eight files at most
#   HDFAST_LIBRARY_DIR=DIR bench/gpu.sh OUT    a library built elsewhere; so does hdfast/_ops.abi3.so in the source tree
#   PYTHON=python3.12                    the interpreter that has torch
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
device=${HDFAST_GPU_DEVICE:-cuda}
preset=${HDFAST_GPU_PRESET:-full}
only=${HDFAST_GPU_ONLY:-}
limit=530 # seconds for everything
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1
export CUBLAS_WORKSPACE_CONFIG=:4096:8 # for the tests of --deterministic; cuBLAS reads it once

if [ "$device" = cuda ] && ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  echo "bench/gpu.sh: $python has no torch with a usable CUDA device. Run it on a machine with an NVIDIA GPU, name the" \
    "interpreter in PYTHON, or set HDFAST_GPU_DEVICE=cpu to see that the measurements run." >&2
  exit 1
fi
rm -f "$out"/{steps.csv,log.txt,rows.jsonl,rows.csv,report.txt,facts.json,pytest.txt,sanitizer.txt}

# step NAME SECONDS FILE COMMAND...: run it within its time and what is left of all, its output into OUT/FILE.
step() {
  local name=$1 seconds=$2 file=$3 start=$SECONDS status
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
  timeout --kill-after=5 "$seconds" "$@" >>"$out/$file" 2>&1
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
  step "$name" "$seconds" log.txt "$python" -m hdfast.bench.gpu "$1" "$out" --device "$device" --preset "$preset" "${@:2}"
}

has_kernels() {
  "$python" -c 'import sys; from hdfast.ops import library
sys.exit(library.problem() is not None or not library.build_info()["cuda"])' >/dev/null 2>&1
}

# nvcc from PATH, a toolkit, or a pip package of one.
find_nvcc() {
  local site
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  for nvcc in "$(command -v nvcc)" "${CUDA_HOME:-/nowhere}/bin/nvcc" /usr/local/cuda/bin/nvcc "$site"/nvidia/*/bin/nvcc; do
    if [ -x "$nvcc" ]; then
      echo "$nvcc"
      return 0
    fi
  done
  return 1
}

build() {
  local nvcc folder=build/gpu arch
  nvcc=$(find_nvcc) || { echo "no nvcc: carry a built hdfast/_ops.abi3.so along" && return 1; }
  arch=$("$python" -c 'import torch; print("%d.%d" % torch.cuda.get_device_capability())') || return 1
  CUDA_HOME=$(dirname "$(dirname "$nvcc")") cmake -S . -B "$folder" -G Ninja -DHDFAST_CUDA=1 -DHDFAST_ARCHS="$arch" \
    -DHDFAST_PYTHON="$("$python" -c 'import sys; print(sys.executable)')" &&
    cmake --build "$folder" --target _ops
}

sanitize() { # sanitize TOOL: every native op once or twice, on small tensors
  local tool
  tool=$(command -v compute-sanitizer || echo "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer")
  "$tool" --tool "$1" --error-exitcode 9 --print-limit 20 "$python" -m pytest tests/native -q -x -p no:cacheprovider \
    -k 'cuda and not compile and (opcheck or alone or return)'
}

if [ "$device" = cuda ]; then
  if has_kernels; then
    echo "build,a library with CUDA kernels is there,0" >>"$out/steps.csv"
  else
    export -f build find_nvcc
    export python
    step build 240 log.txt bash -c build && export HDFAST_LIBRARY_DIR="$PWD/build/gpu"
  fi
fi
measure facts 30 facts
if [ "$device" = cuda ]; then
  # Test files whose packages are not here must not keep the others from running.
  step pytest 150 pytest.txt "$python" -m pytest tests -m gpu -q -p no:cacheprovider --continue-on-collection-errors
fi
measure "update graphs" 45 update --rung graphs
measure stages 60 stages
measure micro 45 micro
measure policy 30 policy
measure "update native" 30 update --rung native
measure "update reference" 45 update --rung reference
if [ "$device" = cuda ]; then
  export -f sanitize
  export python
  for tool in memcheck racecheck synccheck; do
    step "sanitizer $tool" 45 sanitizer.txt bash -c "sanitize $tool"
  done
  measure "update compile" 90 update --rung compile
fi
limit=$((limit + 10))
step report 10 log.txt "$python" -m hdfast.bench.report "$out" && cat "$out/report.txt"
! grep -qv -e ',ok,' -e 'is there' "$out/steps.csv"
