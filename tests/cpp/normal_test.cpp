// normal_test.cpp -- the kernels of the policy over continuous actions against double precision, under every schedule.
#include "kernels/normal.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

double std_of(double raw) { return 0.9 / (1 + std::exp(-raw - 2)) + 0.1; }

void check_policy(int64_t size) {
  const Vec m = normals(size, 1, 2), r = normals(size, 2, 2), dmean = normals(size, 3), dstd = normals(size, 4);
  Vec mean(size), std(size), dm(size), dr(size);
  for (int64_t i = 0; i < size; ++i) {
    mean[i] = std::tanh(m[i]), std[i] = std_of(r[i]);
    const double t = (std[i] - 0.1) / 0.9;
    dm[i] = dmean[i] * (1 - mean[i] * mean[i]), dr[i] = dstd[i] * 0.9 * t * (1 - t);
  }
  for_each_schedule([&] {
    Buffer mb(m), rb(r), dmb(dmean), dsb(dstd), mean_got(size), std_got(size), dm_got(size), dr_got(size);
    launch_normal_policy_fwd({mb, rb, nullptr, nullptr, mean_got, std_got, size}, STREAM);
    launch_normal_policy_bwd({mb, rb, dmb, dsb, dm_got, dr_got, size}, STREAM);
    expect_close(mean_got, mean, 1e-6, size, "mean");
    expect_close(std_got, std, 1e-6, size, "std");
    expect_close(dm_got, dm, 1e-6, size, "dmean_raw");
    expect_close(dr_got, dr, 1e-6, size, "dstd_raw");
    return bits_of(mean_got, std_got, dm_got, dr_got);
  });
}

void check_log_prob(int64_t rows, int64_t actions) {
  const int64_t size = rows * actions;
  const Vec mean = normals(size, 5), noise = normals(size, 6), dlogp = normals(rows, 7), dent = normals(rows, 8);
  Vec std = uniforms(size, 9), action(size), logp(rows), ent(rows), dm(size), ds(size);
  for (int64_t i = 0; i < size; ++i) {
    std[i] = 0.1 + 0.9 * std[i];
    action[i] = mean[i] + std[i] * noise[i];
    const double z = noise[i], constant = std::log(2 * M_PI) / 2;
    logp[i / actions] -= z * z / 2 + std::log(std[i]) + constant;
    ent[i / actions] += std::log(std[i]) + constant + 0.5;
    dm[i] = dlogp[i / actions] * z / std[i];
    ds[i] = (dlogp[i / actions] * (z * z - 1) + dent[i / actions]) / std[i];
  }
  for_each_schedule([&] {
    Buffer m(mean), s(std), a(action), dl(dlogp), de(dent), lp(rows), en(rows), dm_got(size), ds_got(size);
    const NormalLogProbArgs args{m, s, a, lp, en, dl, de, dm_got, ds_got, rows, actions};
    launch_normal_log_prob_fwd(args, STREAM);
    launch_normal_log_prob_bwd(args, STREAM);
    expect_close(lp, logp, 1e-5, rows, "logp");
    expect_close(en, ent, 3e-6, rows, "ent");
    expect_close(dm_got, dm, 1e-5, size, "dmean");
    expect_close(ds_got, ds, 1e-5, size, "dstd");
    return bits_of(lp, en, dm_got, ds_got);
  });
}

void check_sample(int64_t rows, int64_t actions, DType dtype) {
  const int64_t size = rows * actions;
  const Vec m = normals(size, 10), r = normals(size, 11), noise = normals(size, 12, 2);
  const Vec mean_bias = normals(actions, 13), std_bias = normals(actions, 14);
  Vec action(size), taken(size);
  for (int64_t i = 0; i < size; ++i) {
    action[i] = std::tanh(m[i] + mean_bias[i % actions]) + std_of(r[i] + std_bias[i % actions]) * noise[i];
    taken[i] = std::clamp(action[i], -1., 1.);
  }
  for_each_schedule([&] {
    Buffer mb(m), rb(r), nb(noise), mbias(mean_bias), rbias(std_bias), got(size), clipped(size, dtype);
    launch_normal_sample({mb, rb, mbias, rbias, nb, got, clipped, rows, actions, dtype}, STREAM);
    expect_close(got, action, 1e-6, size, "action");
    expect_close(clipped, taken, rounding(dtype, 1e-6), size, "taken");
    return bits_of(got, clipped);
  });
}

TEST(Normal, MatchesReference) {
  for (int64_t rows : {1, 7, 33})
    for (int64_t actions : {1, 6, 16, 38}) {
      check_policy(rows * actions);
      check_log_prob(rows, actions);
      for (DType dtype : {DType::F32, DType::BF16}) check_sample(rows, actions, dtype);
    }
}

}  // namespace
