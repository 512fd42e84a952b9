// Blocked GEMM: the drivers, and the fp32 kernel. Register tile 14 x 32 (AVX-512), 6 x 16 (AVX2) or 4 x 8 (SSE2): the
// tallest whose accumulators, one row of B and nothing else fill the register file, so that a loaded row of B feeds as
// many multiply-adds as there are rows. A micro-panel of A (14 x 384 floats, 21 KB) stays in L1 while a block of B
// (384 x 512, 0.8 MB) streams from L2; C is read and written once per 384 of k. Bytes per multiply-add: 4/14 from L2,
// 4/32 from L1. Where a block of B has few columns, A is not packed: that would take up to a third of the time.
#include "cpu/gemm.h"

#include <algorithm>
#include <cstring>

#include "cpu/gemm_kernel.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace hd::cpu {
namespace {

constexpr int64_t kBlockK = 384, kBlockN = 512;

// B (k x n) to a panel, k-major. Where n is a constant a copied row is a few moves and no call.
HD_INLINE void pack(const Mat& b, int64_t k, int64_t n, int64_t width, float* out) {
  const float* p = b.f32();
  if (b.rs == 1) return transpose(p, b.cs, n, k, out, width);
  for (int64_t i = 0; i < k; ++i, p += b.rs, out += width)
    if (b.cs == 1) std::memcpy(out, p, sizeof(float) * n);
    else
      for (int64_t j = 0; j < n; ++j) out[j] = p[j * b.cs];
}

void pack_panel(const Mat& b, int64_t k, int64_t n, int64_t width, uint32_t* words) {
  float* out = reinterpret_cast<float*>(words);
  if (n < width) std::memset(out, 0, sizeof(float) * k * width);
  pack(b, k, n, width, out);
}

// Whether a strip of A meets so few panels of B that packing it would cost more than reading it where it lies.
template <int W>
HD_INLINE bool in_place(const Block& x) {
  return x.n <= 8 * W && (x.a.cs == 1 || x.a.rs == 1);
}

// MR rows of A from row i on, against one block of B in register tiles of two vectors. Of ROWS, whose numbers stand
// side by side, three are read from each pointer; of others, or packed here, all are at one value of k.
template <int MR, bool ROWS>
struct Strip {
  template <int W>
  static HD_INLINE void run(const Block& x, int64_t i) {
    constexpr int64_t width = 2 * W, together = ROWS ? 3 : MR, pointers = (MR + together - 1) / together;
    alignas(64) float packed[ROWS ? 1 : MR * kBlockK];
    const float* rows = x.a.at(i, 0).f32();
    const int64_t apart = ROWS ? x.a.rs : 1;
    int64_t next = x.a.cs;
    if (!ROWS && !in_place<W>(x)) {
      pack(x.a.at(i, 0).t(), x.kc, MR, MR, packed);
      rows = packed, next = MR;
    }
    float* c = static_cast<float*>(x.c) + i * x.ldc;
    for (int64_t j = 0; j * width < x.n; ++j) {
      const float *a[pointers], *b = reinterpret_cast<const float*>(x.b + j * x.panel);
#pragma GCC unroll 8
      for (int g = 0; g < pointers; ++g) a[g] = rows + together * g * apart;
      Vec<W> r[MR][2] = {};
      for (int64_t k = 0; k < x.kc; ++k, b += width) {
        const Vec<W> b0 = get<W>(b), b1 = get<W>(b + W);
#pragma GCC unroll 16
        for (int m = 0; m < MR; ++m) {
          const float each = a[m / together][m % together * apart];
          r[m][0] += each * b0, r[m][1] += each * b1;
        }
#pragma GCC unroll 8
        for (int g = 0; g < pointers; ++g) a[g] += ROWS ? 1 : next;
      }
      put_tile<W>(r, c + j * width, x.ldc, std::min(width, x.n - j * width), x.accumulate);
    }
  }
};

// The matrix (rows x columns) rounded to bf16, row-major as floats: operands of processors without bf16 products.
struct Rounded {
  template <int>
  static HD_INLINE void run(const Mat& x, int64_t rows, int64_t columns, float* out) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j) {
        Bf16 h;
        if (x.type == DType::BF16) h = x.bf16()[i * x.rs + j * x.cs];
        else store(&h, x.f32()[i * x.rs + j * x.cs]);
        out[i * columns + j] = load(&h);
      }
  }
};
Mat rounded(const Mat& x, int64_t rows, int64_t columns, float* out) {
  vectors<Rounded>(x, rows, columns, out);
  return row_major(out, columns);
}

template <int W, int... I>
Kernel fp32_kernel(std::integer_sequence<int, I...>) {
  return {2 * W, kBlockK, false,
          [](const Block& x) {
            if (in_place<W>(x) && x.a.cs == 1) in_strips(x, {compiled<Strip<I + 1, true>, W, Block, int64_t>()...});
            else in_strips(x, {compiled<Strip<I + 1, false>, W, Block, int64_t>()...});
          },
          pack_panel};
}
const Kernel& exact() {
  static const Kernel kernel = vector_width() == 16  ? fp32_kernel<16>(std::make_integer_sequence<int, 14>())
                               : vector_width() == 8 ? fp32_kernel<8>(std::make_integer_sequence<int, 6>())
                                                     : fp32_kernel<4>(std::make_integer_sequence<int, 4>());
  return kernel;
}

