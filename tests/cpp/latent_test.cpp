// latent_test.cpp -- unimix, inverse-CDF sampling and the straight-through backward against double precision.
#include "kernels/latent.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

using Vec = std::vector<double>;
constexpr float MIX = 0.01f;

struct Reference {
  Vec s, q, logp, dlogit;
};

// The definition of latent.h in double; `normalized` takes logit as log-probabilities.
Reference reference(const Vec& logit, const Vec& donehot, const Vec& dlogp, size_t groups, size_t classes,
                    bool normalized) {
  const size_t size = groups * classes;
  Reference r{Vec(size), Vec(size), Vec(size), Vec(size)};
  for (size_t n = 0; n < groups; ++n) {
    const size_t base = n * classes;
    double top = -1e300, total = 0, dot = 0;
    for (size_t k = base; k < base + classes; ++k) top = std::max(top, logit[k]);
    for (size_t k = base; k < base + classes; ++k) total += std::exp(logit[k] - top);
    for (size_t k = base; k < base + classes; ++k) {
      r.s[k] = std::exp(logit[k] - top) / total;
      r.q[k] = normalized ? std::exp(logit[k]) : (1 - double(MIX)) * r.s[k] + double(MIX) / double(classes);
      r.logp[k] = std::log(r.q[k]);
      dot += r.s[k] * (donehot[k] + dlogp[k] / r.q[k]);
    }
    for (size_t k = base; k < base + classes; ++k)
      r.dlogit[k] = normalized ? donehot[k] * r.q[k] + dlogp[k]
                               : (1 - double(MIX)) * r.s[k] * (donehot[k] + dlogp[k] / r.q[k] - dot);
  }
  return r;
}

// The sampled class must hold u within its share of the CDF, up to the rounding of an fp32 sum.
void expect_sample(const Vec& q, const std::vector<int64_t>& index, const Vec& onehot, const Vec& u, size_t classes,
                   double slack) {
  for (size_t n = 0; n < u.size(); ++n) {
    ASSERT_GE(index[n], 0);
    ASSERT_LT(index[n], int64_t(classes));
    double below = 0;
    for (size_t k = 0; k < size_t(index[n]); ++k) below += q[n * classes + k];
    const double above = below + q[n * classes + size_t(index[n])];
    EXPECT_LE(below, u[n] + slack) << "group " << n;
    if (index[n] < int64_t(classes) - 1) {
      EXPECT_GE(above, u[n] - slack) << "group " << n;
    }
    for (size_t k = 0; k < classes; ++k) ASSERT_EQ(onehot[n * classes + k], k == size_t(index[n]) ? 1.0 : 0.0);
  }
}

struct Latent : testing::TestWithParam<std::tuple<Shape, DType>> {};  // Shape: groups, classes

void check(size_t groups, size_t classes, DType dtype, bool normalized, double spread) {
  const size_t size = groups * classes;
  Vec values = normals(size, 1, spread);
  if (normalized) values = reference(values, Vec(size), Vec(size), groups, classes, false).logp;
  Buffer logit(values, dtype), u(uniforms(groups, 2)), donehot(normals(size, 3), dtype),
      dlogp(normals(size, 4, 0.1), dtype);
  const Reference want = reference(logit.values(), donehot.values(), dlogp.values(), groups, classes, normalized);
  const int64_t n = int64_t(groups), k = int64_t(classes);
  for_each_schedule([&] {
    Buffer logp(size, dtype), onehot(size, dtype), dlogit(size, dtype);
    std::vector<int64_t> index(groups, -7);
    launch_latent_fwd({logit.data(), u.f32(), logp.data(), onehot.data(), index.data(), n, k, MIX, normalized, dtype},
                      STREAM);
    launch_latent_bwd({logit.data(), donehot.data(), dlogp.data(), dlogit.data(), n, k, MIX, normalized, dtype},
                      STREAM);
    expect_close(logp.values(), want.logp, rounding(dtype, 2e-6), classes, "logp");
    expect_sample(want.q, index, onehot.values(), u.values(), classes, 2e-6);
    expect_close(dlogit.values(), want.dlogit, rounding(dtype, 5e-6), classes, "dlogit");
    return std::vector{logp.raw(), onehot.raw(), dlogit.raw()};
  });
}

TEST_P(Latent, FromLogits) {
  const auto [shape, dtype] = GetParam();
  check(shape.rows, shape.cols, dtype, false, 2);
}
TEST_P(Latent, FromLogProbabilities) {
  const auto [shape, dtype] = GetParam();
  check(shape.rows, shape.cols, dtype, true, 1);
}
INSTANTIATE_TEST_SUITE_P(Shapes, Latent,
                         testing::Combine(testing::Values(Shape{1, 1}, Shape{64, 32}, Shape{19, 18}, Shape{9, 33},
                                                          Shape{5, 128}, Shape{3, 129}, Shape{2, 1024}, Shape{3, 1000}),
                                          testing::Values(DType::F32, DType::BF16)),
                         shape_name<Latent>);

