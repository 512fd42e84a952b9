// Blocked GEMM: the drivers, and the fp32 kernel. Register tile 14 x 32 (AVX-512), 6 x 16 (AVX2) or 4 x 8 (SSE2): the
// tallest whose accumulators, one row of B and nothing else fill the register file, so that a loaded row of B feeds as
// many multiply-adds as there are rows. A micro-panel of A (14 x 384 floats, 21 KB) stays in L1 while a block of B
// (384 x 512, 0.8 MB) streams from L2; C is read and written once per 384 of k. Bytes per multiply-add: 4/14 from L2,
// 4/32 from L1.
#include "cpu/gemm.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "cpu/gemm_kernel.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

constexpr int64_t kBlockK = 384, kBlockN = 512;

// One register tile: MR rows of the packed A against one panel of B.
template <int W, int MR>
HD_INLINE void tile(int64_t kc, const float* a, const float* b, float* c, int64_t ldc, bool accumulate) {
  using V = typename Lanes<W>::Vec;
  using U = typename Lanes<W>::Loose;
  V r[MR][2];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) r[i][0] = r[i][1] = V{};
  for (int64_t k = 0; k < kc; ++k, a += MR, b += 2 * W) {
    const V b0 = *reinterpret_cast<const U*>(b), b1 = *reinterpret_cast<const U*>(b + W);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) r[i][0] += a[i] * b0, r[i][1] += a[i] * b1;
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i, c += ldc) {
    U *c0 = reinterpret_cast<U*>(c), *c1 = reinterpret_cast<U*>(c + W);
    *c0 = accumulate ? *c0 + r[i][0] : r[i][0];
    *c1 = accumulate ? *c1 + r[i][1] : r[i][1];
  }
}

// The last columns of C, from a tile in memory of its own.
HD_CLONES void copy_edge(const float* edge, int64_t width, int64_t m, int64_t n, float* c, int64_t ldc,
                         bool accumulate) {
  for (int64_t i = 0; i < m; ++i, edge += width, c += ldc)
    for (int64_t j = 0; j < n; ++j) c[j] = accumulate ? c[j] + edge[j] : edge[j];
}

// A rows [0, MR) x columns [0, kc) to k-major order. The number of rows is a constant so that a copied row is a few
// moves and no call.
template <int MR>
HD_INLINE void pack_rows(const Mat& a, int64_t kc, float* out) {
  const float* p = a.f32();
  if (MR >= 4 && a.cs == 1) return transpose(p, a.rs, MR, kc, out, MR);
  if (a.rs == 1) {
    for (int64_t k = 0; k < kc; ++k) std::memcpy(out + k * MR, p + k * a.cs, sizeof(float) * MR);
    return;
  }
  for (int64_t k = 0; k < kc; ++k)
    for (int64_t i = 0; i < MR; ++i) out[k * MR + i] = p[i * a.rs + k * a.cs];
}

// The matrix (rows x columns) rounded to bf16, row-major as floats: operands of processors without bf16 products.
HD_CLONES Mat rounded(const Mat& x, int64_t rows, int64_t columns, float* out) {
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < columns; ++j) {
      Bf16 h;
      if (x.type == DType::BF16) h = x.bf16()[i * x.rs + j * x.cs];
      else store(&h, x.f32()[i * x.rs + j * x.cs]);
      out[i * columns + j] = load(&h);
    }
  return row_major(out, columns);
}

// Rows [i, i + MR) of A against one block of B.
template <int W, int MR>
HD_INLINE void strip(const Block& x, int64_t i) {
  constexpr int64_t width = 2 * W;
  alignas(64) float a[MR * kBlockK], edge[MR * width];
  pack_rows<MR>(x.a.at(i, 0), x.kc, a);
  const float* b = reinterpret_cast<const float*>(x.b);
  float* c = static_cast<float*>(x.c) + i * x.ldc;
  for (int64_t j = 0; j < x.n; j += width, b += x.panel) {
    const bool whole = x.n - j >= width;
    tile<W, MR>(x.kc, a, b, whole ? c + j : edge, whole ? x.ldc : width, whole && x.accumulate);
    if (!whole) copy_edge(edge, width, MR, x.n - j, c + j, x.ldc, x.accumulate);
  }
}

