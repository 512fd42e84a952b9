# shellcheck shell=bash
# The native library on a machine with a GPU: sourced by gpu.sh and gpu_train.sh, in the source tree, with `python` set.
# Built elsewhere it is carried along as hdfast/_ops.abi3.so, and for gpu.sh build/gpu/micro too:
#   cmake -S . -B build/gpu -G Ninja -DHDFAST_CUDA=1 -DHDFAST_ARCHS=9.0 -DHDFAST_PYTHON="$(command -v python3)" &&
#     cmake --build build/gpu --target _ops micro && cp build/gpu/_ops.abi3.so hdfast/

: "${python:?}"

# Whether there is a library, with kernels for the GPU if there is a GPU.
has_library() {
  "$python" -P -c 'import sys, torch
from hdfast.ops import library
sys.exit(bool(library.problem()) or torch.cuda.is_available() and not library.runs_on(torch.device("cuda")))'
}

# nvcc from PATH, a toolkit, or a pip package of one.
find_nvcc() {
  local site nvcc
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  for nvcc in "$(command -v nvcc)" "${CUDA_HOME:-/nowhere}/bin/nvcc" /usr/local/cuda/bin/nvcc \
    "$site"/nvidia/*/bin/nvcc; do
    if [ -x "$nvcc" ]; then
      echo "$nvcc"
      return 0
    fi
  done
  return 1
}

# build TARGET, into build/gpu: _ops, the library, for the GPU at hand or without kernels; micro, that of bench/micro.
build() {
  local nvcc arch options=(-DHDFAST_CUDA=0)
  arch=$("$python" -c 'import torch
if torch.cuda.is_available(): print("%d.%d" % torch.cuda.get_device_capability())') || return 1
  if [ -n "$arch" ]; then
    nvcc=$(find_nvcc) || {
      echo "there is a GPU here and no nvcc: carry the built library along, see bench/gpu_library.sh" >&2
      return 1
    }
    options=(-DHDFAST_CUDA=1 "-DHDFAST_ARCHS=$arch")
    export CUDA_HOME=${nvcc%/bin/nvcc}
  fi
  options+=("-DHDFAST_PYTHON=$("$python" -c 'import sys; print(sys.executable)')")
  cmake -S . -B build/gpu -G Ninja "${options[@]}" &&
    cmake --build build/gpu --target "$1"
}