TEST(LatentEdges, OutputsAndGradientsAreOptional) {
  Buffer logit(normals(64, 1)), u(uniforms(2, 2)), dlogp(normals(64, 3)), donehot(normals(64, 4)), logp(64), dlogit(64);
  const Reference want = reference(logit.values(), Vec(64), dlogp.values(), 2, 32, false);
  const Reference through = reference(logit.values(), donehot.values(), Vec(64), 2, 32, false);
  use(SCHEDULES[0]);
  launch_latent_fwd({logit.data(), nullptr, logp.data(), nullptr, nullptr, 2, 32, MIX, false, DType::F32}, STREAM);
  expect_close(logp.values(), want.logp, 2e-6, 32, "logp");
  std::vector<int64_t> index(2, -1);
  launch_latent_fwd({logit.data(), u.f32(), nullptr, nullptr, index.data(), 2, 32, MIX, false, DType::F32}, STREAM);
  EXPECT_GE(index[1], 0);
  launch_latent_bwd({logit.data(), nullptr, dlogp.data(), dlogit.data(), 2, 32, MIX, false, DType::F32}, STREAM);
  expect_close(dlogit.values(), want.dlogit, 5e-6, 32, "dlogit of logp");
  launch_latent_bwd({logit.data(), donehot.data(), nullptr, dlogit.data(), 2, 32, MIX, false, DType::F32}, STREAM);
  expect_close(dlogit.values(), through.dlogit, 5e-6, 32, "dlogit of the sample");
  launch_latent_fwd({nullptr, nullptr, nullptr, nullptr, nullptr, 0, 32, MIX, false, DType::F32}, STREAM);
}

// A float32 step with bfloat16 operands: one-hot rows of two groups lie apart, dlogit is rounded.
TEST(LatentEdges, OperandsOfAStep) {
  const size_t groups = 6, classes = 5, stride = 13;
  Buffer logit(normals(groups * classes, 1)), u(uniforms(groups, 2)), donehot(normals(groups * classes, 3));
  const Reference want = reference(logit.values(), donehot.values(), Vec(groups * classes), groups, classes, false);
  for_each_schedule([&] {
    Buffer onehot(groups / 2 * stride, DType::BF16), dlogit(groups * classes, DType::BF16);
    std::vector<int64_t> index(groups, -1);
    launch_latent_fwd({logit.data(), u.f32(), nullptr, onehot.data(), index.data(), int64_t(groups), int64_t(classes),
                       MIX, false, DType::F32, 2, int64_t(stride), DType::BF16},
                      STREAM);
    launch_latent_bwd({logit.data(), donehot.data(), nullptr, dlogit.data(), int64_t(groups), int64_t(classes), MIX,
                       false, DType::F32, DType::BF16},
                      STREAM);
    Vec rows;
    for (size_t i = 0; i < groups * classes; ++i)
      rows.push_back(onehot.values()[i / (2 * classes) * stride + i % (2 * classes)]);
    expect_sample(want.q, index, rows, u.values(), classes, 2e-6);
    EXPECT_TRUE(std::isnan(onehot.values()[2 * classes]));
    expect_close(dlogit.values(), want.dlogit, rounding(DType::BF16, 5e-6), classes, "dlogit");
    return std::vector{onehot.raw(), dlogit.raw()};
  });
}

// Exact cases: uniform logits give cdf_k = (k + 1) / 32; u on a boundary belongs to the class above; u near 1
// stays inside.
TEST(LatentEdges, ExactIndices) {
  const Vec at = {0, 0.03124, 0.03125, 0.5, 0.99999994};
  const std::vector<int64_t> expected = {0, 0, 1, 16, 31};
  Buffer logit(Vec(5 * 32, -std::log(32.0))), u(at);
  std::vector<int64_t> index(5);
  for (bool normalized : {false, true}) {
    for_each_schedule([&] {
      Buffer none(0);
      launch_latent_fwd({logit.data(), u.f32(), nullptr, nullptr, index.data(), 5, 32, 0.f, normalized, DType::F32},
                        STREAM);
      EXPECT_EQ(index[0], expected[0]);
      EXPECT_EQ(index[1], expected[1]);
      if (!normalized) {
        EXPECT_EQ(index, expected);  // exp(-log 32) itself is not exact
      }
      EXPECT_EQ(index[4], expected[4]);
      return std::vector<std::string>{};
    });
  }
}

TEST(LatentEdges, ExtremeLogitsStayFinite) {
  Vec values(3 * 32, 0.0);
  values[5] = 1e4;                                        // one certain class
  for (size_t k = 0; k < 32; ++k) values[32 + k] = -1e4;  // all equal, far away
  for (size_t k = 0; k < 32; ++k) values[64 + k] = k % 2 ? 80 : -80;
  Buffer logit(values), u(Vec{0.5, 0.5, 0.5}), g(normals(96, 1)), logp(96), dlogit(96);
  std::vector<int64_t> index(3);
  use(SCHEDULES[0]);
  launch_latent_fwd({logit.data(), u.f32(), logp.data(), nullptr, index.data(), 3, 32, MIX, false, DType::F32}, STREAM);
  launch_latent_bwd({logit.data(), g.data(), g.data(), dlogit.data(), 3, 32, MIX, false, DType::F32}, STREAM);
  const Reference want = reference(values, g.values(), g.values(), 3, 32, false);
  expect_close(logp.values(), want.logp, 2e-6, 32, "logp");
  expect_close(dlogit.values(), want.dlogit, 1e-5, 32, "dlogit");
  EXPECT_EQ(index[0], 5);
  EXPECT_EQ(index[1], 16);
}

}  // namespace
