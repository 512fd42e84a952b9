// CPU version of actor_loss; equations in kernels/actor_loss.h. Rows of a few actions would leave most of a vector
// idle, so the exponentials take some rows as one array.
#include "kernels/actor_loss.h"

#include <cmath>

#include "cpu/short_rows.h"

namespace hd::cpu {
namespace {

struct Forward {
  template <int N>
  static HD_INLINE void run(const ActorLossArgs& a, int64_t begin, int64_t end, float* terms) {
    const int64_t cols = a.actions, together = rows_together(cols);
    for (; begin < end; begin += together) {
      const int64_t rows = std::min(together, end - begin);
      const float* logit = a.logit + begin * cols;
      each<N>(rows * cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const Vec<N> l = get<N>(logit + j, count);
        put<N>(terms + j, fexp(l) * -l);
      });
      sum_rows<N>(terms, rows, cols, a.ent + begin);
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t action = a.action[begin + i];
        a.logp[begin + i] = action >= 0 && action < cols ? logit[i * cols + action] : NAN;
      }
      each<N>(rows, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const auto of = [&](const float* p) __attribute__((always_inline)) { return get<N>(p + begin + j, count); };
        put<N>(a.loss + begin + j, of(a.weight) * (-of(a.logp) * of(a.advantage) - a.entropy * of(a.ent)), count);
      });
    }
  }
};

struct Backward {
  template <int N>
  static HD_INLINE void run(const ActorLossArgs& a, int64_t begin, int64_t end, float* to_logp, float* to_ent) {
    const int64_t cols = a.actions, together = rows_together(cols);
    for (; begin < end; begin += together) {
      const int64_t rows = std::min(together, end - begin);
      const float* logit = a.logit + begin * cols;
      float* dlogit = a.dlogit + begin * cols;
      each<N>(rows, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const auto of = [&](const float* p)
                            __attribute__((always_inline)) { return p ? get<N>(p + begin + j, count) : Vec<N>{}; };
        const Vec<N> scaled = of(a.dloss) * of(a.weight);
        put<N>(to_logp + j, of(a.dlogp) - scaled * of(a.advantage));
        put<N>(to_ent + j, of(a.dent) - scaled * a.entropy);
      });
      each<N>(rows * cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const Vec<N> l = get<N>(logit + j, count);
        put<N>(dlogit + j, fexp(l) * (l + 1.f) * -of_rows<N>(to_ent, j, cols), count);
      });
      for (int64_t i = 0; i < rows; ++i) {
        const int64_t action = a.action[begin + i];
        if (action >= 0 && action < cols) dlogit[i * cols + action] += to_logp[i];
      }
    }
  }
};

}  // namespace

void actor_loss_fwd(const ActorLossArgs& a, int64_t begin, int64_t end) {
  vectors<Forward>(a, begin, end, Scratch(a.actions));
}

void actor_loss_bwd(const ActorLossArgs& a, int64_t begin, int64_t end) {
  vectors<Backward>(a, begin, end, Scratch(1), Scratch(1));
}

}  // namespace hd::cpu
