// Row kernels of the CPU sequence loops, vectorized by the compiler: exponentials and logarithms are branch-free
// polynomials (about 1 ulp) so that the loops around them become vector code, one clone per instruction set.
#include "cpu/scan_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/gru_row.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

constexpr float kEps = 1e-3f;

HD_INLINE void moments(int64_t c, const float* x, float* stats) {
  float sum = 0;
  for (int64_t j = 0; j < c; ++j) sum += x[j];
  const float mean = sum / static_cast<float>(c);
  float square = 0;
  for (int64_t j = 0; j < c; ++j) square += (x[j] - mean) * (x[j] - mean);
  stats[0] = mean;
  stats[1] = 1.0f / std::sqrt(square / static_cast<float>(c) + kEps);
}

}  // namespace

HD_CLONES void norm_silu(int64_t rows, int64_t c, const float* x, const float* scale, const float* bias, float* y,
                         int64_t ldy, float* stats) {
  for (int64_t i = 0; i < rows; ++i, x += c, y += ldy, stats += 2) {
    moments(c, x, stats);
    const float mean = stats[0], rstd = stats[1];
    for (int64_t j = 0; j < c; ++j) {
      const float v = (x[j] - mean) * rstd * scale[j] + bias[j];
      y[j] = v * fsigmoid(v);
    }
  }
}

HD_CLONES void norm_silu_bwd(int64_t rows, int64_t c, const float* dy, int64_t ldy, const float* x, const float* stats,
                             const float* scale, const float* bias, float* dx, float* dscale, float* dbias) {
  const float inv = 1.0f / static_cast<float>(c);
  for (int64_t i = 0; i < rows; ++i, dy += ldy, x += c, stats += 2, dx += c) {
    const float mean = stats[0], rstd = stats[1];
    float m1 = 0, m2 = 0;
    for (int64_t j = 0; j < c; ++j) {
      const float xh = (x[j] - mean) * rstd, v = xh * scale[j] + bias[j], s = fsigmoid(v);
      const float d = dy[j] * s * (1.0f + v * (1.0f - s)), w = d * scale[j];
      dscale[j] += d * xh;
      dbias[j] += d;
      dx[j] = w;
      m1 += w;
      m2 += w * xh;
    }
    m1 *= inv;
    m2 *= inv;
    for (int64_t j = 0; j < c; ++j) dx[j] = rstd * (dx[j] - m1 - (x[j] - mean) * rstd * m2);
  }
}

HD_CLONES void gates(int64_t rows, int64_t d, const float* x, const float* h, int64_t ldh, const float* scale,
                     const float* bias, float* out, int64_t ldo, float* stats) {
  for (int64_t i = 0; i < rows; ++i, x += 3 * d, h += ldh, out += ldo, stats += 2) {
    moments(3 * d, x, stats);
    const float mean = stats[0], rstd = stats[1];
    for (int64_t j = 0; j < d; ++j) {
      const float r = fsigmoid((x[j] - mean) * rstd * scale[j] + bias[j]);
      const float c = ftanh(r * ((x[d + j] - mean) * rstd * scale[d + j] + bias[d + j]));
      const float u = fsigmoid((x[2 * d + j] - mean) * rstd * scale[2 * d + j] + bias[2 * d + j] - 1.0f);
      out[j] = u * c + (1.0f - u) * h[j];
    }
  }
}

HD_CLONES void gates_bwd(int64_t rows, int64_t d, const float* dout, const float* x, const float* stats, const float* h,
                         int64_t ldh, const float* scale, const float* bias, float* dx, float* dh, float* dscale,
                         float* dbias) {
  for (int64_t i = 0; i < rows; ++i)
    gates_bwd_row(d, x + i * 3 * d, stats[2 * i], stats[2 * i + 1], h + i * ldh, dout + i * d, scale, bias,
                  dx + i * 3 * d, dh + i * d, dscale, dbias, nullptr);
}

HD_CLONES void unimix(int64_t groups, int64_t k, const float* logit, float mix, float* logp) {
  const float floor = mix / static_cast<float>(k);
  for (int64_t g = 0; g < groups; ++g, logit += k, logp += k) {
    float top = logit[0], sum = 0;
    for (int64_t j = 0; j < k; ++j) top = logit[j] > top ? logit[j] : top;
    for (int64_t j = 0; j < k; ++j) {
      const float e = fexp_bounded(logit[j] - top);
      logp[j] = e;
      sum += e;
    }
    const float scale = (1.0f - mix) / sum;
    for (int64_t j = 0; j < k; ++j) logp[j] = flog(logp[j] * scale + floor);
  }
}

HD_CLONES void sample(int64_t groups, int64_t k, const float* logp, const float* u, int64_t* index) {
  float q[64];
  for (int64_t g = 0; g < groups; ++g, logp += k) {
    double sum = 0;
    int64_t found = 0;
    for (int64_t j0 = 0; j0 < k; j0 += 64) {
      const int64_t n = std::min<int64_t>(64, k - j0);
      for (int64_t j = 0; j < n; ++j) q[j] = fexp_bounded(logp[j0 + j]);
      int64_t j = 0;
      for (; j < n; ++j) {
        sum += q[j];
        if (static_cast<float>(sum) > u[g]) break;
      }
      found += j;
      if (j < n) break;
    }
    index[g] = std::min(found, k - 1);
  }
}

HD_CLONES void unimix_bwd(int64_t groups, int64_t k, const float* dlogp, const float* dprob, const float* logp,
                          float mix, float* dlogit) {
  const float floor = mix / static_cast<float>(k), inv = 1.0f / (1.0f - mix);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t o = g * k;
    float sum = 0;
    for (int64_t j = o; j < o + k; ++j) {
      const float q = fexp_bounded(logp[j]), s = (q - floor) * inv;
      const float w = (dlogp ? dlogp[j] / q : 0.0f) + (dprob ? dprob[j] : 0.0f);
      dlogit[j] = w;
      sum += s * w;
    }
    for (int64_t j = o; j < o + k; ++j) dlogit[j] = (fexp_bounded(logp[j]) - floor) * (dlogit[j] - sum);
  }
}

void one_hot(int64_t groups, int64_t k, const int64_t* index, float* out) {
  std::memset(out, 0, sizeof(float) * groups * k);
  for (int64_t g = 0; g < groups; ++g) out[g * k + index[g]] = 1.0f;
}

HD_CLONES void column_sums(int64_t rows, int64_t c, const float* x, float* out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < c; ++j) out[j] += x[i * c + j];
}

void add_parts(int64_t parts, int64_t c, const float* partial, float* dscale, float* dbias) {
  std::memset(dscale, 0, sizeof(float) * c);
  std::memset(dbias, 0, sizeof(float) * c);
  for (; parts > 0; --parts, partial += 2 * c) {
    column_sums(1, c, partial, dscale);
    column_sums(1, c, partial + c, dbias);
  }
}

void fill_rows(int64_t rows, int64_t c, const float* row, float* out) {
  for (int64_t i = 0; i < rows; ++i) std::memcpy(out + i * c, row, sizeof(float) * c);
}

HD_CLONES void round_bf16(int64_t n, const float* x, Bf16* out) {
  for (int64_t i = 0; i < n; ++i) store(out + i, x[i]);
}

HD_CLONES void widen_bf16(int64_t n, const Bf16* x, float* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = load(x + i);
}

}  // namespace hd::cpu
