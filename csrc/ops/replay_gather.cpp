// replay_gather.cpp -- rows of the frame ring as normalized floats, as a torch op; see kernels/replay_gather.h.
#include "kernels/replay_gather.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// ring (R, P) uint8, index (N,) int64 -> (N, P) float32 in [0, 1]
HD_OP(Tensor, replay_gather, (Tensor ring, Tensor index)) {
  HD_CHECK(ring.dim() == 2 && index.dim() == 1, "ring must be (rows, pixels), index (n,)", got(ring, index));
  const uint8_t* pixels = take<uint8_t>(ring, {ring.size(0), ring.size(1)}, ring, "ring");
  const int64_t* places = take<int64_t>(index, {index.size(0)}, ring, "index");
  Tensor result = empty(ring, {index.size(0), cols(ring)});
  const ReplayGatherArgs args{pixels, places, out(result), index.size(0), cols(ring), ring.size(0)};
  HD_RUN(replay_gather, ring, args, args.rows, args.cols / 2);
  return result;
}

}  // namespace
}  // namespace hd::ops
