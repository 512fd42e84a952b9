// Launchers of actor_loss.
#include "kernels/actor_loss.cuh"
#include "kernels/launcher.cuh"

namespace hd {

HD_LAUNCHER(actor_loss_fwd, ActorLossArgs, actor_loss_fwd_kernel, rows, ACTOR_ROWS, ACTOR_THREADS)
HD_LAUNCHER(actor_loss_bwd, ActorLossArgs, actor_loss_bwd_kernel, rows, ACTOR_ROWS, ACTOR_THREADS)

}  // namespace hd
