// imagine on the CPU, and the product that reads model states. Rows never meet: each thread takes blocks of 256 rows
// through all steps with its own buffers (256 rows x ~4000 floats, 4 MB), so the whole rollout has one fork and no
// barrier. Weights are packed once and stream from L3 once per block and step; 256 rows make that 1 byte per 128
// multiply-adds. One-hot latents and actions are gathered, never multiplied: two thirds of the products with features.
#include <algorithm>
#include <cstring>

#include "cpu/latent_rows.h"
#include "cpu/scan.h"
#include "cpu/scan_rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

constexpr int64_t kBlockRows = 256;

}  // namespace

void imagine(const Pool& pool, const Sizes& z, const Rssm& p, const std::vector<DenseT<const float>>& hidden,
             const AffineT<const float>& out, const Imagine& x) {
  const int64_t d = z.deter, u = z.units, s = z.stoch, k = z.classes, latent = z.latent(), a = z.actions;
  const int64_t wide = hidden.empty() ? a : u;
  const DType operands = z.operands;
  const Packed gru(pool, row_major(p.gru.kernel, 3 * d), d + u, 3 * d, operands);
  const Packed img_out(pool, row_major(p.img_out.kernel, u), d, u, operands);
  const Packed img_stats(pool, row_major(p.img_stats.kernel, latent), u, latent, operands);
  // The policy's first layer reads the state: its deter rows are packed, its latent rows gathered.
  const float* entry = hidden.empty() ? out.kernel : hidden[0].kernel;
  const LatentRows entry_latent(pool, s, k, entry + d * wide, wide, operands);
  const LatentRows input_latent(pool, s, k, p.img_in.kernel, u, operands);
  std::vector<Packed> policy;
  policy.emplace_back(pool, row_major(entry, wide), d, wide, operands);
  for (size_t l = 1; l < hidden.size(); ++l) policy.emplace_back(pool, row_major(hidden[l].kernel, u), u, u, operands);
  if (!hidden.empty()) policy.emplace_back(pool, row_major(out.kernel, a), u, a, operands);

  auto block = [&](int64_t r0, int64_t m) {
    std::vector<float> in(m * (d + u)), pre(m * std::max(u, 3 * d)), act(m * u), logit(m * std::max(a, latent)),
        stats(2 * m);
    for (int64_t t = 0; t < x.choices; ++t) {
      const int64_t n = t * x.rows + r0;
      const float* deter = x.deter + n * d;
      const int64_t* index = x.index + n * s;
      // Action from the policy.
      auto kept = [&](size_t l) { return x.pre + ((l * x.choices + t) * x.rows + r0) * u; };
      float* to = hidden.empty() ? logit.data() : kept(0);
      if (hidden.empty()) fill_rows(m, a, out.bias, to);
      gemm(kAlone, m, row_major(deter, d), policy[0], to, wide, hidden.empty());
      entry_latent.add(m, index, to, wide);
      for (size_t l = 0; l < hidden.size(); ++l) {
        norm_silu(m, u, kept(l), hidden[l].scale, hidden[l].bias, act.data(), u, stats.data());
        const bool last = l + 1 == hidden.size();
        if (last) fill_rows(m, a, out.bias, logit.data());
        gemm(kAlone, m, row_major(act, u), policy[l + 1], last ? logit.data() : kept(l + 1), last ? a : u, last);
      }
      unimix(m, a, logit.data(), z.mix, logit.data());
      int64_t* action = x.action + n;
      sample(m, a, logit.data(), x.u_action + n, action);
      if (t == x.horizon) break;
      // One step of the dynamics.
      for (int64_t i = 0; i < m; ++i) {
        std::memcpy(&in[i * (d + u)], deter + i * d, sizeof(float) * d);
        std::memcpy(&pre[i * u], p.img_in.kernel + (latent + action[i]) * u, sizeof(float) * u);
      }
      input_latent.add(m, index, pre.data(), u);
      norm_silu(m, u, pre.data(), p.img_in.scale, p.img_in.bias, in.data() + d, d + u, stats.data());
      gemm(kAlone, m, row_major(in, d + u), gru, pre.data(), 3 * d);
      float* next = x.deter + (n + x.rows) * d;
      gates(m, d, pre.data(), in.data(), d + u, p.gru.scale, p.gru.bias, next, d, stats.data());
      gemm(kAlone, m, row_major(next, d), img_out, pre.data(), u);
      norm_silu(m, u, pre.data(), p.img_out.scale, p.img_out.bias, act.data(), u, stats.data());
      float* prior = x.prior ? x.prior + n * latent : logit.data();
      fill_rows(m, latent, p.img_stats.bias, prior);
      gemm(kAlone, m, row_major(act, u), img_stats, prior, latent, true);
      unimix(m * s, k, prior, z.mix, prior);
      sample(m * s, k, prior, x.u + n * s, x.index + (n + x.rows) * s);
    }
  };
  const int64_t share = (x.rows + pool.threads - 1) / pool.threads;
  const int64_t size = std::min(kBlockRows, std::max<int64_t>(share, 1));
  auto body = [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) block(i * size, std::min(size, x.rows - i * size));
  };
  const int64_t blocks = (x.rows + size - 1) / size;
  if (pool.threads == 1 || blocks == 1) return body(0, blocks);
  pool.run(blocks, (blocks + pool.threads - 1) / pool.threads, body);
}

// Blocks of rows whose fp32 sums stay in L2 until the latents' part is added and they are rounded.
void state_mm(const Pool& pool, const Sizes& z, int64_t rows, int64_t c, const float* deter, const int64_t* index,
              const float* kernel, void* y, DType type) {
  const Packed dense(pool, row_major(kernel, c), z.deter, c, z.operands);
  const LatentRows latent(pool, z.stoch, z.classes, kernel + z.deter * c, c, z.operands);
  auto body = [&](int64_t b, int64_t e) {
    std::vector<float> sums(type == DType::BF16 ? std::min(kBlockRows, e - b) * c : 0);
    for (; b < e; b += kBlockRows) {
      const int64_t m = std::min(kBlockRows, e - b);
      float* to = type == DType::BF16 ? sums.data() : static_cast<float*>(y) + b * c;
      gemm(kAlone, m, row_major(deter + b * z.deter, z.deter), dense, to, c);
      latent.add(m, index + b * z.stoch, to, c);
      if (type == DType::BF16) round_bf16(m * c, to, static_cast<Bf16*>(y) + b * c);
    }
  };
  if (pool.threads == 1 || rows * (z.deter + z.stoch) * c < (1 << 21)) return body(0, rows);
  pool.run(rows, (rows + pool.threads - 1) / pool.threads, body);
}

void state_mm_bwd(const Pool& pool, const Sizes& z, int64_t rows, int64_t c, const Mat& dy, const float* deter,
                  const int64_t* index, const float* kernel, float* ddeter, float* dstoch, float* dkernel) {
  const int64_t d = z.deter, latent = z.latent();
  if (ddeter) gemm(pool, rows, d, c, dy, row_major(kernel, c).t(), ddeter, d, false, z.operands);
  if (dstoch) gemm(pool, rows, latent, c, dy, row_major(kernel + d * c, c).t(), dstoch, latent, false, z.operands);
  if (!dkernel) return;
  gemm(pool, d, c, rows, row_major(deter, d).t(), dy, dkernel, c, false, z.operands);
  scatter(pool, rows, z.stoch, z.classes, index, dy, c, dkernel + d * c);
}

}  // namespace hd::cpu
