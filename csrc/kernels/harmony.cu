// Launchers of harmony.
#include "kernels/harmony.cuh"

namespace hd {

void launch_harmony_fwd(const HarmonyArgs& args, hdStream stream) {
  const int warps = HARMONY_WARPS / args.losses * args.losses;  // as many for each loss
  HD_LAUNCH(harmony_fwd_kernel, 1, 32 * warps, 0, stream, args);
}

void launch_harmony_bwd(const HarmonyArgs& args, hdStream stream) {
  HD_LAUNCH(harmony_bwd_kernel, 1, 1, 0, stream, args);
}

}  // namespace hd
