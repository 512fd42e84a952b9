// image_loss.cpp -- squared error per image as torch ops; the equations are in kernels/image_loss.h.
#include "kernels/image_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

ImageLossArgs image_args(const Tensor& recon, const Tensor& image) {
  HD_CHECK(recon.dim() == 2, "recon must be (rows, pixels)", got(recon));
  ImageLossArgs args{};
  HD_TAKE(args, recon, recon), HD_TAKE(args, image, recon);
  args.rows = rows(recon), args.cols = cols(recon);
  return args;
}

// recon, image (N, P) -> loss (N,)
HD_OP(Tensor, image_loss_fwd, (Tensor recon, Tensor image)) {
  ImageLossArgs args = image_args(recon, image);
  Tensor loss = new_rows(recon, args.loss);
  HD_RUN(image_loss_fwd, recon, args, args.rows, args.cols / 2);
  return loss;
}

// dloss (N,), recon, image (N, P) -> drecon (N, P)
HD_OP(Tensor, image_loss_bwd, (Tensor dloss, Tensor recon, Tensor image)) {
  ImageLossArgs args = image_args(recon, image);
  HD_TAKE(args, dloss, {args.rows}, recon);
  Tensor drecon = new_like(recon, args.drecon);
  HD_RUN(image_loss_bwd, recon, args, args.rows, args.cols / 2);
  return drecon;
}

}  // namespace
}  // namespace hd::ops
