// Launchers of twohot.
#include "kernels/twohot.cuh"

namespace hd {
namespace {

unsigned sym_grid(int64_t size) { return unsigned((size + TWOHOT_THREADS - 1) / TWOHOT_THREADS); }
unsigned row_grid(int64_t rows) { return unsigned((rows + TWOHOT_ROWS - 1) / TWOHOT_ROWS); }

}  // namespace

void launch_symlog_fwd(const SymArgs& a, hdStream stream) {
  if (a.size == 0) return;
  HD_LAUNCH(symlog_kernel<SymOp::LogFwd>, sym_grid(a.size), TWOHOT_THREADS, 0, stream, a);
}

void launch_symlog_bwd(const SymArgs& a, hdStream stream) {
  if (a.size == 0) return;
  HD_LAUNCH(symlog_kernel<SymOp::LogBwd>, sym_grid(a.size), TWOHOT_THREADS, 0, stream, a);
}

void launch_symexp_fwd(const SymArgs& a, hdStream stream) {
  if (a.size == 0) return;
  HD_LAUNCH(symlog_kernel<SymOp::ExpFwd>, sym_grid(a.size), TWOHOT_THREADS, 0, stream, a);
}

void launch_symexp_bwd(const SymArgs& a, hdStream stream) {
  if (a.size == 0) return;
  HD_LAUNCH(symlog_kernel<SymOp::ExpBwd>, sym_grid(a.size), TWOHOT_THREADS, 0, stream, a);
}

void launch_twohot_loss_fwd(const TwohotLossArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(twohot_loss_fwd_kernel, row_grid(a.rows), TWOHOT_THREADS, 0, stream, a);
}

void launch_twohot_loss_bwd(const TwohotLossArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(twohot_loss_bwd_kernel, row_grid(a.rows), TWOHOT_THREADS, 0, stream, a);
}

void launch_twohot_mean_fwd(const TwohotMeanArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(twohot_mean_fwd_kernel, row_grid(a.rows), TWOHOT_THREADS, 0, stream, a);
}

void launch_twohot_mean_bwd(const TwohotMeanArgs& a, hdStream stream) {
  if (a.rows == 0) return;
  HD_LAUNCH(twohot_mean_bwd_kernel, row_grid(a.rows), TWOHOT_THREADS, 0, stream, a);
}

}  // namespace hd
