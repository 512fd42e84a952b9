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

// The entry points of an op: launch_<op>(args, stream), and cpu::<op>(args, begin, end) for a range of its items.
#define HD_ENTRY(op, Args)                               \
  void launch_##op(const Args& args, hdStream stream);   \
  namespace cpu {                                        \
  void op(const Args& args, int64_t begin, int64_t end); \
  }

}  // namespace hd
