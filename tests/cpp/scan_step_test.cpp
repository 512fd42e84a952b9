// scan_step_test.cpp -- the input of a scan's step, with and without a sample before it, and its backward against a
// double-precision reference.
#include "kernels/latent.h"
#include "kernels/scan_step.h"

#include <memory>

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

using Vec = std::vector<double>;
constexpr size_t GROUPS = 5, CLASSES = 3, ACTIONS = 4;

// Rows, and columns of the input; the state has half as many columns, or none for a LayerNorm alone.
struct Case {
  size_t rows, cols, size, stride;
  Vec kernel, action_kernel, pre, deter, start, scale, bias, djoint, direct, carry;
  std::vector<int64_t> index, action, start_index;
  std::unique_ptr<bool[]> reset;

  Case(Shape shape, DType dtype, bool state)
      : rows(shape.rows), cols(shape.cols), size(state ? std::max<size_t>(1, cols / 2) : 0),
        stride(size + cols + 4), kernel(Buffer(normals(GROUPS * CLASSES * cols, 1), dtype).values()),
        action_kernel(Buffer(normals(ACTIONS * cols, 2), dtype).values()),
        pre(Buffer(normals(rows * cols, 3)).values()), deter(Buffer(normals(rows * size, 4)).values()),
        start(Buffer(normals(size, 5)).values()), scale(Buffer(normals(cols, 6, 0.3, 1)).values()),
        bias(Buffer(normals(cols, 7, 0.3)).values()),
        djoint(Buffer(normals(rows * (size + cols), 8)).values()),
        direct(Buffer(normals(rows * size, 9)).values()), carry(Buffer(normals(rows * size, 10)).values()),
        reset(new bool[rows]) {
    for (size_t i = 0; i < rows * GROUPS; ++i) index.push_back(int64_t(i * 7 % CLASSES));
    for (size_t i = 0; i < rows; ++i) action.push_back(int64_t(i * 5 % ACTIONS)), reset[i] = i % 3 == 1;
    for (size_t g = 0; g < GROUPS; ++g) start_index.push_back(int64_t((g + 1) % CLASSES));
  }
};

struct Norm {
  Vec x, y, xhat;
  double rstd;
};

// A row before and after its LayerNorm and SiLU; the additions are those of the definition, in its order.
Norm row_of(const Case& k, size_t row, bool masks, bool gather, bool accumulate) {
  Norm n{Vec(k.cols), Vec(k.cols), Vec(k.cols), 0};
  const bool reset = masks && k.reset[row];
  double mean = 0, var = 0;
  for (size_t c = 0; c < k.cols; ++c) {
    double x = accumulate ? k.pre[row * k.cols + c] : 0;
    for (size_t g = 0; gather && g < GROUPS; ++g)
      x += k.kernel[(g * CLASSES + size_t(reset ? k.start_index[g] : k.index[row * GROUPS + g])) * k.cols + c];
    if (gather) x += k.action_kernel[size_t(k.action[row]) * k.cols + c];
    n.x[c] = x, mean += x / double(k.cols);
  }
  for (double x : n.x) var += (x - mean) * (x - mean) / double(k.cols);
  n.rstd = 1 / std::sqrt(var + 1e-3);
  for (size_t c = 0; c < k.cols; ++c) {
    n.xhat[c] = (n.x[c] - mean) * n.rstd;
    const double z = n.xhat[c] * k.scale[c] + k.bias[c];
    n.y[c] = z / (1 + std::exp(-z));
  }
  return n;
}

struct ScanStep : testing::TestWithParam<std::tuple<Shape, DType>> {};

