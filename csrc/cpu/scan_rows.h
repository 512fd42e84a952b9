// Row kernels of the CPU sequence loops: what is computed between two matrix products of observe_scan and imagine. Ops
// that do the same by themselves use them, too.
//
// Conventions: row-major float32, LayerNorm eps 1e-3 inside the root with biased variance, `stats` = (mean, rstd) per
// row; gradients of scales and biases are added to. Each function touches every operand once: 4 to 7 floats moved per
// element, so at 4 to 16 rows all of it stays in L1.
#pragma once

#include <cstdint>

namespace hd::cpu {

struct Bf16;

// y = silu(LN(x) * scale + bias); x (rows, c), y rows ldy apart.
void norm_silu(int64_t rows, int64_t c, const float* x, const float* scale, const float* bias, float* y, int64_t ldy,
               float* stats);
// dx from dy (rows ldy apart); dscale, dbias (c) are added to.
void norm_silu_bwd(int64_t rows, int64_t c, const float* dy, int64_t ldy, const float* x, const float* stats,
                   const float* scale, const float* bias, float* dx, float* dscale, float* dbias);
// h' = u tanh(sig(r) c) + (1 - u) h, (r, c, u - 1) from LN(x) jointly over 3d; h rows ldh apart, out rows ldo apart.
void gates(int64_t rows, int64_t d, const float* x, const float* h, int64_t ldh, const float* scale, const float* bias,
           float* out, int64_t ldo, float* stats);
// dx (rows, 3d) and the direct part of dh (rows, d) from dout (rows, d).
void gates_bwd(int64_t rows, int64_t d, const float* dout, const float* x, const float* stats, const float* h,
               int64_t ldh, const float* scale, const float* bias, float* dx, float* dh, float* dscale, float* dbias);
// logp = log((1 - mix) softmax(logit) + mix / k) of `groups` groups of k; may work in place.
void unimix(int64_t groups, int64_t k, const float* logit, float mix, float* logp);
// index = min(#{j: cdf_j <= u}, k - 1) of log-probabilities.
void sample(int64_t groups, int64_t k, const float* logp, const float* u, int64_t* index);
// dlogit from dlogp and from dprob, the straight-through gradient; either may be null.
void unimix_bwd(int64_t groups, int64_t k, const float* dlogp, const float* dprob, const float* logp, float mix,
                float* dlogit);
// one-hot of index: (groups, k).
void one_hot(int64_t groups, int64_t k, const int64_t* index, float* out);
// out[j] += sum_r x[r, j].
void column_sums(int64_t rows, int64_t c, const float* x, float* out);
// dscale and dbias (c) = the sums of partial (parts, 2, c) over its parts.
void add_parts(int64_t parts, int64_t c, const float* partial, float* dscale, float* dbias);
// Every row of out (rows, c) becomes `row`.
void fill_rows(int64_t rows, int64_t c, const float* row, float* out);

// n numbers rounded to bf16, and back.
void round_bf16(int64_t n, const float* x, Bf16* out);
void widen_bf16(int64_t n, const Bf16* x, float* out);

}  // namespace hd::cpu
