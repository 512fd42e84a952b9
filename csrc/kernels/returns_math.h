// returns_math.h -- one trajectory (one column) of the recursions of returns.h; shared by the kernels and the
// CPU code.
//
// Columns are neighbors in memory: a thread per column reads whole lines together with its neighbors, and a
// CPU loop over columns inside a loop over time would do the same; here time is inside because 16 steps of a
// tile of columns stay in L1.
#pragma once
#include "device/hd_math.h"
#include "kernels/returns.h"

namespace hd {

HD_FN void lambda_return_fwd_column(const LambdaReturnArgs& a, int64_t i) {
  float last = a.value[a.horizon * a.n + i];
  for (int64_t h = a.horizon - 1; h >= 0; --h) {
    const int64_t at = h * a.n + i, next = at + a.n;
    const float discount = a.gamma * a.cont[next];
    last = a.reward[at] + a.rest * discount * a.value[HD_MUTATE(RETURNS_NEXT, next, at)] + a.lam * discount * last;
    a.ret[at] = last;
  }
}

HD_FN void lambda_return_bwd_column(const LambdaReturnArgs& a, int64_t i) {
  a.dvalue[i] = 0.f;
  a.dcont[i] = 0.f;
  float carry = 0.f;  // lam d_h g_{h-1}: what the return one step earlier passes on
  for (int64_t h = 0; h < a.horizon; ++h) {
    const int64_t at = h * a.n + i, next = at + a.n;
    const float g = a.dret[at] + carry, discount = a.gamma * a.cont[next];
    const float ahead = h + 1 < a.horizon ? a.ret[next] : a.value[next];
    a.dreward[at] = g;
    a.dvalue[next] = a.rest * discount * g;
    a.dcont[next] = a.gamma * g * (a.rest * a.value[next] + a.lam * ahead);
    carry = HD_MUTATE(RETURNS_CARRY, a.lam, a.rest) * discount * g;
  }
  a.dvalue[a.horizon * a.n + i] += carry;
}

HD_FN void return_weight_fwd_column(const ReturnWeightArgs& a, int64_t i) {
  float product = 1.f;
  for (int64_t t = 0; t < a.time; ++t) {
    product *= a.gamma * a.cont[t * a.n + i];
    a.weight[t * a.n + i] = product / a.gamma;
  }
}

HD_FN void return_weight_bwd_column(const ReturnWeightArgs& a, int64_t i) {
  float tail = 0.f;  // gamma c_{t+1} tail_{t+1}
  for (int64_t t = a.time - 1; t >= 0; --t) {
    const int64_t at = t * a.n + i;
    tail += a.dweight[at];
    a.dcont[at] = t > 0 ? a.gamma * a.weight[at - a.n] * tail : tail;
    tail *= a.gamma * a.cont[at];
  }
}

}  // namespace hd