void check_forward(const Case& k, DType dtype, bool masks, bool gather, bool accumulate) {
  Vec want_pre, want_joint, want_before;
  for (size_t row = 0; row < k.rows; ++row) {
    const Norm n = row_of(k, row, masks, gather, accumulate);
    want_pre.insert(want_pre.end(), n.x.begin(), n.x.end());
    for (size_t c = 0; c < k.size; ++c)
      want_before.push_back(masks && k.reset[row] ? k.start[c] : k.deter[row * k.size + c]);
    want_joint.insert(want_joint.end(), want_before.end() - int64_t(k.size), want_before.end());
    want_joint.insert(want_joint.end(), n.y.begin(), n.y.end());
  }
  Buffer kernel(k.kernel, dtype), action_kernel(k.action_kernel, dtype), deter(k.deter), start(k.start),
      scale(k.scale), bias(k.bias);
  for_each_schedule([&] {
    Buffer pre(accumulate ? k.pre : Vec(k.pre.size(), NAN)), before(k.deter.size()),
        joint(k.rows * k.stride, dtype), mean(k.rows), rstd(k.rows);
    ScanInputFwdArgs a{};
    a.deter = deter.f32(), a.index = gather ? k.index.data() : nullptr;
    a.action = gather ? k.action.data() : nullptr;
    a.reset = masks ? k.reset.get() : nullptr, a.start = start.f32();
    a.start_index = masks ? k.start_index.data() : nullptr;
    a.kernel = kernel.data(), a.action_kernel = action_kernel.data();
    a.scale = scale.f32(), a.bias = bias.f32(), a.pre = pre.f32(), a.before = before.f32();
    a.joint = joint.data(), a.mean = mean.f32(), a.rstd = rstd.f32();
    a.rows = int64_t(k.rows), a.size = int64_t(k.size), a.cols = int64_t(k.cols), a.stride = int64_t(k.stride);
    a.groups = GROUPS, a.classes = CLASSES, a.actions = ACTIONS, a.accumulate = accumulate, a.dtype = dtype;
    launch_scan_input_fwd(a, nullptr, STREAM);
    Vec got;
    const Vec padded = joint.values();
    for (size_t row = 0; row < k.rows; ++row) {
      const auto at = padded.begin() + int64_t(row * k.stride);
      got.insert(got.end(), at, at + int64_t(k.size + k.cols));
      for (size_t c = k.size + k.cols; c < k.stride; ++c) EXPECT_TRUE(std::isnan(at[int64_t(c)])) << "beside a row";
    }
    expect_close(got, want_joint, rounding(dtype, 1e-5), k.size + k.cols, "joint");
    expect_close(pre.values(), want_pre, 1e-6, k.cols, "pre");
    expect_close(before.values(), want_before, 0, std::max<size_t>(1, k.size), "before");
    return std::vector{joint.raw(), pre.raw(), before.raw(), mean.raw(), rstd.raw()};
  });
}

void check_backward(const Case& k, DType dtype, bool masks, int64_t parts) {
  Vec dpre, dmasked, dbefore, carry, dscale(k.cols), dbias(k.cols), means, rstds;
  for (size_t row = 0; row < k.rows; ++row) {
    const Norm n = row_of(k, row, false, false, true);
    const bool reset = masks && k.reset[row];
    means.push_back(0), rstds.push_back(n.rstd);
    for (double x : n.x) means.back() += x / double(k.cols);
    Vec v(k.cols);
    double sum = 0, dot = 0;
    for (size_t c = 0; c < k.cols; ++c) {
      const double z = n.xhat[c] * k.scale[c] + k.bias[c], s = 1 / (1 + std::exp(-z));
      const double dz = k.djoint[row * (k.size + k.cols) + k.size + c] * s * (1 + z * (1 - s));
      dscale[c] += dz * n.xhat[c], dbias[c] += dz, v[c] = dz * k.scale[c];
      sum += v[c] / double(k.cols), dot += v[c] * n.xhat[c] / double(k.cols);
    }
    for (size_t c = 0; c < k.cols; ++c) {
      dpre.push_back(n.rstd * (v[c] - sum - n.xhat[c] * dot));
      dmasked.push_back(reset ? 0 : dpre.back());
    }
    for (size_t c = 0; c < k.size; ++c) {
      dbefore.push_back(k.djoint[row * (k.size + k.cols) + c] + k.direct[row * k.size + c]);
      carry.push_back(k.carry[row * k.size + c] + (reset ? 0 : dbefore.back()));
    }
  }
  Buffer djoint(k.djoint), direct(k.direct), pre(k.pre), mean(means), rstd(rstds), scale(k.scale), bias(k.bias);
  for_each_schedule([&] {
    Buffer got_dpre(dpre.size(), dtype), got_dmasked(dpre.size(), dtype), got_dbefore(dbefore.size()),
        got_carry(k.carry), partial(size_t(parts) * 2 * k.cols);
    launch_scan_input_bwd({djoint.f32(), direct.f32(), masks ? k.reset.get() : nullptr, pre.f32(), mean.f32(),
                           rstd.f32(), scale.f32(), bias.f32(), got_dpre.data(), got_dmasked.data(),
                           got_dbefore.f32(), got_carry.f32(), partial.f32(), int64_t(k.rows), int64_t(k.size),
                           int64_t(k.cols), parts, dtype},
                          STREAM);
    Vec sums[2] = {Vec(k.cols), Vec(k.cols)};
    const Vec slices = partial.values();
    for (size_t i = 0; i < slices.size(); ++i) sums[i / k.cols % 2][i % k.cols] += slices[i];
    // With one column a LayerNorm's gradient is 0, a difference of equal numbers.
    const double limit = k.cols == 1 ? 1 : rounding(dtype, 2e-5);
    if (k.cols > 1) expect_close(got_dpre.values(), dpre, limit, k.cols, "dpre");
    if (k.cols > 1) expect_close(got_dmasked.values(), dmasked, limit, k.cols, "dmasked");
    expect_close(got_dbefore.values(), dbefore, 1e-6, std::max<size_t>(1, dbefore.size()), "dbefore");
    expect_close(got_carry.values(), carry, 1e-6, std::max<size_t>(1, carry.size()), "carry");
    expect_close(sums[0], dscale, 2e-5, k.cols, "dscale");
    expect_close(sums[1], dbias, 2e-5, k.cols, "dbias");
    return std::vector{got_dpre.raw(), got_dmasked.raw(), got_dbefore.raw(), got_carry.raw(), partial.raw()};
  });
}

