// returns_test.cpp -- lambda returns and weights against double precision; gradients by central differences.
#include "kernels/returns.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

const double GAMMA = 0.99, LAM = 0.9;

Vec lambda_return(const Vec& reward, const Vec& value, const Vec& cont, int64_t h, int64_t n) {
  Vec ret(h * n);
  for (int64_t i = 0; i < n; ++i) {
    double last = value[h * n + i];
    for (int64_t t = h; t-- > 0;)
      ret[t * n + i] = last =
          reward[t * n + i] + GAMMA * cont[(t + 1) * n + i] * ((1 - LAM) * value[(t + 1) * n + i] + LAM * last);
  }
  return ret;
}

Vec return_weight(const Vec& cont, int64_t time, int64_t n) {
  Vec weight(time * n);
  for (int64_t i = 0; i < n; ++i) {
    double product = 1 / GAMMA;
    for (int64_t t = 0; t < time; ++t) weight[t * n + i] = product *= GAMMA * cont[t * n + i];
  }
  return weight;
}

void check(int64_t h, int64_t n) {
  const Vec reward = normals(h * n, 1), value = normals((h + 1) * n, 2), up = normals(h * n, 3);
  Vec cont = uniforms((h + 1) * n, 4);
  for (size_t i = 0; i < cont.size(); i += 3) cont[i] = 0;
  const Vec up_weight = normals((h + 1) * n, 5);
  for_each_schedule([&] {
    Buffer r(reward), v(value), c(cont), d(up), ret(h * n), dr(h * n), dv((h + 1) * n), dc((h + 1) * n);
    const LambdaReturnArgs a{r, v, c, ret, d, dr, dv, dc, h, n, float(GAMMA), float(LAM), float(1 - LAM)};
    launch_lambda_return_fwd(a, STREAM);
    launch_lambda_return_bwd(a, STREAM);
    expect_close(ret, lambda_return(reward, value, cont, h, n), 1e-6, h * n, "ret");
    expect_close(dr, gradient(reward, [&](auto& x) { return dot(up, lambda_return(x, value, cont, h, n)); }), 1e-5,
                 h * n, "dreward");
    expect_close(dv, gradient(value, [&](auto& x) { return dot(up, lambda_return(reward, x, cont, h, n)); }), 1e-5,
                 h * n, "dvalue");
    expect_close(dc, gradient(cont, [&](auto& x) { return dot(up, lambda_return(reward, value, x, h, n)); }), 1e-5,
                 h * n, "dcont");
    Buffer w((h + 1) * n), dw(up_weight), dcw((h + 1) * n);
    const ReturnWeightArgs b{c, w, dw, dcw, h + 1, n, float(GAMMA)};
    launch_return_weight_fwd(b, STREAM);
    launch_return_weight_bwd(b, STREAM);
    expect_close(w, return_weight(cont, h + 1, n), 1e-6, h * n, "weight");
    expect_close(dcw, gradient(cont, [&](auto& x) { return dot(up_weight, return_weight(x, h + 1, n)); }), 1e-5, h * n,
                 "dcont");
    return bits_of(ret, dr, dv, dc, w, dcw);
  });
}

TEST(Returns, MatchReference) {
  check(1, 1);
  check(3, 5);
  check(4, 70);
}

}  // namespace
