// harmony_test.cpp -- the harmony kernels with and without s against double precision, under every schedule.
#include "kernels/harmony.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

enum class Mode { Rectified, Plain, Fixed };

// Two losses in term 2, one that has none, none in term 1.
const std::vector<int> PLACE{0, 3, 2, -1, 2};
const Vec SHARE{1, 1, 0.8, 1, 0.2}, REG{1, 0, 0.8, 1}, SCALE{1, 2, 0.5, 0.1, 3};

// total and terms of loss means and s.
Vec reference(Mode mode, const Vec& mean, const Vec& s) {
  if (mode == Mode::Fixed) {
    Vec t{0};
    for (size_t i = 0; i < mean.size(); ++i) t[0] += t.emplace_back(SCALE[i] * mean[i]);
    return t;
  }
  Vec t{mean[3]};
  for (size_t j = 0; j < s.size(); ++j) {
    double term = REG[j] * (mode == Mode::Rectified ? std::log1p(std::exp(s[j])) : s[j]);
    for (size_t i = 0; i < mean.size(); ++i)
      if (PLACE[i] == int(j)) term += SHARE[i] * std::exp(-s[j]) * mean[i];
    t.push_back(term), t[0] += term;
  }
  return t;
}

struct Harmony : testing::TestWithParam<std::tuple<Mode, int64_t>> {};

TEST_P(Harmony, MatchesReference) {
  const auto [mode, size] = GetParam();
  const bool fixed = mode == Mode::Fixed;
  const Vec s{0.3, -2, 1.5, 0.7};
  const size_t n = fixed ? 5 : 4;
  Vec up{0.7, 0.1, -0.2, 0.4, 0.3, -0.5};
  up.resize(n + 1);
  std::vector<Vec> loss;
  Vec mean(5);
  for (int i = 0; i < 5; ++i) {
    loss.push_back(uniforms(size, 10 + i));
    for (double x : loss[i]) mean[i] += x / double(size);
  }
  const auto weighted = [&, mode = mode](const Vec& m, const Vec& at) { return dot(up, reference(mode, m, at)); };
  Vec coef = gradient(mean, [&](auto& x) { return weighted(x, s); }, 1e-4);
  for (double& x : coef) x /= double(size);
  const Vec ds = fixed ? Vec(n) : gradient(s, [&](auto& x) { return weighted(mean, x); });
  for_each_schedule([&, mode = mode, size = size] {
    std::vector<Buffer> in;
    for (const Vec& x : loss) in.emplace_back(x);
    Buffer sb(s), total(1), terms(n), means(5), dtotal(Vec{up[0]}), dterms(Vec(up.begin() + 1, up.end())), c(5), d(n);
    HarmonyArgs a{};
    for (int i = 0; i < 5; ++i) {
      a.loss[i] = in[i];
      a.place[i] = fixed ? i : PLACE[i], a.share[i] = float(fixed ? SCALE[i] : SHARE[i]);
    }
    if (!fixed) a.s = sb, std::copy(REG.begin(), REG.end(), a.reg);
    a.total = total, a.term = terms, a.mean = means, a.dtotal = dtotal, a.dterms = dterms;
    a.coef = c, a.ds = d, a.size = size, a.losses = 5, a.terms = int(n), a.plain = mode == Mode::Plain;
    launch_harmony_fwd(a, STREAM);
    launch_harmony_bwd(a, STREAM);
    const Vec want = reference(mode, mean, s);
    expect_close(total, {want[0]}, 1e-6, 1, "total");
    expect_close(terms, Vec(want.begin() + 1, want.end()), 1e-6, n, "terms");
    expect_close(c, coef, 1e-5, 5, "coef");
    expect_close(d, ds, 1e-5, n, "ds");
    EXPECT_TRUE(fixed || (terms.values()[1] == 0 && d.values()[1] == 0)) << "of the term without a loss";
    return bits_of(total, terms, means, c, d);
  });
}

INSTANTIATE_TEST_SUITE_P(Modes, Harmony,
                         testing::Combine(testing::Values(Mode::Rectified, Mode::Plain, Mode::Fixed),
                                          testing::Values<int64_t>(1, 7, 1030)));

}  // namespace