TEST_P(ScanStep, Scan) {
  const auto [shape, dtype] = GetParam();
  check_forward(Case(shape, dtype, true), dtype, true, true, true);
  check_backward(Case(shape, dtype, true), dtype, true, int64_t(shape.rows));
}
TEST_P(ScanStep, RolloutWithoutMasks) {
  const auto [shape, dtype] = GetParam();
  check_forward(Case(shape, dtype, true), dtype, false, true, false);
}
TEST_P(ScanStep, NormAlone) {
  const auto [shape, dtype] = GetParam();
  check_forward(Case(shape, dtype, false), dtype, false, false, true);
  check_backward(Case(shape, dtype, false), dtype, false, 2);
}

// What a sample before the step needs: float logits of `groups` groups of `classes` a row, biases that all rows share.
struct Sample {
  size_t rows, groups, classes;
  Buffer logit, bias, u, logp, onehot;
  std::vector<int64_t> index;

  Sample(size_t rows, size_t groups, size_t classes, DType dtype)
      : rows(rows), groups(groups), classes(classes), logit(normals(rows * groups * classes, 21, 2)),
        bias(normals(groups * classes, 22)), u(uniforms(rows * groups, 23)), logp(rows * groups * classes),
        onehot(rows * groups * classes, dtype), index(rows * groups, -7) {}

  LatentFwdArgs args(DType dtype) {
    LatentFwdArgs a{};
    a.logit = logit.data(), a.u = u.f32(), a.logp = logp.data(), a.onehot = onehot.data(), a.index = index.data();
    a.groups = int64_t(rows * groups), a.classes = int64_t(classes), a.mix = 0.01f, a.dtype = DType::F32;
    a.row_groups = int64_t(groups), a.onehot_stride = int64_t(groups * classes), a.onehot_dtype = dtype;
    a.bias = bias.f32();
    return a;
  }

  // By the definition in double; no uniform lies within rounding of a boundary between classes.
  void expect_taken() {
    const Vec x = logit.values(), b = bias.values(), draw = u.values(), lp = logp.values(), hot = onehot.values();
    for (size_t n = 0; n < rows * groups; ++n) {
      Vec q;
      double total = 0, cdf = 0;
      for (size_t k = 0; k < classes; ++k)
        total += (q.emplace_back(std::exp(x[n * classes + k] + b[n % groups * classes + k])));
      size_t want = 0;
      for (size_t k = 0; k < classes; ++k) {
        q[k] = 0.99 * q[k] / total + 0.01 / double(classes);
        EXPECT_NEAR(lp[n * classes + k], std::log(q[k]), 1e-5);
        if ((cdf += q[k]) <= draw[n]) want = k + 1;
      }
      want = std::min(want, classes - 1);
      EXPECT_EQ(index[n], int64_t(want)) << "group " << n;
      for (size_t k = 0; k < classes; ++k) EXPECT_EQ(hot[n * classes + k], k == want ? 1 : 0);
    }
  }
};

// The step goes on from its sample as from the same indices given: the same bits.
void check_sampled(const Case& k, DType dtype, bool action) {
  Buffer kernel(k.kernel, dtype), action_kernel(k.action_kernel, dtype), deter(k.deter), start(k.start),
      scale(k.scale), bias(k.bias);
  const auto run = [&](int64_t* index, int64_t* chosen, const LatentFwdArgs* sample) {
    Buffer pre(k.pre), before(k.deter.size()), joint(k.rows * k.stride, dtype), mean(k.rows), rstd(k.rows);
    ScanInputFwdArgs a{};
    a.deter = deter.f32(), a.index = index, a.action = chosen, a.accumulate = true, a.dtype = dtype;
    if (!action) a.reset = k.reset.get(), a.start = start.f32(), a.start_index = k.start_index.data();
    a.kernel = kernel.data(), a.action_kernel = action_kernel.data();
    a.scale = scale.f32(), a.bias = bias.f32(), a.pre = pre.f32(), a.before = before.f32();
    a.joint = joint.data(), a.mean = mean.f32(), a.rstd = rstd.f32();
    a.rows = int64_t(k.rows), a.size = int64_t(k.size), a.cols = int64_t(k.cols), a.stride = int64_t(k.stride);
    a.groups = GROUPS, a.classes = CLASSES, a.actions = ACTIONS;
    launch_scan_input_fwd(a, sample, STREAM);
    return std::vector{joint.raw(), pre.raw(), before.raw(), mean.raw(), rstd.raw()};
  };
  for_each_schedule([&] {
    Sample s(k.rows, action ? 1 : GROUPS, action ? ACTIONS : CLASSES, dtype);
    const LatentFwdArgs sample = s.args(dtype);
    std::vector<int64_t> index = k.index;  // a rollout's latents were drawn before
    int64_t *latents = action ? index.data() : s.index.data(), *chosen = action ? s.index.data() : nullptr;
    std::vector<std::string> got = run(latents, chosen, &sample);
    s.expect_taken();
    const auto want = run(latents, chosen, nullptr);
    EXPECT_TRUE(got == want);
    got.insert(got.end(), {s.logp.raw(), s.onehot.raw()});
    return got;
  });
}

