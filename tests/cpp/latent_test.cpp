// latent_test.cpp -- unimix, inverse-CDF sampling and the straight-through backward against double precision.
#include "kernels/latent.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

constexpr float MIX = 0.01f;

struct Reference {
  Vec s, q, logp, dlogit;
};

// The definition of latent.h in double; `normalized` takes logit as log-probabilities.
Reference reference(const Vec& logit, const Vec& donehot, const Vec& dlogp, int64_t groups, int64_t classes,
                    bool normalized) {
  const int64_t size = groups * classes;
  Reference r{Vec(size), Vec(size), Vec(size), Vec(size)};
  for (int64_t n = 0; n < groups; ++n) {
    const int64_t base = n * classes;
    double top = -1e300, total = 0, dot = 0;
    for (int64_t k = base; k < base + classes; ++k) top = std::max(top, logit[k]);
    for (int64_t k = base; k < base + classes; ++k) total += std::exp(logit[k] - top);
    for (int64_t k = base; k < base + classes; ++k) {
      r.s[k] = std::exp(logit[k] - top) / total;
      r.q[k] = normalized ? std::exp(logit[k]) : (1 - double(MIX)) * r.s[k] + double(MIX) / double(classes);
      r.logp[k] = std::log(r.q[k]);
      dot += r.s[k] * (donehot[k] + dlogp[k] / r.q[k]);
    }
    for (int64_t k = base; k < base + classes; ++k)
      r.dlogit[k] = normalized ? donehot[k] * r.q[k] + dlogp[k]
                               : (1 - double(MIX)) * r.s[k] * (donehot[k] + dlogp[k] / r.q[k] - dot);
  }
  return r;
}

// The sampled class must hold u within its share of the CDF, up to the rounding of an fp32 sum.
void expect_sample(const Vec& q, const std::vector<int64_t>& index, const Vec& onehot, const Vec& u, int64_t classes,
                   double slack) {
  for (size_t n = 0; n < u.size(); ++n) {
    ASSERT_GE(index[n], 0);
    ASSERT_LT(index[n], classes);
    double below = 0;
    for (int64_t k = 0; k < index[n]; ++k) below += q[n * classes + k];
    const double above = below + q[n * classes + index[n]];
    EXPECT_LE(below, u[n] + slack) << "group " << n;
    if (index[n] < classes - 1) {
      EXPECT_GE(above, u[n] - slack) << "group " << n;
    }
    for (int64_t k = 0; k < classes; ++k) ASSERT_EQ(onehot[n * classes + k], k == index[n] ? 1.0 : 0.0);
  }
}

struct Latent : ShapeTest {};  // Shape: groups, classes

