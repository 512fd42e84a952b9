// Launchers of latent. Compiled alone.
#include "kernels/latent.cuh"

namespace hd {
namespace {

// Calls the kernel with the smallest number of values a lane (1, 4 or 32) that holds all classes. Over 128 classes are
// rare and compile long: one kernel for both types.
template <class Args>
void launch(const Args& a, void (*one)(Args), void (*four)(Args), void (*many)(Args), hdStream stream) {
  if (a.groups == 0 || a.classes == 0) return;
  const auto kernel = a.classes <= 32 ? one : a.classes <= 128 ? four : many;
  HD_LAUNCH(kernel, unsigned(ceil_div(a.groups, LATENT_GROUPS)), LATENT_THREADS, 0, stream, a);
}

}  // namespace

void launch_latent_fwd(const LatentFwdArgs& a, hdStream stream) {
  if (a.dtype == DType::F32)
    launch(a, latent_fwd_kernel<float, 1>, latent_fwd_kernel<float, 4>, latent_fwd_kernel<void, 32>, stream);
  else launch(a, latent_fwd_kernel<bf16, 1>, latent_fwd_kernel<bf16, 4>, latent_fwd_kernel<void, 32>, stream);
}

void launch_latent_bwd(const LatentBwdArgs& a, hdStream stream) {
  if (a.dtype == DType::F32)
    launch(a, latent_bwd_kernel<float, 1>, latent_bwd_kernel<float, 4>, latent_bwd_kernel<void, 32>, stream);
  else launch(a, latent_bwd_kernel<bf16, 1>, latent_bwd_kernel<bf16, 4>, latent_bwd_kernel<void, 32>, stream);
}

}  // namespace hd
