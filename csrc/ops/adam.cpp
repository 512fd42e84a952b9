// adam.cpp -- clip by global norm and Adam over a flat arena as one torch op; the equations are in kernels/adam.h.
#include "kernels/adam.h"

#include "ops/glue.h"

namespace hd::ops {
namespace {

float* arena(const Tensor& t, const Tensor& param, const char* what) {
  float* p;
  take_into(p, t, param, what);
  HD_CHECK(reinterpret_cast<uintptr_t>(t.data_ptr()) % 16 == 0, what,
           " must start on 16 bytes, got an offset; copy the view");
  return p;
}

// param, grad, mean, var (size,) float32 and step () int64, all changed in place; slow (size,) or none ->
// (norm, min(1, clip / norm), step)
HD_OP(Tensor, adam_step,
      (Out param, Out grad, Out mean, Out var, Out step, MaybeOut slow, double lr, double eps, double clip,
       double beta1, double beta2, double slow_fraction)) {
  HD_CHECK(param.dim() == 1, "param must be a flat arena, (n,)", got(param));
  AdamArgs args{};
  args.param = arena(param, param, "param"), args.grad = arena(grad, param, "grad");
  args.mean = arena(mean, param, "mean"), args.var = arena(var, param, "var");
  args.slow = slow ? arena(*slow, param, "slow") : nullptr;
  check_layout(step, param, "step");
  check_type(step, ScalarType::Long, "step");
  HD_CHECK(step.numel() == 1, "step must have 1 element", got(step));
  const int64_t blocks = adam_blocks(param.numel());
  Tensor stats = empty(param, {3}, args.stats), scratch = empty(param, {blocks + 4}, args.partial);
  args.step = out<int64_t>(step);
  args.scale = out(scratch) + blocks;
  args.size = param.numel();
  args.lr = lr, args.eps = eps, args.clip = clip, args.beta1 = beta1, args.beta2 = beta2;
  args.slow_fraction = slow_fraction;
  run(
      param, [&](auto stream) { launch_adam(args, stream); },
      [&](auto threads) {
        threads.split(blocks, ADAM_BLOCK / 4, [&](int64_t begin, int64_t end) { cpu::adam_norm(args, begin, end); });
        cpu::adam_finish(args);
        threads.split(blocks, ADAM_BLOCK, [&](int64_t begin, int64_t end) { cpu::adam_apply(args, begin, end); });
      });
  return stats;
}

}  // namespace
}  // namespace hd::ops
