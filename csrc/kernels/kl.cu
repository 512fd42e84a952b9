// Launchers of kl.
#include "kernels/kl.cuh"

namespace hd {

void launch_balanced_kl(const BalancedKlArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  const bool f32 = a.dtype == DType::F32;
  auto kernel = f32 ? balanced_kl_kernel<float, 1> : balanced_kl_kernel<bf16, 1>;
  if (a.classes > 32) kernel = f32 ? balanced_kl_kernel<float, 4> : balanced_kl_kernel<bf16, 4>;
  if (a.classes > 128) kernel = balanced_kl_kernel<void, 16>;
  HD_LAUNCH(kernel, unsigned(a.rows), KL_THREADS, 0, stream, a);
}

}  // namespace hd
