// norm_act_test.cpp -- the norm_act kernels against a double-precision reference under every schedule.
#include "kernels/norm_act.h"

#include "layer_norm.h"
#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

struct Reference {
  Vec y, dx, dscale, dbias;
};

// The definition of norm_act.h, and its derivative, in double.
Reference reference(const Vec& x, const Vec& dy, const Vec& scale, const Vec& bias, int64_t rows, int64_t cols) {
  Reference r{{}, {}, Vec(cols), Vec(cols)};
  for (int64_t n = 0; n < rows; ++n) {
    const Norm norm = layer_norm(&x[n * cols], cols);
    Vec dz(cols);
    for (int64_t c = 0; c < cols; ++c) {
      const double z = norm.xhat[c] * scale[c] + bias[c];
      r.y.push_back(test::silu(z));
      dz[c] = dy[n * cols + c] * silu_slope(z);
    }
    const Vec dx = layer_norm_backward(norm, dz, scale, r.dscale, r.dbias);
    r.dx.insert(r.dx.end(), dx.begin(), dx.end());
  }
  return r;
}

struct NormAct : ShapeTest {};

TEST_P(NormAct, MatchesReference) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols] = shape;
  const int64_t size = rows * cols;
  Buffer x(normals(size, 1, 2, 0.5), dtype), dy(normals(size, 2), dtype);
  Buffer scale(normals(cols, 3, 0.3, 1)), bias(normals(cols, 4, 0.3));
  const Reference want = reference(x.values(), dy.values(), scale.values(), bias.values(), rows, cols);
  const double tolerance = rounding(dtype, 3e-6);
  for_each_schedule([&] {
    const int64_t parts = norm_act_parts(rows, cols);
    Buffer y(size, dtype), mean(rows), rstd(rows), dx(size, dtype), dscale(cols), dbias(cols),
        partial(parts * 2 * cols);
    launch_norm_act_fwd({x, scale, bias, y, mean, rstd, rows, cols, dtype}, STREAM);
    launch_norm_act_bwd({dy, x, mean, rstd, scale, bias, dx, dscale, dbias, partial, parts, rows, cols, dtype}, STREAM);
    expect_close(y, want.y, tolerance, cols, "y");
    expect_close(dx, want.dx, tolerance, cols, "dx");
    expect_close(dscale, want.dscale, 5e-6, cols, "dscale");
    expect_close(dbias, want.dbias, 5e-6, cols, "dbias");
    return bits_of(y, dx, dscale, dbias);
  });
}

// Every tile (lanes x loads) in both dtypes, full and partly filled; odd, tiny and long rows; rows that fill
// no block.
HD_SHAPES(NormAct, Shape{1, 1}, Shape{3, 3}, Shape{5, 8}, Shape{130, 16}, Shape{70, 32}, Shape{33, 40}, Shape{9, 64},
          Shape{9, 128}, Shape{2, 129}, Shape{17, 256}, Shape{3, 512}, Shape{5, 520}, Shape{20, 1024}, Shape{2, 1032},
          Shape{3, 1023}, Shape{7, 31});

TEST(NormActEdges, NoRowsGiveZeroParameterGradients) {
  Buffer scale(Vec(16, 1.0)), bias(Vec(16, 0.0)), dscale(16), dbias(16), partial(32);
  launch_norm_act_fwd({nullptr, scale, bias, nullptr, nullptr, nullptr, 0, 16, DType::F32}, STREAM);
  launch_norm_act_bwd({nullptr, nullptr, nullptr, nullptr, scale, bias, nullptr, dscale, dbias, partial,
                       norm_act_parts(0, 16), 0, 16, DType::F32},
                      STREAM);
  EXPECT_EQ(dscale.values(), Vec(16, 0.0));
  EXPECT_EQ(dbias.values(), Vec(16, 0.0));
}

TEST(NormActEdges, ConstantAndHugeRowsStayFinite) {
  Vec values(2 * 64, 3e4);
  for (int64_t c = 0; c < 64; ++c) values[64 + c] = c % 2 ? 1e6 : -1e6;
  Buffer x(values), scale(Vec(64, 1.0)), bias(Vec(64, 0.0)), y(128), mean(2), rstd(2);
  use(SCHEDULES[0]);
  launch_norm_act_fwd({x, scale, bias, y, mean, rstd, 2, 64, DType::F32}, STREAM);
  for (int64_t c = 0; c < 64; ++c) EXPECT_EQ(y[c], 0.f);
  for (int64_t c = 0; c < 64; ++c) EXPECT_NEAR(y[64 + c], c % 2 ? 0.7310586f : -0.2689414f, 1e-6);
}

// Pointers that are not 16-byte aligned take the row kernels and give the same numbers.
TEST(NormActEdges, UnalignedRows) {
  const int64_t rows = 3, cols = 32;
  Buffer x(normals(rows * cols + 1, 7)), scale(normals(cols, 8)), bias(normals(cols, 9)), y(rows * cols + 1),
      mean(rows), rstd(rows);
  const Vec all = x.values();
  const Vec shifted(all.begin() + 1, all.end());
  const Reference want = reference(shifted, shifted, scale.values(), bias.values(), rows, cols);
  use(SCHEDULES[0]);
  launch_norm_act_fwd({x + 1, scale, bias, y + 1, mean, rstd, 3, 32, DType::F32}, STREAM);
  const Vec got = y.values();
  expect_close(Vec(got.begin() + 1, got.end()), want.y, 3e-6, cols, "y");
}

}  // namespace
