// The bf16 kernel of the blocked GEMM, for processors with AVX512_BF16: vdpbf16ps multiplies 32 pairs and adds them to
// 16 fp32 sums. Packed operands hold two values of k in one word; register tile 14 x 32, and blocks twice as deep as
// fp32's, so that they fill the same caches.
#include <algorithm>
#include <cstdlib>

#include "cpu/gemm_kernel.h"
#include "cpu/simd.h"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>

#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in the header: operands that a mask leaves out

namespace hd::cpu {
namespace {

#define HD_BF16 HD_TARGET("arch=x86-64-v4,avx512bf16")
#define HD_BF16_INLINE inline HD_TARGET("arch=x86-64-v4,avx512bf16") __attribute__((always_inline))

constexpr int64_t kBlockK = 768, kWidth = 32;
constexpr int64_t kRow = kBlockK / 2 + 16;  // words from row to row of A: all of a column in sets of their own

HD_BF16_INLINE __mmask16 lanes(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (1u << n) - 1; }

// Sixteen pairs of two rows' values, missing ones zero.
HD_BF16_INLINE __m512i both(const float* even, const float* odd, __mmask16 m, __mmask16 m1) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(m1, odd), _mm512_maskz_loadu_ps(m, even));
}
HD_BF16_INLINE __m512i both(const Bf16* even, const Bf16* odd, __mmask16 m, __mmask16 m1) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_maskz_loadu_epi16(m, even)),
                            _mm256_maskz_loadu_epi16(m1, odd), 1);
}
// n <= 32 values along k as words of two.
HD_BF16_INLINE __m512i words(const float* p, int64_t n) {
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(lanes(n - 16), p + 16), _mm512_maskz_loadu_ps(lanes(n), p));
}
HD_BF16_INLINE __m512i words(const Bf16* p, int64_t n) {
  return _mm512_maskz_loadu_epi16(n >= 32 ? ~0u : (1u << n) - 1, p);
}

// out[(k / 2) * width + v] = (x[v, k], x[v, k + 1]) for v < n: x stands vs elements apart along v, ks along k.
template <class T>
HD_BF16_INLINE void pack_pairs(const T* x, int64_t vs, int64_t ks, int64_t n, int64_t kc, int64_t width,
                               uint32_t* out) {
  const int64_t pairs = (kc + 1) / 2;
  if (vs == 1) {
    const __m512i step = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i order = _mm512_or_si512(step, _mm512_slli_epi32(_mm512_add_epi32(step, _mm512_set1_epi32(16)), 16));
    for (int64_t v = 0; v < width; v += 16) {
      const __mmask16 m = lanes(n - v), to = lanes(width - v);
      for (int64_t k = 0; k < pairs; ++k) {
        const T* p = x + 2 * k * ks + v;
        const __m512i halves = both(p, p + ks, m, 2 * k + 1 < kc ? m : 0);
        _mm512_mask_storeu_epi32(out + k * width + v, to, _mm512_permutexvar_epi16(order, halves));
      }
    }
    return;
  }
  constexpr int64_t kSpan = 64;  // words of k at a time: 32 x 64 of them stay in L1
  alignas(64) uint32_t rows[kWidth * kSpan];
  for (int64_t k0 = 0; k0 < pairs; k0 += kSpan) {
    const int64_t span = std::min(kSpan, pairs - k0);
    for (int64_t v = 0; v < width; ++v)
      for (int64_t k = 0; k < span; k += 16) {
        const int64_t left = v < n ? kc - 2 * (k0 + k) : 0;
        const T* p = x + v * vs + 2 * (k0 + k) * ks;
        uint32_t* to = rows + v * kSpan + k;
        if (ks == 1 || left <= 0) {
          _mm512_store_si512(to, words(p, std::clamp<int64_t>(left, 0, 32)));
          continue;
        }
        T near[32] = {};
        for (int64_t j = 0; j < std::min<int64_t>(left, 32); ++j) near[j] = p[j * ks];
        _mm512_store_si512(to, words(near, 32));
      }
    transpose(reinterpret_cast<float*>(rows), kSpan, width, span, reinterpret_cast<float*>(out + k0 * width), width);
  }
}

