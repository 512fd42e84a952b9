// observe_scan on the CPU. The recurrence is cut down to what depends on the previous step; everything else is one
// matrix product over all N = T * B rows:
//
//   hoisted   embedding and action parts of obs_out and img_in; the initial state; the prior head (after the loop)
//   gathered  the one-hot latent's part of img_in: `stoch` row additions
//   deferred  all weight gradients, from saved pre-activations
//
// Per step that leaves three products of B rows (gru, of the state and of its input apart, obs_out's deter part,
// obs_stats), four in the backward. Their weights are packed once per call; per step 4 (D + U) 3D + 4 D U + 4 U Z bytes
// stream from cache, which bounds small B. Between them run the families' row kernels.
#include "cpu/scan.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/latent_rows.h"
#include "cpu/rows.h"
#include "kernels/gru_gates.h"
#include "kernels/latent.h"
#include "kernels/norm_act.h"

namespace hd::cpu {
namespace {

using Buffer = std::vector<float>;

// Elements per row times rows below which a row kernel stays on one thread.
constexpr int64_t kGrain = 1 << 16;

void over_rows(const Pool& pool, int64_t rows, int64_t width, const Range& f) {
  pool.run(rows, std::max<int64_t>(1, kGrain / width), f);
}

// LayerNorm and SiLU of all rows, and their backward in `parts` slices of them.
NormActFwdArgs norm(const DenseT<const float>& w, int64_t rows, int64_t cols, const Kept& kept, float* y) {
  return {kept.pre, w.scale, w.bias, y, kept.stats, kept.stats + rows, rows, cols, DType::F32};
}
NormActBwdArgs norm_bwd(const DenseT<const float>& w, const DenseT<float>& g, int64_t rows, int64_t cols,
                        const Kept& kept, const Buffer& dy, Buffer& dx, Buffer& partial, int64_t parts) {
  partial.resize(parts * 2 * cols);
  return {dy.data(), kept.pre,  kept.stats, kept.stats + rows, w.scale, w.bias,
          dx.data(), g.scale,   g.bias,     partial.data(),    parts,   rows,
          cols,      DType::F32};
}
void norm_all(const Pool& pool, const NormActFwdArgs& a) {
  over_rows(pool, a.rows, 4 * a.cols, [&](int64_t b, int64_t e) { norm_act_fwd(a, b, e); });
}

// Log-probabilities of latents from `logit`, in its place, whose bias is still to be added.
LatentFwdArgs latent(const Sizes& z, const AffineT<const float>& w, int64_t rows, float* logit) {
  LatentFwdArgs a{};
  a.logit = a.logp = logit;
  a.bias = w.bias, a.row_groups = z.stoch;
  a.groups = rows * z.stoch, a.classes = z.classes, a.mix = z.mix;
  return a;
}

void prior_head(const Pool& pool, const Sizes& z, const Rssm& p, int64_t rows, const float* deter, const Kept& kept,
                float* logp) {
  const int64_t d = z.deter, u = z.units;
  gemm(pool, rows, u, d, row_major(deter, d), row_major(p.img_out.kernel, u), kept.pre, u, false, z.operands);
  Buffer hidden(rows * u);
  norm_all(pool, norm(p.img_out, rows, u, kept, hidden.data()));
  gemm(pool, rows, z.latent(), u, row_major(hidden, u), row_major(p.img_stats.kernel, z.latent()), logp, z.latent(),
       false, z.operands);
  const LatentFwdArgs a = latent(z, p.img_stats, rows, logp);
  over_rows(pool, a.groups, 4 * z.classes, [&](int64_t b, int64_t e) { latent_fwd(a, b, e); });
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
  const int64_t width = z.latent();
  const Saved& keep = x.saved;
  const Before prev = before(z, p, x);
  {
    Buffer pre(u), stats(2), logp(width);
    prior_head(pool, z, p, 1, prev.start.data(), {pre.data(), stats.data()}, logp.data());
    for (int64_t g = 0; g < s; ++g) keep.start[g] = std::max_element(&logp[g * k], &logp[g * k] + k) - &logp[g * k];
  }
  const Buffer action = masked_action(z, x, rows);
  gemm(pool, rows, u, z.actions, row_major(action, z.actions), row_major(p.img_in.kernel + width * u, u), keep.in.pre,
       u, false, z.operands);
  gemm(pool, rows, u, z.embed, x.embed, row_major(p.obs_out.kernel + d * u, u), keep.obs.pre, u, false, z.operands);
  const Packed gru_deter(pool, row_major(p.gru.kernel, 3 * d), d, 3 * d, z.operands);
  const Packed gru_in(pool, row_major(p.gru.kernel + d * 3 * d, 3 * d), u, 3 * d, z.operands);
  const Packed obs_out(pool, row_major(p.obs_out.kernel, u), d, u, z.operands);
  const Packed obs_stats(pool, row_major(p.obs_stats.kernel, width), u, width, z.operands);
  const LatentRows img_in(pool, s, k, p.img_in.kernel, u, z.operands);
  // Row kernels know all N rows and are given those of a step.
  Buffer deter(rows * d), in(rows * u), hidden(rows * u);
  const NormActFwdArgs in_norm = norm(p.img_in, rows, u, keep.in, in.data());
  const NormActFwdArgs obs_norm = norm(p.obs_out, rows, u, keep.obs, hidden.data());
  const GruGatesFwdArgs gates{keep.gru.pre,   deter.data(),          p.gru.scale, p.gru.bias, x.deter,   nullptr,
                              keep.gru.stats, keep.gru.stats + rows, rows,        d,          DType::F32};
  LatentFwdArgs post = latent(z, p.obs_stats, rows, x.post);
  post.u = x.u, post.onehot = x.stoch, post.onehot_stride = width, post.index = x.index;
  for (int64_t n = 0; n < rows; n += b) {
    for (int64_t i = n; i < n + b; ++i) {
      std::memcpy(&deter[i * d], prev.deter(i), sizeof(float) * d);
      img_in.add(1, prev.index(i), keep.in.pre + i * u, u);
    }
    norm_act_fwd(in_norm, n, n + b);
    gemm(pool, b, row_major(&deter[n * d], d), gru_deter, keep.gru.pre + n * 3 * d, 3 * d);
    gemm(pool, b, row_major(&in[n * u], u), gru_in, keep.gru.pre + n * 3 * d, 3 * d, true);
    gru_gates_fwd(gates, n, n + b);
    gemm(pool, b, row_major(x.deter + n * d, d), obs_out, keep.obs.pre + n * u, u, true);
    norm_act_fwd(obs_norm, n, n + b);
    gemm(pool, b, row_major(&hidden[n * u], u), obs_stats, x.post + n * width, width);
    latent_fwd(post, n * s, (n + b) * s);
  }
  prior_head(pool, z, p, rows, x.deter, keep.img, x.prior);
}

void observe_scan_bwd(const Pool& pool, const Sizes& z, const Rssm& p, const Observe& x, const ObserveGrad& grad,
                      const RssmGrad& g) {
  const int64_t b = x.batch, rows = x.length * b, d = z.deter, u = z.units, s = z.stoch, k = z.classes;
  const int64_t width = z.latent();
  const Saved& keep = x.saved;
  const Before prev = before(z, p, x);
  Buffer ddeter(rows * d), dlogit(rows * width), hidden(rows * u), dhidden(rows * u), dpre(rows * u);
  Buffer unused(2 * rows), img_sums, obs_sums, in_sums;
  if (grad.deter) std::memcpy(ddeter.data(), grad.deter, sizeof(float) * rows * d);

  // Gradient of a kernel (in, out) from what it multiplied and the gradient of the product.
  auto kernel_bwd = [&](const Mat& from, int64_t in, const Buffer& dto, int64_t out, float* dkernel) {
    gemm(pool, in, out, rows, from.t(), row_major(dto, out), dkernel, out, false, z.operands);
  };
  // What a norm gave from `kept` (rows, U).
  auto again = [&](const DenseT<const float>& w, const Kept& kept) {
    norm_all(pool, norm(w, rows, u, {kept.pre, unused.data()}, hidden.data()));
    return row_major(hidden, u);
  };
  // A head of a norm and an affine layer to logits with gradient dlogit: gradients of the affine layer.
  auto affine_bwd = [&](const DenseT<const float>& w, const Kept& kept, const AffineT<float>& out) {
    kernel_bwd(again(w, kept), u, dlogit, width, out.kernel);
    column_sums(rows, width, dlogit.data(), out.bias);
  };

  if (grad.prior) {
    over_rows(pool, rows * s, k * 4, [&](int64_t i, int64_t e) {
      unimix_bwd(e - i, k, grad.prior + i * k, nullptr, x.prior + i * k, z.mix, dlogit.data() + i * k);
    });
    affine_bwd(p.img_out, keep.img, g.img_stats);
    gemm(pool, rows, u, width, row_major(dlogit, width), row_major(p.img_stats.kernel, width).t(), dhidden.data(), u,
         false, z.operands);
    const int64_t parts = norm_act_parts(rows, u);
    const NormActBwdArgs a = norm_bwd(p.img_out, g.img_out, rows, u, keep.img, dhidden, dpre, img_sums, parts);
    over_rows(pool, parts, 4 * u * (rows / parts), [&](int64_t i, int64_t e) { norm_act_bwd(a, i, e); });
    norm_act_bwd_finish(a);
    kernel_bwd(row_major(x.deter, d), d, dpre, u, g.img_out.kernel);
    gemm(pool, rows, d, u, row_major(dpre, u), row_major(p.img_out.kernel, u).t(), ddeter.data(), d, true, z.operands);
  }

  // The loop: dpre is the gradient of obs_out's pre-activations, din of img_in's, dgru of the gates'; dbefore of the
  // state before a step. The slices of the row kernels are the steps.
  Buffer din(rows * u), dgru(rows * 3 * d), dbefore(rows * d), deter(rows * d), dstoch(b * width), dstart(d);
  for (int64_t n = 0; n < rows; ++n) std::memcpy(&deter[n * d], prev.deter(n), sizeof(float) * d);
  const Packed obs_stats(pool, row_major(p.obs_stats.kernel, width).t(), width, u, z.operands);
  const Packed obs_out(pool, row_major(p.obs_out.kernel, u).t(), u, d, z.operands);
  const Packed gru_deter(pool, row_major(p.gru.kernel, 3 * d).t(), 3 * d, d, z.operands);
  const Packed gru_in(pool, row_major(p.gru.kernel + d * 3 * d, 3 * d).t(), 3 * d, u, z.operands);
  const Packed img_in(pool, row_major(p.img_in.kernel, u).t(), u, width, z.operands);
  const NormActBwdArgs obs_norm = norm_bwd(p.obs_out, g.obs_out, rows, u, keep.obs, dhidden, dpre, obs_sums, x.length);
  const NormActBwdArgs in_norm = norm_bwd(p.img_in, g.img_in, rows, u, keep.in, dhidden, din, in_sums, x.length);
  Buffer gru_sums(x.length * 6 * d);
  const GruGatesBwdArgs gates{ddeter.data(), keep.gru.pre,    deter.data(), keep.gru.stats, keep.gru.stats + rows,
                              p.gru.scale,   p.gru.bias,      dgru.data(),  dbefore.data(), g.gru.scale,
                              g.gru.bias,    gru_sums.data(), x.length,     rows,           d,
                              DType::F32};
  for (int64_t t = x.length - 1; t >= 0; --t) {
    const int64_t n = t * b;
    if (grad.stoch)  // dstoch holds what came back from step t + 1
      for (int64_t j = 0; j < b * width; ++j) dstoch[j] += grad.stoch[n * width + j];
    unimix_bwd(b * s, k, grad.post ? grad.post + n * width : nullptr, dstoch.data(), x.post + n * width, z.mix,
               dlogit.data() + n * width);
    gemm(pool, b, row_major(&dlogit[n * width], width), obs_stats, &dhidden[n * u], u);
    norm_act_bwd(obs_norm, t, t + 1);
    gemm(pool, b, row_major(&dpre[n * u], u), obs_out, &ddeter[n * d], d, true);
    gru_gates_bwd(gates, t, t + 1);
    gemm(pool, b, row_major(&dgru[n * 3 * d], 3 * d), gru_deter, &dbefore[n * d], d, true);
    gemm(pool, b, row_major(&dgru[n * 3 * d], 3 * d), gru_in, &dhidden[n * u], u);
    norm_act_bwd(in_norm, t, t + 1);
    if (t > 0) gemm(pool, b, row_major(&din[n * u], u), img_in, dstoch.data(), width);
    for (int64_t i = n; i < n + b; ++i) {
      const bool initial = prev.initial(i);
      column_sums(1, d, &dbefore[i * d], initial ? dstart.data() : &ddeter[(i - b) * d]);
      if (initial) std::fill_n(dstoch.begin() + (i - n) * width, width, 0.0f);
    }
  }
  norm_act_bwd_finish(obs_norm);
  gru_gates_bwd_finish(gates);
  norm_act_bwd_finish(in_norm);
  for (int64_t j = 0; j < d; ++j) g.initial[j] = dstart[j] * (1.0f - prev.start[j] * prev.start[j]);

  // Weight gradients over all rows.
  affine_bwd(p.obs_out, keep.obs, g.obs_stats);
  kernel_bwd(row_major(x.deter, d), d, dpre, u, g.obs_out.kernel);
  kernel_bwd(x.embed, z.embed, dpre, u, g.obs_out.kernel + d * u);
  const Mat embed_t = row_major(p.obs_out.kernel + d * u, u).t();
  if (grad.embed && x.embed.type == DType::BF16)
    gemm(pool, rows, z.embed, u, row_major(dpre, u), embed_t, static_cast<Bf16*>(grad.embed), z.embed);
  else if (grad.embed)
    gemm(pool, rows, z.embed, u, row_major(dpre, u), embed_t, static_cast<float*>(grad.embed), z.embed);
  kernel_bwd(row_major(deter, d), d, dgru, 3 * d, g.gru.kernel);
  kernel_bwd(again(p.img_in, keep.in), u, dgru, 3 * d, g.gru.kernel + d * 3 * d);
  const Buffer action = masked_action(z, x, rows);
  kernel_bwd(row_major(action, z.actions), z.actions, din, u, g.img_in.kernel + width * u);
  std::vector<int64_t> index(rows * s);
  for (int64_t n = 0; n < rows; ++n) std::copy_n(prev.index(n), s, &index[n * s]);
  scatter(pool, rows, s, k, index.data(), row_major(din, u), u, g.img_in.kernel);
}

}  // namespace hd::cpu
