// observe_scan on the CPU. The recurrence is cut down to what depends on the previous step; everything else is one
// matrix product over all N = T * B rows:
//
//   hoisted   embedding and action parts of obs_out and img_in; the initial state; the prior head (after the loop)
//   gathered  the one-hot latent's part of img_in: `stoch` row additions
//   deferred  all weight gradients, from saved pre-activations
//
// Per step that leaves three products of B rows (gru, obs_out's deter part, obs_stats), four in the backward. Their
// weights are packed once per call; per step 4 (D + U) 3D + 4 D U + 4 U Z bytes stream from cache, which bounds small
// B.
#include "cpu/scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/latent_rows.h"
#include "cpu/scan_rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

using Buffer = std::vector<float>;

// Elements per row times rows below which a row kernel stays on one thread.
constexpr int64_t kGrain = 1 << 16;

template <class F>
void over_rows(const Pool& pool, int64_t rows, int64_t width, const F& f) {
  if (pool.threads == 1 || rows * width < kGrain) return f(0, rows);
  pool.run(rows, std::max<int64_t>(1, kGrain / width), [&](int64_t b, int64_t e) { f(b, e); });
}

// Log-probabilities of the latent after an affine layer: hidden (rows, U) -> logp (rows, Z).
void stats_head(const Pool& pool, const Sizes& z, int64_t rows, const float* hidden, const Packed& w, const float* bias,
                float* logp) {
  fill_rows(rows, z.latent(), bias, logp);
  gemm(pool, rows, row_major(hidden, z.units), w, logp, z.latent(), true);
  over_rows(pool, rows * z.stoch, z.classes * 4,
            [&](int64_t b, int64_t e) { unimix(e - b, z.classes, logp + b * z.classes, z.mix, logp + b * z.classes); });
}

void prior_head(const Pool& pool, const Sizes& z, const Rssm& p, int64_t rows, const float* deter, float* pre,
                float* stats, float* logp) {
  const int64_t d = z.deter, u = z.units;
  gemm(pool, rows, u, d, row_major(deter, d), row_major(p.img_out.kernel, u), pre, u, false, z.operands);
  Buffer hidden(rows * u);
  over_rows(pool, rows, u * 4, [&](int64_t b, int64_t e) {
    norm_silu(e - b, u, pre + b * u, p.img_out.scale, p.img_out.bias, hidden.data() + b * u, u, stats + 2 * b);
  });
  const Packed img_stats(pool, row_major(p.img_stats.kernel, z.latent()), u, z.latent(), z.operands);
  stats_head(pool, z, rows, hidden.data(), img_stats, p.img_stats.bias, logp);
}

// The state before each step: the initial one at t = 0 and where an episode begins.
struct Before {
  Buffer start;  // (D) tanh(initial)
  const Observe& x;
  int64_t d, s;
  bool initial(int64_t n) const { return n < x.batch || x.first[n]; }
  const float* deter(int64_t n) const { return initial(n) ? start.data() : x.deter + (n - x.batch) * d; }
  const int64_t* index(int64_t n) const { return initial(n) ? x.saved.start : x.index + (n - x.batch) * s; }
};

Before before(const Sizes& z, const Rssm& p, const Observe& x) {
  Before out{Buffer(z.deter), x, z.deter, z.stoch};
  for (int64_t j = 0; j < z.deter; ++j) out.start[j] = std::tanh(p.initial[j]);
  return out;
}

// Actions with those of first steps cleared: (N, A).
Buffer masked_action(const Sizes& z, const Observe& x, int64_t rows) {
  Buffer out(x.action, x.action + rows * z.actions);
  for (int64_t n = 0; n < rows; ++n)
    if (x.first[n]) std::fill_n(out.begin() + n * z.actions, z.actions, 0.0f);
  return out;
}

}  // namespace

