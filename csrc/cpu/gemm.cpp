// Blocked fp32 GEMM. Register tile 14 x 32 (AVX-512), 6 x 16 (AVX2) or 4 x 8 (SSE2): the tallest whose accumulators,
// one row of B and nothing else fill the register file, so that a loaded row of B feeds as many multiply-adds as
// there are rows. A micro-panel of A (14 x 384 floats, 21 KB) stays in L1 while a block of B (384 x 512, 0.8 MB)
// streams from L2; C is read and written once per 384 of k. Bytes per multiply-add: 4/14 from L2, 4/32 from L1.
#include "cpu/gemm.h"

#include <algorithm>
#include <cstring>
#include <memory>

#if defined(__x86_64__)
#define HD_TARGET(x) __attribute__((target(x)))
#else
#define HD_TARGET(x)
#endif

namespace hd::cpu {
namespace {

constexpr int64_t kBlockK = 384, kBlockN = 512;

// A vector and the same vector at any address (attributes of a template argument itself would be dropped).
template <int N>
struct Lanes {
  typedef float Vec __attribute__((vector_size(N * 4)));
  typedef float Loose __attribute__((vector_size(N * 4), aligned(4), may_alias));
};

// One register tile: MR rows of the packed A against one panel of B; n <= NV * width columns are stored.
template <int W, int NV, int MR>
inline __attribute__((always_inline)) void tile(int64_t kc, const float* a, const float* b, float* c, int64_t ldc,
                                                int64_t n, bool accumulate) {
  using V = typename Lanes<W>::Vec;
  using U = typename Lanes<W>::Loose;
  V r[MR][NV];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) r[i][j] = V{};
  for (int64_t k = 0; k < kc; ++k, a += MR, b += NV * W) {
    V row[NV];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) row[j] = *reinterpret_cast<const U*>(b + j * W);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) r[i][j] += a[i] * row[j];
  }
  if (n == NV * W) {
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
      for (int j = 0; j < NV; ++j) {
        U* out = reinterpret_cast<U*>(c + i * ldc + j * W);
        *out = accumulate ? *out + r[i][j] : r[i][j];
      }
    return;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    float edge[NV * W];
#pragma GCC unroll 2
    for (int j = 0; j < NV; ++j) *reinterpret_cast<U*>(edge + j * W) = r[i][j];
    for (int64_t j = 0; j < n; ++j) c[i * ldc + j] = accumulate ? c[i * ldc + j] + edge[j] : edge[j];
  }
}

// to[j * to_stride + i] = from[i * from_stride + j] for i < rows, j < columns, in squares of 4 x 4.
inline __attribute__((always_inline)) void transpose(const float* from, int64_t from_stride, int64_t rows,
                                                     int64_t columns, float* to, int64_t to_stride) {
  using V = Lanes<4>::Vec;
  using U = Lanes<4>::Loose;
  typedef int I __attribute__((vector_size(16)));
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4) {
    int64_t j = 0;
    for (; j + 4 <= columns; j += 4) {
      const float* f = from + i * from_stride + j;
      float* t = to + j * to_stride + i;
      const V a = *reinterpret_cast<const U*>(f), b = *reinterpret_cast<const U*>(f + from_stride);
      const V c = *reinterpret_cast<const U*>(f + 2 * from_stride), d = *reinterpret_cast<const U*>(f + 3 * from_stride);
      const V ab0 = __builtin_shuffle(a, b, I{0, 4, 1, 5}), ab1 = __builtin_shuffle(a, b, I{2, 6, 3, 7});
      const V cd0 = __builtin_shuffle(c, d, I{0, 4, 1, 5}), cd1 = __builtin_shuffle(c, d, I{2, 6, 3, 7});
      *reinterpret_cast<U*>(t) = __builtin_shuffle(ab0, cd0, I{0, 1, 4, 5});
      *reinterpret_cast<U*>(t + to_stride) = __builtin_shuffle(ab0, cd0, I{2, 3, 6, 7});
      *reinterpret_cast<U*>(t + 2 * to_stride) = __builtin_shuffle(ab1, cd1, I{0, 1, 4, 5});
      *reinterpret_cast<U*>(t + 3 * to_stride) = __builtin_shuffle(ab1, cd1, I{2, 3, 6, 7});
    }
    for (; j < columns; ++j)
      for (int64_t l = i; l < i + 4; ++l) to[j * to_stride + l] = from[l * from_stride + j];
  }
  for (; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) to[j * to_stride + i] = from[i * from_stride + j];
}