TEST_P(ScanStep, LatentsAreSampledFirst) {
  const auto [shape, dtype] = GetParam();
  check_sampled(Case(shape, dtype, true), dtype, false);
}
TEST_P(ScanStep, ActionIsSampledFirst) {
  const auto [shape, dtype] = GetParam();
  check_sampled(Case(shape, dtype, true), dtype, true);
}

INSTANTIATE_TEST_SUITE_P(Shapes, ScanStep,
                         testing::Combine(testing::Values(Shape{1, 1}, Shape{5, 3}, Shape{4, 8}, Shape{3, 72},
                                                          Shape{6, 127}, Shape{4, 512}, Shape{2, 2080},
                                                          Shape{1, size_t(SCAN_MAX_COLS)}),
                                          testing::Values(DType::F32, DType::BF16)),
                         shape_name<ScanStep>);

TEST(ScanStepEdges, AnIndexOutOfRangeMakesItsRowNan) {
  Case k({3, 8}, DType::F32, true);
  k.index[GROUPS] = int64_t(CLASSES), k.action[2] = -1;
  Buffer kernel(k.kernel), action_kernel(k.action_kernel), deter(k.deter), scale(k.scale), bias(k.bias), pre(k.pre),
      joint(3 * 12), mean(3), rstd(3);
  use(SCHEDULES[0]);
  ScanInputFwdArgs a{};
  a.deter = deter.f32(), a.index = k.index.data(), a.action = k.action.data(), a.kernel = kernel.data();
  a.action_kernel = action_kernel.data(), a.scale = scale.f32(), a.bias = bias.f32(), a.pre = pre.f32();
  a.joint = joint.data(), a.mean = mean.f32(), a.rstd = rstd.f32();
  a.rows = 3, a.size = 4, a.cols = 8, a.stride = 12, a.groups = GROUPS, a.classes = CLASSES, a.actions = ACTIONS;
  launch_scan_input_fwd(a, nullptr, STREAM);
  const Vec got = joint.values();
  EXPECT_FALSE(std::isnan(got[4]));
  EXPECT_TRUE(std::isnan(got[12 + 4]) && std::isnan(got[24 + 4]));
  EXPECT_FALSE(std::isnan(got[12]) || std::isnan(got[24]));  // the state itself is untouched
}

TEST(ScanStepEdges, WithoutAStateBeforeTheStartIsTaken) {
  Case k({4, 16}, DType::F32, true);
  for (size_t row = 0; row < 4; ++row) k.reset[row] = true;
  const Norm want = row_of(k, 2, true, true, true);
  Buffer kernel(k.kernel), action_kernel(k.action_kernel), start(k.start), scale(k.scale), bias(k.bias), pre(k.pre),
      joint(4 * 24), before(4 * 8), mean(4), rstd(4);
  use(SCHEDULES[0]);
  ScanInputFwdArgs a{};
  a.start = start.f32(), a.start_index = k.start_index.data(), a.action = k.action.data();
  a.kernel = kernel.data(), a.action_kernel = action_kernel.data(), a.scale = scale.f32(), a.bias = bias.f32();
  a.pre = pre.f32(), a.before = before.f32(), a.joint = joint.data(), a.mean = mean.f32(), a.rstd = rstd.f32();
  a.rows = 4, a.size = 8, a.cols = 16, a.stride = 24, a.groups = GROUPS, a.classes = CLASSES, a.actions = ACTIONS;
  a.accumulate = true;
  launch_scan_input_fwd(a, nullptr, STREAM);
  const Vec got = joint.values();
  expect_close(Vec(got.begin() + 56, got.begin() + 72), want.y, 1e-5, 16, "y");
  EXPECT_EQ(Vec(got.begin() + 48, got.begin() + 56), k.start);
}

}  // namespace