void observe_scan(const Pool& pool, const Sizes& z, const Rssm& p, const Observe& x) {
  const int64_t b = x.batch, rows = x.length * b, d = z.deter, u = z.units, s = z.stoch, k = z.classes;
  const int64_t latent = z.latent();
  const Saved& keep = x.saved;
  const Before prev = before(z, p, x);
  {
    Buffer pre(u), stats(2), logp(latent);
    prior_head(pool, z, p, 1, prev.start.data(), pre.data(), stats.data(), logp.data());
    for (int64_t g = 0; g < s; ++g) keep.start[g] = std::max_element(&logp[g * k], &logp[g * k] + k) - &logp[g * k];
  }
  const Buffer action = masked_action(z, x, rows);
  gemm(pool, rows, u, z.actions, row_major(action, z.actions), row_major(p.img_in.kernel + latent * u, u), keep.pre_in,
       u, false, z.operands);
  gemm(pool, rows, u, z.embed, x.embed, row_major(p.obs_out.kernel + d * u, u), keep.pre_obs, u, false, z.operands);
  const Packed gru(pool, row_major(p.gru.kernel, 3 * d), d + u, 3 * d, z.operands);
  const Packed obs_out(pool, row_major(p.obs_out.kernel, u), d, u, z.operands);
  const Packed obs_stats(pool, row_major(p.obs_stats.kernel, latent), u, latent, z.operands);
  const LatentRows img_in(pool, s, k, p.img_in.kernel, u, z.operands);
  Buffer in(b * (d + u)), hidden(b * u);
  for (int64_t n = 0; n < rows; n += b) {
    for (int64_t i = 0; i < b; ++i) {
      std::memcpy(&in[i * (d + u)], prev.deter(n + i), sizeof(float) * d);
      img_in.add(1, prev.index(n + i), keep.pre_in + (n + i) * u, u);
    }
    norm_silu(b, u, keep.pre_in + n * u, p.img_in.scale, p.img_in.bias, in.data() + d, d + u, keep.stat_in + 2 * n);
    gemm(pool, b, row_major(in, d + u), gru, keep.pre_gru + n * 3 * d, 3 * d);
    gates(b, d, keep.pre_gru + n * 3 * d, in.data(), d + u, p.gru.scale, p.gru.bias, x.deter + n * d, d,
          keep.stat_gru + 2 * n);
    gemm(pool, b, row_major(x.deter + n * d, d), obs_out, keep.pre_obs + n * u, u, true);
    norm_silu(b, u, keep.pre_obs + n * u, p.obs_out.scale, p.obs_out.bias, hidden.data(), u, keep.stat_obs + 2 * n);
    stats_head(pool, z, b, hidden.data(), obs_stats, p.obs_stats.bias, x.post + n * latent);
    sample(b * s, k, x.post + n * latent, x.u + n * s, x.index + n * s);
  }
  prior_head(pool, z, p, rows, x.deter, keep.pre_img, keep.stat_img, x.prior);
}

