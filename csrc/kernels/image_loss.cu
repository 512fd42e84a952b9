// Launchers of image_loss.
#include "kernels/image_loss.cuh"

namespace hd {

void launch_image_loss_fwd(const ImageLossArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(image_loss_fwd_kernel, unsigned(a.rows), IMAGE_THREADS, 0, stream, a);
}

void launch_image_loss_bwd(const ImageLossArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(image_loss_bwd_kernel, unsigned(a.rows), IMAGE_THREADS, 0, stream, a);
}

}  // namespace hd
