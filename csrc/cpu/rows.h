// Sums and copies of rows that several kernels share, float32 and row-major, and the gradient of log-probabilities.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

#include "kernels/types.h"

namespace hd::cpu {

struct Bf16;

// Scratch, not set to zero: that would cost as much as a pass over it.
using Floats = std::unique_ptr<float[]>;
inline Floats floats(int64_t n) { return std::make_unique_for_overwrite<float[]>(n); }

// dlogit from dlogp and from dprob, the straight-through gradient, of `groups` groups of k log-probabilities as
// latent_fwd makes them; either may be null.
void unimix_bwd(int64_t groups, int64_t k, const float* dlogp, const float* dprob, const float* logp, float mix,
                float* dlogit);
// out[j] += sum_r x[r, j].
void column_sums(int64_t rows, int64_t c, const float* x, float* out);
// f(first row, last, dscale, dbias) for slices [begin, end) of an op's rows, whose gradients of c scales and biases are
// summed in `partial`; from zero on.
template <class Args, class F>
void over_slices(const Args& a, int64_t c, int64_t begin, int64_t end, const F& f) {
  for (int64_t p = begin; p < end; ++p) {
    float* dscale = a.partial + p * 2 * c;
    std::memset(dscale, 0, 2 * c * sizeof(float));
    f(p * a.rows / a.parts, (p + 1) * a.rows / a.parts, dscale, dscale + c);
  }
}
// dscale and dbias (c) = the sums of partial (parts, 2, c) over its parts.
void add_parts(int64_t parts, int64_t c, const float* partial, float* dscale, float* dbias);

// n numbers rounded to bf16, and back.
void round_bf16(int64_t n, const float* x, Bf16* out);
void widen_bf16(int64_t n, const Bf16* x, float* out);
// Elements [at, at + n) of `to`, which is stored as `type`.
void put(DType type, void* to, int64_t at, int64_t n, const float* from);

}  // namespace hd::cpu
