// simd.h -- what the CPU kernels are made of: function clones per instruction set, branch-free elementary
// functions that the compiler vectorizes, and loads and stores of both storage types.
//
// HD_CLONES before a row loop compiles it for SSE2, AVX2 and AVX-512; the loader picks one. Everything called
// inside must be HD_INLINE, or the clones would share one SSE2 copy. The functions below avoid libm (calls
// stop the vectorizer) and rounding instructions (SSE2 has none). Relative error: fexp, flog, fsigmoid, ftanh
// 2 ulp; NaN stays NaN.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>

#define HD_INLINE inline __attribute__((always_inline))
// Sanitised builds have no clones: the loader would pick one before the sanitiser's runtime is ready.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) && \
    !defined(__SANITIZE_THREAD__)
#define HD_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define HD_CLONES
#endif
// Sums may be reordered in these files (-fassociative-math); not across this.
#if defined(__GNUC__) && !defined(__clang__)
#define HD_KEEP(x) __builtin_assoc_barrier(x)
#else
#define HD_KEEP(x) (x)
#endif

namespace hd::cpu {

HD_INLINE float select(bool c, float a, float b) { return c ? a : b; }
HD_INLINE float fmax(float a, float b) { return a > b ? a : b; }
HD_INLINE float fmin(float a, float b) { return a < b ? a : b; }
HD_INLINE float fabs(float x) { return std::bit_cast<float>(std::bit_cast<uint32_t>(x) & 0x7fffffffu); }
HD_INLINE float copysign(float magnitude, float sign) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(magnitude) & 0x7fffffffu) |
                              (std::bit_cast<uint32_t>(sign) & 0x80000000u));
}

// e^x - 1 - x over x^2 of |x| <= 0.35: polynomial of degree 4.
HD_INLINE float exp_tail(float x) {
  float p = 1.39506006e-3f;
  p = p * x + 8.36895393e-3f;
  p = p * x + 4.16662042e-2f;
  p = p * x + 1.66665183e-1f;
  return p * x + 5.00000010e-1f;
}

// e^x = 2^n e^r, r = x - n ln 2 in two parts, |r| <= ln 2 / 2. The argument must lie within [-87.3, 88.3].
HD_INLINE float fexp_within(float x) {
  constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f, MAGIC = 12582912.f;
  const int32_t n = std::bit_cast<int32_t>(x * LOG2E + MAGIC) - std::bit_cast<int32_t>(MAGIC);
  const float k = float(n);
  const float r = HD_KEEP(HD_KEEP(x - k * LN2_HIGH) - k * LN2_LOW);
  return HD_KEEP(HD_KEEP(exp_tail(r) * (r * r) + r) + 1.f) * std::bit_cast<float>((n + 127) << 23);
}

// The argument is clamped, a NaN to either end: for callers that look at NaN themselves. As integers, since where
// floats are compared the compiler follows both ends and a number apart, and selects anew in every later step.
HD_INLINE float fexp_clamped(float x) {
  const int32_t high = std::bit_cast<int32_t>(88.3f), from = std::bit_cast<int32_t>(x);
  const uint32_t low = std::bit_cast<uint32_t>(-87.3f), below = uint32_t(from < high ? from : high);
  return fexp_within(std::bit_cast<float>(below < low ? below : low));
}

// e^x: 0 below -87.3, infinity above 88.3.
HD_INLINE float fexp(float x) {
  const float finite = select(x < -87.3f, 0.f, fexp_clamped(x));
  return select(x != x, x, select(x > 88.3f, std::numeric_limits<float>::infinity(), finite));
}

// Never below 1e-38, so that products with it underflow softly. The first gives a number for a NaN too: for callers
// that multiply by x.
HD_INLINE float fsigmoid_clamped(float x) { return 1.f / (1.f + fexp_clamped(-x)); }
HD_INLINE float fsigmoid(float x) { return select(x != x, x, fsigmoid_clamped(x)); }

// (e^2x - 1) / (e^2x + 1); near zero, where that cancels, the odd polynomial.
HD_INLINE float ftanh(float x) {
  const float a = fabs(x), z = a * a;
  const float large = HD_KEEP(1.f - 2.f / (1.f + fexp_clamped(2.f * a)));
  float p = -5.71703253e-3f;
  p = p * z + 2.06505756e-2f;
  p = p * z - 5.37434943e-2f;
  p = p * z + 1.33314912e-1f;
  p = p * z - 3.33332839e-1f;
  const float small = HD_KEEP(a + a * (z * p));
  return select(x != x, x, copysign(select(a < 0.625f, small, large), x));
}

