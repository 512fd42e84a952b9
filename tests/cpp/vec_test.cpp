// vec_test.cpp -- the elementary functions of the CPU kernels against double precision, of a float and of vectors of
// every width that the processor has.
#include "cpu/vec.h"

#include "support.h"

namespace {

using namespace hd;

struct Case {
  const char* name;
  double (*want)(double);
  double units, low, high;  // in the last place: the largest error of arguments between two
  float below, above;       // of -inf and of inf; NaN: not promised
};

struct Exp {
  static constexpr Case about{"exp", std::exp, 2, -87.3, 88.3, 0, INFINITY};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::fexp(x);
  }
};
struct ExpWithin {
  static constexpr Case about{"exp_within", std::exp, 2, -87.3, 88.3, NAN, NAN};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::fexp_within(x);
  }
};
struct Expm1 {
  static constexpr Case about{"expm1", std::expm1, 3, -1e30, 88.2, -1, INFINITY};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::fexpm1(x);
  }
};
struct Log {
  static constexpr Case about{"log", std::log, 2, 1.18e-38, 3e38, NAN, INFINITY};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::flog(x);
  }
};
struct Log1p {
  static constexpr Case about{"log1p", std::log1p, 2, -0.9999999, 3e38, NAN, INFINITY};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::flog1p(x);
  }
};
struct Sigmoid {
  static constexpr Case about{"sigmoid", [](double x) { return 1 / (1 + std::exp(-x)); }, 3, -87.3, 1e30, 0, 1};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::fsigmoid(x);
  }
};
struct Silu {
  static constexpr Case about{"silu", [](double x) { return x / (1 + std::exp(-x)); }, 3, -87.3, 1e30, NAN, INFINITY};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::fsilu(x);
  }
};
struct Tanh {
  static constexpr Case about{"tanh", std::tanh, 3, -1e30, 1e30, -1, 1};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::ftanh(x);
  }
};
struct Symlog {
  static constexpr Case about{
      "symlog", [](double x) { return std::copysign(std::log1p(std::fabs(x)), x); }, 2, -3e38, 3e38, -INFINITY,
      INFINITY};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::fsymlog(x);
  }
};
struct Symexp {
  static constexpr Case about{
      "symexp", [](double x) { return std::copysign(std::expm1(std::fabs(x)), x); }, 3, -88.2, 88.2, -INFINITY,
      INFINITY};
  template <class F>
  static HD_INLINE F of(const F& x) {
    return cpu::fsymexp(x);
  }
};

// In place, in vectors; as many as there are, so that the last is part of one.
template <class Function>
struct InVectors {
  template <int N>
  static HD_INLINE void run(float* x, int64_t n) {
    cpu::each<N>(n, [&](int64_t j, auto count) __attribute__((always_inline)) {
      cpu::put<N>(x + j, Function::of(cpu::get<N>(x + j, count)), count);
    });
  }
};
template <class Function>
struct OneByOne {
  template <int N>
  static HD_INLINE void run(float* x, int64_t n) {
    for (int64_t j = 0; j < n; ++j) x[j] = Function::of(x[j]);
  }
};

// Every so many of all floats, those about 0 and 1, and the special ones.
std::vector<float> arguments() {
  std::vector<float> x{0.f, -0.f, INFINITY, -INFINITY, NAN, -NAN, 1e-45f, -1e-45f, 1e-38f, 88.3f, 88.35f, 88.5f, 1e38f};
  for (uint64_t bits = 0; bits < 1ull << 32; bits += 40009) x.push_back(std::bit_cast<float>(uint32_t(bits)));
  for (int i = -20000; i <= 20000; ++i) x.push_back(float(i) * 1e-3f), x.push_back(1.f + float(i) * 6e-7f);
  return x;
}

// The distance in units of the last place of what is wanted.
double units(float got, double want) {
  const float near = float(want);
  const double ulp = std::nextafter(std::fabs(near), INFINITY) - std::fabs(near);
  return std::fabs(got - want) / ulp;
}

template <class Function>
struct Elementary : testing::Test {
  static constexpr Case about = Function::about;

  static void check(const char* how, const std::vector<float>& got, const std::vector<float>& x) {
    SCOPED_TRACE(std::string(about.name) + " " + how);
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(x[i])) {
        ASSERT_TRUE(std::isnan(got[i]));
      }
      if (std::isinf(x[i])) {
        const float limit = x[i] < 0 ? about.below : about.above;
        ASSERT_TRUE(std::isnan(limit) || got[i] == limit) << "of " << x[i] << ": " << got[i];
        continue;
      }
      if (!(x[i] >= about.low && x[i] <= about.high)) continue;
      const double want = about.want(double(x[i]));
      if (std::fabs(want) < 1.2e-38) continue;  // where numbers lose digits
      const double off = units(got[i], want);
      ASSERT_LE(off, about.units) << "of " << x[i] << ": " << got[i] << ", double precision " << want;
    }
  }
};

using Functions = testing::Types<Exp, ExpWithin, Expm1, Log, Log1p, Sigmoid, Silu, Tanh, Symlog, Symexp>;
TYPED_TEST_SUITE(Elementary, Functions);

TYPED_TEST(Elementary, UnitsInTheLastPlace) {
  const std::vector<float> x = arguments();
  std::vector<float> base = x, one = x;
  cpu::vectors_base<InVectors<TypeParam>>(base.data(), int64_t(x.size()));
  this->check("of 4", base, x);
  cpu::vectors_base<OneByOne<TypeParam>>(one.data(), int64_t(x.size()));
  this->check("of 1", one, x);
#if defined(__x86_64__)
  if (cpu::vector_width() >= 8) {
    std::vector<float> y = x;
    cpu::vectors_v3<InVectors<TypeParam>>(y.data(), int64_t(x.size()));
    this->check("of 8", y, x);
  }
  if (cpu::vector_width() >= 16) {
    std::vector<float> y = x;
    cpu::vectors_v4<InVectors<TypeParam>>(y.data(), int64_t(x.size()));
    this->check("of 16", y, x);
  }
#endif
}

}  // namespace
