// vector_loss_test.cpp -- the vector_loss kernels against double precision, with errors that do not count, under every
// schedule.
#include "kernels/vector_loss.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

void check(int64_t rows, int64_t cols) {
  const Vec raw = normals(rows * cols, 1, 20), up = normals(rows, 2);
  Vec recon = normals(rows * cols, 3), loss(rows), grad(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    const double target = std::copysign(std::log1p(std::fabs(raw[i])), raw[i]);
    if (i % 3 == 1) recon[i] = target + (i % 2 ? 5e-5 : -5e-5);
    const double e = i % 3 == 1 ? 0 : double(float(recon[i])) - target;
    loss[i / cols] += e * e;
    grad[i] = 2 * up[i / cols] * e;
  }
  for_each_schedule([&] {
    Buffer x(recon), y(raw), d(up), out(rows), dx(rows * cols);
    const VectorLossArgs a{x, y, d, out, dx, rows, cols};
    launch_vector_loss_fwd(a, STREAM);
    launch_vector_loss_bwd(a, STREAM);
    expect_close(out, loss, 1e-6, 1, "loss");
    expect_close(dx, grad, 2e-6, cols, "drecon");
    const Vec got = dx.values();
    for (int64_t i = 1; i < rows * cols; i += 3) EXPECT_EQ(got[i], 0) << "of an error that does not count";
    return bits_of(out, dx);
  });
}

TEST(VectorLoss, MatchesReference) {
  check(1, 1);
  check(3, 5);
  check(9, 32);
  check(5, 67);
}

}  // namespace
