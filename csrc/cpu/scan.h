// The two sequence loops of the learner on the CPU, each one call: observe_scan (filtering, forward and backward) and
// imagine (rollout under the actor). The equations are those of RSSM.observe and imagination.imagine.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/gemm.h"

namespace hd::cpu {

// silu(LN(x kernel) * scale + bias); gradients use the same struct.
template <class T>
struct DenseT {
  T* kernel = nullptr;
  T* scale = nullptr;
  T* bias = nullptr;
};
// x kernel + bias
template <class T>
struct AffineT {
  T* kernel = nullptr;
  T* bias = nullptr;
};

struct Sizes {
  int64_t embed, actions, deter, units, stoch, classes;
  float mix;
  DType operands = DType::F32;  // of every product; what stands between them is fp32
  int64_t latent() const { return stoch * classes; }
};

// Parameters of the RSSM (T = const float) or their gradients (T = float).
template <class T>
struct RssmT {
  T* initial = nullptr;                     // (D)
  DenseT<T> img_in, gru, img_out, obs_out;  // (Z + A, U), (D + U, 3D), (D, U), (D + E, U)
  AffineT<T> img_stats, obs_stats;          // (U, Z)
};
using Rssm = RssmT<const float>;
using RssmGrad = RssmT<float>;

// What the forward pass keeps of a LayerNorm, of c columns: what it reads (N, c), and mean and rstd (2, N).
struct Kept {
  float *pre, *stats;
};
struct Saved {
  Kept in, gru, obs, img;  // c = U, 3D, U, U
  int64_t* start;          // (S): latent indices of the initial state
};

// N = T * B rows, time-major.
struct Observe {
  int64_t length, batch;
  Mat embed;                            // (N, E)
  const float *action, *u;              // (N, A), (N, S)
  const bool* first;                    // (N)
  float *deter, *stoch, *post, *prior;  // (N, D), (N, Z), (N, Z), (N, Z); stoch is not read by the backward
  int64_t* index;                       // (N, S)
  Saved saved;
};

// Gradients of the outputs, null where there are none, and of the embedding in its type (null: not wanted).
struct ObserveGrad {
  const float *deter, *stoch, *post, *prior;
  void* embed;
};

void observe_scan(const Pool& pool, const Sizes& z, const Rssm& p, const Observe& x);
// `g` must be zero on entry.
void observe_scan_bwd(const Pool& pool, const Sizes& z, const Rssm& p, const Observe& x, const ObserveGrad& d,
                      const RssmGrad& g);

struct Imagine {
  int64_t horizon, rows, choices;  // H, N; number of sampled actions, H or H + 1
  const float *u, *u_action;       // (H, N, S), (choices, N)
  float *deter, *prior;            // (H + 1, N, D) with the starts in place; (H, N, Z) or null
  int64_t *index, *action;         // (H + 1, N, S) with the starts in place; (choices, N)
  float* pre;                      // (L, choices, N, U): what the policy's L LayerNorms read
};

void imagine(const Pool& pool, const Sizes& z, const Rssm& p, const std::vector<DenseT<const float>>& hidden,
             const AffineT<const float>& out, const Imagine& x);

// y (rows, c), stored as `type`, = [deter, onehot(index)] kernel, kernel (D + Z, c): a product with the dense part, row
// additions for the latents.
void state_mm(const Pool& pool, const Sizes& z, int64_t rows, int64_t c, const float* deter, const int64_t* index,
              const float* kernel, void* y, DType type);
// Its gradients; ddeter (rows, D), dstoch (rows, Z) may be null; dkernel must be zero on entry.
void state_mm_bwd(const Pool& pool, const Sizes& z, int64_t rows, int64_t c, const Mat& dy, const float* deter,
                  const int64_t* index, const float* kernel, float* ddeter, float* dstoch, float* dkernel);

}  // namespace hd::cpu
