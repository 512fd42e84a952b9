// returns_math.h -- the recursions of returns.h over one trajectory (one column), or over several side by side; shared
// by the kernels and the CPU code.
//
// Columns are neighbors in memory: a thread per column reads whole lines together with its neighbors, and a vector of
// columns is one read. `of` reads and writes what a step has: its number, or a vector of numbers.
#pragma once
#include "device/hd_math.h"
#include "kernels/returns.h"

namespace hd {

struct OneColumn {
  using Number = float;
  HD_FN float get(const float* p) const { return *p; }
  HD_FN void put(float* p, float x) const { *p = x; }
};

struct LambdaReturnForward {
  template <class Columns>
  static HD_FN void run(const LambdaReturnArgs& a, int64_t i, const Columns& of) {
    typename Columns::Number last = of.get(a.value + a.horizon * a.n + i);
    for (int64_t h = a.horizon - 1; h >= 0; --h) {
      const int64_t at = h * a.n + i, next = at + a.n;
      const typename Columns::Number discount = a.gamma * of.get(a.cont + next);
      last = of.get(a.reward + at) + a.rest * discount * of.get(a.value + HD_MUTATE(RETURNS_NEXT, next, at)) +
             a.lam * discount * last;
      of.put(a.ret + at, last);
    }
  }
};

struct LambdaReturnBackward {
  template <class Columns>
  static HD_FN void run(const LambdaReturnArgs& a, int64_t i, const Columns& of) {
    using Number = typename Columns::Number;
    of.put(a.dvalue + i, Number{});
    of.put(a.dcont + i, Number{});
    Number carry{};  // lam d_h g_{h-1}: what the return one step earlier passes on
    for (int64_t h = 0; h < a.horizon; ++h) {
      const int64_t at = h * a.n + i, next = at + a.n;
      const Number g = of.get(a.dret + at) + carry, discount = a.gamma * of.get(a.cont + next);
      const Number value = of.get(a.value + next), ahead = h + 1 < a.horizon ? of.get(a.ret + next) : value;
      of.put(a.dreward + at, g);
      of.put(a.dvalue + next, a.rest * discount * g);
      of.put(a.dcont + next, a.gamma * g * (a.rest * value + a.lam * ahead));
      carry = HD_MUTATE(RETURNS_CARRY, a.lam, a.rest) * discount * g;
    }
    float* last = a.dvalue + a.horizon * a.n + i;
    of.put(last, of.get(last) + carry);
  }
};

struct ReturnWeightForward {
  template <class Columns>
  static HD_FN void run(const ReturnWeightArgs& a, int64_t i, const Columns& of) {
    typename Columns::Number product = typename Columns::Number{} + 1.f;
    for (int64_t t = 0; t < a.time; ++t) {
      product *= a.gamma * of.get(a.cont + t * a.n + i);
      of.put(a.weight + t * a.n + i, product / a.gamma);
    }
  }
};

struct ReturnWeightBackward {
  template <class Columns>
  static HD_FN void run(const ReturnWeightArgs& a, int64_t i, const Columns& of) {
    typename Columns::Number tail{};  // gamma c_{t+1} tail_{t+1}
    for (int64_t t = a.time - 1; t >= 0; --t) {
      const int64_t at = t * a.n + i;
      tail += of.get(a.dweight + at);
      of.put(a.dcont + at, t > 0 ? a.gamma * of.get(a.weight + at - a.n) * tail : tail);
      tail *= a.gamma * of.get(a.cont + at);
    }
  }
};

}  // namespace hd