void pack_panel(const Mat& b, int64_t k, int64_t n, int64_t width, uint32_t* words) {
  float* out = reinterpret_cast<float*>(words);
  const float* p = b.f32();
  if (n < width) std::memset(out, 0, sizeof(float) * k * width);
  if (b.cs == 1) {
    for (int64_t i = 0; i < k; ++i) std::memcpy(out + i * width, p + i * b.rs, sizeof(float) * n);
    return;
  }
  if (b.rs == 1) return transpose(p, b.cs, n, k, out, width);
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j < n; ++j) out[i * width + j] = p[i * b.rs + j * b.cs];
}

#if defined(__x86_64__)
template <int MR>
HD_TARGET("arch=x86-64-v4") void strip_v4(const Block& x, int64_t i) {
  strip<16, MR>(x, i);
}
template <int MR>
HD_TARGET("arch=x86-64-v3") void strip_v3(const Block& x, int64_t i) {
  strip<8, MR>(x, i);
}
void block_v4(const Block& x) {
  in_strips(x, {strip_v4<1>, strip_v4<2>, strip_v4<3>, strip_v4<4>, strip_v4<5>, strip_v4<6>, strip_v4<7>, strip_v4<8>,
                strip_v4<9>, strip_v4<10>, strip_v4<11>, strip_v4<12>, strip_v4<13>, strip_v4<14>});
}
void block_v3(const Block& x) {
  in_strips(x, {strip_v3<1>, strip_v3<2>, strip_v3<3>, strip_v3<4>, strip_v3<5>, strip_v3<6>});
}
#endif
void block_base(const Block& x) { in_strips(x, {strip<4, 1>, strip<4, 2>, strip<4, 3>, strip<4, 4>}); }

Kernel fp32_kernel() {
#if defined(__x86_64__)
  if (vector_width() == 16) return {32, kBlockK, false, block_v4, pack_panel};
  if (vector_width() == 8) return {16, kBlockK, false, block_v3, pack_panel};
#endif
  return {8, kBlockK, false, block_base, pack_panel};
}
const Kernel& exact() {
  static const Kernel kernel = fp32_kernel();
  return kernel;
}

// bf16 products of processors without them: both operands rounded, then the fp32 kernel.
void pack_rounded(const Mat& b, int64_t k, int64_t n, int64_t width, uint32_t* words) {
  std::vector<float> whole(k * n);
  pack_panel(rounded(b, k, n, whole.data()), k, n, width, words);
}
void block_rounded(const Block& x) {
  const int64_t rows = std::min<int64_t>(x.m, 84);  // a multiple of the tallest strips
  const auto whole = std::make_unique_for_overwrite<float[]>(rows * x.kc);
  Block part = x;
  for (int64_t i = 0; i < x.m; i += rows) {
    part.m = std::min(rows, x.m - i);
    part.a = rounded(x.a.at(i, 0), part.m, x.kc, whole.get());
    part.c = static_cast<float*>(x.c) + i * x.ldc;
    exact().block(part);
  }
}

const Kernel& kernel_of(DType operands) {
  static const Kernel generic{exact().width, kBlockK, false, block_rounded, pack_rounded};
  if (operands == DType::F32) return exact();
  const Kernel* own = bf16_kernel();
  return own ? *own : generic;
}

// Products of fewer multiply-adds than this stay on one thread: about 50 us.
constexpr int64_t kSerial = 2 << 20;

// Rows [0, m) times columns [n0, n1) of B, B packed here block by block. C is `type`, whole sums only where bf16.
void product(const Kernel& kernel, int64_t m, int64_t n0, int64_t n1, int64_t k, const Mat& a, const Mat& b, void* c,
             int64_t ldc, bool accumulate, DType type) {
  const int64_t width = kernel.width, deep = std::min(k, kernel.block_k);
  const int64_t panels = (std::min(kBlockN, n1 - n0) + width - 1) / width;
  const auto packed = std::make_unique_for_overwrite<uint32_t[]>(kernel.words(deep) * panels);
  for (int64_t j = n0; j < n1; j += kBlockN)
    for (int64_t l = 0; l < k; l += kernel.block_k) {
      const int64_t columns = std::min(kBlockN, n1 - j), depth = std::min(kernel.block_k, k - l);
      const int64_t panel = kernel.words(depth);
      for (int64_t p = 0; p < columns; p += width)
        kernel.pack(b.at(l, j + p), depth, std::min(width, columns - p), width, packed.get() + p / width * panel);
      void* to = type == DType::F32 ? static_cast<void*>(static_cast<float*>(c) + j) : static_cast<Bf16*>(c) + j;
      kernel.block({m, columns, depth, panel, a.at(0, l), packed.get(), to, ldc, accumulate || l > 0, type});
    }
}

