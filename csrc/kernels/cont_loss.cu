// Launchers of cont_loss.
#include "kernels/cont_loss.cuh"

namespace hd {

void launch_cont_loss_fwd(const ContLossArgs& a, hdStream stream) {
  if (a.size == 0) return;
  HD_LAUNCH(cont_loss_fwd_kernel, unsigned(ceil_div(a.size, CONT_THREADS)), CONT_THREADS, 0, stream, a);
}

void launch_cont_loss_bwd(const ContLossArgs& a, hdStream stream) {
  if (a.size == 0) return;
  HD_LAUNCH(cont_loss_bwd_kernel, unsigned(ceil_div(a.size, CONT_THREADS)), CONT_THREADS, 0, stream, a);
}

}  // namespace hd
