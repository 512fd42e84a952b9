// Launchers of vector_loss.
#include "kernels/vector_loss.cuh"
#include "kernels/launcher.cuh"

namespace hd {

HD_LAUNCHER(vector_loss_fwd, VectorLossArgs, vector_loss_fwd_kernel, rows, VECTOR_ROWS, VECTOR_THREADS)
HD_LAUNCHER(vector_loss_bwd, VectorLossArgs, vector_loss_bwd_kernel, rows, VECTOR_ROWS, VECTOR_THREADS)

}  // namespace hd
