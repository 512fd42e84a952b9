// Launchers of returns.
#include "kernels/returns.cuh"
#include "kernels/launcher.cuh"

namespace hd {

HD_LAUNCHER(lambda_return_fwd, LambdaReturnArgs, (returns_kernel<LambdaReturnForward, LambdaReturnArgs>), n,
            RETURNS_THREADS, RETURNS_THREADS)
HD_LAUNCHER(lambda_return_bwd, LambdaReturnArgs, (returns_kernel<LambdaReturnBackward, LambdaReturnArgs>), n,
            RETURNS_THREADS, RETURNS_THREADS)
HD_LAUNCHER(return_weight_fwd, ReturnWeightArgs, (returns_kernel<ReturnWeightForward, ReturnWeightArgs>), n,
            RETURNS_THREADS, RETURNS_THREADS)
HD_LAUNCHER(return_weight_bwd, ReturnWeightArgs, (returns_kernel<ReturnWeightBackward, ReturnWeightArgs>), n,
            RETURNS_THREADS, RETURNS_THREADS)

}  // namespace hd
