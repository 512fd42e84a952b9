// imagine on the CPU, and the product that reads model states. Rows never meet: each thread takes blocks of 256 rows
// through all steps with its own buffers (256 rows x ~4000 floats, 4 MB), so the whole rollout has one fork and no
// barrier. Weights are packed once and stream from L3 once per block and step; 256 rows make that 1 byte per 128
// multiply-adds. One-hot latents and actions are gathered, never multiplied: two thirds of the products with features.
#include <algorithm>
#include <cstring>

#include "cpu/latent_rows.h"
#include "cpu/rows.h"
#include "cpu/scan.h"
#include "cpu/simd.h"
#include "kernels/gru_gates.h"
#include "kernels/latent.h"
#include "kernels/norm_act.h"

namespace hd::cpu {
namespace {

constexpr int64_t kBlockRows = 256;

}  // namespace

void imagine(const Pool& pool, const Sizes& z, const Rssm& p, const std::vector<DenseT<const float>>& hidden,
             const AffineT<const float>& out, const Imagine& x) {
  const int64_t d = z.deter, u = z.units, s = z.stoch, latent = z.latent(), a = z.actions;
  const int64_t wide = hidden.empty() ? a : u;
  const DType operands = z.operands;
  const Packed gru_deter(pool, row_major(p.gru.kernel, 3 * d), d, 3 * d, operands);
  const Packed gru_in(pool, row_major(p.gru.kernel + d * 3 * d, 3 * d), u, 3 * d, operands);
  const Packed img_out(pool, row_major(p.img_out.kernel, u), d, u, operands);
  const Packed img_stats(pool, row_major(p.img_stats.kernel, latent), u, latent, operands);
  // The policy's first layer reads the state: its deter rows are packed, its latent rows gathered.
  const float* entry = hidden.empty() ? out.kernel : hidden[0].kernel;
  const LatentRows entry_latent(pool, s, z.classes, entry + d * wide, wide, operands);
  const LatentRows input_latent(pool, s, z.classes, p.img_in.kernel, u, operands);
  std::vector<Packed> policy;
  policy.emplace_back(pool, row_major(entry, wide), d, wide, operands);
  for (size_t l = 1; l < hidden.size(); ++l) policy.emplace_back(pool, row_major(hidden[l].kernel, u), u, u, operands);
  if (!hidden.empty()) policy.emplace_back(pool, row_major(out.kernel, a), u, a, operands);

  auto block = [&](int64_t r0, int64_t m) {
    std::vector<float> pre(m * std::max(u, 3 * d)), act(m * u), logit(m * std::max(a, latent)), stats(2 * m);
    float *mean = stats.data(), *rstd = mean + m;
    auto norm = [&](const DenseT<const float>& w, const float* from) {
      norm_act_fwd({from, w.scale, w.bias, act.data(), mean, rstd, m, u, DType::F32}, 0, m);
    };
    // A sample of the classes of `groups` groups a row, and where wanted log-probabilities.
    auto sample = [&](int64_t groups, int64_t classes, const float* bias, const float* uniform, float* logp,
                      int64_t* index) {
      latent_fwd({logit.data(), uniform, logp, nullptr, index, m * groups, classes, z.mix, false, DType::F32, groups, 0,
                  DType::F32, bias},
                 0, m * groups);
    };
    for (int64_t t = 0; t < x.choices; ++t) {
      const int64_t n = t * x.rows + r0;
      const float* deter = x.deter + n * d;
      const int64_t* index = x.index + n * s;
      // Action from the policy.
      auto kept = [&](size_t l) {
        return l == hidden.size() ? logit.data() : x.pre + ((l * x.choices + t) * x.rows + r0) * u;
      };
      gemm(kAlone, m, row_major(deter, d), policy[0], kept(0), wide);
      entry_latent.add(m, index, kept(0), wide);
      for (size_t l = 0; l < hidden.size(); ++l) {
        norm(hidden[l], kept(l));
        gemm(kAlone, m, row_major(act, u), policy[l + 1], kept(l + 1), policy[l + 1].n());
      }
      int64_t* action = x.action + n;
      sample(1, a, out.bias, x.u_action + n, nullptr, action);
      if (t == x.horizon) break;
      // One step of the dynamics.
      for (int64_t i = 0; i < m; ++i)
        std::memcpy(&pre[i * u], p.img_in.kernel + (latent + action[i]) * u, sizeof(float) * u);
      input_latent.add(m, index, pre.data(), u);
      norm(p.img_in, pre.data());
      gemm(kAlone, m, row_major(deter, d), gru_deter, pre.data(), 3 * d);
      gemm(kAlone, m, row_major(act, u), gru_in, pre.data(), 3 * d, true);
      float* next = x.deter + (n + x.rows) * d;
      gru_gates_fwd({pre.data(), deter, p.gru.scale, p.gru.bias, next, nullptr, mean, rstd, m, d, DType::F32}, 0, m);
      gemm(kAlone, m, row_major(next, d), img_out, pre.data(), u);
      norm(p.img_out, pre.data());
      gemm(kAlone, m, row_major(act, u), img_stats, logit.data(), latent);
      sample(s, z.classes, p.img_stats.bias, x.u + n * s, x.prior ? x.prior + n * latent : nullptr,
             x.index + (n + x.rows) * s);
    }
  };
  const int64_t share = (x.rows + pool.threads - 1) / pool.threads;
  const int64_t size = std::min(kBlockRows, std::max<int64_t>(share, 1));
  pool.share((x.rows + size - 1) / size, x.rows > size, [&](int64_t b, int64_t e) {
    for (int64_t i = b; i < e; ++i) block(i * size, std::min(size, x.rows - i * size));
  });
}

// Blocks of rows whose fp32 sums stay in L2 until the latents' part is added and they are rounded.
void state_mm(const Pool& pool, const Sizes& z, int64_t rows, int64_t c, const float* deter, const int64_t* index,
              const float* kernel, void* y, DType type) {
  const Packed dense(pool, row_major(kernel, c), z.deter, c, z.operands);
  const LatentRows latent(pool, z.stoch, z.classes, kernel + z.deter * c, c, z.operands);
  pool.share(rows, rows * (z.deter + z.stoch) * c >= 1 << 21, [&](int64_t b, int64_t e) {
    std::vector<float> sums(type == DType::BF16 ? std::min(kBlockRows, e - b) * c : 0);
    for (; b < e; b += kBlockRows) {
      const int64_t m = std::min(kBlockRows, e - b);
      float* to = type == DType::BF16 ? sums.data() : static_cast<float*>(y) + b * c;
      gemm(kAlone, m, row_major(deter + b * z.deter, z.deter), dense, to, c);
      latent.add(m, index + b * z.stoch, to, c);
      if (type == DType::BF16) round_bf16(m * c, to, static_cast<Bf16*>(y) + b * c);
    }
  });
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
