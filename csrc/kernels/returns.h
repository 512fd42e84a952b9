// returns.h -- lambda returns and state weights of imagined trajectories: arguments and entry points.
//
//   R_h = r_{h+1} + d_{h+1} ((1 - lam) v_{h+1} + lam R_{h+1}),  d = gamma cont,  R_H = v_H,  h = H-1 .. 0
//   backward: g_h = dR_h + lam d_h g_{h-1}, g_{-1} = 0;   dreward_{h+1} = g_h
//             dvalue_{h+1} = (1 - lam) d_{h+1} g_h  (v_H: + lam d_H g_{H-1}),  dvalue_0 = 0
//             dcont_{h+1} = gamma g_h ((1 - lam) v_{h+1} + lam R_{h+1})
//   weight_h = prod_{j <= h} (gamma c_j) / gamma
//   backward: dcont_h = gamma weight_{h-1} tail_h, weight_{-1} = 1 / gamma: no division by a cont of zero
//             tail_h = dw_h + gamma c_{h+1} tail_{h+1}
//
// Everything is [time, n], one column per trajectory; 16 B a cell, in order, nothing kept but inputs and
// outputs.
#pragma once
#include "kernels/types.h"

namespace hd {

struct LambdaReturnArgs {
  const float* reward;  // [horizon, n] forward only
  const float* value;   // [horizon + 1, n]
  const float* cont;    // [horizon + 1, n]
  float* ret;           // [horizon, n] out in the forward, in in the backward
  const float* dret;    // [horizon, n] backward only, as are the gradients
  float* dreward;       // [horizon, n]
  float* dvalue;        // [horizon + 1, n]
  float* dcont;         // [horizon + 1, n]
  int64_t horizon, n;
  float gamma, lam, rest;  // rest = 1 - lam, subtracted in double
};

struct ReturnWeightArgs {
  const float* cont;     // [time, n]
  float* weight;         // [time, n] out in the forward, in in the backward
  const float* dweight;  // [time, n] backward only, as is dcont
  float* dcont;          // [time, n]
  int64_t time, n;
  float gamma;
};

// Ranges are of columns.
HD_ENTRY(lambda_return_fwd, LambdaReturnArgs)
HD_ENTRY(lambda_return_bwd, LambdaReturnArgs)
HD_ENTRY(return_weight_fwd, ReturnWeightArgs)
HD_ENTRY(return_weight_bwd, ReturnWeightArgs)

}  // namespace hd
