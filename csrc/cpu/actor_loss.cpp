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

// body(row, first action, count, their numbers) for each row of [begin, end). A tile is whole rows and begins at a
// multiple of their number, also where a thread's rows begin within: the same numbers go through the same lanes.
template <class Numbers, class Body>
void tiles(const ActorLossArgs& a, int64_t begin, int64_t end, const Numbers& numbers, const Body& body) {
  float out[TILE];
  const int64_t together = std::max<int64_t>(1, TILE / a.actions);
  for (int64_t first = begin / together * together; first < end; first += together) {
    const int64_t last = std::min(first + together, a.rows);
    for (int64_t k = 0; k < a.actions; k += TILE) {  // more than once only where a row is longer than a tile
      const int64_t count = std::min(TILE, a.actions - k);
      numbers(a.logit + first * a.actions + k, (last - first) * count, out);
      for (int64_t n = std::max(first, begin); n < std::min(last, end); ++n)
        body(n, k, count, out + (n - first) * count);
    }
  }
}

}  // namespace

void actor_loss_fwd(const ActorLossArgs& a, int64_t begin, int64_t end) {
  tiles(a, begin, end, entropy_terms, [&](int64_t n, int64_t k, int64_t count, const float* term) {
    float sum = 0.f;
    for (int64_t i = 0; i < count; ++i) sum += term[i];
    a.ent[n] = k ? a.ent[n] + sum : sum;
  });
  for (int64_t n = begin; n < end; ++n) {
    const int64_t action = a.action[n];
    const float logp = action >= 0 && action < a.actions ? a.logit[n * a.actions + action] : NAN;
    a.logp[n] = logp;
    a.loss[n] = a.weight[n] * (-logp * a.advantage[n] - a.entropy * a.ent[n]);
  }
}

void actor_loss_bwd(const ActorLossArgs& a, int64_t begin, int64_t end) {
  tiles(a, begin, end, entropy_slopes, [&](int64_t n, int64_t k, int64_t count, const float* slope) {
    const float scaled = a.dloss[n] * a.weight[n];
    const float to_logp = (a.dlogp ? a.dlogp[n] : 0.f) - scaled * a.advantage[n];
    const float to_ent = (a.dent ? a.dent[n] : 0.f) - scaled * a.entropy;
    float* row = a.dlogit + n * a.actions + k;
    for (int64_t i = 0; i < count; ++i) row[i] = slope[i] * -to_ent;
    if (a.action[n] >= k && a.action[n] < k + count) row[a.action[n] - k] += to_logp;
  });
}

}  // namespace hd::cpu
