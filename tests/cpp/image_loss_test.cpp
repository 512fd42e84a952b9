// image_loss_test.cpp -- the image_loss kernels against double precision, aligned and odd sizes, under every
// schedule.
#include "kernels/image_loss.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

// `recon` is a part of a buffer that starts `offset` numbers before.
void check(int64_t rows, int64_t cols, int64_t offset = 0) {
  const Vec x = normals(rows * cols, 1), y = normals(rows * cols, 2), up = normals(rows, 3);
  Vec loss(rows), grad(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    loss[i / cols] += (x[i] - y[i]) * (x[i] - y[i]);
    grad[i] = 2 * up[i / cols] * (x[i] - y[i]);
  }
  for_each_schedule([&] {
    Vec shifted(offset);
    shifted.insert(shifted.end(), x.begin(), x.end());
    Buffer recon(shifted), image(y), d(up), out(rows), dx(rows * cols);
    const ImageLossArgs a{recon + offset, image, d, out, dx, rows, cols};
    launch_image_loss_fwd(a, STREAM);
    launch_image_loss_bwd(a, STREAM);
    expect_close(out, loss, 1e-6, 1, "loss");
    expect_close(dx, grad, 1e-6, cols, "drecon");
    return bits_of(out, dx);
  });
}

TEST(ImageLoss, MatchesReference) {
  check(1, 1);
  check(3, 75);
  check(2, 1024);
  check(2, 3076);
}
// Four floats at once would be a fault on the device, which the sanitizer of undefined behavior sees here.
TEST(ImageLoss, RowsOffSixteenBytes) { check(2, 1024, 1); }

}  // namespace
