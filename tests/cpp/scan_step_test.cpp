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

constexpr int64_t GROUPS = 5, CLASSES = 3, ACTIONS = 4;

// Rows, and columns of the input; the state has half as many columns, or none for a LayerNorm alone.
struct Case {
  int64_t rows, cols, size, stride;
  Vec kernel, action_kernel, pre, deter, start, scale, bias, djoint, direct, carry;
  std::vector<int64_t> index, action, start_index;
  std::unique_ptr<bool[]> reset;

  Case(Shape shape, DType dtype, bool state)
      : rows(shape.rows),
        cols(shape.cols),
        size(state ? std::max<int64_t>(1, cols / 2) : 0),
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
    for (int64_t i = 0; i < rows * GROUPS; ++i) index.push_back(i * 7 % CLASSES);
    for (int64_t i = 0; i < rows; ++i) action.push_back(i * 5 % ACTIONS), reset[i] = i % 3 == 1;
    for (int64_t g = 0; g < GROUPS; ++g) start_index.push_back((g + 1) % CLASSES);
  }
};

struct Row {
  Vec x, y;
  Norm norm;
};

// A row before and after its LayerNorm and SiLU; the additions are those of the definition, in its order.
Row row_of(const Case& k, int64_t row, bool masks, bool gather, bool accumulate) {
  Row n;
  const bool reset = masks && k.reset[row];
  for (int64_t c = 0; c < k.cols; ++c) {
    double x = accumulate ? k.pre[row * k.cols + c] : 0;
    for (int64_t g = 0; gather && g < GROUPS; ++g)
      x += k.kernel[(g * CLASSES + (reset ? k.start_index[g] : k.index[row * GROUPS + g])) * k.cols + c];
    if (gather) x += k.action_kernel[k.action[row] * k.cols + c];
    n.x.push_back(x);
  }
  n.norm = layer_norm(n.x.data(), k.cols);
  for (int64_t c = 0; c < k.cols; ++c) n.y.push_back(test::silu(n.norm.xhat[c] * k.scale[c] + k.bias[c]));
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
    a.deter = deter, a.start = start;
    if (masks) a.reset = k.reset.get(), a.start_index = k.start_index.data();
    if (gather) a.index = k.index.data(), a.action = k.action.data();
    a.kernel = kernel, a.action_kernel = action_kernel;
    a.scale = scale, a.bias = bias, a.pre = pre, a.before = before;
    a.joint = joint, a.mean = mean, a.rstd = rstd;
    a.rows = k.rows, a.size = k.size, a.cols = k.cols, a.stride = k.stride;
    a.groups = GROUPS, a.classes = CLASSES, a.actions = ACTIONS, a.accumulate = accumulate, a.dtype = dtype;
    return a;
  }
  Bits raw() { return {joint.raw(), pre.raw(), before.raw(), mean.raw(), rstd.raw()}; }
};

struct ScanStep : ShapeTest {};

void check_forward(const Case& k, DType dtype, bool masks, bool gather, bool accumulate) {
  Vec want_pre, want_joint, want_before;
  for (int64_t row = 0; row < k.rows; ++row) {
    const Row n = row_of(k, row, masks, gather, accumulate);
    want_pre.insert(want_pre.end(), n.x.begin(), n.x.end());
    for (int64_t c = 0; c < k.size; ++c)
      want_before.push_back(masks && k.reset[row] ? k.start[c] : k.deter[row * k.size + c]);
    want_joint.insert(want_joint.end(), want_before.end() - k.size, want_before.end());
    want_joint.insert(want_joint.end(), n.y.begin(), n.y.end());
  }
  for_each_schedule([&] {
    Forward f(k, dtype, accumulate);
    launch_scan_input_fwd(f.args(masks, gather, accumulate), nullptr, STREAM);
    Vec got;
    const Vec padded = f.joint.values();
    for (int64_t row = 0; row < k.rows; ++row) {
      const auto at = padded.begin() + row * k.stride;
      got.insert(got.end(), at, at + k.size + k.cols);
      for (int64_t c = k.size + k.cols; c < k.stride; ++c) EXPECT_TRUE(std::isnan(at[c])) << "beside a row";
    }
    expect_close(got, want_joint, rounding(dtype, 1e-5), k.size + k.cols, "joint");
    expect_close(f.pre, want_pre, 1e-6, k.cols, "pre");
    expect_close(f.before, want_before, 0, std::max<int64_t>(1, k.size), "before");
    return f.raw();
  });
}

