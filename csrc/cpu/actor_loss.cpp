// CPU version of actor_loss: the rows of all actions are one long array to the exponential; equations in
// kernels/actor_loss.h. Rows of 18 would leave a vector of 16 mostly idle, so exponentials are taken tile by
// tile.
#include <algorithm>
#include <cmath>

#include "cpu/simd.h"
#include "kernels/actor_loss.h"

namespace hd::cpu {
namespace {

constexpr int64_t TILE = 1024;  // logits, 4 KB: in L1 between the vector pass and the sum over rows

// ent terms -e^l l, or the slopes e^l (l + 1), of `count` logits.
HD_CLONES void entropy_terms(const float* __restrict logit, int64_t count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = -fexp(logit[i]) * logit[i];
}

HD_CLONES void entropy_slopes(const float* __restrict logit, int64_t count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = fexp(logit[i]) * (logit[i] + 1.f);
}

}  // namespace

void actor_loss_fwd(const ActorLossArgs& a, int64_t begin, int64_t end) {
  float term[TILE];
  for (int64_t n = begin; n < end; ++n) a.ent[n] = 0.f;
  for (int64_t first = begin * a.actions, last = end * a.actions; first < last; first += TILE) {
    const int64_t count = std::min(TILE, last - first);
    entropy_terms(a.logit + first, count, term);
    int64_t n = first / a.actions, k = first % a.actions;
    for (int64_t i = 0; i < count;) {
      const int64_t stop = std::min(count, i + a.actions - k);
      float sum = 0.f;
      for (; i < stop; ++i) sum += term[i];
      a.ent[n++] += sum;
      k = 0;
    }
  }
  for (int64_t n = begin; n < end; ++n) {
    const int64_t action = a.action[n];
    const float logp = action >= 0 && action < a.actions ? a.logit[n * a.actions + action] : NAN;
    a.logp[n] = logp;
    a.loss[n] = a.weight[n] * (-logp * a.advantage[n] - a.entropy * a.ent[n]);
  }
}

void actor_loss_bwd(const ActorLossArgs& a, int64_t begin, int64_t end) {
  entropy_slopes(a.logit + begin * a.actions, (end - begin) * a.actions, a.dlogit + begin * a.actions);
  for (int64_t n = begin; n < end; ++n) {
    const float scaled = a.dloss[n] * a.weight[n];
    const float to_logp = (a.dlogp ? a.dlogp[n] : 0.f) - scaled * a.advantage[n];
    const float to_ent = (a.dent ? a.dent[n] : 0.f) - scaled * a.entropy;
    float* row = a.dlogit + n * a.actions;
    for (int64_t k = 0; k < a.actions; ++k) row[k] *= -to_ent;
    if (a.action[n] >= 0 && a.action[n] < a.actions) row[a.action[n]] += to_logp;
  }
}

}  // namespace hd::cpu
