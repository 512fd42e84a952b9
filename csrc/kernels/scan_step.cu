// Launchers of scan_step.
#include "kernels/scan_step.cuh"

#include <algorithm>

namespace hd {
namespace {

int scan_threads(int64_t vectors) { return int(std::clamp<int64_t>(ceil_div(vectors, 32) * 32, 32, SCAN_THREADS)); }

template <class T, int VEC>
void launch_fwd(const ScanInputFwdArgs& a, const LatentFwdArgs& sample, hdStream stream) {
  const bool gather = a.index != nullptr || a.start_index != nullptr;
  const int threads = gather ? SCAN_THREADS : scan_threads(std::max(a.cols, a.size) / VEC);
  const int64_t rows = gather ? scan_strips(threads, a.cols / VEC) : 1;
  const auto kernel = scan_input_fwd_kernel<T, VEC>;
  HD_LAUNCH(kernel, unsigned(a.rows), threads, size_t(scan_picks(sample.row_groups) + rows * a.cols) * sizeof(float),
            stream, a, sample);
}

template <class T, int VEC>
void launch_bwd(const ScanInputBwdArgs& a, hdStream stream) {
  const auto kernel = scan_input_bwd_kernel<T, VEC>;
  HD_LAUNCH(kernel, unsigned(a.parts), scan_threads(std::max(a.cols, a.size) / VEC), size_t(3 * a.cols) * sizeof(float),
            stream, a);
}

// 16-byte accesses: whole vectors in every row, and bases that are aligned.
template <class... P>
bool vectors(int64_t size, int64_t cols, int64_t stride, const P*... pointers) {
  return size % 4 == 0 && cols % 4 == 0 && stride % 4 == 0 && aligned(16, pointers...);
}

}  // namespace

void launch_scan_input_fwd(const ScanInputFwdArgs& a, const LatentFwdArgs* sample, hdStream stream) {
  if (a.rows == 0 || a.cols == 0) return;
  LatentFwdArgs s{};
  s.row_groups = 0;
  if (sample != nullptr) s = *sample;
  const bool vec = vectors(a.size, a.cols, a.stride, a.deter, a.start, a.kernel, a.action_kernel, a.scale, a.bias,
                           a.pre, a.before, a.joint);
  if (a.dtype == DType::F32) vec ? launch_fwd<float, 4>(a, s, stream) : launch_fwd<float, 1>(a, s, stream);
  else vec ? launch_fwd<bf16, 4>(a, s, stream) : launch_fwd<bf16, 1>(a, s, stream);
}

void launch_scan_input_bwd(const ScanInputBwdArgs& a, hdStream stream) {
  if (a.parts == 0 || a.cols == 0) return;
  const bool vec = vectors(a.size, a.cols, 0, a.djoint, a.direct, a.pre, a.scale, a.bias, a.dpre, a.dmasked, a.dbefore,
                           a.carry, a.partial);
  if (a.dtype == DType::F32) vec ? launch_bwd<float, 4>(a, stream) : launch_bwd<float, 1>(a, stream);
  else vec ? launch_bwd<bf16, 4>(a, stream) : launch_bwd<bf16, 1>(a, stream);
}

}  // namespace hd
