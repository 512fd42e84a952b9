// replay_gather.h -- rows of the uint8 frame ring as normalized floats: arguments and entry points.
//
//   out[n] = ring[rows[n]] / 255      (channels last, as stored)
//
// 1 B read and 4 written per pixel value. Not differentiable.
#pragma once
#include "kernels/types.h"

namespace hd {

struct ReplayGatherArgs {
  const uint8_t* ring;   // [capacity, cols], cols = h w c
  const int64_t* index;  // [rows] of ring; outside [0, capacity) gives NaN
  float* out;            // [rows, cols]
  int64_t rows, cols, capacity;
};

// Ranges are of rows.
HD_ENTRY(replay_gather, ReplayGatherArgs)

}  // namespace hd
