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
inline const float* take(const Tensor& t, std::initializer_list<int64_t> shape, const char* what) {
  check_host(t, what);
  check_type(t, ScalarType::Float, what);
  check_shape(t, shape, what);
  return in(t);
}

constexpr size_t kRssmParameters = 17;

// The list has the right length, and those tensors that sizes are read from are matrices.
inline void check_parameters(const std::vector<Tensor>& p, std::initializer_list<size_t> matrices, const char* what) {
  HD_CHECK(p.size() == kRssmParameters, what, " must be ", kRssmParameters, " tensors, got ", p.size(),
           "; hdfast.ops.observe_scan.PARAMETERS lists them");
  for (size_t i : matrices) {
    HD_CHECK(p[i].dim() == 2, what, "[", i, "] must be a matrix", got(p[i]));
    check_sizes(p[i], what);
  }
}

// Parameters in the order of hdfast/ops/observe_scan.py, PARAMETERS.
inline cpu::Rssm rssm(const std::vector<Tensor>& p, const cpu::Sizes& z, bool posterior, const char* what) {
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
  check_host(t, what);
  check_type(t, ScalarType::Long, what);
  check_shape(t, shape, what);
  const int64_t* p = in<int64_t>(t);
  for (int64_t i = 0; i < int64_t(t.numel()); ++i)
    HD_CHECK(p[i] >= 0 && p[i] < below, what,
             " is out of range: must be 0 to ", below - 1, ", got ", p[i]);
}

// A matrix of any strides, on the CPU.
inline void check_matrix(const Tensor& t, const char* what) {
  HD_CHECK(!t.is_cuda() && t.dim() == 2, what, " must be a matrix on cpu", got(t));
  check_sizes(t, what);
}

// Of a product with model states: deter (N, D), index (N, S) below classes, kernel (D + S*K, C).
inline cpu::Sizes state_sizes(const Tensor& deter, const Tensor& index, const Tensor& kernel, int64_t classes,
                              const char* what) {
  HD_CHECK(deter.dim() == 2 && index.dim() == 2 && kernel.dim() == 2, what,
           ": deter, index and kernel must have 2 dimensions, got ", deter.dim(), ", ", index.dim(), " and ",
           kernel.dim(), "; reshape them");
  for (const Tensor& t : {deter, index, kernel}) check_sizes(t, what);
  HD_CHECK(classes >= 1 && classes <= kernel.size(0), what, ": classes must be 1 to ", kernel.size(0),
           ", the rows of kernel, got ", classes);
  times(index.size(1), classes, what);
  check_indices(index, {deter.size(0), index.size(1)}, classes, (std::string(what) + ": index").c_str());
  return {0, 0, deter.size(1), 0, index.size(1), classes, 0.0f};
}

inline Tensor zeros(const Tensor& like, std::initializer_list<int64_t> shape) {
  Tensor t = empty(like, shape);
  return torch::stable::zero_(t);
}

}  // namespace hd::ops
