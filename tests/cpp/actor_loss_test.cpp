// actor_loss_test.cpp -- the actor_loss kernels against the definition in double precision, under every
// schedule.
#include "kernels/actor_loss.h"

#include "support.h"

using namespace hd;
using namespace hd::test;

namespace {

void check(int64_t rows, int64_t actions) {
  Vec logit = normals(rows * actions, 1), adv = normals(rows, 2), weight = uniforms(rows, 3), dloss = normals(rows, 4),
      dlogp = normals(rows, 5), dent = normals(rows, 6), loss(rows), logp(rows), ent(rows), grad(rows * actions);
  std::vector<int64_t> action(rows);
  const double eta = 0.03;
  for (int64_t n = 0; n < rows; ++n) {
    action[n] = 7 * n % actions;
    const double* row = &logit[n * actions];
    logp[n] = row[action[n]];
    for (int64_t k = 0; k < actions; ++k) ent[n] -= std::exp(row[k]) * row[k];
    loss[n] = weight[n] * (-logp[n] * adv[n] - eta * ent[n]);
    const double to_logp = dlogp[n] - dloss[n] * weight[n] * adv[n], to_ent = dent[n] - dloss[n] * weight[n] * eta;
    for (int64_t k = 0; k < actions; ++k)
      grad[n * actions + k] = (k == action[n] ? to_logp : 0) - to_ent * std::exp(row[k]) * (row[k] + 1);
  }
  for_each_schedule([&] {
    Buffer l(logit), a(adv), w(weight), d1(dloss), d2(dlogp), d3(dent), out(rows), lp(rows), en(rows),
        dl(rows * actions);
    ActorLossArgs args{l, action.data(), a, w, out, lp, en, d1, d2, d3, dl, rows, actions, float(eta)};
    launch_actor_loss_fwd(args, STREAM);
    launch_actor_loss_bwd(args, STREAM);
    expect_close(out, loss, 3e-6, rows, "loss");
    expect_close(lp, logp, 1e-6, rows, "logp");
    expect_close(en, ent, 3e-6, rows, "ent");
    expect_close(dl, grad, 3e-6, rows * actions, "dlogit");
    return bits_of(out, lp, en, dl);
  });
}

TEST(ActorLoss, MatchesReference) {
  check(1, 1);
  check(5, 3);
  check(33, 18);
  check(17, 40);
}

}  // namespace
