// Launcher of replay_gather.
#include "kernels/replay_gather.cuh"

namespace hd {

void launch_replay_gather(const ReplayGatherArgs& a, hdStream stream) {
  if (a.rows == 0 || a.cols == 0) return;
  HD_LAUNCH(replay_gather_kernel, unsigned(a.rows), GATHER_THREADS, 0, stream, a);
}

}  // namespace hd
