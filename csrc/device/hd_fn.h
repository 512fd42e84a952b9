// hd_fn.h -- HD_FN, the qualifier of every scalar function that kernels, CPU code and tests share.
//
// nvcc: compiled for both sides. g++: plain inline, always inlined so that target_clones row loops can
// vectorise through it. Nothing else lives here: CPU code includes this without the rest of the CUDA dialect.
#pragma once

#ifdef __CUDACC__
#define HD_FN __host__ __device__ __forceinline__
#else
#define HD_FN inline __attribute__((always_inline))
#endif