// Splits a product over the threads by rows or, where there are more of them, by panels of columns.
template <class F>
void split(const Pool& pool, int64_t width, int64_t m, int64_t n, int64_t k, const F& f) {
  const int64_t t = pool.threads, panels = (n + width - 1) / width;
  if (t == 1 || m * n * k < kSerial) return f(0, m, 0, n);
  if (m >= n) pool.run(m, (m + t - 1) / t, [&](int64_t i0, int64_t i1) { f(i0, i1, 0, n); });
  else
    pool.run(panels, (panels + t - 1) / t,
             [&](int64_t p0, int64_t p1) { f(0, m, p0 * width, std::min(p1 * width, n)); });
}

}  // namespace

Packed::Packed(const Pool& pool, const Mat& b, int64_t k, int64_t n, DType operands)
    : kernel_(&kernel_of(operands)), k_(k), n_(n), size_(kernel_->words(k)) {
  const int64_t width = kernel_->width;
  data_.resize(panels() * size_);
  auto body = [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      kernel_->pack(b.at(0, j * width), k_, std::min(width, n_ - j * width), width, data_.data() + j * size_);
  };
  if (k * n < (1 << 18)) body(0, panels());
  else pool.run(panels(), 1, body);
}

int64_t Packed::panels() const { return (n_ + kernel_->width - 1) / kernel_->width; }

void gemm(const Pool& pool, int64_t m, const Mat& a, const Packed& b, float* c, int64_t ldc, bool accumulate) {
  const Kernel& kernel = b.kernel();
  const int64_t width = kernel.width, group = std::max<int64_t>(kBlockN / width, 1);
  auto body = [&](int64_t i0, int64_t i1, int64_t j0, int64_t j1) {
    for (int64_t j = j0; j < j1; j += group)
      for (int64_t k = 0; k < b.k(); k += kernel.block_k) {
        const int64_t columns = std::min(std::min(j + group, j1) * width, b.n()) - j * width;
        kernel.block({i1 - i0, columns, std::min(kernel.block_k, b.k() - k), kernel.words(b.k()), a.at(i0, k),
                      b.panel(j) + kernel.words(k), c + i0 * ldc + j * width, ldc, accumulate || k > 0, DType::F32});
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
          bool accumulate, DType operands) {
  const Kernel& kernel = kernel_of(operands);
  if (!m || !n) return;
  if (k == 0) {
    if (!accumulate)
      for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, 0.0f);
    return;
  }
  split(pool, kernel.width, m, n, k, [&](int64_t i0, int64_t i1, int64_t n0, int64_t n1) {
    product(kernel, i1 - i0, n0, n1, k, a.at(i0, 0), b, c + i0 * ldc, ldc, accumulate, DType::F32);
  });
}

// Sums over more than one block of k grow in fp32, a few rows at a time.
void gemm(const Pool& pool, int64_t m, int64_t n, int64_t k, const Mat& a, const Mat& b, Bf16* c, int64_t ldc) {
  const Kernel& kernel = kernel_of(DType::BF16);
  if (!m || !n) return;
  split(pool, kernel.width, m, n, k, [&](int64_t i0, int64_t i1, int64_t n0, int64_t n1) {
    if (kernel.pairs && k > 0 && k <= kernel.block_k)
      return product(kernel, i1 - i0, n0, n1, k, a.at(i0, 0), b, c + i0 * ldc, ldc, false, DType::BF16);
    const int64_t columns = n1 - n0;
    std::vector<float> sums((i1 - i0) * columns);
    product(kernel, i1 - i0, 0, columns, k, a.at(i0, 0), b.at(0, n0), sums.data(), columns, false, DType::F32);
    for (int64_t i = i0; i < i1; ++i) round_bf16(columns, &sums[(i - i0) * columns], c + i * ldc + n0);
  });
}

}  // namespace hd::cpu
