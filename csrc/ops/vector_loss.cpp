// vector_loss.cpp -- squared symlog error per vector as torch ops; the equations are in kernels/vector_loss.h.
#include "kernels/vector_loss.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

VectorLossArgs vector_args(const Tensor& recon, const Tensor& vector) {
  HD_CHECK(recon.dim() == 2, "recon must be (rows, features)", got(recon));
  VectorLossArgs args{};
  HD_TAKE(args, recon, recon), HD_TAKE(args, vector, recon);
  args.rows = rows(recon), args.cols = cols(recon);
  return args;
}

// recon, vector (N, F) -> loss (N,)
HD_OP(Tensor, vector_loss_fwd, (Tensor recon, Tensor vector)) {
  VectorLossArgs args = vector_args(recon, vector);
  Tensor loss = new_rows(recon, args.loss);
  HD_RUN(vector_loss_fwd, recon, args, args.rows, 4 * args.cols);
  return loss;
}

// dloss (N,), recon, vector (N, F) -> drecon (N, F)
HD_OP(Tensor, vector_loss_bwd, (Tensor dloss, Tensor recon, Tensor vector)) {
  VectorLossArgs args = vector_args(recon, vector);
  HD_TAKE(args, dloss, {args.rows}, recon);
  Tensor drecon = new_like(recon, args.drecon);
  HD_RUN(vector_loss_bwd, recon, args, args.rows, 4 * args.cols);
  return drecon;
}

}  // namespace
}  // namespace hd::ops
