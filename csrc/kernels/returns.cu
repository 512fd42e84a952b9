// Launchers of returns.
#include "kernels/returns.cuh"

namespace hd {
namespace {

unsigned grid(int64_t n) { return unsigned((n + RETURNS_THREADS - 1) / RETURNS_THREADS); }

}  // namespace

void launch_lambda_return_fwd(const LambdaReturnArgs& a, hdStream stream) {
  if (a.n == 0) return;
  HD_LAUNCH((returns_kernel<LambdaReturnArgs, lambda_return_fwd_column>), grid(a.n), RETURNS_THREADS, 0,
            stream, a);
}

void launch_lambda_return_bwd(const LambdaReturnArgs& a, hdStream stream) {
  if (a.n == 0) return;
  HD_LAUNCH((returns_kernel<LambdaReturnArgs, lambda_return_bwd_column>), grid(a.n), RETURNS_THREADS, 0,
            stream, a);
}

void launch_return_weight_fwd(const ReturnWeightArgs& a, hdStream stream) {
  if (a.n == 0) return;
  HD_LAUNCH((returns_kernel<ReturnWeightArgs, return_weight_fwd_column>), grid(a.n), RETURNS_THREADS, 0,
            stream, a);
}

void launch_return_weight_bwd(const ReturnWeightArgs& a, hdStream stream) {
  if (a.n == 0) return;
  HD_LAUNCH((returns_kernel<ReturnWeightArgs, return_weight_bwd_column>), grid(a.n), RETURNS_THREADS, 0,
            stream, a);
}

}  // namespace hd
