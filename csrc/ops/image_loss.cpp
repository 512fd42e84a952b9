// image_loss.cpp -- squared error per image as torch ops; the equations are in kernels/image_loss.h.
#include "kernels/image_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

ImageLossArgs image_args(const Tensor& recon, const Tensor& image) {
  HD_CHECK(recon.dim() >= 3, "recon must be (..., h, w, c)", got(recon));
  ImageLossArgs args{};
  HD_TAKE(args, recon, recon), HD_TAKE(args, image, recon);
  args.rows = rows(recon, 3), args.cols = 1;
  for (int64_t d = recon.dim() - 3; d < recon.dim(); ++d) args.cols = times(args.cols, recon.size(d), "recon");
  return args;
}

// recon, image (..., h, w, c) -> loss (...)
HD_OP(Tensor, image_loss_fwd, (Tensor recon, Tensor image)) {
  ImageLossArgs args = image_args(recon, image);
  Tensor loss = new_rows(recon, args.loss, 3);
  HD_RUN(image_loss_fwd, recon, args, args.rows, args.cols / 2);
  return loss;
}

// dloss (...), recon, image (..., h, w, c) -> drecon (..., h, w, c)
HD_OP(Tensor, image_loss_bwd, (Tensor dloss, Tensor recon, Tensor image)) {
  ImageLossArgs args = image_args(recon, image);
  HD_TAKE_ROWS(args, dloss, recon, 3);
  Tensor drecon = new_like(recon, args.drecon);
  HD_RUN(image_loss_bwd, recon, args, args.rows, args.cols / 2);
  return drecon;
}

}  // namespace
}  // namespace hd::ops
