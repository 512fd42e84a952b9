// twohot_test.cpp -- the twohot kernels against the definition in double precision, under every schedule.
#include "kernels/twohot.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

struct Case {
  int64_t rows, cols;
};
struct Twohot : testing::TestWithParam<Case> {
  int64_t rows = GetParam().rows, cols = GetParam().cols;
  Vec logit = normals(rows * cols, 1, 3), bins = Vec(cols), target = normals(2 * rows, 2, 5);
  void SetUp() override {
    for (int64_t k = 0; k < cols; ++k) bins[k] = float(-20 + 40.0 * double(k) / double(cols - 1));
    target[0] = 1e12, target[rows] = -1e12;  // beyond both ends
    for (double& x : logit) x = float(x);
    for (double& x : target) x = float(x);
  }
  Vec softmax(int64_t n) const {
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
    const int64_t above = std::upper_bound(bins.begin(), bins.end(), y) - bins.begin();
    t[above] = (y - bins[above - 1]) / (bins[above] - bins[above - 1]);
    t[above - 1] = 1 - t[above];
    return t;
  }
};

TEST_P(Twohot, LossMatchesReference) {
  const Vec dloss = normals(2 * rows, 3);
  Vec loss(2 * rows), grad(rows * cols);
  for (int64_t n = 0; n < rows; ++n) {
    const Vec p = softmax(n);
    for (int64_t m = 0; m < 2; ++m) {
      const Vec t = encoded(target[m * rows + n]);
      for (int64_t k = 0; k < cols; ++k) {
        if (t[k] > 0) loss[m * rows + n] -= t[k] * std::log(p[k]);
        grad[n * cols + k] += dloss[m * rows + n] * (p[k] - t[k]);
      }
    }
  }
  for_each_schedule([&] {
    Buffer l(logit), t(target), b(bins), d(dloss), out(2 * rows), stats(2 * rows), dl(rows * cols);
    TwohotLossArgs a{};
    a.logit = l, a.target = t, a.bins = b, a.dloss = d;
    a.loss = out, a.stats = stats, a.dlogit = dl;
    a.targets = 2, a.rows = rows, a.cols = cols;
    launch_twohot_loss_fwd(a, STREAM);
    launch_twohot_loss_bwd(a, STREAM);
    expect_close(out, loss, 3e-6, 2 * rows, "loss");
    expect_close(dl, grad, 2e-5, cols, "dlogit");
    return bits_of(out, stats, dl);
  });
}

TEST_P(Twohot, MeanMatchesReference) {
  const Vec dmean = normals(rows, 3);
  Vec center(rows), grad(rows * cols);
  for (int64_t n = 0; n < rows; ++n) {
    const Vec p = softmax(n);
    for (int64_t k = 0; k < cols; ++k) center[n] += p[k] * bins[k];
    for (int64_t k = 0; k < cols; ++k)
      grad[n * cols + k] = dmean[n] * std::exp(std::fabs(center[n])) * p[k] * (bins[k] - center[n]);
  }
  for_each_schedule([&] {
    Buffer l(logit), b(bins), d(dmean), mean(rows), c(rows), stats(2 * rows), dl(rows * cols);
    TwohotMeanArgs a{};
    a.logit = l, a.bins = b, a.dmean = d;
    a.mean = mean, a.center = c, a.stats = stats, a.dlogit = dl;
    a.rows = rows, a.cols = cols;
    launch_twohot_mean_fwd(a, STREAM);
    launch_twohot_mean_bwd(a, STREAM);
    expect_close(c, center, 3e-6, rows, "center");
    expect_close(dl, grad, 3e-5, cols, "dlogit");
    return bits_of(mean, c, stats, dl);
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
    launch_symlog_fwd({in, nullptr, out, int64_t(x.size())}, STREAM);
    launch_symlog_bwd({in, one, slope, int64_t(x.size())}, STREAM);
    for (size_t i = 0; i < x.size(); ++i) {
      const double want = std::copysign(std::log1p(std::fabs(x[i])), x[i]);
      EXPECT_NEAR(out.values()[i], want, 3e-7 * std::fabs(want));
      EXPECT_NEAR(slope.values()[i], x[i] == 0 ? 0 : 1 / (1 + std::fabs(x[i])), 1e-6);
    }
    Buffer in2(y), one2(Vec(y.size(), 1)), out2(y.size()), slope2(y.size());
    launch_symexp_fwd({in2, nullptr, out2, int64_t(y.size())}, STREAM);
    launch_symexp_bwd({in2, one2, slope2, int64_t(y.size())}, STREAM);
    for (size_t i = 0; i < y.size(); ++i) {
      EXPECT_NEAR(out2.values()[i], std::copysign(std::expm1(std::fabs(y[i])), y[i]), 1e-4);
      EXPECT_NEAR(slope2.values()[i], std::exp(std::fabs(y[i])), 1e-4);
    }
    return bits_of(out, slope, out2, slope2);
  });
}

}  // namespace