void observe_scan_bwd(const Pool& pool, const Sizes& z, const Rssm& p, const Observe& x, const ObserveGrad& grad,
                      const RssmGrad& g) {
  const int64_t b = x.batch, rows = x.length * b, d = z.deter, u = z.units, s = z.stoch, k = z.classes;
  const int64_t latent = z.latent();
  const Saved& keep = x.saved;
  const Before prev = before(z, p, x);
  Buffer ddeter(rows * d), dlogit(rows * latent), hidden(rows * u), dpre(rows * u), unused(2 * rows);
  if (grad.deter) std::memcpy(ddeter.data(), grad.deter, sizeof(float) * rows * d);

  // A head from `from` (rows, U) hidden units to logits with gradient dlogit: gradients of the affine layer.
  auto affine_bwd = [&](const AffineT<float>& out) {
    gemm(pool, u, latent, rows, row_major(hidden, u).t(), row_major(dlogit, latent), out.kernel, latent, false,
         z.operands);
    column_sums(rows, latent, dlogit.data(), out.bias);
  };

  if (grad.prior) {
    over_rows(pool, rows * s, k * 4, [&](int64_t i, int64_t e) {
      unimix_bwd(e - i, k, grad.prior + i * k, nullptr, x.prior + i * k, z.mix, dlogit.data() + i * k);
    });
    norm_silu(rows, u, keep.pre_img, p.img_out.scale, p.img_out.bias, hidden.data(), u, unused.data());
    affine_bwd(g.img_stats);
    gemm(pool, rows, u, latent, row_major(dlogit, latent), row_major(p.img_stats.kernel, latent).t(), dpre.data(), u,
         false, z.operands);
    norm_silu_bwd(rows, u, dpre.data(), u, keep.pre_img, keep.stat_img, p.img_out.scale, p.img_out.bias, dpre.data(),
                  g.img_out.scale, g.img_out.bias);
    gemm(pool, d, u, rows, row_major(x.deter, d).t(), row_major(dpre, u), g.img_out.kernel, u, false, z.operands);
    gemm(pool, rows, d, u, row_major(dpre, u), row_major(p.img_out.kernel, u).t(), ddeter.data(), d, true, z.operands);
  }

  // The loop: dpre is the gradient of obs_out's pre-activations, din of img_in's, dgru of the gates'.
  Buffer din(rows * u), dgru(rows * 3 * d), dprev(b * (d + u)), dhidden(b * u), direct(b * d), dstoch(b * latent);
  Buffer before_deter(rows * (d + u)), dstart(d);
  for (int64_t n = 0; n < rows; ++n) std::memcpy(&before_deter[n * (d + u)], prev.deter(n), sizeof(float) * d);
  const Packed obs_stats(pool, row_major(p.obs_stats.kernel, latent).t(), latent, u, z.operands);
  const Packed obs_out(pool, row_major(p.obs_out.kernel, u).t(), u, d, z.operands);
  const Packed gru(pool, row_major(p.gru.kernel, 3 * d).t(), 3 * d, d + u, z.operands);
  const Packed img_in(pool, row_major(p.img_in.kernel, u).t(), u, latent, z.operands);
  for (int64_t n = rows - b; n >= 0; n -= b) {
    if (grad.stoch)  // dstoch holds what came back from step t + 1
      for (int64_t j = 0; j < b * latent; ++j) dstoch[j] += grad.stoch[n * latent + j];
    unimix_bwd(b * s, k, grad.post ? grad.post + n * latent : nullptr, dstoch.data(), x.post + n * latent, z.mix,
               dlogit.data() + n * latent);
    gemm(pool, b, row_major(dlogit.data() + n * latent, latent), obs_stats, dhidden.data(), u);
    norm_silu_bwd(b, u, dhidden.data(), u, keep.pre_obs + n * u, keep.stat_obs + 2 * n, p.obs_out.scale, p.obs_out.bias,
                  dpre.data() + n * u, g.obs_out.scale, g.obs_out.bias);
    gemm(pool, b, row_major(dpre.data() + n * u, u), obs_out, ddeter.data() + n * d, d, true);
    gates_bwd(b, d, ddeter.data() + n * d, keep.pre_gru + n * 3 * d, keep.stat_gru + 2 * n,
              before_deter.data() + n * (d + u), d + u, p.gru.scale, p.gru.bias, dgru.data() + n * 3 * d, direct.data(),
              g.gru.scale, g.gru.bias);
    gemm(pool, b, row_major(dgru.data() + n * 3 * d, 3 * d), gru, dprev.data(), d + u);
    norm_silu_bwd(b, u, dprev.data() + d, d + u, keep.pre_in + n * u, keep.stat_in + 2 * n, p.img_in.scale,
                  p.img_in.bias, din.data() + n * u, g.img_in.scale, g.img_in.bias);
    if (n > 0) gemm(pool, b, row_major(din.data() + n * u, u), img_in, dstoch.data(), latent);
    for (int64_t i = 0; i < b; ++i) {
      const bool initial = prev.initial(n + i);
      float* to = initial ? dstart.data() : ddeter.data() + (n + i - b) * d;
      for (int64_t j = 0; j < d; ++j) to[j] += dprev[i * (d + u) + j] + direct[i * d + j];
      if (initial) std::fill_n(dstoch.begin() + i * latent, latent, 0.0f);
    }
  }
  for (int64_t j = 0; j < d; ++j) g.initial[j] = dstart[j] * (1.0f - prev.start[j] * prev.start[j]);

  // Weight gradients over all rows.
  norm_silu(rows, u, keep.pre_obs, p.obs_out.scale, p.obs_out.bias, hidden.data(), u, unused.data());
  affine_bwd(g.obs_stats);
  gemm(pool, d, u, rows, row_major(x.deter, d).t(), row_major(dpre, u), g.obs_out.kernel, u, false, z.operands);
  gemm(pool, z.embed, u, rows, x.embed.t(), row_major(dpre, u), g.obs_out.kernel + d * u, u, false, z.operands);
  const Mat embed_t = row_major(p.obs_out.kernel + d * u, u).t();
  if (grad.embed && x.embed.type == DType::BF16)
    gemm(pool, rows, z.embed, u, row_major(dpre, u), embed_t, static_cast<Bf16*>(grad.embed), z.embed);
  else if (grad.embed)
    gemm(pool, rows, z.embed, u, row_major(dpre, u), embed_t, static_cast<float*>(grad.embed), z.embed);
  norm_silu(rows, u, keep.pre_in, p.img_in.scale, p.img_in.bias, before_deter.data() + d, d + u, unused.data());
  gemm(pool, d + u, 3 * d, rows, row_major(before_deter, d + u).t(), row_major(dgru, 3 * d), g.gru.kernel, 3 * d, false,
       z.operands);
  const Buffer action = masked_action(z, x, rows);
  gemm(pool, z.actions, u, rows, row_major(action, z.actions).t(), row_major(din, u), g.img_in.kernel + latent * u, u,
       false, z.operands);
  std::vector<int64_t> index(rows * s);
  for (int64_t n = 0; n < rows; ++n) std::copy_n(prev.index(n), s, &index[n * s]);
  scatter(pool, rows, s, k, index.data(), row_major(din, u), u, g.img_in.kernel);
}

}  // namespace hd::cpu
