// CPU version of normal; equations in kernels/normal.h. Rows of a few actions are passed as one array.
#include "kernels/normal.h"

#include "cpu/short_rows.h"

namespace hd::cpu {
namespace {

template <class V>
HD_INLINE V std_of(const V& raw) {
  return NORMAL_RANGE * fsigmoid(raw + NORMAL_SHIFT) + NORMAL_LEAST;
}

struct Policy {
  template <int N>
  static HD_INLINE void run(const NormalPolicyArgs& a, int64_t begin, int64_t end) {
    each<N>(end - begin, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const int64_t at = begin + j;
      put<N>(a.mean + at, ftanh(get<N>(a.mean_raw + at, count)), count);
      put<N>(a.std + at, std_of(get<N>(a.std_raw + at, count)), count);
    });
  }
};

struct PolicyBackward {
  template <int N>
  static HD_INLINE void run(const NormalPolicyArgs& a, int64_t begin, int64_t end) {
    each<N>(end - begin, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const int64_t at = begin + j;
      const Vec<N> mean = ftanh(get<N>(a.mean_raw + at, count));
      const Vec<N> t = fsigmoid(get<N>(a.std_raw + at, count) + NORMAL_SHIFT);
      put<N>(a.mean + at, get<N>(a.dmean + at, count) * (1.f - mean * mean), count);
      put<N>(a.std + at, get<N>(a.dstd + at, count) * NORMAL_RANGE * t * (1.f - t), count);
    });
  }
};

struct LogProb {
  template <int N>
  static HD_INLINE void run(const NormalLogProbArgs& a, int64_t begin, int64_t end, float* squares, float* scales) {
    const int64_t cols = a.actions, together = rows_together(cols);
    for (; begin < end; begin += together) {
      const int64_t rows = std::min(together, end - begin);
      each<N>(rows * cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const int64_t at = begin * cols + j;
        const Vec<N> std = get<N>(a.std + at, count);
        const Vec<N> z = (get<N>(a.action + at, count) - get<N>(a.mean + at, count)) / std;
        put<N>(squares + j, z * z);
        put<N>(scales + j, flog(std) + NORMAL_CONSTANT);
      });
      sum_rows<N>(squares, rows, cols, a.logp + begin);
      sum_rows<N>(scales, rows, cols, a.ent + begin);
      each<N>(rows, [&](int64_t j, auto count) __attribute__((always_inline)) {
        float *logp = a.logp + begin + j, *ent = a.ent + begin + j;
        put<N>(logp, -0.5f * get<N>(logp, count) - get<N>(ent, count), count);
        put<N>(ent, get<N>(ent, count) + 0.5f * float(cols), count);
      });
    }
  }
};

struct LogProbBackward {
  template <int N>
  static HD_INLINE void run(const NormalLogProbArgs& a, int64_t begin, int64_t end, float* dlogp, float* dent) {
    const int64_t cols = a.actions, together = rows_together(cols);
    for (; begin < end; begin += together) {
      const int64_t rows = std::min(together, end - begin);
      each<N>(rows, [&](int64_t j, auto count) __attribute__((always_inline)) {
        put<N>(dlogp + j, a.dlogp ? get<N>(a.dlogp + begin + j, count) : Vec<N>{});
        put<N>(dent + j, a.dent ? get<N>(a.dent + begin + j, count) : Vec<N>{});
      });
      each<N>(rows * cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
        const int64_t at = begin * cols + j;
        const Vec<N> inverse = 1.f / get<N>(a.std + at, count), up = of_rows<N>(dlogp, j, cols);
        const Vec<N> z = (get<N>(a.action + at, count) - get<N>(a.mean + at, count)) * inverse;
        put<N>(a.dmean + at, up * z * inverse, count);
        put<N>(a.dstd + at, (up * (z * z - 1.f) + of_rows<N>(dent, j, cols)) * inverse, count);
      });
    }
  }
};

// `biases` are those of mean and std, twice and more, in rows `room` apart: from any of a row's actions on a vector.
template <class T>
struct Sample {
  template <int N>
  static HD_INLINE void run(const NormalSampleArgs& a, int64_t begin, int64_t end, float* biases, int64_t room) {
    const int64_t cols = a.actions;
    for (int64_t k = 0; k < room; ++k) biases[k] = a.mean_bias[k % cols], biases[room + k] = a.std_bias[k % cols];
    int64_t k = 0;  // the action of the next number
    each<N>((end - begin) * cols, [&](int64_t j, auto count) __attribute__((always_inline)) {
      const int64_t at = begin * cols + j;
      const Vec<N> mean = ftanh(get<N>(a.mean_raw + at, count) + get<N>(biases + k));
      const Vec<N> std = std_of(get<N>(a.std_raw + at, count) + get<N>(biases + room + k));
      const Vec<N> x = mean + std * get<N>(a.noise + at, count);
      put<N>(a.action + at, x, count);
      put<N>(static_cast<T*>(a.taken) + at, x * (1.f / fmax(fabs(x), all<Vec<N>>(1.f))), count);
      k = (k + N) % cols;
    });
  }
};

}  // namespace

void normal_policy_fwd(const NormalPolicyArgs& a, int64_t begin, int64_t end) { vectors<Policy>(a, begin, end); }
void normal_policy_bwd(const NormalPolicyArgs& a, int64_t begin, int64_t end) {
  vectors<PolicyBackward>(a, begin, end);
}

void normal_log_prob_fwd(const NormalLogProbArgs& a, int64_t begin, int64_t end) {
  vectors<LogProb>(a, begin, end, Scratch(a.actions), Scratch(a.actions));
}
void normal_log_prob_bwd(const NormalLogProbArgs& a, int64_t begin, int64_t end) {
  vectors<LogProbBackward>(a, begin, end, Scratch(1), Scratch(1));
}

void normal_sample(const NormalSampleArgs& a, int64_t begin, int64_t end) {
  const int64_t room = a.actions + 16;
  const Floats biases = floats(2 * room);
  a.dtype == DType::F32 ? vectors<Sample<float>>(a, begin, end, biases.get(), room)
                        : vectors<Sample<Bf16>>(a, begin, end, biases.get(), room);
}

}  // namespace hd::cpu
