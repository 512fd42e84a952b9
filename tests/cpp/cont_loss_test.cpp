// cont_loss_test.cpp -- the cont_loss kernels against double precision, under every schedule.
#include "kernels/cont_loss.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

TEST(ContLoss, MatchesReference) {
  const int64_t size = 300;
  const Vec logit = normals(size, 1, 8), up = normals(size, 2);
  Vec cont(size), loss(size), grad(size);
  for (int64_t i = 0; i < size; ++i) {
    cont[i] = double(i % 2);
    const double z = cont[i] > 0.5 ? -logit[i] : logit[i];
    loss[i] = std::log1p(std::exp(z));
    grad[i] = up[i] * (cont[i] > 0.5 ? -1 : 1) / (1 + std::exp(-z));
  }
  for_each_schedule([&] {
    Buffer l(logit), c(cont), d(up), out(size), dl(size);
    launch_cont_loss_fwd({l, c, nullptr, out, size}, STREAM);
    launch_cont_loss_bwd({l, c, d, dl, size}, STREAM);
    expect_close(out, loss, 1e-6, 1, "loss");
    expect_close(dl, grad, 3e-6, 1, "dlogit");
    return bits_of(out, dl);
  });
}

}  // namespace