// A rows [0, MR) x columns [0, kc) to k-major order. The number of rows is a constant so that a copied row is a few
// moves and no call.
template <int MR>
inline __attribute__((always_inline)) void pack_rows(const Mat& a, int64_t kc, float* out) {
  if (a.cs == 1) return transpose(a.p, a.rs, MR, kc, out, MR);
  if (a.rs == 1) {
    for (int64_t k = 0; k < kc; ++k) std::memcpy(out + k * MR, a.p + k * a.cs, sizeof(float) * MR);
    return;
  }
  for (int64_t k = 0; k < kc; ++k)
    for (int64_t i = 0; i < MR; ++i) out[k * MR + i] = a.p[i * a.rs + k * a.cs];
}

struct Block {
  int64_t m, n, kc, panel;  // sizes; floats between panels of b
  Mat a;
  const float* b;
  float* c;
  int64_t ldc;
  bool accumulate;
};

template <int W, int NV, int MR>
inline __attribute__((always_inline)) void strip(const Block& x, float* a, int64_t i) {
  constexpr int64_t width = W * NV;
  pack_rows<MR>(x.a.rows(i), x.kc, a);
  for (int64_t j = 0; j * width < x.n; ++j)
    tile<W, NV, MR>(x.kc, a, x.b + j * x.panel, x.c + i * x.ldc + j * width, x.ldc,
                    std::min(width, x.n - j * width), x.accumulate);
}

// All rows of A against one block of B.
template <int W, int NV, int MAX>
inline __attribute__((always_inline)) void block(const Block& x) {
  alignas(64) float a[MAX * kBlockK];
  const int64_t strips = (x.m + MAX - 1) / MAX, height = (x.m + strips - 1) / strips;
  for (int64_t i = 0; i < x.m; i += height) {
    const int64_t mr = std::min(height, x.m - i);
    switch (mr) {
#define HD_CASE(n) case n: if constexpr (n <= MAX) strip<W, NV, n>(x, a, i); break;
      HD_CASE(1) HD_CASE(2) HD_CASE(3) HD_CASE(4) HD_CASE(5) HD_CASE(6) HD_CASE(7)
      HD_CASE(8) HD_CASE(9) HD_CASE(10) HD_CASE(11) HD_CASE(12) HD_CASE(13) HD_CASE(14)
#undef HD_CASE
    }
  }
}

#if defined(__x86_64__)
HD_TARGET("arch=x86-64-v4") void block_v4(const Block& x) { block<16, 2, 14>(x); }
HD_TARGET("arch=x86-64-v3") void block_v3(const Block& x) { block<8, 2, 6>(x); }
#endif
void block_base(const Block& x) { block<4, 2, 4>(x); }

struct Isa {
  int64_t width;
  void (*block)(const Block&);
};

const Isa& isa() {
  static const Isa found = [] {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      return Isa{32, block_v4};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa{16, block_v3};
#endif
    return Isa{8, block_base};
  }();
  return found;
}

// Columns [0, n) of B, k rows, to one panel of `width`, missing columns zero.
void pack_panel(const Mat& b, int64_t k, int64_t n, int64_t width, float* out) {
  if (n < width) std::memset(out, 0, sizeof(float) * k * width);
  if (b.cs == 1) {
    for (int64_t i = 0; i < k; ++i) std::memcpy(out + i * width, b.p + i * b.rs, sizeof(float) * n);
    return;
  }
  if (b.rs == 1) return transpose(b.p, b.cs, n, k, out, width);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < n; ++j) out[i * width + j] = b.p[i * b.rs + j * b.cs];
}