// bf16 products of processors without them: both operands rounded, then the fp32 kernel.
void pack_rounded(const Mat& b, int64_t k, int64_t n, int64_t width, uint32_t* words) {
  std::vector<float> whole(k * n);
  pack_panel(rounded(b, k, n, whole.data()), k, n, width, words);
}
void block_rounded(const Block& x) {
  const int64_t rows = std::min<int64_t>(x.m, 84);  // a multiple of the tallest strips
  const Floats whole = floats(rows * x.kc);
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

void* at(void* c, DType type, int64_t i) {
  return type == DType::F32 ? static_cast<void*>(static_cast<float*>(c) + i) : static_cast<Bf16*>(c) + i;
}

// Products of fewer multiply-adds than this stay on one thread: about 50 us.
constexpr int64_t kSerial = 2 << 20;

// Splits a product over the threads by rows or, where there are more of them, by panels of columns.
template <class F>
void split(const Pool& pool, int64_t width, int64_t m, int64_t n, int64_t k, const F& f) {
  const bool worth = m * n * k >= kSerial;
  if (!m || !n) return;
  if (m >= n) return pool.share(m, worth, [&](int64_t i0, int64_t i1) { f(i0, i1, 0, n); });
  pool.share((n + width - 1) / width, worth,
             [&](int64_t p0, int64_t p1) { f(0, m, p0 * width, std::min(p1 * width, n)); });
}

// Rows [0, m) times columns [n0, n1) of B, whole panels up to its last. C, from column n0 on, is `type`, whole sums
// only where bf16.
void multiply(int64_t m, int64_t n0, int64_t n1, const Mat& a, const Packed& b, void* c, int64_t ldc, bool accumulate,
              DType type) {
  const Kernel& kernel = b.kernel();
  for (int64_t j = n0; j < n1; j += kBlockN)
    for (int64_t k = 0; k < b.k(); k += kernel.block_k)
      kernel.block({m, std::min(kBlockN, n1 - j), std::min(kernel.block_k, b.k() - k), kernel.words(b.k()), a.at(0, k),
                    b.panel(j / kernel.width) + kernel.words(k), at(c, type, j - n0), ldc, accumulate || k > 0, type});
}

// The same of B as it lies, packed block by block.
void multiply(int64_t m, int64_t n0, int64_t n1, int64_t k, const Mat& a, const Mat& b, void* c, int64_t ldc,
              bool accumulate, DType type, DType operands) {
  const int64_t deep = kernel_of(operands).block_k;
  for (int64_t j = n0; j < n1; j += kBlockN)
    for (int64_t l = 0; l < k; l += deep) {
      const int64_t columns = std::min(kBlockN, n1 - j);
      const Packed part(kAlone, b.at(l, j), std::min(deep, k - l), columns, operands);
      multiply(m, 0, columns, a.at(0, l), part, at(c, type, j - n0), ldc, accumulate || l > 0, type);
    }
}

}  // namespace

Packed::Packed(const Pool& pool, const Mat& b, int64_t k, int64_t n, DType operands)
    : kernel_(&kernel_of(operands)), k_(k), n_(n), size_(kernel_->words(k)) {
  const int64_t width = kernel_->width, panels = (n + width - 1) / width;
  data_ = std::make_unique_for_overwrite<uint32_t[]>(panels * size_);
  pool.share(panels, k * n >= 1 << 18, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      kernel_->pack(b.at(0, j * width), k_, std::min(width, n_ - j * width), width, data_.get() + j * size_);
  });
}

void gemm(const Pool& pool, int64_t m, const Mat& a, const Packed& b, float* c, int64_t ldc, bool accumulate) {
  split(pool, b.kernel().width, m, b.n(), b.k(), [&](int64_t i0, int64_t i1, int64_t n0, int64_t n1) {
    multiply(i1 - i0, n0, n1, a.at(i0, 0), b, c + i0 * ldc + n0, ldc, accumulate, DType::F32);
  });
}

void gemm(const Pool& pool, int64_t m, int64_t n, int64_t k, const Mat& a, const Mat& b, float* c, int64_t ldc,
          bool accumulate, DType operands) {
  if (k == 0 && !accumulate)
    for (int64_t i = 0; i < m; ++i) std::fill_n(c + i * ldc, n, 0.0f);
  split(pool, kernel_of(operands).width, m, n, k, [&](int64_t i0, int64_t i1, int64_t n0, int64_t n1) {
    multiply(i1 - i0, n0, n1, k, a.at(i0, 0), b, c + i0 * ldc + n0, ldc, accumulate, DType::F32, operands);
  });
}

// Sums over more than one block of k grow in fp32, a few rows at a time.
void gemm(const Pool& pool, int64_t m, int64_t n, int64_t k, const Mat& a, const Mat& b, Bf16* c, int64_t ldc) {
  const Kernel& kernel = kernel_of(DType::BF16);
  split(pool, kernel.width, m, n, k, [&](int64_t i0, int64_t i1, int64_t n0, int64_t n1) {
    const int64_t rows = i1 - i0, columns = n1 - n0;
    if (kernel.pairs && k > 0 && k <= kernel.block_k)
      return multiply(rows, n0, n1, k, a.at(i0, 0), b, c + i0 * ldc + n0, ldc, false, DType::BF16, DType::BF16);
    std::vector<float> sums(rows * columns);
    multiply(rows, n0, n1, k, a.at(i0, 0), b, sums.data(), columns, false, DType::F32, DType::BF16);
    for (int64_t i = 0; i < rows; ++i) round_bf16(columns, &sums[i * columns], c + (i0 + i) * ldc + n0);
  });
}

}  // namespace hd::cpu
