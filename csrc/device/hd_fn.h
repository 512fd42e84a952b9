// hd_fn.h -- what math shared by kernels, CPU code and tests needs: HD_FN and HD_MUTATE. CPU code includes it
// without the rest of the CUDA dialect.
#pragma once

// Qualifier of every such function. nvcc: compiled for both sides. g++: plain inline, always inlined so that
// loops over rows can vectorize through it.
#ifdef __CUDACC__
#define HD_FN __host__ __device__ __forceinline__
#else
#define HD_FN inline __attribute__((always_inline))
#endif

// HD_MUTATE(NAME, good, bad) yields `good`, and `bad` when -DHD_BUG_NAME=1 is given: the planted bugs with
// which tests/cpp proves that its suites can fail. The two are expressions without bare commas. No product
// build defines any HD_BUG_*.
#define HD_MUTATE(name, good, bad) HD_MUTATE_EXPAND(HD_BUG_##name, good, bad)
#define HD_MUTATE_EXPAND(flag, good, bad) HD_MUTATE_JOIN(flag, good, bad)
#define HD_MUTATE_JOIN(flag, good, bad) HD_MUTATE_SECOND(HD_MUTATE_SHIFT_##flag bad, good, )
#define HD_MUTATE_SHIFT_1 ,
#define HD_MUTATE_SECOND(...) HD_MUTATE_SECOND_OF(__VA_ARGS__)
#define HD_MUTATE_SECOND_OF(first, second, ...) second
