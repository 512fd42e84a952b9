// Launchers of adam.
#include "kernels/adam.cuh"

namespace hd {

void launch_adam(const AdamArgs& args, hdStream stream) {
  const int64_t blocks = adam_blocks(args.size);
  if (blocks > 0) HD_LAUNCH(adam_norm_kernel, unsigned(blocks), ADAM_THREADS, 0, stream, args);
  HD_LAUNCH(adam_finish_kernel, 1, ADAM_FINISH_THREADS, 0, stream, args, blocks);
  if (blocks > 0) HD_LAUNCH(adam_apply_kernel, unsigned(blocks), ADAM_THREADS, 0, stream, args);
}

}  // namespace hd
