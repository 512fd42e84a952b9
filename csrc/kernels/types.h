// types.h -- what kernels, CPU code and the tensor glue agree on: storage types and the stream handle.
//
// Includes nothing of CUDA, torch or the emulator, so that any compiler reads every csrc/kernels/<family>.h
// alike and the launchers' names mangle alike. `CUstream_st*` is what cudaStream_t is under nvcc; the
// emulator ignores it.
#pragma once
#include <cstdint>

struct CUstream_st;
using hdStream = CUstream_st*;

namespace hd {

// Storage type of activations. Parameters, statistics, gradients of parameters and all sums are float.
enum class DType : int32_t { F32 = 0, BF16 = 1 };

}  // namespace hd
