// twohot_test.cpp -- the twohot kernels against the definition in double precision, under every schedule.
#include "kernels/twohot.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

using Vec = std::vector<double>;

struct Case {
  size_t rows, cols;
};
struct Twohot : testing::TestWithParam<Case> {
  size_t rows = GetParam().rows, cols = GetParam().cols;
  Vec logit = normals(rows * cols, 1, 3), bins = Vec(cols), target = normals(2 * rows, 2, 5);
  void SetUp() override {
    for (size_t k = 0; k < cols; ++k) bins[k] = float(-20 + 40.0 * double(k) / double(cols - 1));
    target[0] = 1e12, target[rows] = -1e12;  // beyond both ends
    for (double& x : logit) x = float(x);
    for (double& x : target) x = float(x);
  }
  Vec softmax(size_t n) const {
    Vec p(logit.begin() + n * cols, logit.begin() + (n + 1) * cols);
    const double top = *std::max_element(p.begin(), p.end());
    double sum = 0;
    for (double& x : p) sum += x = std::exp(x - top);
    for (double& x : p) x /= sum;
    return p;
  }
  Vec encoded(double x) const {  // the two-hot target as a whole vector
    Vec t(cols);
    const double y = std::copysign(std::log1p(std::fabs(x)), x);
    if (y >= bins.back() || y < bins.front()) {
      t[y < 0 ? 0 : cols - 1] = 1;
      return t;
    }
    const size_t above = std::upper_bound(bins.begin(), bins.end(), y) - bins.begin();
    t[above] = (y - bins[above - 1]) / (bins[above] - bins[above - 1]);
    t[above - 1] = 1 - t[above];
    return t;
  }
};

TEST_P(Twohot, LossMatchesReference) {
  const Vec dloss = normals(2 * rows, 3);
  Vec loss(2 * rows), grad(rows * cols);
  for (size_t n = 0; n < rows; ++n) {
    const Vec p = softmax(n);
    for (size_t m = 0; m < 2; ++m) {
      const Vec t = encoded(target[m * rows + n]);
      for (size_t k = 0; k < cols; ++k) {
        if (t[k] > 0) loss[m * rows + n] -= t[k] * std::log(p[k]);
        grad[n * cols + k] += dloss[m * rows + n] * (p[k] - t[k]);
      }
    }
  }
  for_each_schedule([&] {
    Buffer l(logit), t(target), b(bins), d(dloss), out(2 * rows), stats(2 * rows), dl(rows * cols);
    TwohotLossArgs a{};
    a.logit = l.f32(), a.target = t.f32(), a.bins = b.f32(), a.dloss = d.f32();
    a.loss = out.f32(), a.stats = stats.f32(), a.dlogit = dl.f32();
    a.targets = 2, a.rows = int64_t(rows), a.cols = int64_t(cols);
    launch_twohot_loss_fwd(a, STREAM);
    launch_twohot_loss_bwd(a, STREAM);
    expect_close(out.values(), loss, 3e-6, 2 * rows, "loss");
    expect_close(dl.values(), grad, 2e-5, cols, "dlogit");
    return std::vector<std::string>{out.raw(), stats.raw(), dl.raw()};
  });
}

TEST_P(Twohot, MeanMatchesReference) {
  const Vec dmean = normals(rows, 3);
  Vec center(rows), grad(rows * cols);
  for (size_t n = 0; n < rows; ++n) {
    const Vec p = softmax(n);
    for (size_t k = 0; k < cols; ++k) center[n] += p[k] * bins[k];
    for (size_t k = 0; k < cols; ++k)
      grad[n * cols + k] = dmean[n] * std::exp(std::fabs(center[n])) * p[k] * (bins[k] - center[n]);
  }
  for_each_schedule([&] {
    Buffer l(logit), b(bins), d(dmean), mean(rows), c(rows), stats(2 * rows), dl(rows * cols);
    TwohotMeanArgs a{};
    a.logit = l.f32(), a.bins = b.f32(), a.dmean = d.f32();
    a.mean = mean.f32(), a.center = c.f32(), a.stats = stats.f32(), a.dlogit = dl.f32();
    a.rows = int64_t(rows), a.cols = int64_t(cols);
    launch_twohot_mean_fwd(a, STREAM);
    launch_twohot_mean_bwd(a, STREAM);
    expect_close(c.values(), center, 3e-6, rows, "center");
    expect_close(dl.values(), grad, 3e-5, cols, "dlogit");
    return std::vector<std::string>{mean.raw(), c.raw(), stats.raw(), dl.raw()};
  });
}

INSTANTIATE_TEST_SUITE_P(Shapes, Twohot, testing::Values(Case{1, 2}, Case{3, 41}, Case{9, 255}, Case{17, 300}),
                         [](const auto& info) {
                           return std::to_string(info.param.rows) + "x" + std::to_string(info.param.cols);
                         });

TEST(Symlog, ValuesAndSlopes) {
  const Vec x{0, 1e-8, -1e-8, 0.5, -3, 1e6, -1e6}, y{1e-3, -2, 4};
  for_each_schedule([&] {
    Buffer in(x), one(Vec(x.size(), 1)), out(x.size()), slope(x.size());
    launch_symlog_fwd({in.f32(), nullptr, out.f32(), int64_t(x.size())}, STREAM);
    launch_symlog_bwd({in.f32(), one.f32(), slope.f32(), int64_t(x.size())}, STREAM);
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::copysign(std::log1p(std::fabs(x[i])), x[i]);
      EXPECT_NEAR(out.values()[i], want, 3e-7 * std::fabs(want));
      EXPECT_NEAR(slope.values()[i], x[i] == 0 ? 0 : 1 / (1 + std::fabs(x[i])), 1e-6);
    }
    Buffer in2(y), one2(Vec(y.size(), 1)), out2(y.size()), slope2(y.size());
    launch_symexp_fwd({in2.f32(), nullptr, out2.f32(), int64_t(y.size())}, STREAM);
    launch_symexp_bwd({in2.f32(), one2.f32(), slope2.f32(), int64_t(y.size())}, STREAM);
    for (size_t i = 0; i < y.size(); ++i) {
      EXPECT_NEAR(out2.values()[i], std::copysign(std::expm1(std::fabs(y[i])), y[i]), 1e-4);
      EXPECT_NEAR(slope2.values()[i], std::exp(std::fabs(y[i])), 1e-4);
    }
    return std::vector<std::string>{out.raw(), slope.raw(), out2.raw(), slope2.raw()};
  });
}

}  // namespace
