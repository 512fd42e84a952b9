// gru_gates_test.cpp -- the gru_gates kernels against a double-precision reference under every schedule.
#include "kernels/gru_gates.h"

#include "layer_norm.h"
#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

double sig(double x) { return 1 / (1 + std::exp(-x)); }

struct Reference {
  Vec next, dx, ddeter, dscale, dbias;
};

// The definition of gru_gates.h in double. The gates' derivatives are taken by central differences of the
// cell, so they share nothing with the kernel's formulas.
Reference reference(const Vec& x, const Vec& deter, const Vec& dnext, const Vec& scale, const Vec& bias, int64_t rows,
                    int64_t size) {
  const int64_t all = 3 * size;
  Reference r{Vec(rows * size), {}, Vec(rows * size), Vec(all), Vec(all)};
  auto cell = [](const double* z, double h) {
    const double u = sig(z[2] - 1);
    return u * std::tanh(sig(z[0]) * z[1]) + (1 - u) * h;
  };
  for (int64_t n = 0; n < rows; ++n) {
    const Norm norm = layer_norm(&x[n * all], all);
    Vec dz(all);
    for (int64_t c = 0; c < size; ++c) {
      double z[3];
      for (int64_t g = 0; g < 3; ++g) z[g] = norm.xhat[g * size + c] * scale[g * size + c] + bias[g * size + c];
      const double h = deter[n * size + c], d = dnext[n * size + c], step = 1e-5;
      r.next[n * size + c] = cell(z, h);
      r.ddeter[n * size + c] = d * (cell(z, h + 1) - cell(z, h));
      for (int64_t g = 0; g < 3; ++g) {
        double up[3] = {z[0], z[1], z[2]}, down[3] = {z[0], z[1], z[2]};
        up[g] += step, down[g] -= step;
        dz[g * size + c] = d * (cell(up, h) - cell(down, h)) / (2 * step);
      }
    }
    const Vec dx = layer_norm_backward(norm, dz, scale, r.dscale, r.dbias);
    r.dx.insert(r.dx.end(), dx.begin(), dx.end());
  }
  return r;
}

struct GruGates : ShapeTest {};

TEST_P(GruGates, MatchesReference) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, size] = shape;
  Buffer x(normals(rows * 3 * size, 1, 2, -0.5), dtype), deter(normals(rows * size, 2, 0.5)),
      dnext(normals(rows * size, 3));
  Buffer scale(normals(3 * size, 4, 0.3, 1)), bias(normals(3 * size, 5, 0.3));
  const Reference want =
      reference(x.values(), deter.values(), dnext.values(), scale.values(), bias.values(), rows, size);
  for_each_schedule([&] {
    const int64_t n = rows, d = size, parts = gru_gates_parts(n, d);
    Buffer next(rows * size), copy(rows * size, dtype), mean(rows), rstd(rows), dx(rows * 3 * size, dtype),
        ddeter(rows * size);
    Buffer dscale(3 * size), dbias(3 * size), partial(parts * 6 * size);
    launch_gru_gates_fwd({x, deter, scale, bias, next, copy, mean, rstd, n, d, dtype}, STREAM);
    launch_gru_gates_bwd(
        {dnext, x, deter, mean, rstd, scale, bias, dx, ddeter, dscale, dbias, partial, parts, n, d, dtype}, STREAM);
    expect_close(next, want.next, 3e-6, size, "next");
    expect_close(copy, want.next, rounding(dtype, 3e-6), size, "next_copy");
    expect_close(dx, want.dx, rounding(dtype, 5e-6), 3 * size, "dx");
    expect_close(ddeter, want.ddeter, 3e-6, size, "ddeter");
    expect_close(dscale, want.dscale, 5e-6, 3 * size, "dscale");
    expect_close(dbias, want.dbias, 5e-6, 3 * size, "dbias");
    return bits_of(next, copy, dx, ddeter, dscale, dbias);
  });
}

HD_SHAPES(GruGates, Shape{1, 1}, Shape{5, 3}, Shape{4, 8}, Shape{13, 128}, Shape{6, 132}, Shape{3, 127}, Shape{9, 512},
          Shape{1, 2048}, Shape{1, 2052});

// A float32 step with bfloat16 operands: the copy goes into a wider buffer, dx is rounded, the sums stay apart.
TEST(GruGatesEdges, OperandsOfAStep) {
  for (int64_t size : {8, 7}) {
    const int64_t rows = 3, stride = size + 8;
    Buffer x(normals(rows * 3 * size, 1)), deter(normals(rows * size, 2)), dnext(normals(rows * size, 3)),
        scale(normals(3 * size, 4, 0.3, 1)), bias(normals(3 * size, 5, 0.3));
    const Reference want =
        reference(x.values(), deter.values(), dnext.values(), scale.values(), bias.values(), rows, size);
    for_each_schedule([&] {
      Buffer next(rows * size), copy(rows * stride, DType::BF16), mean(rows), rstd(rows),
          dx(rows * 3 * size, DType::BF16), ddeter(rows * size), partial(rows * 6 * size);
      launch_gru_gates_fwd({x, deter, scale, bias, next, copy, mean, rstd, rows, size, DType::F32, stride, DType::BF16},
                           STREAM);
      launch_gru_gates_bwd({dnext, x, deter, mean, rstd, scale, bias, dx, ddeter, nullptr, nullptr, partial, rows, rows,
                            size, DType::F32, DType::BF16},
                           STREAM);
      Vec rows_of_copy, dscale(3 * size);
      for (int64_t i = 0; i < rows * size; ++i) rows_of_copy.push_back(copy.values()[i / size * stride + i % size]);
      for (int64_t i = 0; i < rows * 3 * size; ++i)
        dscale[i % (3 * size)] += partial.values()[i / (3 * size) * 6 * size + i % (3 * size)];
      EXPECT_TRUE(std::isnan(copy.values()[size]));
      expect_close(rows_of_copy, want.next, rounding(DType::BF16, 3e-6), size, "copy");
      expect_close(dx, want.dx, rounding(DType::BF16, 5e-6), 3 * size, "dx");
      expect_close(dscale, want.dscale, 5e-6, 3 * size, "dscale");
      return bits_of(next, copy, dx, partial);
    });
  }
}

TEST(GruGatesEdges, NoRowsGiveZeroParameterGradients) {
  Buffer scale(Vec(24, 1.0)), bias(Vec(24, 0.0)), dscale(24), dbias(24), partial(48);
  GruGatesBwdArgs args{};
  args.scale = scale, args.bias = bias, args.dscale = dscale, args.dbias = dbias;
  args.partial = partial, args.parts = gru_gates_parts(0, 8), args.size = 8;
  launch_gru_gates_bwd(args, STREAM);
  EXPECT_EQ(dscale.values(), Vec(24, 0.0));
  EXPECT_EQ(dbias.values(), Vec(24, 0.0));
}

}  // namespace
