// simd.h -- what the CPU kernels are made of: elementary functions, and loads and stores of both storage types. What is
// compiled for an instruction set (vec.h) calls only what is HD_INLINE, or all of them would share one SSE2 copy.
//
// The functions take a float or a vector of floats (vec.h), lane by lane, without branches: select() is an if. They
// avoid libm and rounding instructions (SSE2 has none). Error: fexp, flog, flog1p and fsymlog 2 units in the last
// place, the others 3. NaN stays NaN.
#pragma once
#include <bit>
#include <cstdint>
#include <limits>

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only

#define HD_INLINE inline __attribute__((always_inline))

namespace hd::cpu {

// The integers in the lanes of F, a float or a vector of floats. As vectors whose attribute a template keeps.
template <class F>
struct Lane {
  typedef int32_t Ints __attribute__((vector_size(sizeof(F))));
  typedef uint32_t Words __attribute__((vector_size(sizeof(F))));
};
template <>
struct Lane<float> {
  using Ints = int32_t;
  using Words = uint32_t;
};
template <class F>
using Ints = typename Lane<F>::Ints;
template <class F>
using Words = typename Lane<F>::Words;

// c in every lane.
template <class F>
HD_INLINE F all(float c) {
  return F{} + c;
}
// Lane by lane; c is a comparison's result.
template <class C, class F>
HD_INLINE F select(const C& c, const F& a, const F& b) {
  return c ? a : b;
}
// The numbers of integers.
HD_INLINE float floats_of(int32_t n) { return float(n); }
template <class I>
HD_INLINE auto floats_of(const I& n) {
  typedef float Floats __attribute__((vector_size(sizeof(I))));
  return __builtin_convertvector(n, Floats);
}

// One instruction each, for which GCC needs to be told its name; of a NaN b is the result.
template <class F>
HD_INLINE F fmax(const F& a, const F& b) {
#if defined(__x86_64__) && !defined(__clang__)
  if constexpr (sizeof(F) >= 32) {
    F most;
    __asm__("vmaxps %2, %1, %0" : "=v"(most) : "v"(a), "v"(b));
    return most;
  }
#endif
  return select(a > b, a, b);
}
template <class F>
HD_INLINE F fmin(const F& a, const F& b) {
#if defined(__x86_64__) && !defined(__clang__)
  if constexpr (sizeof(F) >= 32) {
    F least;
    __asm__("vminps %2, %1, %0" : "=v"(least) : "v"(a), "v"(b));
    return least;
  }
#endif
  return select(a < b, a, b);
}
template <class F>
HD_INLINE F fabs(const F& x) {
  return std::bit_cast<F>(std::bit_cast<Ints<F>>(x) & 0x7fffffff);
}
template <class F>
HD_INLINE F copysign(const F& magnitude, const F& sign) {
  constexpr int32_t top = std::numeric_limits<int32_t>::min();
  return std::bit_cast<F>((std::bit_cast<Ints<F>>(magnitude) & ~top) | (std::bit_cast<Ints<F>>(sign) & top));
}

// e^x = 2^n e^r, r = x - n ln 2 in two parts, |r| <= ln 2 / 2.
template <class F>
struct Power {
  F scale, r, tail;  // 2^n; e^r = 1 + r + r^2 tail
};
// n is rounded by adding a number so large that fractions have no bits; 127 more make it the exponent of 2^n: 0 of
// n = -127, infinity of 128.
template <class F>
HD_INLINE Power<F> power(const F& x) {
  constexpr float LOG2E = 1.44269504f, LN2_HIGH = 0.693359375f, LN2_LOW = -2.12194440e-4f, MAGIC = 12582912.f + 127.f;
  const F shifted = x * LOG2E + MAGIC, n = shifted - MAGIC;
  const F r = x - n * LN2_HIGH - n * LN2_LOW;
  F p = r * 1.39506006e-3f + 8.36895393e-3f;
  p = p * r + 4.16662042e-2f;
  p = p * r + 1.66665183e-1f;
  p = p * r + 5.00000010e-1f;
  return {std::bit_cast<F>(std::bit_cast<Words<F>>(shifted) << 23), r, p};
}
// e^x - 1 of e^r 2^n, n < 128.
template <class F>
HD_INLINE F less_one(const Power<F>& e) {
  return (e.tail * (e.r * e.r) + e.r) * e.scale + (e.scale - 1.f);
}

// e^x of -87.3 <= x <= 88.3.
template <class F>
HD_INLINE F fexp_within(const F& x) {
  const Power<F> e = power(x);
  return ((e.tail * e.r + 1.f) * e.r + 1.f) * e.scale;
}
// e^x: 0 below -87.7, infinity above 88.4.
template <class F>
HD_INLINE F fexp(const F& x) {
  return fexp_within(fmin(all<F>(88.7f), fmax(all<F>(-88.f), x)));
}
template <class F>
HD_INLINE F fexpm1(const F& x) {
  const F finite = less_one(power(fmin(all<F>(88.3f), fmax(all<F>(-88.f), x))));
  return select(x > 88.3f, all<F>(std::numeric_limits<float>::infinity()), finite);
}

template <class F>
HD_INLINE F fsigmoid(const F& x) {
  return 1.f / (1.f + fexp(-x));
}
template <class F>
HD_INLINE F fsilu(const F& x) {
  return x / (1.f + fexp(-x));
}
// (e^2x - 1) / (e^2x + 1).
template <class F>
HD_INLINE F ftanh(const F& x) {
  const F less = less_one(power(fmin(all<F>(20.f), fabs(x) * 2.f)));
  return copysign(less / (less + 2.f), x);
}

// x = m 2^e, sqrt(1/2) <= m < sqrt(2); numbers below the smallest normal one count as it.
template <class F>
struct Parts {
  F less;  // m - 1
  Ints<F> e;
};
template <class F>
HD_INLINE Parts<F> parts(const F& x) {
  const Ints<F> bits = std::bit_cast<Ints<F>>(fmax(x, all<F>(std::numeric_limits<float>::min())));
  const Ints<F> e = (bits - 0x3f3504f3) >> 23;  // 0x3f3504f3: sqrt(1/2)
  return {std::bit_cast<F>(bits - (e << 23)) - 1.f, e};
}
// log(1 + f) + e ln 2 by a polynomial of degree 10. Where x, whose logarithm that is, is 0: -inf; below: NaN.
template <class F>
HD_INLINE F log_of(const F& x, const F& f, const Ints<F>& e) {
  constexpr float INFINITE = std::numeric_limits<float>::infinity(), NONE = std::numeric_limits<float>::quiet_NaN();
  const F k = floats_of(e), square = f * f;
  F p = f * 6.92587106e-2f - 1.18078686e-1f;
  p = p * f + 1.18779168e-1f;
  p = p * f - 1.23818049e-1f;
  p = p * f + 1.42177153e-1f;
  p = p * f - 1.66693567e-1f;
  p = p * f + 2.00022731e-1f;
  p = p * f - 2.49999853e-1f;
  p = p * f + 3.33333098e-1f;
  const F tail = square * f * p + k * -2.12194440e-4f - 0.5f * square;
  const F y = f + tail + k * 0.693359375f;
  return select(x <= 0.f, select(x == 0.f, all<F>(-INFINITE), all<F>(NONE)), select(x < INFINITE, y, x));
}
template <class F>
HD_INLINE F flog(const F& x) {
  const Parts<F> of = parts(x);
  return log_of(x, of.less, of.e);
}
// log(1 + x): the logarithm of the rounded sum, corrected by what the rounding lost.
template <class F>
HD_INLINE F flog1p(const F& x) {
  const F u = 1.f + x, lost = x - (u - 1.f);
  const Parts<F> of = parts(u);
  const F twice = std::bit_cast<F>((128 - of.e) << 23);  // 2^-e: of no e an infinity
  return log_of(u, of.less + lost * 0.5f * twice, of.e);
}

template <class F>
HD_INLINE F fsymlog(const F& x) {
  return copysign(flog1p(fabs(x)), x);
}
template <class F>
HD_INLINE F fsymexp(const F& x) {
  return copysign(fexpm1(fabs(x)), x);
}

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
