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

inline void check_host(const Tensor& t, const char* what) {
  HD_CHECK(!t.is_cuda(), what, " must be on cpu, got ", device_of(t), "; move it there");
  check_contiguous(t, what);
}

// float32, contiguous, on the CPU and of the given shape.
inline const float* host(const Tensor& t, Shape shape, const char* what) {
  check_host(t, what);
  return take(t, shape, t, what);
}
inline const float* host(const Maybe& t, Shape shape, const char* what) { return t ? host(*t, shape, what) : nullptr; }
// The same of bf16, too, if `type` is.
inline const void* host_as(DType type, const Tensor& t, Shape shape, const char* what) {
  if (type == DType::F32) return host(t, shape, what);
  check_host(t, what);
  storage(t, what);
  check_shape(t, shape, what);
  return in<void>(t);
}
inline ScalarType type_of(bool half) { return half ? ScalarType::BFloat16 : ScalarType::Float; }

constexpr size_t kRssmParameters = 17;

// The list has the right length, and those tensors that sizes are read from are matrices.
inline void check_parameters(const Tensors& p, std::initializer_list<size_t> matrices) {
  HD_CHECK(p.size() == kRssmParameters, "params must be ", kRssmParameters, " tensors, got ", p.size(),
           "; hdfast.ops.observe_scan.PARAMETERS lists them");
  for (size_t i : matrices) {
    HD_CHECK(p[i].dim() == 2, "params[", i, "] must be a matrix", got(p[i]));
    check_sizes(p[i], "params");
  }
}

// Parameters in the order of hdfast/ops/observe_scan.py, PARAMETERS.
inline cpu::Rssm rssm(const Tensors& p, const cpu::Sizes& z, bool posterior) {
  const int64_t d = z.deter, u = z.units, n = z.latent();
  const auto of = [&](size_t i, Shape shape) { return host(p[i], shape, "params"); };
  cpu::Rssm r;
  r.initial = of(0, {d});
  r.img_in = {of(1, {n + z.actions, u}), of(2, {u}), of(3, {u})};
  r.gru = {of(4, {d + u, 3 * d}), of(5, {3 * d}), of(6, {3 * d})};
  r.img_out = {of(7, {d, u}), of(8, {u}), of(9, {u})};
  r.img_stats = {of(10, {u, n}), of(11, {n})};
  if (posterior) r.obs_out = {of(12, {d + z.embed, u}), of(13, {u}), of(14, {u})};
  if (posterior) r.obs_stats = {of(15, {u, n}), of(16, {n})};
  return r;
}

inline const int64_t* indices(const Tensor& t, Shape shape, int64_t below, const char* what) {
  check_host(t, what);
  const int64_t* p = take<int64_t>(t, shape, t, what);
  for (int64_t i = 0; i < int64_t(t.numel()); ++i)
    HD_CHECK(p[i] >= 0 && p[i] < below, what, " is out of range: must be 0 to ", below - 1, ", got ", p[i]);
  return p;
}

inline Tensor zeros(const Tensor& like, Shape shape) {
  Tensor t = empty(like, shape);
  return torch::stable::zero_(t);
}

}  // namespace hd::ops
