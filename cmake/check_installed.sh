#!/usr/bin/env bash
# Whether an installation works for somebody without compilers: nothing on PATH but its own folder, nothing of the tree.
#
#   cmake/check_installed.sh BIN [BACKEND]     BIN holds hdfast; BACKEND: native (by default) or reference
set -euo pipefail
bin=$(cd "$1" && pwd) backend=${2:-native}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
run() { env -i PATH="$bin" HOME="$work" OMP_WAIT_POLICY=passive "$@"; }

run hdfast doctor
run hdfast train --configs debug --task catch_5x5 --run.steps 400 --backend "$backend" --logdir "$work/run"
run python -c "import hdfast; print(hdfast.evaluate(hdfast.load('run'), episodes=2).score_mean)"
