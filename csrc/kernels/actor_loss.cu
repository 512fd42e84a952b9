// Launchers of actor_loss.
#include "kernels/actor_loss.cuh"

namespace hd {

void launch_actor_loss_fwd(const ActorLossArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(actor_loss_fwd_kernel, unsigned((a.rows + ACTOR_ROWS - 1) / ACTOR_ROWS), ACTOR_THREADS, 0, stream,
            a);
}

void launch_actor_loss_bwd(const ActorLossArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(actor_loss_bwd_kernel, unsigned((a.rows + ACTOR_ROWS - 1) / ACTOR_ROWS), ACTOR_THREADS, 0, stream,
            a);
}

}  // namespace hd
