// scan_step_test.cpp -- the input of a scan's step, with and without a sample before it, and its backward against a
// double-precision reference.
#include "kernels/latent.h"
#include "kernels/scan_step.h"

#include <memory>

#include "layer_norm.h"
#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

constexpr size_t GROUPS = 5, CLASSES = 3, ACTIONS = 4;

// Rows, and columns of the input; the state has half as many columns, or none for a LayerNorm alone.
struct Case {
  size_t rows, cols, size, stride;
  Vec kernel, action_kernel, pre, deter, start, scale, bias, djoint, direct, carry;
  std::vector<int64_t> index, action, start_index;
  std::unique_ptr<bool[]> reset;

  Case(Shape shape, DType dtype, bool state)
      : rows(shape.rows),
        cols(shape.cols),
        size(state ? std::max<size_t>(1, cols / 2) : 0),
        stride(size + cols + 4),
        kernel(Buffer(normals(GROUPS * CLASSES * cols, 1), dtype).values()),
        action_kernel(Buffer(normals(ACTIONS * cols, 2), dtype).values()),
        pre(Buffer(normals(rows * cols, 3)).values()),
        deter(Buffer(normals(rows * size, 4)).values()),
        start(Buffer(normals(size, 5)).values()),
        scale(Buffer(normals(cols, 6, 0.3, 1)).values()),
        bias(Buffer(normals(cols, 7, 0.3)).values()),
        djoint(Buffer(normals(rows * (size + cols), 8)).values()),
        direct(Buffer(normals(rows * size, 9)).values()),
        carry(Buffer(normals(rows * size, 10)).values()),
        reset(new bool[rows]) {
    for (size_t i = 0; i < rows * GROUPS; ++i) index.push_back(int64_t(i * 7 % CLASSES));
    for (size_t i = 0; i < rows; ++i) action.push_back(int64_t(i * 5 % ACTIONS)), reset[i] = i % 3 == 1;
    for (size_t g = 0; g < GROUPS; ++g) start_index.push_back(int64_t((g + 1) % CLASSES));
  }
};

struct Row {
  Vec x, y;
  Norm norm;
};

// A row before and after its LayerNorm and SiLU; the additions are those of the definition, in its order.
Row row_of(const Case& k, size_t row, bool masks, bool gather, bool accumulate) {
  Row n;
  const bool reset = masks && k.reset[row];
  for (size_t c = 0; c < k.cols; ++c) {
    double x = accumulate ? k.pre[row * k.cols + c] : 0;
    for (size_t g = 0; gather && g < GROUPS; ++g)
      x += k.kernel[(g * CLASSES + size_t(reset ? k.start_index[g] : k.index[row * GROUPS + g])) * k.cols + c];
    if (gather) x += k.action_kernel[size_t(k.action[row]) * k.cols + c];
    n.x.push_back(x);
  }
  n.norm = layer_norm(n.x.data(), k.cols);
  for (size_t c = 0; c < k.cols; ++c) n.y.push_back(test::silu(n.norm.xhat[c] * k.scale[c] + k.bias[c]));
  return n;
}

// The buffers of a launch. Its arguments, without a sample: `masks` some rows start anew, `gather` latents and actions.
struct Forward {
  const Case& k;
  DType dtype;
  Buffer kernel, action_kernel, deter, start, scale, bias, pre, before, joint, mean, rstd;
  Forward(const Case& of, DType type, bool accumulate = true)
      : k(of),
        dtype(type),
        kernel(k.kernel, dtype),
        action_kernel(k.action_kernel, dtype),
        deter(k.deter),
        start(k.start),
        scale(k.scale),
        bias(k.bias),
        pre(accumulate ? k.pre : Vec(k.pre.size(), NAN)),
        before(k.deter.size()),
        joint(k.rows * k.stride, dtype),
        mean(k.rows),
        rstd(k.rows) {}

  ScanInputFwdArgs args(bool masks, bool gather, bool accumulate = true) {
    ScanInputFwdArgs a{};
    a.deter = deter.f32(), a.start = start.f32();
    if (masks) a.reset = k.reset.get(), a.start_index = k.start_index.data();
    if (gather) a.index = k.index.data(), a.action = k.action.data();
    a.kernel = kernel.data(), a.action_kernel = action_kernel.data();
    a.scale = scale.f32(), a.bias = bias.f32(), a.pre = pre.f32(), a.before = before.f32();
    a.joint = joint.data(), a.mean = mean.f32(), a.rstd = rstd.f32();
    a.rows = int64_t(k.rows), a.size = int64_t(k.size), a.cols = int64_t(k.cols), a.stride = int64_t(k.stride);
    a.groups = GROUPS, a.classes = CLASSES, a.actions = ACTIONS, a.accumulate = accumulate, a.dtype = dtype;
    return a;
  }
  std::vector<std::string> raw() { return {joint.raw(), pre.raw(), before.raw(), mean.raw(), rstd.raw()}; }
};

struct ScanStep : testing::TestWithParam<std::tuple<Shape, DType>> {};

