// hd_math.h -- scalar formulas shared by kernels, CPU code and tests: one place for each function and its
// derivative.
//
// fp32 in, fp32 out, no CUDA types: csrc/cpu includes this header alone. The exponentials are the accurate
// ones; the kernels are bandwidth-bound and gain nothing from faster approximations.
#pragma once
#include <cmath>

#include "hd_fn.h"

namespace hd {

HD_FN float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

HD_FN float silu(float y) { return y * sigmoid(y); }

// d silu / dy
HD_FN float silu_grad(float y) {
  float s = sigmoid(y);
  return s * (1.0f + y * (1.0f - s));
}

// log(1 + e^x) without overflow.
HD_FN float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

HD_FN float symlog(float x) { return copysignf(log1pf(fabsf(x)), x); }
HD_FN float symexp(float x) { return copysignf(expm1f(fabsf(x)), x); }

// GRU cell behind the joint LayerNorm: pre-activations (reset, cand, update) and h -> h'.
struct GruCell {
  float reset, cand, update;  // after their non-linearities
  float next;                 // h' = update * cand + (1 - update) * h
};
HD_FN GruCell gru_cell(float reset, float cand, float update, float h) {
  GruCell c;
  c.reset = sigmoid(reset);
  c.cand = tanhf(c.reset * cand);
  c.update = sigmoid(update - 1.0f);
  c.next = c.update * c.cand + (1.0f - c.update) * h;
  return c;
}

// Gradients of gru_cell for its pre-activations and h, given dh'. `cand_pre` is the candidate before its
// tanh.
struct GruGrad {
  float reset, cand, update, h;
};
HD_FN GruGrad gru_cell_grad(const GruCell& c, float cand_pre, float h, float dnext) {
  GruGrad g;
  float dtanh = dnext * c.update * (1.0f - c.cand * c.cand);
  g.reset = dtanh * cand_pre * c.reset * (1.0f - c.reset);
  g.cand = dtanh * c.reset;
  g.update = dnext * (c.cand - h) * c.update * (1.0f - c.update);
  g.h = dnext * (1.0f - c.update);
  return g;
}

}  // namespace hd
