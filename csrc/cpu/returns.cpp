// CPU version of returns: one trajectory (column) after the other through the shared recursions. 15 x 1024
// cells, 16 B each, are 0.1 ms of an update of seconds; neighboring columns share the cache lines. Equations
// in kernels/returns.h.
#include "kernels/returns.h"

#include "kernels/returns_math.h"

namespace hd::cpu {

void lambda_return_fwd(const LambdaReturnArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) lambda_return_fwd_column(a, i);
}

void lambda_return_bwd(const LambdaReturnArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) lambda_return_bwd_column(a, i);
}

void return_weight_fwd(const ReturnWeightArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) return_weight_fwd_column(a, i);
}

void return_weight_bwd(const ReturnWeightArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) return_weight_bwd_column(a, i);
}

}  // namespace hd::cpu
