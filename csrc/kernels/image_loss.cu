// Launchers of image_loss.
#include "kernels/image_loss.cuh"
#include "kernels/launcher.cuh"

namespace hd {

HD_LAUNCHER(image_loss_fwd, ImageLossArgs, image_loss_fwd_kernel, rows, 1, IMAGE_THREADS)
HD_LAUNCHER(image_loss_bwd, ImageLossArgs, image_loss_bwd_kernel, rows, 1, IMAGE_THREADS)

}  // namespace hd
