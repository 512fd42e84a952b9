#!/usr/bin/env bash
# The CPU kernels and _host under ASan and UBSan, through the tests that use them from Python: a build of its own in
# build/sanitize, then one pytest process per file, so that a report ends that file alone.
#
#   tests/sanitize/native.sh PYTHON [JOBS]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(command -v "$1") jobs=${2:-2} build=${BUILD:-build/sanitize}

includes=$("$python" -c 'import sysconfig, pybind11; print(sysconfig.get_path("include"), pybind11.get_include(), sep=";")')
torch=$("$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
suffix=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
cmake -S . -B "$build" -G Ninja -DHDFAST_SANITIZE=address,undefined -DHDFAST_CUDA=0 -DHDFAST_BUILD_EMU=OFF \
  "-DHDFAST_PYTHON=$python" "-DHDFAST_TORCH_DIR=$torch" "-DHDFAST_PYTHON_INCLUDE=$includes" \
  "-DHDFAST_PYTHON_SUFFIX=$suffix"
cmake --build "$build" -j "$jobs" --target _ops _host

# The runtimes come first, libstdc++ with them: they look up its exceptions when they start. Leaks are those of an
# interpreter that frees little at its end. Python's own allocator would hide overruns from them.
export HDFAST_LIBRARY_DIR=$build PYTHONMALLOC=malloc OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
export PYTHONPATH=. ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
preload=$(for name in asan ubsan stdc++; do gcc -print-file-name=lib$name.so; done | paste -sd:)
program="import sys, hdfast, pytest; hdfast.__path__.insert(0, '$build'); sys.exit(pytest.main(sys.argv[1:]))"

# Left out: the emulator, which `make cpp` runs under three sanitisers; programs that start compilers; exact figures of
# sums that a build without vectors takes in another order.
exact=(--deselect "tests/native/test_losses.py::test_image_loss[cpu-shape3]")
for case in balanced_kl[cpu-{"(4, 32, 32)-0.0","(4, 32, 32)-1.0","(4, 32, 32)-3.0"}-bf16] "kl_divergence[cpu-(4, 32, 32)-bf16]"; do
  exact+=(--deselect "tests/native/test_kl.py::test_$case")
done
for test in twohot.py::test_mean[cpu-{255,41-shape2}; do exact+=(--deselect "tests/native/test_$test"); done
for test in official_{figures,digest}[{native,steps}-small]; do exact+=(--deselect "tests/test_parity.py::test_$test"); done
failed=()
for file in tests/native/test_*.py tests/test_{ops,model,parity,replay,replay_ring,replay_store}.py; do
  echo "== $file"
  LD_PRELOAD=$preload "$python" -c "$program" "$file" -q -p no:cacheprovider --capture=sys -m "not slow" \
    -k "not emu and not test_extreme_rows and not 1024" "${exact[@]}" || { code=$?; [ $code = 5 ] || failed+=("$file"); }
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }
echo "nothing found"
