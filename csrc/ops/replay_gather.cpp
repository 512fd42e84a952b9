// replay_gather.cpp -- rows of the frame ring as normalised floats, as a torch op; see
// kernels/replay_gather.h.
#include "kernels/replay_gather.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

// ring (R, P) uint8, index (N,) int64 -> (N, P) float32 in [0, 1]
Tensor replay_gather(Tensor ring, Tensor index) {
  HD_CHECK(ring.dim() == 2 && index.dim() == 1,
           "replay_gather: ring must be (rows, pixels), index (n,)", got(ring, index));
  check_layout(ring, ring, "replay_gather: ring");
  check_type(ring, ScalarType::Byte, "replay_gather: ring");
  check_layout(index, ring, "replay_gather: index");
  check_type(index, ScalarType::Long, "replay_gather: index");
  Tensor result = empty(ring, {index.numel(), cols(ring)});
  const ReplayGatherArgs args{in<uint8_t>(ring), in<int64_t>(index), out(result),
                              index.numel(),     cols(ring),         ring.size(0)};
  run(
      ring, [&](auto stream) { launch_replay_gather(args, stream); },
      [&](auto threads) {
        threads.split(args.rows, args.cols / 2,
                      [&](int64_t begin, int64_t end) { cpu::replay_gather(args, begin, end); });
      });
  return result;
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) { m.def("replay_gather(Tensor ring, Tensor index) -> Tensor"); }

HD_IMPLEMENT(m) { m.impl("replay_gather", HD_BOX(hd::ops::replay_gather)); }
