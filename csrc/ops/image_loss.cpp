// image_loss.cpp -- squared error per image as torch ops; the math stands in kernels/image_loss.h.
#include "kernels/image_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

ImageLossArgs checked(const Tensor& recon, const Tensor& image) {
  HD_CHECK(recon.dim() == 2, "image_loss: recon must be (rows, pixels)", got(recon));
  for (const Tensor& t : {recon, image}) {
    check_float(t, recon, "image_loss: recon or image");
    check_same_shape(t, recon, "image_loss: recon or image");
  }
  ImageLossArgs args{};
  args.recon = in(recon), args.image = in(image), args.rows = rows(recon), args.cols = cols(recon);
  return args;
}

// recon, image (N, P) -> loss (N,)
Tensor image_loss_fwd(Tensor recon, Tensor image) {
  ImageLossArgs args = checked(recon, image);
  Tensor loss = new_rows(recon);
  args.loss = out(loss);
  run(
      recon, [&](auto stream) { launch_image_loss_fwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, args.cols / 2,
                      [&](int64_t begin, int64_t end) { cpu::image_loss_fwd(args, begin, end); });
      });
  return loss;
}

// dloss (N,), recon, image (N, P) -> drecon (N, P)
Tensor image_loss_bwd(Tensor dloss, Tensor recon, Tensor image) {
  ImageLossArgs args = checked(recon, image);
  check_tensor(dloss, {args.rows}, recon, "image_loss_bwd: dloss");
  Tensor drecon = new_like(recon);
  args.dloss = in(dloss), args.drecon = out(drecon);
  run(
      recon, [&](auto stream) { launch_image_loss_bwd(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, args.cols / 2,
                      [&](int64_t begin, int64_t end) { cpu::image_loss_bwd(args, begin, end); });
      });
  return drecon;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("image_loss_fwd(Tensor recon, Tensor image) -> Tensor");
  m.def("image_loss_bwd(Tensor dloss, Tensor recon, Tensor image) -> Tensor");
}

HD_IMPLEMENT(m) {
  m.impl("image_loss_fwd", HD_BOX(hd::ops::image_loss_fwd));
  m.impl("image_loss_bwd", HD_BOX(hd::ops::image_loss_bwd));
}