void check_backward(const Case& k, DType dtype, bool masks, int64_t parts) {
  Vec dpre, dmasked, dbefore, carry, dscale(k.cols), dbias(k.cols), means, rstds;
  for (int64_t row = 0; row < k.rows; ++row) {
    const Row n = row_of(k, row, false, false, true);
    const bool reset = masks && k.reset[row];
    means.push_back(n.norm.mean), rstds.push_back(n.norm.rstd);
    Vec dz;
    for (int64_t c = 0; c < k.cols; ++c)
      dz.push_back(k.djoint[row * (k.size + k.cols) + k.size + c] *
                   silu_slope(n.norm.xhat[c] * k.scale[c] + k.bias[c]));
    for (double dx : layer_norm_backward(n.norm, dz, k.scale, dscale, dbias)) {
      dpre.push_back(dx);
      dmasked.push_back(reset ? 0 : dx);
    }
    for (int64_t c = 0; c < k.size; ++c) {
      dbefore.push_back(k.djoint[row * (k.size + k.cols) + c] + k.direct[row * k.size + c]);
      carry.push_back(k.carry[row * k.size + c] + (reset ? 0 : dbefore.back()));
    }
  }
  Buffer djoint(k.djoint), direct(k.direct), pre(k.pre), mean(means), rstd(rstds), scale(k.scale), bias(k.bias);
  for_each_schedule([&] {
    Buffer got_dpre(dpre.size(), dtype), got_dmasked(dpre.size(), dtype), got_dbefore(dbefore.size()),
        got_carry(k.carry), partial(parts * 2 * k.cols);
    ScanInputBwdArgs a{djoint,      direct,      masks ? k.reset.get() : nullptr,
                       pre,         mean,        rstd,
                       scale,       bias,        got_dpre,
                       got_dmasked, got_dbefore, got_carry,
                       partial,     k.rows,      k.size,
                       k.cols,      parts,       dtype};
    launch_scan_input_bwd(a, STREAM);
    Buffer carry_alone(k.carry);
    a.dmasked = nullptr, a.dbefore = nullptr, a.carry = carry_alone;
    launch_scan_input_bwd(a, STREAM);
    EXPECT_TRUE(carry_alone.raw() == got_carry.raw()) << "without dbefore";
    Vec sums[2] = {Vec(k.cols), Vec(k.cols)};
    const Vec slices = partial.values();
    for (size_t i = 0; i < slices.size(); ++i) sums[i / k.cols % 2][i % k.cols] += slices[i];
    // With one column a LayerNorm's gradient is 0, a difference of equal numbers.
    const double limit = k.cols == 1 ? 1 : rounding(dtype, 2e-5);
    if (k.cols > 1) expect_close(got_dpre, dpre, limit, k.cols, "dpre");
    if (k.cols > 1) expect_close(got_dmasked, dmasked, limit, k.cols, "dmasked");
    expect_close(got_dbefore, dbefore, 1e-6, std::max<int64_t>(1, dbefore.size()), "dbefore");
    expect_close(got_carry, carry, 1e-6, std::max<int64_t>(1, carry.size()), "carry");
    expect_close(sums[0], dscale, 2e-5, k.cols, "dscale");
    expect_close(sums[1], dbias, 2e-5, k.cols, "dbias");
    return bits_of(got_dpre, got_dmasked, got_dbefore, got_carry, partial);
  });
}

TEST_P(ScanStep, Scan) {
  const auto [shape, dtype] = GetParam();
  check_forward(Case(shape, dtype, true), dtype, true, true, true);
  check_backward(Case(shape, dtype, true), dtype, true, shape.rows);
}
TEST_P(ScanStep, RolloutWithoutMasks) {
  const auto [shape, dtype] = GetParam();
  check_forward(Case(shape, dtype, true), dtype, false, true, false);
}
TEST_P(ScanStep, StateAlone) {
  const auto [shape, dtype] = GetParam();
  check_forward(Case(shape, dtype, true), dtype, false, false, true);
}
TEST_P(ScanStep, NormAlone) {
  const auto [shape, dtype] = GetParam();
  check_forward(Case(shape, dtype, false), dtype, false, false, true);
  check_backward(Case(shape, dtype, false), dtype, false, 2);
}

