// layer_norm.h -- LayerNorm of a row, and its backward, in double: what the references of several families share.
#pragma once
#include "support.h"

namespace hd::test {

struct Norm {
  Vec xhat;
  double mean = 0, rstd = 0;
};

inline Norm layer_norm(const double* x, int64_t n) {
  Norm out{Vec(n)};
  double var = 0;
  for (int64_t c = 0; c < n; ++c) out.mean += x[c] / double(n);
  for (int64_t c = 0; c < n; ++c) var += (x[c] - out.mean) * (x[c] - out.mean) / double(n);
  out.rstd = 1 / std::sqrt(var + 1e-3);
  for (int64_t c = 0; c < n; ++c) out.xhat[c] = (x[c] - out.mean) * out.rstd;
  return out;
}

// The gradient of x from dz, that of xhat * scale + bias; those of scale and bias are added to.
inline Vec layer_norm_backward(const Norm& norm, const Vec& dz, const Vec& scale, Vec& dscale, Vec& dbias) {
  const int64_t n = dz.size();
  double sum = 0, dot = 0;
  Vec dx(n);
  for (int64_t c = 0; c < n; ++c) {
    dscale[c] += dz[c] * norm.xhat[c], dbias[c] += dz[c];
    sum += dz[c] * scale[c] / double(n), dot += dz[c] * scale[c] * norm.xhat[c] / double(n);
  }
  for (int64_t c = 0; c < n; ++c) dx[c] = norm.rstd * (dz[c] * scale[c] - sum - norm.xhat[c] * dot);
  return dx;
}

// silu(z), and its derivative.
inline double silu(double z) { return z / (1 + std::exp(-z)); }
inline double silu_slope(double z) {
  const double s = 1 / (1 + std::exp(-z));
  return s * (1 + z * (1 - s));
}

}  // namespace hd::test
