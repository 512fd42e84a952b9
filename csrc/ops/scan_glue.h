// scan_glue.h -- what the sequence ops share: torch's threads as the CPU code's pool, and lists of parameters.
#pragma once

#include <vector>

#include "cpu/scan.h"
#include "ops/glue.h"

namespace hd::ops {

inline cpu::Pool torch_pool() {
  return {[](int64_t n, int64_t grain, const cpu::Range& body) { parallel(n, grain, body); },
          int(torch::stable::get_num_threads())};
}

// float32, contiguous, on the CPU and of the given shape.
inline const float* take(const Tensor& t, std::initializer_list<int64_t> shape, const char* what) {
  HD_CHECK(!t.is_cuda() && t.is_contiguous(), what, " must be contiguous and on the CPU");
  check_type(t, ScalarType::Float, what);
  check_shape(t, shape, what);
  return in(t);
}

constexpr size_t kRssmParameters = 17;

// Parameters in the order of hdfast/ops/observe_scan.py, PARAMETERS.
inline cpu::Rssm rssm(const std::vector<Tensor>& p, const cpu::Sizes& z, bool posterior, const char* what) {
  HD_CHECK(p.size() == kRssmParameters, what, ": needs 17 parameters");
  const int64_t d = z.deter, u = z.units, n = z.latent();
  cpu::Rssm r;
  r.initial = take(p[0], {d}, what);
  r.img_in = {take(p[1], {n + z.actions, u}, what), take(p[2], {u}, what), take(p[3], {u}, what)};
  r.gru = {take(p[4], {d + u, 3 * d}, what), take(p[5], {3 * d}, what), take(p[6], {3 * d}, what)};
  r.img_out = {take(p[7], {d, u}, what), take(p[8], {u}, what), take(p[9], {u}, what)};
  r.img_stats = {take(p[10], {u, n}, what), take(p[11], {n}, what)};
  if (posterior) r.obs_out = {take(p[12], {d + z.embed, u}, what), take(p[13], {u}, what), take(p[14], {u}, what)};
  if (posterior) r.obs_stats = {take(p[15], {u, n}, what), take(p[16], {n}, what)};
  return r;
}

inline void check_indices(const Tensor& t, std::initializer_list<int64_t> shape, int64_t below, const char* what) {
  HD_CHECK(!t.is_cuda() && t.is_contiguous(), what, " must be contiguous and on the CPU");
  check_type(t, ScalarType::Long, what);
  check_shape(t, shape, what);
  const int64_t* p = in<int64_t>(t);
  for (int64_t i = 0; i < int64_t(t.numel()); ++i)
    HD_CHECK(p[i] >= 0 && p[i] < below, what, " is out of range");
}

inline Tensor zeros(const Tensor& like, std::initializer_list<int64_t> shape) {
  Tensor t = empty(like, shape);
  return torch::stable::zero_(t);
}

}  // namespace hd::ops