// Products of fewer multiply-adds than this stay on one thread: about 50 us.
constexpr int64_t kSerial = 2 << 20;

}  // namespace

Packed::Packed(const Pool& pool, const Mat& b, int64_t k, int64_t n) : k_(k), n_(n), width_(isa().width) {
  data_.resize(panels() * width_ * k_);
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      pack_panel({b.p + j * width_ * b.cs, b.rs, b.cs}, k_, std::min(width_, n_ - j * width_), width_,
                 data_.data() + j * k_ * width_);
  };
  if (k * n < (1 << 18))
    body(0, panels());
  else
    pool.run(panels(), 1, body);
}

void gemm(const Pool& pool, int64_t m, const Mat& a, const Packed& b, float* c, int64_t ldc, bool accumulate) {
  const int64_t width = isa().width, group = std::max<int64_t>(kBlockN / width, 1);
  auto body = [&](int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
    for (int64_t j = j0; j < j1; j += group)
      for (int64_t k = 0; k < b.k(); k += kBlockK) {
        const int64_t columns = std::min(std::min(j + group, j1) * width, b.n()) - j * width;
        isa().block({i1 - i0, columns, std::min(kBlockK, b.k() - k), b.k() * width,
                     {a.p + i0 * a.rs + k * a.cs, a.rs, a.cs}, b.panel(j) + k * width, c + i0 * ldc + j * width, ldc,
                     accumulate || k > 0});
      }
  };
  if (!m || !b.n()) return;
  if (pool.threads == 1 || m * b.k() * b.n() < kSerial) return body(0, m, 0, b.panels());
  if (m >= 64 * pool.threads)
    pool.run(m, (m + pool.threads - 1) / pool.threads, [&](int64_t i0, int64_t i1) { body(i0, i1, 0, b.panels()); });
  else
    pool.run(b.panels(), (b.panels() + pool.threads - 1) / pool.threads,
             [&](int64_t j0, int64_t j1) { body(0, m, j0, j1); });
}

void gemm(const Pool& pool, int64_t m, int64_t n, int64_t k, const Mat& a, const Mat& b, float* c, int64_t ldc,
          bool accumulate) {
  const int64_t width = isa().width;
  if (!m || !n) return;
  auto body = [&](int64_t i0, int64_t i1, int64_t n0, int64_t n1) {
    const int64_t most = (std::min(kBlockN, n1 - n0) + width - 1) / width * width;
    const auto packed = std::make_unique_for_overwrite<float[]>(std::min(k, kBlockK) * most);
    for (int64_t j = n0; j < n1; j += kBlockN)
      for (int64_t l = 0; l < k; l += kBlockK) {
        const int64_t columns = std::min(kBlockN, n1 - j), depth = std::min(kBlockK, k - l);
        for (int64_t p = 0; p < columns; p += width)
          pack_panel({b.p + l * b.rs + (j + p) * b.cs, b.rs, b.cs}, depth, std::min(width, columns - p), width,
                     packed.get() + p * depth);
        isa().block({i1 - i0, columns, depth, depth * width, {a.p + i0 * a.rs + l * a.cs, a.rs, a.cs}, packed.get(),
                     c + i0 * ldc + j, ldc, accumulate || l > 0});
      }
  };
  if (k == 0) {
    if (!accumulate)
      for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, 0.0f);
    return;
  }
  if (pool.threads == 1 || m * n * k < kSerial) return body(0, m, 0, n);
  const int64_t t = pool.threads;
  if (m >= n)
    pool.run(m, (m + t - 1) / t, [&](int64_t i0, int64_t i1) { body(i0, i1, 0, n); });
  else
    pool.run((n + width - 1) / width, ((n + width - 1) / width + t - 1) / t, [&](int64_t p0, int64_t p1) {
      body(0, m, p0 * width, std::min(p1 * width, n));
    });
}

}  // namespace hd::cpu
