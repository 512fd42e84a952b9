// returns_test.cpp -- lambda returns and weights against double precision; gradients by central differences.
#include "kernels/returns.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

using Vec = std::vector<double>;
const double GAMMA = 0.99, LAM = 0.9;

Vec lambda_return(const Vec& reward, const Vec& value, const Vec& cont, size_t h, size_t n) {
  Vec ret(h * n);
  for (size_t i = 0; i < n; ++i) {
    double last = value[h * n + i];
    for (size_t t = h; t-- > 0;)
      ret[t * n + i] = last =
          reward[t * n + i] + GAMMA * cont[(t + 1) * n + i] * ((1 - LAM) * value[(t + 1) * n + i] + LAM * last);
  }
  return ret;
}

Vec return_weight(const Vec& cont, size_t time, size_t n) {
  Vec weight(time * n);
  for (size_t i = 0; i < n; ++i) {
    double product = 1 / GAMMA;
    for (size_t t = 0; t < time; ++t) weight[t * n + i] = product *= GAMMA * cont[t * n + i];
  }
  return weight;
}

// d(sum up * f(x)) / dx, one entry at a time.
template <class F>
Vec gradient(Vec x, const Vec& up, const F& f) {
  Vec grad(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double at = x[i], step = 1e-5;
    double sum = 0;
    x[i] = at + step;
    const Vec high = f(x);
    x[i] = at - step;
    const Vec low = f(x);
    x[i] = at;
    for (size_t j = 0; j < up.size(); ++j) sum += up[j] * (high[j] - low[j]) / (2 * step);
    grad[i] = sum;
  }
  return grad;
}

void check(size_t h, size_t n) {
  const Vec reward = normals(h * n, 1), value = normals((h + 1) * n, 2), up = normals(h * n, 3);
  Vec cont = uniforms((h + 1) * n, 4);
  for (size_t i = 0; i < cont.size(); i += 3) cont[i] = 0;
  const Vec up_weight = normals((h + 1) * n, 5);
  for_each_schedule([&] {
    Buffer r(reward), v(value), c(cont), d(up), ret(h * n), dr(h * n), dv((h + 1) * n), dc((h + 1) * n);
    const LambdaReturnArgs a{r.f32(),  v.f32(),    c.f32(),    ret.f32(),    d.f32(),    dr.f32(),      dv.f32(),
                             dc.f32(), int64_t(h), int64_t(n), float(GAMMA), float(LAM), float(1 - LAM)};
    launch_lambda_return_fwd(a, STREAM);
    launch_lambda_return_bwd(a, STREAM);
    expect_close(ret.values(), lambda_return(reward, value, cont, h, n), 1e-6, h * n, "ret");
    expect_close(dr.values(), gradient(reward, up, [&](auto& x) { return lambda_return(x, value, cont, h, n); }), 1e-5,
                 h * n, "dreward");
    expect_close(dv.values(), gradient(value, up, [&](auto& x) { return lambda_return(reward, x, cont, h, n); }), 1e-5,
                 h * n, "dvalue");
    expect_close(dc.values(), gradient(cont, up, [&](auto& x) { return lambda_return(reward, value, x, h, n); }), 1e-5,
                 h * n, "dcont");
    Buffer w((h + 1) * n), dw(up_weight), dcw((h + 1) * n);
    const ReturnWeightArgs b{c.f32(), w.f32(), dw.f32(), dcw.f32(), int64_t(h + 1), int64_t(n), float(GAMMA)};
    launch_return_weight_fwd(b, STREAM);
    launch_return_weight_bwd(b, STREAM);
    expect_close(w.values(), return_weight(cont, h + 1, n), 1e-6, h * n, "weight");
    expect_close(dcw.values(), gradient(cont, up_weight, [&](auto& x) { return return_weight(x, h + 1, n); }), 1e-5,
                 h * n, "dcont");
    return std::vector<std::string>{ret.raw(), dr.raw(), dv.raw(), dc.raw(), w.raw(), dcw.raw()};
  });
}

TEST(Returns, MatchReference) {
  check(1, 1);
  check(3, 5);
  check(4, 70);
}

}  // namespace
