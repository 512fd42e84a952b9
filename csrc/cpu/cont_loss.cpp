// CPU version of cont_loss: 1024 elements, so scalar libm (20 us) where accuracy near zero matters; equations
// in kernels/cont_loss.h.
#include "kernels/cont_loss.h"

#include "device/hd_math.h"

namespace hd::cpu {

void cont_loss_fwd(const ContLossArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) a.out[i] = softplus(a.cont[i] > 0.5f ? -a.logit[i] : a.logit[i]);
}

void cont_loss_bwd(const ContLossArgs& a, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const bool on = a.cont[i] > 0.5f;
    const float slope = sigmoid(on ? -a.logit[i] : a.logit[i]);
    a.out[i] = a.dloss[i] * (on ? -slope : slope);
  }
}

}  // namespace hd::cpu