// What a sample before the step needs: float logits of `groups` groups of `classes` a row, biases that all rows share.
struct Sample {
  int64_t rows, groups, classes;
  Buffer logit, bias, u, logp, onehot;
  std::vector<int64_t> index;

  Sample(int64_t rows, int64_t groups, int64_t classes, DType dtype)
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
    a.logit = logit, a.u = u, a.logp = logp, a.onehot = onehot, a.index = index.data();
    a.groups = rows * groups, a.classes = classes, a.mix = 0.01f, a.dtype = DType::F32;
    a.row_groups = groups, a.onehot_stride = groups * classes, a.onehot_dtype = dtype;
    a.bias = bias;
    return a;
  }

  // By the definition in double; no uniform lies within rounding of a boundary between classes.
  void expect_taken() {
    const Vec x = logit.values(), b = bias.values(), draw = u.values(), lp = logp.values(), hot = onehot.values();
    for (int64_t n = 0; n < rows * groups; ++n) {
      Vec q;
      double total = 0, cdf = 0;
      for (int64_t k = 0; k < classes; ++k)
        total += (q.emplace_back(std::exp(x[n * classes + k] + b[n % groups * classes + k])));
      int64_t want = 0;
      for (int64_t k = 0; k < classes; ++k) {
        q[k] = 0.99 * q[k] / total + 0.01 / double(classes);
        EXPECT_NEAR(lp[n * classes + k], std::log(q[k]), 1e-5);
        if ((cdf += q[k]) <= draw[n]) want = k + 1;
      }
      want = std::min(want, classes - 1);
      EXPECT_EQ(index[n], want) << "group " << n;
      for (int64_t k = 0; k < classes; ++k) EXPECT_EQ(hot[n * classes + k], k == want ? 1 : 0);
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
    Bits got = run(latents, chosen, &sample);
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

HD_SHAPES(ScanStep, Shape{1, 1}, Shape{5, 3}, Shape{4, 8}, Shape{3, 72}, Shape{6, 127}, Shape{4, 512}, Shape{2, 2080},
          Shape{1, SCAN_MAX_COLS});

TEST(ScanStepEdges, AnIndexOutOfRangeMakesItsRowNan) {
  Case k({3, 8}, DType::F32, true);
  k.index[GROUPS] = CLASSES, k.action[2] = -1;
  Forward f(k, DType::F32);
  use(SCHEDULES[0]);
  launch_scan_input_fwd(f.args(false, true), nullptr, STREAM);
  const Vec got = f.joint.values();
  const auto lost = [&](int64_t row, int64_t c) { return std::isnan(got[row * k.stride + c]); };
  EXPECT_FALSE(lost(0, k.size));
  EXPECT_TRUE(lost(1, k.size) && lost(2, k.size));
  EXPECT_FALSE(lost(1, 0) || lost(2, 0));  // the state itself is untouched
}

TEST(ScanStepEdges, WithoutAStateBeforeTheStartIsTaken) {
  Case k({4, 16}, DType::F32, true);
  for (int64_t row = 0; row < 4; ++row) k.reset[row] = true;
  const Row want = row_of(k, 2, true, true, true);
  Forward f(k, DType::F32);
  use(SCHEDULES[0]);
  ScanInputFwdArgs a = f.args(false, true);
  a.deter = nullptr, a.index = nullptr, a.start_index = k.start_index.data();
  launch_scan_input_fwd(a, nullptr, STREAM);
  const Vec got = f.joint.values();
  const auto at = got.begin() + 2 * k.stride, state = at + k.size;
  EXPECT_EQ(Vec(at, state), k.start);
  expect_close(Vec(state, state + k.cols), want.y, 1e-5, k.cols, "y");
}

}  // namespace