void check(int64_t groups, int64_t classes, DType dtype, bool normalized, double spread) {
  const int64_t size = groups * classes;
  Vec values = normals(size, 1, spread);
  if (normalized) values = reference(values, Vec(size), Vec(size), groups, classes, false).logp;
  Buffer logit(values, dtype), u(uniforms(groups, 2)), donehot(normals(size, 3), dtype),
      dlogp(normals(size, 4, 0.1), dtype);
  const Reference want = reference(logit.values(), donehot.values(), dlogp.values(), groups, classes, normalized);
  const int64_t n = groups, k = classes;
  for_each_schedule([&] {
    Buffer logp(size, dtype), onehot(size, dtype), dlogit(size, dtype);
    std::vector<int64_t> index(groups, -7);
    launch_latent_fwd({logit, u, logp, onehot, index.data(), n, k, MIX, normalized, dtype}, STREAM);
    launch_latent_bwd({logit, donehot, dlogp, dlogit, n, k, MIX, normalized, dtype}, STREAM);
    expect_close(logp, want.logp, rounding(dtype, 2e-6), classes, "logp");
    expect_sample(want.q, index, onehot.values(), u.values(), classes, 2e-6);
    expect_close(dlogit, want.dlogit, rounding(dtype, 5e-6), classes, "dlogit");
    return bits_of(logp, onehot, dlogit);
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
HD_SHAPES(Latent, Shape{1, 1}, Shape{64, 32}, Shape{19, 18}, Shape{9, 33}, Shape{5, 128}, Shape{3, 129}, Shape{2, 1024},
          Shape{3, 1000});

TEST(LatentEdges, OutputsAndGradientsAreOptional) {
  Buffer logit(normals(64, 1)), u(uniforms(2, 2)), dlogp(normals(64, 3)), donehot(normals(64, 4)), logp(64), dlogit(64);
  const Reference want = reference(logit.values(), Vec(64), dlogp.values(), 2, 32, false);
  const Reference through = reference(logit.values(), donehot.values(), Vec(64), 2, 32, false);
  use(SCHEDULES[0]);
  launch_latent_fwd({logit, nullptr, logp, nullptr, nullptr, 2, 32, MIX, false, DType::F32}, STREAM);
  expect_close(logp, want.logp, 2e-6, 32, "logp");
  std::vector<int64_t> index(2, -1);
  launch_latent_fwd({logit, u, nullptr, nullptr, index.data(), 2, 32, MIX, false, DType::F32}, STREAM);
  EXPECT_GE(index[1], 0);
  launch_latent_bwd({logit, nullptr, dlogp, dlogit, 2, 32, MIX, false, DType::F32}, STREAM);
  expect_close(dlogit, want.dlogit, 5e-6, 32, "dlogit of logp");
  launch_latent_bwd({logit, donehot, nullptr, dlogit, 2, 32, MIX, false, DType::F32}, STREAM);
  expect_close(dlogit, through.dlogit, 5e-6, 32, "dlogit of the sample");
  launch_latent_fwd({nullptr, nullptr, nullptr, nullptr, nullptr, 0, 32, MIX, false, DType::F32}, STREAM);
}

// A float32 step with bfloat16 operands: one-hot rows of two groups lie apart, dlogit is rounded.
TEST(LatentEdges, OperandsOfAStep) {
  const int64_t groups = 6, classes = 5, stride = 13;
  Buffer logit(normals(groups * classes, 1)), u(uniforms(groups, 2)), donehot(normals(groups * classes, 3));
  const Reference want = reference(logit.values(), donehot.values(), Vec(groups * classes), groups, classes, false);
  for_each_schedule([&] {
    Buffer onehot(groups / 2 * stride, DType::BF16), dlogit(groups * classes, DType::BF16);
    std::vector<int64_t> index(groups, -1);
    launch_latent_fwd(
        {logit, u, nullptr, onehot, index.data(), groups, classes, MIX, false, DType::F32, 2, stride, DType::BF16},
        STREAM);
    launch_latent_bwd({logit, donehot, nullptr, dlogit, groups, classes, MIX, false, DType::F32, DType::BF16}, STREAM);
    Vec rows;
    for (int64_t i = 0; i < groups * classes; ++i)
      rows.push_back(onehot.values()[i / (2 * classes) * stride + i % (2 * classes)]);
    expect_sample(want.q, index, rows, u.values(), classes, 2e-6);
    EXPECT_TRUE(std::isnan(onehot.values()[2 * classes]));
    expect_close(dlogit, want.dlogit, rounding(DType::BF16, 5e-6), classes, "dlogit");
    return bits_of(onehot, dlogit);
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
      launch_latent_fwd({logit, u, nullptr, nullptr, index.data(), 5, 32, 0.f, normalized, DType::F32}, STREAM);
      EXPECT_EQ(index[0], expected[0]);
      EXPECT_EQ(index[1], expected[1]);
      if (!normalized) {
        EXPECT_EQ(index, expected);  // exp(-log 32) itself is not exact
      }
      EXPECT_EQ(index[4], expected[4]);
      return Bits{};
    });
  }
}

TEST(LatentEdges, ExtremeLogitsStayFinite) {
  Vec values(3 * 32, 0.0);
  values[5] = 1e4;                                         // one certain class
  for (int64_t k = 0; k < 32; ++k) values[32 + k] = -1e4;  // all equal, far away
  for (int64_t k = 0; k < 32; ++k) values[64 + k] = k % 2 ? 80 : -80;
  Buffer logit(values), u(Vec{0.5, 0.5, 0.5}), g(normals(96, 1)), logp(96), dlogit(96);
  std::vector<int64_t> index(3);
  use(SCHEDULES[0]);
  launch_latent_fwd({logit, u, logp, nullptr, index.data(), 3, 32, MIX, false, DType::F32}, STREAM);
  launch_latent_bwd({logit, g, g, dlogit, 3, 32, MIX, false, DType::F32}, STREAM);
  const Reference want = reference(values, g.values(), g.values(), 3, 32, false);
  expect_close(logp, want.logp, 2e-6, 32, "logp");
  expect_close(dlogit, want.dlogit, 1e-5, 32, "dlogit");
  EXPECT_EQ(index[0], 5);
  EXPECT_EQ(index[1], 16);
}

}  // namespace