void check_forward(const Case& k, DType dtype, bool masks, bool gather, bool accumulate) {
  Vec want_pre, want_joint, want_before;
  for (size_t row = 0; row < k.rows; ++row) {
    const Row n = row_of(k, row, masks, gather, accumulate);
    want_pre.insert(want_pre.end(), n.x.begin(), n.x.end());
    for (size_t c = 0; c < k.size; ++c)
      want_before.push_back(masks && k.reset[row] ? k.start[c] : k.deter[row * k.size + c]);
    want_joint.insert(want_joint.end(), want_before.end() - int64_t(k.size), want_before.end());
    want_joint.insert(want_joint.end(), n.y.begin(), n.y.end());
  }
  for_each_schedule([&] {
    Forward f(k, dtype, accumulate);
    launch_scan_input_fwd(f.args(masks, gather, accumulate), nullptr, STREAM);
    Vec got;
    const Vec padded = f.joint.values();
    for (size_t row = 0; row < k.rows; ++row) {
      const auto at = padded.begin() + int64_t(row * k.stride);
      got.insert(got.end(), at, at + int64_t(k.size + k.cols));
      for (size_t c = k.size + k.cols; c < k.stride; ++c) EXPECT_TRUE(std::isnan(at[int64_t(c)])) << "beside a row";
    }
    expect_close(got, want_joint, rounding(dtype, 1e-5), k.size + k.cols, "joint");
    expect_close(f.pre.values(), want_pre, 1e-6, k.cols, "pre");
    expect_close(f.before.values(), want_before, 0, std::max<size_t>(1, k.size), "before");
    return f.raw();
  });
}

void check_backward(const Case& k, DType dtype, bool masks, int64_t parts) {
  Vec dpre, dmasked, dbefore, carry, dscale(k.cols), dbias(k.cols), means, rstds;
  for (size_t row = 0; row < k.rows; ++row) {
    const Row n = row_of(k, row, false, false, true);
    const bool reset = masks && k.reset[row];
    means.push_back(n.norm.mean), rstds.push_back(n.norm.rstd);
    Vec dz;
    for (size_t c = 0; c < k.cols; ++c)
      dz.push_back(k.djoint[row * (k.size + k.cols) + k.size + c] *
                   silu_slope(n.norm.xhat[c] * k.scale[c] + k.bias[c]));
    for (double dx : layer_norm_backward(n.norm, dz, k.scale, dscale, dbias)) {
      dpre.push_back(dx);
      dmasked.push_back(reset ? 0 : dx);
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
    launch_scan_input_bwd(
        {djoint.f32(), direct.f32(), masks ? k.reset.get() : nullptr, pre.f32(), mean.f32(), rstd.f32(), scale.f32(),
         bias.f32(), got_dpre.data(), got_dmasked.data(), got_dbefore.f32(), got_carry.f32(), partial.f32(),
         int64_t(k.rows), int64_t(k.size), int64_t(k.cols), parts, dtype},
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
      : rows(rows),
        groups(groups),
        classes(classes),
        logit(normals(rows * groups * classes, 21, 2)),
        bias(normals(groups * classes, 22)),
        u(uniforms(rows * groups, 23)),
        logp(rows * groups * classes),
        onehot(rows * groups * classes, dtype),
        index(rows * groups, -7) {}

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
  const auto run = [&](const int64_t* index, const int64_t* chosen, const LatentFwdArgs* sample) {
    Forward f(k, dtype);
    ScanInputFwdArgs a = f.args(!action, false);
    a.index = index, a.action = chosen;
    launch_scan_input_fwd(a, sample, STREAM);
    return f.raw();
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
  Forward f(k, DType::F32);
  use(SCHEDULES[0]);
  launch_scan_input_fwd(f.args(false, true), nullptr, STREAM);
  const Vec got = f.joint.values();
  const auto lost = [&](size_t row, size_t c) { return std::isnan(got[row * k.stride + c]); };
  EXPECT_FALSE(lost(0, k.size));
  EXPECT_TRUE(lost(1, k.size) && lost(2, k.size));
  EXPECT_FALSE(lost(1, 0) || lost(2, 0));  // the state itself is untouched
}

TEST(ScanStepEdges, WithoutAStateBeforeTheStartIsTaken) {
  Case k({4, 16}, DType::F32, true);
  for (size_t row = 0; row < 4; ++row) k.reset[row] = true;
  const Row want = row_of(k, 2, true, true, true);
  Forward f(k, DType::F32);
  use(SCHEDULES[0]);
  ScanInputFwdArgs a = f.args(false, true);
  a.deter = nullptr, a.index = nullptr, a.start_index = k.start_index.data();
  launch_scan_input_fwd(a, nullptr, STREAM);
  const Vec got = f.joint.values();
  const auto at = got.begin() + int64_t(2 * k.stride), state = at + int64_t(k.size);
  EXPECT_EQ(Vec(at, state), k.start);
  expect_close(Vec(state, state + int64_t(k.cols)), want.y, 1e-5, k.cols, "y");
}

}  // namespace
