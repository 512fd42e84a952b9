// harmony_test.cpp -- the harmony kernels in all three modes against double precision, under every schedule.
#include "kernels/harmony.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

using Vec = std::vector<double>;
const double SHARE = 0.8;
const Vec SCALE{1, 2, 0.5, 0.1, 3};

// total and terms of loss means and s.
Vec reference(HarmonyMode mode, const Vec& mean, const Vec& s) {
  Vec t(3);
  if (mode == HarmonyMode::Off) {
    t = {SCALE[0] * mean[0], SCALE[1] * mean[1], SCALE[2] * mean[2] + SCALE[3] * mean[3]};
    return {t[0] + t[1] + t[2] + SCALE[4] * mean[4], t[0], t[1], t[2]};
  }
  auto reg = [&](double x) { return mode == HarmonyMode::Rectified ? std::log1p(std::exp(x)) : x; };
  t = {std::exp(-s[0]) * mean[0] + reg(s[0]), std::exp(-s[1]) * mean[1] + reg(s[1]),
       SHARE * (std::exp(-s[2]) * mean[2] + reg(s[2])) + (1 - SHARE) * std::exp(-s[2]) * mean[3]};
  return {t[0] + t[1] + t[2] + mean[4], t[0], t[1], t[2]};
}

struct Harmony : testing::TestWithParam<std::tuple<HarmonyMode, size_t>> {};

TEST_P(Harmony, MatchesReference) {
  const auto [mode, size] = GetParam();
  const Vec s{0.3, -2, 1.5}, up{0.7, 0.1, -0.2, 0.4};
  std::vector<Vec> loss;
  Vec mean(5), coef(5), ds(3);
  for (int i = 0; i < 5; ++i) {
    loss.push_back(uniforms(size, 10 + i));
    for (double x : loss[i]) mean[i] += x / double(size);
  }
  auto weighted = [&, mode = mode](const Vec& m, const Vec& at) {
    const Vec out = reference(mode, m, at);
    return up[0] * out[0] + up[1] * out[1] + up[2] * out[2] + up[3] * out[3];
  };
  for (int i = 0; i < 5; ++i) {
    Vec high(mean), low(mean);
    high[i] += 1e-4, low[i] -= 1e-4;
    coef[i] = (weighted(high, s) - weighted(low, s)) / 2e-4 / double(size);
  }
  for (int j = 0; j < 3; ++j) {
    Vec high(s), low(s);
    high[j] += 1e-5, low[j] -= 1e-5;
    ds[j] = (weighted(mean, high) - weighted(mean, low)) / 2e-5;
  }
  for_each_schedule([&, mode = mode, size = size] {
    std::vector<Buffer> in;
    for (const Vec& x : loss) in.emplace_back(x);
    Buffer sb(s), total(1), terms(3), means(5), dtotal(Vec{up[0]}), dterms(Vec{up[1], up[2], up[3]}), c(5), d(3);
    HarmonyArgs a{};
    for (int i = 0; i < 5; ++i) a.loss[i] = in[i].f32(), a.scale[i] = float(SCALE[i]);
    a.s = mode == HarmonyMode::Off ? nullptr : sb.f32();
    a.total = total.f32(), a.terms = terms.f32(), a.mean = means.f32(), a.dtotal = dtotal.f32(),
    a.dterms = dterms.f32();
    a.coef = c.f32(), a.ds = d.f32(), a.size = int64_t(size), a.mode = mode;
    a.dyn_share = float(SHARE), a.rep_share = float(1 - SHARE);
    launch_harmony_fwd(a, STREAM);
    launch_harmony_bwd(a, STREAM);
    const Vec want = reference(mode, mean, s);
    expect_close(total.values(), {want[0]}, 1e-6, 1, "total");
    expect_close(terms.values(), {want[1], want[2], want[3]}, 1e-6, 3, "terms");
    expect_close(c.values(), coef, 1e-5, 5, "coef");
    expect_close(d.values(), ds, 1e-5, 3, "ds");
    return std::vector<std::string>{total.raw(), terms.raw(), means.raw(), c.raw(), d.raw()};
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, Harmony,
                         testing::Combine(testing::Values(HarmonyMode::Rectified, HarmonyMode::Plain, HarmonyMode::Off),
                                          testing::Values<size_t>(1, 7, 1030)));

}  // namespace
