// kl_test.cpp -- balanced KL: values, free nats and both gradients against double precision and finite
// differences.
#include "kernels/kl.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

constexpr float MIX = 0.01f;

// Log-probabilities of every group: log of the mixed softmax.
Vec log_probabilities(const Vec& x, int64_t classes) {
  Vec out(x.size());
  for (size_t base = 0; base < x.size(); base += classes) {
    double top = -1e300, total = 0;
    for (size_t k = base; k < base + classes; ++k) top = std::max(top, x[k]);
    for (size_t k = base; k < base + classes; ++k) total += std::exp(x[k] - top);
    for (size_t k = base; k < base + classes; ++k)
      out[k] = std::log((1 - double(MIX)) * std::exp(x[k] - top) / total + double(MIX) / double(classes));
  }
  return out;
}

// KL of one group.
double group_kl(const Vec& p, const Vec& q) {
  double kl = 0;
  for (size_t k = 0; k < p.size(); ++k) kl += std::exp(p[k]) * (p[k] - q[k]);
  return kl;
}

struct Size {
  int64_t rows, groups, classes;
  DType dtype;
};
struct BalancedKl : testing::TestWithParam<Size> {};

TEST_P(BalancedKl, MatchesReference) {
  const auto [rows, groups, classes, dtype] = GetParam();
  const int64_t width = groups * classes, size = rows * width;
  // Every other row has a prior close to its posterior: with free nats of half the mean KL both sides occur.
  Vec post_values = normals(size, 1, 1.5), noise = normals(size, 2, 1.5), prior_values(size);
  for (int64_t i = 0; i < size; ++i) prior_values[i] = i / width % 2 ? post_values[i] + 0.01 * noise[i] : noise[i];
  Buffer post(log_probabilities(post_values, classes), dtype), prior(log_probabilities(prior_values, classes), dtype);
  Buffer ddyn(normals(rows, 3, 0.1, 1)), drep(normals(rows, 4, 0.1, 0.5));
  const Vec p = post.values(), q = prior.values();

  const auto group = [&, classes = classes](const Vec& x, int64_t i) { return Vec(&x[i], &x[i] + classes); };
  Vec kl(rows), want_post(size), want_prior(size);
  for (int64_t i = 0; i < size; i += classes) kl[i / width] += group_kl(group(p, i), group(q, i));
  double mean = 0;
  for (double v : kl) mean += v / double(rows);
  const float free_nats = float(0.5 * mean);
  for (int64_t i = 0; i < size; i += classes) {
    const double on = kl[i / width] >= double(free_nats) ? 1 : 0;
    const Vec gp = gradient(group(p, i), [&](auto& x) { return group_kl(x, group(q, i)); });
    const Vec gq = gradient(group(q, i), [&](auto& x) { return group_kl(group(p, i), x); });
    for (int64_t k = 0; k < classes; ++k) {
      want_post[i + k] = on * double(drep[i / width]) * gp[k];
      want_prior[i + k] = on * double(ddyn[i / width]) * gq[k];
    }
  }
  Vec loss(rows);
  for (int64_t n = 0; n < rows; ++n) loss[n] = std::max(kl[n], double(free_nats));

  for_each_schedule([&] {
    Buffer dyn(rows), rep(rows), raw(rows), dpost(size, dtype), dprior(size, dtype);
    launch_balanced_kl({post, prior, ddyn, drep, dyn, rep, raw, dpost, dprior, rows, groups, classes, free_nats, dtype},
                       STREAM);
    expect_close(raw, kl, 1e-5, rows, "kl");
    expect_close(dyn, loss, 1e-5, rows, "dyn");
    expect_close(rep, loss, 1e-5, rows, "rep");
    expect_close(dpost, want_post, rounding(dtype, 1e-5), width, "dpost");
    expect_close(dprior, want_prior, rounding(dtype, 1e-5), width, "dprior");
    return bits_of(dyn, rep, raw, dpost, dprior);
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, BalancedKl,
                         testing::Values(Size{4, 32, 32, DType::F32}, Size{4, 32, 32, DType::BF16},
                                         Size{4, 16, 16, DType::BF16}, Size{3, 5, 18, DType::F32},
                                         Size{2, 9, 33, DType::F32}, Size{2, 3, 129, DType::F32},
                                         Size{2, 1, 257, DType::F32}, Size{2, 2, 512, DType::BF16},
                                         Size{2, 2, 512, DType::F32}, Size{2, 3, 2, DType::F32}),
                         [](const auto& info) {
                           return std::to_string(info.param.rows) + "x" + std::to_string(info.param.groups) + "x" +
                                  std::to_string(info.param.classes) +
                                  (info.param.dtype == DType::F32 ? "_f32" : "_bf16");
                         });

TEST(BalancedKlEdges, ValuesAloneAndUnitGradients) {
  Buffer post(log_probabilities(normals(64, 1), 32)), prior(log_probabilities(normals(64, 2), 32));
  Buffer kl(2), dpost(64), dpost_unit(64), one(Vec{1, 1});
  use(SCHEDULES[0]);
  BalancedKlArgs args{};
  args.post = post, args.prior = prior, args.kl = kl;
  args.rows = 2, args.groups = 1, args.classes = 32;
  launch_balanced_kl(args, STREAM);
  EXPECT_GT(kl[0], 0.f);
  args.dpost = dpost;
  launch_balanced_kl(args, STREAM);
  args.drep = one, args.dpost = dpost_unit;
  launch_balanced_kl(args, STREAM);
  EXPECT_EQ(dpost.raw(), dpost_unit.raw());
  args.rows = 0;
  launch_balanced_kl(args, STREAM);
}

}  // namespace