HD_BF16 void pack(const Mat& x, int64_t vs, int64_t ks, int64_t n, int64_t kc, int64_t width, uint32_t* out) {
  x.type == DType::F32 ? pack_pairs(x.f32(), vs, ks, n, kc, width, out)
                       : pack_pairs(x.bf16(), vs, ks, n, kc, width, out);
}

void pack_panel(const Mat& b, int64_t k, int64_t n, int64_t width, uint32_t* out) {
  pack(b, b.cs, b.rs, n, k, width, out);
}

// MR rows of packed A, RS words apart and pairs KS apart, against one panel of B.
template <int MR, int64_t RS, int64_t KS>
HD_BF16_INLINE void tile(const Block& x, const uint32_t* a, const uint32_t* b, int64_t at, int64_t n) {
  __m512 r[MR][2];
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) r[i][0] = r[i][1] = _mm512_setzero_ps();
  for (int64_t k = 0; k < x.kc; k += 2, a += KS, b += kWidth) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 16);
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const __m512bh both = (__m512bh)_mm512_set1_epi32(a[i * RS]);
      r[i][0] = _mm512_dpbf16_ps(r[i][0], both, b0);
      r[i][1] = _mm512_dpbf16_ps(r[i][1], both, b1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __mmask16 m = lanes(n - 16 * j);
      const int64_t to = at + i * x.ldc + 16 * j;
      if (x.type == DType::BF16) {
        _mm256_mask_storeu_epi16(static_cast<Bf16*>(x.c) + to, m, (__m256i)_mm512_cvtneps_pbh(r[i][j]));
        continue;
      }
      float* c = static_cast<float*>(x.c) + to;
      _mm512_mask_storeu_ps(c, m, x.accumulate ? r[i][j] + _mm512_maskz_loadu_ps(m, c) : r[i][j]);
    }
}

template <int MR, int64_t RS, int64_t KS>
HD_BF16_INLINE void tiles(const Block& x, const uint32_t* a, int64_t i) {
  for (int64_t j = 0; j * kWidth < x.n; ++j)
    tile<MR, RS, KS>(x, a, x.b + j * x.panel, i * x.ldc + j * kWidth, x.n - j * kWidth);
}

template <class T>
HD_BF16_INLINE void copy_row(const T* x, int64_t kc, uint32_t* out) {
  for (int64_t k = 0; k < kc; k += 32, out += 16) _mm512_store_si512(out, words(x + k, std::min<int64_t>(kc - k, 32)));
}

// Rows that lie whole in memory are rounded but not transposed: that would cost as much as products with few columns.
template <int MR>
HD_BF16 void strip(const Block& x, const int64_t& i) {
  alignas(64) uint32_t a[MR * kRow];
  const Mat rows = x.a.at(i, 0);
  if (rows.cs == 1) {
    for (int64_t r = 0; r < MR; ++r) {
      const Mat row = rows.at(r, 0);
      row.type == DType::F32 ? copy_row(row.f32(), x.kc, a + r * kRow) : copy_row(row.bf16(), x.kc, a + r * kRow);
    }
    return tiles<MR, kRow, 1>(x, a, i);
  }
  pack(rows, rows.rs, rows.cs, MR, x.kc, MR, a);
  tiles<MR, 1, MR>(x, a, i);
}

template <int... I>
void block(const Block& x, std::integer_sequence<int, I...>) {
  in_strips(x, {strip<I + 1>...});
}
void block(const Block& x) { block(x, std::make_integer_sequence<int, 14>()); }

}  // namespace

const Kernel* bf16_kernel() {
  static const Kernel kernel{kWidth, kBlockK, true, block, pack_panel};
  static const bool here = [] {
    const char* refused = std::getenv("HDFAST_NO_BF16");  // empty means unset
    return vector_width() == 16 && __builtin_cpu_supports("avx512bf16") && !(refused && *refused);
  }();
  return here ? &kernel : nullptr;
}

}  // namespace hd::cpu
#else
namespace hd::cpu {
const Kernel* bf16_kernel() { return nullptr; }
}  // namespace hd::cpu
#endif
