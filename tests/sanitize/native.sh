#!/usr/bin/env bash
# The CPU kernels and _host under ASan and UBSan, through the tests that use them from Python: a build of its own in
# build/sanitize, then one pytest process per file, so that a report ends that file alone. Then every op on threads
# under TSan, and _host under valgrind.
#
#   tests/sanitize/native.sh PYTHON [JOBS]
set -euo pipefail
cd "$(dirname "$0")/../.."
python=$(command -v "$1") jobs=${2:-2} build=${BUILD:-build/sanitize}

torch=$("$python" -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])')
cmake -S . -B "$build" -G Ninja -DHDFAST_SANITIZE=address,undefined -DHDFAST_CUDA=0 -DHDFAST_BUILD_EMU=OFF \
  "-DHDFAST_PYTHON=$python" "-DHDFAST_TORCH_DIR=$torch"
cmake --build "$build" -j "$jobs" --target _ops _host

# The runtimes come first, libstdc++ with them: they look up its exceptions when they start. Leaks are those of an
# interpreter that frees little at its end. Python's own allocator would hide overruns from them.
export HDFAST_LIBRARY_DIR=$build PYTHONMALLOC=malloc OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
export PYTHONPATH=. ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
preload=$(for name in asan ubsan stdc++; do gcc -print-file-name=lib$name.so; done | paste -sd:)

# Left out: the emulator, which `make cpp` runs under three sanitisers; programs that start compilers; exact figures of
# sums that a build without vectors takes in another order; one of them, a gradient near 0, gives a first Adam step its
# sign (steps-tiny).
exact=()
for case in "image_loss-(2, 2, 64, 64, 3)" {balanced_kl{," 0.0"," 3.0"},kl_divergence}"-(4, 32, 32)-bf16" \
  "twohot_mean-("{7,1,"3, 5",1031}", 255)" "twohot_mean-(3, 5, 41)" "gru_gates-(1, 2052)-fp32" \
  "actor_loss many-("{7,1,"3, 5"}", 1500)-bf16"; do
  exact+=(--deselect "tests/native/test_public_ops.py::test_values_and_gradients[cpu-$case")
done
for test in official_{figures,digest}"["{native,steps}"-small]" "official_digest[steps-tiny]"; do
  exact+=(--deselect "tests/model/test_parity.py::test_$test")
done
failed=()
for file in tests/native/test_*.py tests/ops/test_ops.py tests/model/test_{model,parity}.py tests/replay/test_*.py; do
  echo "== $file"
  LD_PRELOAD=$preload "$python" -m pytest "$file" -q -p no:cacheprovider --capture=sys "${exact[@]}" -m "not slow" \
    -k "not emu and not test_extreme_rows and not unevenly and not 1024" || { [ $? = 5 ] || failed+=("$file"); }
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}"; exit 1; }

# Every op split over threads and called by two at once, under TSan; a planted race must be seen.
cmake -S tests/fuzz/native -B "$build/threads" -G Ninja
cmake --build "$build/threads" -j "$jobs" --target ops_threads
rm -rf "$build/threads/calls"
LD_PRELOAD=$preload "$python" tests/fuzz/native_seeds.py "$build/threads/calls" --large
grep -q "ThreadSanitizer: data race" <<<"$("$build/threads/ops_threads" --planted 2>&1)"
TSAN_OPTIONS=halt_on_error=1 "$build/threads/ops_threads" "$build/threads/calls"

# _host as Python calls it. What valgrind finds in the interpreter and in numpy is theirs: only frames of _host count.
cmake -S . -B "$build/host" -G Ninja -DHDFAST_CUDA=0 "-DHDFAST_PYTHON=$python" "-DHDFAST_TORCH_DIR=$torch"
cmake --build "$build/host" -j "$jobs" --target _host
export HDFAST_LIBRARY_DIR=$build/host
"$python" tests/sanitize/gather.py 20000
if "$python" tests/sanitize/gather.py 2000 leak; then echo "a planted leak was not seen"; exit 1; fi
OPENBLAS_NUM_THREADS=1 valgrind --log-file="$build/host/valgrind.log" \
  "$python" tests/sanitize/gather.py 20
if grep -B20 "_host" "$build/host/valgrind.log"; then exit 1; fi
echo "nothing found"
