// Launchers of gru_gates.
#include "kernels/gru_gates.cuh"

namespace hd {
namespace {

int warps_for(int64_t threads) { return int(threads >= GRU_THREADS ? GRU_THREADS : ceil_div(threads, 32) * 32); }

template <class T>
void launch_fwd(const GruGatesFwdArgs& a, hdStream stream) {
  const bool vector = a.size % GRU_VEC == 0 && a.copy_stride % GRU_VEC == 0 && a.size <= GRU_MAX_SIZE &&
                      aligned(16, a.x, a.deter, a.scale, a.bias, a.next, a.next_copy);
  const auto kernel = vector ? gru_gates_fwd_kernel<T> : gru_gates_fwd_row_kernel<T>;
  HD_LAUNCH(kernel, unsigned(a.rows), warps_for(vector ? a.size / GRU_VEC : a.size), 0, stream, a);
}

template <class T>
void launch_bwd(const GruGatesBwdArgs& a, hdStream stream) {
  const bool vector = a.size % GRU_VEC == 0 && a.size <= GRU_MAX_SIZE &&
                      aligned(16, a.dnext, a.x, a.deter, a.scale, a.bias, a.dx, a.ddeter, a.partial);
  const auto kernel = vector ? gru_gates_bwd_kernel<T> : gru_gates_bwd_row_kernel<T>;
  HD_LAUNCH(kernel, unsigned(a.parts), warps_for(vector ? a.size / GRU_VEC : a.size), 0, stream, a);
  if (a.dscale != nullptr)
    launch_column_sum(a.partial, a.dscale, a.dbias, 3 * a.size, 6 * a.size, int(a.parts), stream);
}

}  // namespace

// Four rows a block: then the partials cost a third of what the rows do, and 1024 rows still fill 256 blocks.
int64_t gru_gates_parts(int64_t rows, int64_t) {
  const int64_t parts = rows / 4;
  return parts < 1 ? 1 : parts > GRU_MAX_PARTS ? GRU_MAX_PARTS : parts;
}

void launch_gru_gates_fwd(const GruGatesFwdArgs& a, hdStream stream) {
  if (a.rows == 0 || a.size == 0) return;
  if (a.dtype == DType::F32) launch_fwd<float>(a, stream);
  else launch_fwd<bf16>(a, stream);
}

void launch_gru_gates_bwd(const GruGatesBwdArgs& a, hdStream stream) {
  if (a.size == 0) return;
  if (a.dtype == DType::F32) launch_bwd<float>(a, stream);
  else launch_bwd<bf16>(a, stream);
}

}  // namespace hd