// log(m 2^e) = log(m) + e ln 2, sqrt(1/2) <= m < sqrt(2); polynomial of degree 10 in m - 1. Of 0: -inf, of x
// < 0: NaN. `lost` is what rounding took from x.
HD_INLINE float flog_plus(float x, float lost) {
  const float normal = fmax(x, std::numeric_limits<float>::min());  // subnormals count as it
  const int32_t bits = std::bit_cast<int32_t>(normal);
  const int32_t e = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3: sqrt(1/2)
  const float m = std::bit_cast<float>(bits - (e << 23)), scale = std::bit_cast<float>((127 - e) << 23);
  const float f = HD_KEEP(m - 1.f) + lost * scale;
  const float k = float(e);
  float p = 6.92587106e-2f;
  p = p * f - 1.18078686e-1f;
  p = p * f + 1.18779168e-1f;
  p = p * f - 1.23818049e-1f;
  p = p * f + 1.42177153e-1f;
  p = p * f - 1.66693567e-1f;
  p = p * f + 2.00022731e-1f;
  p = p * f - 2.49999853e-1f;
  p = p * f + 3.33333098e-1f;
  const float square = f * f;
  const float tail = HD_KEEP(HD_KEEP(square * f * p + k * -2.12194440e-4f) - 0.5f * square);
  const float y = HD_KEEP(HD_KEEP(f + tail) + k * 0.693359375f);
  const float infinite = select(x == std::numeric_limits<float>::infinity(), x, y);
  const float at_zero = select(x == 0.f, -std::numeric_limits<float>::infinity(), infinite);
  return select(x >= 0.f, at_zero, std::numeric_limits<float>::quiet_NaN());
}
HD_INLINE float flog(float x) { return flog_plus(x, 0.f); }

// log(1 + x) for x > -1: the logarithm of the rounded sum, corrected by what the rounding lost.
HD_INLINE float flog1p(float x) {
  const float u = HD_KEEP(1.f + x);
  const float of_x = HD_KEEP(x - HD_KEEP(u - 1.f)), of_one = HD_KEEP(1.f - HD_KEEP(u - x));
  const float lost = select(x > 1e8f, 0.f, select(x < 1.f, of_x, of_one));
  return select(x != x, x, flog_plus(u, lost));
}

// e^x - 1, by u = e^x: accurate enough where |x| > 0.3, a polynomial of e^x's series below.
HD_INLINE float fexpm1(float x) {
  const float z = fmin(fmax(x, -0.35f), 0.35f);
  return select(fabs(x) < 0.34f, HD_KEEP(exp_tail(z) * (z * z) + z), fexp(x) - 1.f);
}

// No x / (1 + e): the compiler would divide a second time for the arguments that fexp_clamped clamps.
HD_INLINE float fsilu(float x) { return x * fsigmoid_clamped(x); }

// ---- storage ----------------------------------------------------------------------------------------------
struct Bf16 {
  uint16_t bits;
};
HD_INLINE float load(const float* p) { return *p; }
HD_INLINE float load(const Bf16* p) { return std::bit_cast<float>(uint32_t(p->bits) << 16); }
HD_INLINE void store(float* p, float x) { *p = x; }
// Round to nearest even; a NaN stays one.
HD_INLINE void store(Bf16* p, float x) {
  const uint32_t b = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (b + 0x7fffu + ((b >> 16) & 1u)) >> 16;
  p->bits = uint16_t((b & 0x7fffffffu) > 0x7f800000u ? 0x7fffu : rounded);
}

// The largest of n numbers, or a NaN among them: as integers in the same order, whose maximum the compiler vectorizes.
template <class T>
HD_INLINE float largest(const T* x, int64_t n) {
  const auto flip = [](int32_t bits) __attribute__((always_inline)) { return bits ^ (bits >> 31 & 0x7fffffff); };
  int32_t top = std::numeric_limits<int32_t>::min();
  for (int64_t j = 0; j < n; ++j) {
    const int32_t key = flip(std::bit_cast<int32_t>(load(x + j)));
    top = key > top ? key : top;
  }
  return std::bit_cast<float>(flip(top));
}

}  // namespace hd::cpu
