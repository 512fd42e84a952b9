// harmony_test.cpp -- the harmony kernels in all three modes against double precision, under every schedule.
#include "kernels/harmony.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

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

struct Harmony : testing::TestWithParam<std::tuple<HarmonyMode, int64_t>> {};

TEST_P(Harmony, MatchesReference) {
  const auto [mode, size] = GetParam();
  const Vec s{0.3, -2, 1.5}, up{0.7, 0.1, -0.2, 0.4};
  std::vector<Vec> loss;
  Vec mean(5);
  for (int i = 0; i < 5; ++i) {
    loss.push_back(uniforms(size, 10 + i));
    for (double x : loss[i]) mean[i] += x / double(size);
  }
  const auto weighted = [&, mode = mode](const Vec& m, const Vec& at) { return dot(up, reference(mode, m, at)); };
  Vec coef = gradient(mean, [&](auto& x) { return weighted(x, s); }, 1e-4);
  for (double& x : coef) x /= double(size);
  const Vec ds = gradient(s, [&](auto& x) { return weighted(mean, x); });
  for_each_schedule([&, mode = mode, size = size] {
    std::vector<Buffer> in;
    for (const Vec& x : loss) in.emplace_back(x);
    Buffer sb(s), total(1), terms(3), means(5), dtotal(Vec{up[0]}), dterms(Vec{up[1], up[2], up[3]}), c(5), d(3);
    HarmonyArgs a{};
    for (int i = 0; i < 5; ++i) a.loss[i] = in[i], a.scale[i] = float(SCALE[i]);
    if (mode != HarmonyMode::Off) a.s = sb;
    a.total = total, a.terms = terms, a.mean = means, a.dtotal = dtotal, a.dterms = dterms;
    a.coef = c, a.ds = d, a.size = size, a.mode = mode;
    a.dyn_share = float(SHARE), a.rep_share = float(1 - SHARE);
    launch_harmony_fwd(a, STREAM);
    launch_harmony_bwd(a, STREAM);
    const Vec want = reference(mode, mean, s);
    expect_close(total, {want[0]}, 1e-6, 1, "total");
    expect_close(terms, {want[1], want[2], want[3]}, 1e-6, 3, "terms");
    expect_close(c, coef, 1e-5, 5, "coef");
    expect_close(d, ds, 1e-5, 3, "ds");
    return bits_of(total, terms, means, c, d);
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, Harmony,
                         testing::Combine(testing::Values(HarmonyMode::Rectified, HarmonyMode::Plain, HarmonyMode::Off),
                                          testing::Values<int64_t>(1, 7, 1030)));

}  // namespace
