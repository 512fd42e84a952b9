// Launchers of norm_act. Compiled alone.
#include "kernels/norm_act.cuh"

#include <type_traits>

namespace hd {
namespace {

template <int N>
using Int = std::integral_constant<int, N>;

// Calls go(LANES, ITER) with the smallest tile that holds a row, or returns false where none does.
template <class T, class Go>
bool with_tile(int64_t cols, const Go& go) {
  constexpr int VEC = 16 / int(sizeof(T));
  const int64_t vectors = cols / VEC;
  if (cols % VEC != 0 || cols > NORM_MAX_COLS) return false;
  if (vectors <= 4) go(Int<4>(), Int<1>());
  else if (vectors <= 8) go(Int<8>(), Int<1>());
  else if (vectors <= 16) go(Int<16>(), Int<1>());
  else if (vectors <= 32) go(Int<32>(), Int<1>());
  else if (vectors <= 64) go(Int<32>(), Int<2>());
  else if (vectors <= 128) go(Int<32>(), Int<4>());
  else if constexpr (VEC == 4) go(Int<32>(), Int<8>());
  return true;
}

int row_threads(int64_t cols) { return cols >= NORM_THREADS ? NORM_THREADS : int(ceil_div(cols, 32) * 32); }

template <class T>
void launch_fwd(const NormActFwdArgs& a, hdStream stream) {
  const bool vector =
      aligned(16, a.x, a.y, a.scale, a.bias) && with_tile<T>(a.cols, [&](auto lanes, auto iter) {
        const auto kernel = norm_act_fwd_kernel<T, lanes.value, iter.value>;
        HD_LAUNCH(kernel, unsigned(ceil_div(a.rows, NORM_THREADS / lanes.value)), NORM_THREADS, 0, stream, a);
      });
  if (!vector) HD_LAUNCH(norm_act_fwd_row_kernel<T>, unsigned(a.rows), row_threads(a.cols), 0, stream, a);
}

template <class T>
void launch_bwd(const NormActBwdArgs& a, hdStream stream) {
  const bool vector = aligned(16, a.x, a.dy, a.dx, a.scale, a.bias) && with_tile<T>(a.cols, [&](auto lanes, auto iter) {
                        const auto kernel = norm_act_bwd_kernel<T, lanes.value, iter.value>;
                        HD_LAUNCH(kernel, unsigned(a.parts), NORM_THREADS, 0, stream, a);
                      });
  if (!vector) HD_LAUNCH(norm_act_bwd_row_kernel<T>, unsigned(a.parts), row_threads(a.cols), 0, stream, a);
  launch_column_sum(a.partial, a.dscale, a.dbias, a.cols, 2 * a.cols, int(a.parts), stream);
}

}  // namespace

// A slice is worth a block from 16 KiB of fp32 on; a multiple of the rows a block takes at once would gain
// nothing.
int64_t norm_act_parts(int64_t rows, int64_t cols) {
  const int64_t parts = rows * cols / 4096;
  return parts < 1 ? 1 : parts > NORM_MAX_PARTS ? NORM_MAX_PARTS : parts > rows ? rows : parts;
}

void launch_norm_act_fwd(const NormActFwdArgs& a, hdStream stream) {
  if (a.rows == 0 || a.cols == 0) return;
  if (a.dtype == DType::F32) launch_fwd<float>(a, stream);
  else launch_fwd<bf16>(a, stream);
}

void launch_norm_act_bwd(const NormActBwdArgs& a, hdStream stream) {
  if (a.cols == 0) return;
  if (a.dtype == DType::F32) launch_bwd<float>(a, stream);
  else launch_bwd<bf16>(a, stream);
}

}  // namespace hd
