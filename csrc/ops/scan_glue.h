// scan_glue.h -- what the sequence ops share: torch's threads as the CPU code's pool, and lists of parameters.
#pragma once

#include <vector>

#include "cpu/scan.h"
#include "kernels/latent.h"
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

// What the row kernels have room for.
inline void check_classes(int64_t classes) {
  HD_CHECK(classes >= 1 && classes <= LATENT_MAX_CLASSES, "classes must be 1 to ", LATENT_MAX_CLASSES, ", got ",
           classes, "; give the classes of a latent");
}

// What at(place in hdfast/ops/observe_scan.py's PARAMETERS, shape) gives for each parameter, in their order.
template <class T, class At>
cpu::RssmT<T> rssm_of(const cpu::Sizes& z, bool posterior, const At& at) {
  const int64_t d = z.deter, u = z.units, n = z.latent();
  cpu::RssmT<T> r;
  r.initial = at(0, {d});
  r.img_in = {at(1, {n + z.actions, u}), at(2, {u}), at(3, {u})};
  r.gru = {at(4, {d + u, 3 * d}), at(5, {3 * d}), at(6, {3 * d})};
  r.img_out = {at(7, {d, u}), at(8, {u}), at(9, {u})};
  r.img_stats = {at(10, {u, n}), at(11, {n})};
  if (posterior) r.obs_out = {at(12, {d + z.embed, u}), at(13, {u}), at(14, {u})};
  if (posterior) r.obs_stats = {at(15, {u, n}), at(16, {n})};
  return r;
}
inline cpu::Rssm rssm(const Tensors& p, const cpu::Sizes& z, bool posterior) {
  return rssm_of<const float>(z, posterior, [&](size_t i, Shape shape) { return host(p[i], shape, "params"); });
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
