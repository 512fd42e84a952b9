// Launcher of return_range.
#include "kernels/return_range.cuh"

namespace hd {

void launch_return_range(const ReturnRangeArgs& args, hdStream stream) {
  HD_LAUNCH(return_range_kernel, 1, RANGE_THREADS, 0, stream, args);
}

}  // namespace hd
