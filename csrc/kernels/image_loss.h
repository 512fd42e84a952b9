// image_loss.h -- squared error summed over the pixels of an image: arguments and entry points.
//
//   loss_n = sum_i (recon_ni - image_ni)^2;   backward: drecon = 2 dloss_n (recon - image), dimage = -drecon
//
// Images are in [0, 1] units, residuals in fp32. Bytes a pixel value: 8 read forward, 8 read and 4 written
// backward. Saved for backward: the inputs as they are.
#pragma once
#include "kernels/types.h"

namespace hd {

struct ImageLossArgs {
  const float* recon;  // [rows, cols], cols = h w c
  const float* image;  // [rows, cols]
  const float* dloss;  // [rows] backward only
  float* loss;         // [rows] forward only
  float* drecon;       // [rows, cols] backward only
  int64_t rows, cols;
};

// Ranges are of rows.
HD_ENTRY(image_loss_fwd, ImageLossArgs)
HD_ENTRY(image_loss_bwd, ImageLossArgs)

}  // namespace hd
