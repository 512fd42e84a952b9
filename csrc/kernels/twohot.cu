// Launchers of twohot.
#include "kernels/twohot.cuh"
#include "kernels/launcher.cuh"

namespace hd {

HD_LAUNCHER(symlog_fwd, SymArgs, symlog_kernel<SymOp::LogFwd>, size, TWOHOT_THREADS, TWOHOT_THREADS)
HD_LAUNCHER(symlog_bwd, SymArgs, symlog_kernel<SymOp::LogBwd>, size, TWOHOT_THREADS, TWOHOT_THREADS)
HD_LAUNCHER(symexp_fwd, SymArgs, symlog_kernel<SymOp::ExpFwd>, size, TWOHOT_THREADS, TWOHOT_THREADS)
HD_LAUNCHER(symexp_bwd, SymArgs, symlog_kernel<SymOp::ExpBwd>, size, TWOHOT_THREADS, TWOHOT_THREADS)
HD_LAUNCHER(twohot_loss_fwd, TwohotLossArgs, twohot_loss_fwd_kernel, rows, TWOHOT_ROWS, TWOHOT_THREADS)
HD_LAUNCHER(twohot_loss_bwd, TwohotLossArgs, twohot_loss_bwd_kernel, rows, TWOHOT_ROWS, TWOHOT_THREADS)
HD_LAUNCHER(twohot_mean_fwd, TwohotMeanArgs, twohot_mean_fwd_kernel, rows, TWOHOT_ROWS, TWOHOT_THREADS)
HD_LAUNCHER(twohot_mean_bwd, TwohotMeanArgs, twohot_mean_bwd_kernel, rows, TWOHOT_ROWS, TWOHOT_THREADS)

}  // namespace hd
