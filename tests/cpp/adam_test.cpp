// adam_test.cpp -- the adam kernels against the update in double precision, under every schedule.
#include "kernels/adam.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

struct Adam : testing::TestWithParam<std::tuple<int64_t, double>> {};

TEST_P(Adam, MatchesReference) {
  const auto [size, clip] = GetParam();
  const Vec g0 = normals(size, 1), m0 = normals(size, 2), v0 = uniforms(size, 3), p0 = normals(size, 4);
  for_each_schedule([&] {
    Buffer p(p0), g(g0), m(m0), v(v0), slow(normals(size, 5)), stats(3), partial(adam_blocks(size)), scale(4);
    int64_t step = 6;
    launch_adam({p, g, m, v, slow, &step, stats, partial, scale, size, 1e-2, 1e-8, clip, 0.9, 0.999, 0.02}, STREAM);
    double sum = 0;
    for (double x : g0) sum += x * x;
    const double f = std::sqrt(sum) < clip ? 1 : clip / std::sqrt(sum), k = 7;
    Vec want(size), want_slow(size), clipped(size), mean(size), var(size);
    const Vec slow0 = normals(size, 5);
    for (int64_t i = 0; i < size; ++i) {
      clipped[i] = f * g0[i];
      mean[i] = m0[i] + 0.1 * (clipped[i] - m0[i]), var[i] = 0.999 * v0[i] + 0.001 * clipped[i] * clipped[i];
      want[i] = p0[i] - 1e-2 / (1 - std::pow(0.9, k)) * mean[i] / (std::sqrt(var[i] / (1 - std::pow(0.999, k))) + 1e-8);
      want_slow[i] = 0.02 * want[i] + 0.98 * slow0[i];
    }
    EXPECT_EQ(step, 7);
    expect_close(stats, {std::sqrt(sum), std::min(1.0, clip / std::sqrt(sum)), 7}, 1e-6, 1, "stats");
    expect_close(g, clipped, 1e-6, size, "grad");
    expect_close(m, mean, 1e-6, size, "mean");
    expect_close(v, var, 1e-6, size, "var");
    expect_close(p, want, 2e-6, size, "param");
    expect_close(slow, want_slow, 2e-6, size, "slow");
    return bits_of(p, g, m, v, slow, stats);
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, Adam,
                         testing::Combine(testing::Values<int64_t>(1, 5, 4096, 4099, 20483),
                                          testing::Values(1e9, 0.7)));

// Infinite gradients, and finite ones whose squares are too large, are no step either.
TEST(AdamEdge, ANormThatIsNotFiniteChangesNothing) {
  const int64_t size = 4099;
  for (double bad : {double(NAN), double(INFINITY), 1e30}) {
    Vec gradient = normals(size, 1);
    gradient[4097] = bad;
    for_each_schedule([&] {
      Buffer p(normals(size, 2)), g(gradient), m(normals(size, 3)), v(uniforms(size, 4)), slow(normals(size, 5));
      Buffer stats(3), partial(adam_blocks(size)), scale(4);
      const std::vector<Buffer*> all{&p, &g, &m, &v, &slow};
      Bits before, after;
      for (Buffer* b : all) before.push_back(b->raw());
      int64_t step = 0;
      launch_adam({p, g, m, v, slow, &step, stats, partial, scale, size, 1e-2, 1e-8, 1.0, 0.9, 0.999, 0.02}, STREAM);
      for (Buffer* b : all) after.push_back(b->raw());
      EXPECT_EQ(before, after);
      EXPECT_EQ(step, 0);
      EXPECT_FALSE(std::isfinite(stats[0]));
      EXPECT_TRUE(stats[1] == 0 || std::isnan(stats[1]));
      EXPECT_EQ(stats[2], 0.f);
      return after;
    });
  }
}

TEST(AdamEdge, EmptyArenaStillCounts) {
  Buffer stats(3), scale(4);
  int64_t step = 0;
  launch_adam(
      {nullptr, nullptr, nullptr, nullptr, nullptr, &step, stats, nullptr, scale, 0, 1e-3, 1e-8, 1.0, 0.9, 0.999, 1.0},
      STREAM);
  EXPECT_EQ(step, 1);
  EXPECT_EQ(stats[0], 0.f);
}

}  // namespace
