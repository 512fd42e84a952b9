#!/usr/bin/env bash
# gpu_train.sh OUT SECONDS [flag ...]: train an Atari 100K game for SECONDS at most and leave its results in OUT.
#
# Made for a machine with a GPU and no network. The same command goes on where the last one stopped: from RUN, or where
# that is gone from what OUT holds of it. At the official sizes a run does not fit into files of 16 MiB: it stays in
# RUN, and goes on only while that disk is there. What comes back then are the results (bench/gpu_results.py): records,
# metrics, curve, scores, settings, and the policy in half precision, which bench/gpu_policy.py makes playable again.
# Flags are those of `hdfast train`, and win over what stands here.
#
#   TASK=pong  SEED=0  CONFIGS=atari100k (presets to stack)  RUN=runs/gpu/TASK/SEED
#   SITE=build/gpu/site  where wheels are installed
#   KEEP_MIB=28      leave the run itself in OUT if it packs into that, else its newest checkpoint, else its policy
#   PYTHON=python3   an interpreter that has torch
#   WHEELS=wheels    a folder of wheels of what that interpreter lacks; made where there is a network, as by
#     pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 -d wheels \
#       ale-py gymnasium farama-notifications
#
# The native library is built here, by cmake and ninja, unless it came along (bench/gpu_library.sh). SECONDS counts from
# the start of this script; the last checkpoint and the results come on top: leave half a minute.
set -euo pipefail

if [ $# -lt 2 ] || ! [[ $2 =~ ^[0-9]+$ ]]; then
  echo "usage: bench/gpu_train.sh OUT SECONDS [flag of hdfast train ...]" >&2
  exit 2
fi
began=$(date +%s) limit=$2
root=$(cd "$(dirname "$0")/.." && pwd)
mkdir -p "$1" && out=$(cd "$1" && pwd)
shift 2
python=${PYTHON:-python3} wheels=${WHEELS:-$root/wheels} keep=${KEEP_MIB:-28}
task=${TASK:-pong} seed=${SEED:-0} site=${SITE:-$root/build/gpu/site}
run=${RUN:-$root/runs/gpu/$task/$seed}
read -ra configs <<<"${CONFIGS:-atari100k}"
mkdir -p "$run" && run=$(cd "$run" && pwd)
export PYTHONPATH=$site:$root OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1

if compgen -G "$wheels/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
    --root-user-action ignore --upgrade --target "$site" "$wheels"/*.whl
fi

# shellcheck source=/dev/null
source "$root/bench/gpu_library.sh"
if ! has_library; then
  (cd "$root" && build _ops)
  export HDFAST_LIBRARY_DIR=$root/build/gpu
fi

if [ ! -e "$run/config.json" ] && compgen -G "$out/run.tar.gz.*" >/dev/null; then
  cat "$out"/run.tar.gz.* | tar -xz -C "$run"
fi

left=$((limit - $(date +%s) + began))
code=0
"$python" -P -m hdfast train --configs "${configs[@]}" --task "$task" --seed "$seed" --env.backend ale \
  --run.eval_every 20000 --logdir "$run" --run.max_seconds $((left > 1 ? left : 1)) "$@" || code=$?
if [ -e "$run/meta.json" ]; then
  "$python" "$root/bench/gpu_results.py" "$run" "$out" "$keep"
fi
exit $code
