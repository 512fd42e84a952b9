// Launchers of cont_loss.
#include "kernels/cont_loss.cuh"
#include "kernels/launcher.cuh"

namespace hd {

HD_LAUNCHER(cont_loss_fwd, ContLossArgs, cont_loss_fwd_kernel, size, CONT_THREADS, CONT_THREADS)
HD_LAUNCHER(cont_loss_bwd, ContLossArgs, cont_loss_bwd_kernel, size, CONT_THREADS, CONT_THREADS)

}  // namespace hd
