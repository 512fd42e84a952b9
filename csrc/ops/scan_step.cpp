// scan_step.cpp -- what stands between two products of a step, as torch ops that write into given buffers; the
// math stands in kernels/scan_step.h, gru_gates.h and latent.h.
//
// Rows are 2-d here: (B, columns). Buffers that a product reads may be float32 or bfloat16, the rest is float32.
#include "kernels/scan_step.h"

#include "kernels/gru_gates.h"
#include "kernels/latent.h"
#include "ops/glue.h"

namespace hd::ops {
namespace {

using Maybe = std::optional<Tensor>;
using Tensors = std::vector<Tensor>;

// Contiguous, of the given type and shape, on the device of `like`.
Tensor checked(const Tensor& t, std::initializer_list<int64_t> shape, const Tensor& like, const char* what,
               ScalarType type = ScalarType::Float) {
  check_tensor(t, shape, like, what, type);
  return t;
}
template <class T = float>
T* checked(const Maybe& t, std::initializer_list<int64_t> shape, const Tensor& like, const char* what,
           ScalarType type = ScalarType::Float) {
  return t ? out<T>(checked(*t, shape, like, what, type)) : nullptr;
}

// An operand of `rows` rows of `columns` elements, any distance apart; its type.
DType check_operand(const Tensor& t, int64_t rows, int64_t columns, const Tensor& like, const char* what) {
  check_sizes(t, what);
  check_shape(t, {rows, columns}, what);
  HD_CHECK(t.stride(1) == 1 && t.stride(0) >= columns, what,
           " must have rows that are contiguous and apart, got strides ", strides_of(t), "; copy it");
  check_device(t, like, what);
  return storage(t, what);
}

struct Stats {
  float *mean, *rstd;
};
Stats check_stats(const Tensor& t, int64_t rows, const Tensor& like, const char* what) {
  checked(t, {2, rows}, like, what);
  return {out(t), out(t) + rows};
}

// unimix(logit + bias) of (B, S, K) logits, bias (S*K,).
LatentFwdArgs latent_args(const Tensor& logit, const Tensor& bias, double mix) {
  HD_CHECK(logit.dim() == 3, "scan_sample: logit must be (B, S, K)", got(logit));
  check_sizes(logit, "scan_sample: logit");
  const int64_t b = logit.size(0), s = logit.size(1), k = logit.size(2);
  HD_CHECK(s >= 1 && k >= 1 && k <= LATENT_MAX_CLASSES,
           "scan_sample: logit must have groups, and 1 to ", LATENT_MAX_CLASSES, " classes", got(logit));
  LatentFwdArgs a{};
  a.groups = times(b, s, "scan_sample: logit"), a.classes = k, a.mix = float(mix), a.dtype = DType::F32;
  a.logit = in<void>(checked(logit, {b, s, k}, logit, "scan_sample: logit"));
  a.bias = in(checked(bias, {s * k}, logit, "scan_sample: bias")), a.row_groups = s;
  return a;
}

// A sample of it: draw = [logit, bias, u (B, S)] -> index (B, S), and where wanted logp (B, S, K), onehot (B, S*K).
LatentFwdArgs draw_args(const Tensors& draw, double mix, const Maybe& logp, const Maybe& onehot, const Tensor& index) {
  HD_CHECK(draw.size() == 3, "scan_sample: draw must be logit, bias and u, got ", draw.size(), " tensors; give three");
  const Tensor& logit = draw[0];
  LatentFwdArgs a = latent_args(logit, draw[1], mix);
  const int64_t b = logit.size(0), s = a.row_groups, k = a.classes;
  a.u = in(checked(draw[2], {b, s}, logit, "scan_sample: u"));
  a.logp = checked<void>(logp, {b, s, k}, logit, "scan_sample: logp");
  a.index = out<int64_t>(checked(index, {b, s}, logit, "scan_sample: index", ScalarType::Long));
  if (onehot) {
    a.onehot_dtype = check_operand(*onehot, b, s * k, logit, "scan_sample: onehot");
    a.onehot = out<void>(*onehot), a.onehot_stride = onehot->stride(0);
  }
  return a;
}

// What every input of a step has: pre (B, U), norm's scale and bias (U,), joint (B, D + U), stats (2, B).
ScanInputFwdArgs input_args(const Tensor& pre, const Tensor& scale, const Tensor& bias, const Tensor& joint,
                            const Tensor& stats) {
  HD_CHECK(pre.dim() == 2 && joint.dim() == 2, "scan_input: pre must be (B, U), joint (B, D + U)", got(pre, joint));
  check_sizes(joint, "scan_input: joint");
  const int64_t b = pre.size(0), u = pre.size(1), d = joint.size(1) - u;
  HD_CHECK(u >= 1 && u <= SCAN_MAX_COLS && d >= 0, "scan_input: pre must have 1 to ", SCAN_MAX_COLS,
           " columns, no more than joint", got(pre, joint));
  ScanInputFwdArgs a{};
  a.rows = b, a.size = d, a.cols = u, a.stride = joint.stride(0), a.accumulate = true;
  a.dtype = check_operand(joint, b, d + u, pre, "scan_input: joint");
  a.joint = out<void>(joint), a.pre = out(checked(pre, {b, u}, pre, "scan_input: pre"));
  a.scale = in(checked(scale, {u}, pre, "scan_input: scale"));
  a.bias = in(checked(bias, {u}, pre, "scan_input: bias"));
  const Stats s = check_stats(stats, b, pre, "scan_input: stats");
  a.mean = s.mean, a.rstd = s.rstd;
  return a;
}

// The kernel whose rows are gathered, (groups * classes, U) of joint's type.
void take_kernel(ScanInputFwdArgs& a, const Tensor& kernel, int64_t groups, const Tensor& joint) {
  HD_CHECK(groups >= 1 && kernel.dim() == 2 && kernel.size(0) >= groups,
           "scan_input: kernel must have as many rows as groups times classes, at least one, got ", groups,
           " groups and shape ", shape_of(kernel), "; give the kernel of this model");
  a.groups = groups, a.classes = kernel.size(0) / groups;
  a.kernel = in<void>(
      checked(kernel, {groups * a.classes, a.cols}, joint, "scan_input: kernel", joint.scalar_type()));
}

// The state that rows start from: start (D,), start_index (S,), whose rows of kernel are added; before (B, D).
void take_start(ScanInputFwdArgs& a, const Tensor& start, const Tensor& start_index, const Tensor& kernel,
                const Tensor& before, const Tensor& joint) {
  a.start = in(checked(start, {a.size}, joint, "scan_input: start"));
  take_kernel(a, kernel, start_index.numel(), joint);
  a.start_index = in<int64_t>(
      checked(start_index, {a.groups}, joint, "scan_input: start_index", ScalarType::Long));
  a.before = out(checked(before, {a.rows, a.size}, joint, "scan_input: before"));
}

// The action that is drawn, draw = [logit (B, 1, A), bias, u] -> action (B, 1), and its row of action_kernel (A, U).
LatentFwdArgs take_action(ScanInputFwdArgs& a, const Tensors& draw, double mix, const Tensor& action,
                          const Tensor& action_kernel, const Tensor& joint) {
  const LatentFwdArgs sample = draw_args(draw, mix, {}, {}, action);
  check_device(draw[0], joint, "scan_input: logit");
  check_shape(draw[0], {a.rows, 1, sample.classes}, "scan_input: logit");
  a.actions = sample.classes, a.action = sample.index;
  a.action_kernel = in<void>(
      checked(action_kernel, {a.actions, a.cols}, joint, "scan_input: action_kernel", joint.scalar_type()));
  return sample;
}

void run_input(const Tensor& pre, const ScanInputFwdArgs& a, const LatentFwdArgs* sample = nullptr) {
  const int64_t groups = sample ? sample->row_groups : 0, classes = sample ? sample->classes : 0;
  const bool inside = groups <= SCAN_MAX_GROUPS && classes <= SCAN_MAX_CLASSES;
  run(
      pre,
      [&](auto stream) {
        if (!inside) launch_latent_fwd(*sample, stream);
        launch_scan_input_fwd(a, inside ? sample : nullptr, stream);
      },
      [&](auto threads) {
        threads.split(a.rows, (a.groups + 4) * a.cols + 2 * a.size + 2 * groups * classes,
                      [&](int64_t begin, int64_t end) {
                        if (sample) cpu::latent_fwd(*sample, begin * groups, end * groups);
                        cpu::scan_input_fwd(a, begin, end);
                      });
      });
}

void scan_norm_fwd(Tensor x, Tensor scale, Tensor bias, Tensor y, Tensor stats) {
  const ScanInputFwdArgs a = input_args(x, scale, bias, y, stats);
  HD_CHECK(a.size == 0, "scan_norm: y must be as wide as x", got(x, y));
  run_input(x, a);
}

void scan_start_fwd(Tensor pre, Tensor start, Tensor start_index, Tensor kernel, Tensor scale, Tensor bias,
                    Tensor before, Tensor joint, Tensor stats) {
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  take_start(a, start, start_index, kernel, before, joint);
  run_input(pre, a);
}

// state = [deter (B, D), start (D,), start_index (S,)]; drawn = [logp, onehot, index].
void scan_next_fwd(Tensor pre, Tensors state, Tensor reset, Tensors draw, double mix, Tensors drawn, Tensor kernel,
                   Tensor scale, Tensor bias, Tensor before, Tensor joint, Tensor stats) {
  HD_CHECK(state.size() == 3 && drawn.size() == 3, "scan_input: state and drawn must be three tensors each, got ",
           state.size(), " and ", drawn.size(), "; give the three");
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  a.deter = in(checked(state[0], {a.rows, a.size}, pre, "scan_input: deter"));
  a.reset = in<bool>(checked(reset, {a.rows}, pre, "scan_input: reset", ScalarType::Bool));
  take_start(a, state[1], state[2], kernel, before, joint);
  const LatentFwdArgs sample = draw_args(draw, mix, drawn[0], drawn[1], drawn[2]);
  check_device(draw[0], pre, "scan_input: logit");
  check_shape(draw[0], {a.rows, a.groups, a.classes}, "scan_input: logit");
  a.index = sample.index;
  run_input(pre, a, &sample);
}

void scan_gather(Tensor pre, Tensor deter, Tensor index, Tensors draw, double mix, Tensor action, Tensor kernel,
                 Tensor action_kernel, Tensor scale, Tensor bias, Tensor joint, Tensor stats) {
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  a.accumulate = false;
  a.deter = in(checked(deter, {a.rows, a.size}, pre, "scan_input: deter"));
  HD_CHECK(index.dim() == 2, "scan_input: index must be (B, S)", got(index));
  take_kernel(a, kernel, index.size(1), joint);
  a.index = in<int64_t>(checked(index, {a.rows, a.groups}, pre, "scan_input: index", ScalarType::Long));
  const LatentFwdArgs sample = take_action(a, draw, mix, action, action_kernel, joint);
  run_input(pre, a, &sample);
}

void scan_act(Tensor pre, Tensor deter, Tensors draw, double mix, Tensor action, Tensor action_kernel, Tensor scale,
              Tensor bias, Tensor joint, Tensor stats) {
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  a.deter = in(checked(deter, {a.rows, a.size}, pre, "scan_input: deter"));
  const LatentFwdArgs sample = take_action(a, draw, mix, action, action_kernel, joint);
  run_input(pre, a, &sample);
}

// What every backward of an input has: djoint (B, D + U), dpre (B, U), partial (parts, 2, U).
ScanInputBwdArgs input_bwd_args(const Tensor& djoint, const Tensor& pre, const Tensor& stats, const Tensor& scale,
                                const Tensor& bias, const Tensor& dpre, const Tensor& partial) {
  HD_CHECK(pre.dim() == 2 && djoint.dim() == 2, "scan_input: pre must be (B, U), djoint (B, D + U)", got(pre, djoint));
  check_sizes(djoint, "scan_input: djoint");
  const int64_t b = pre.size(0), u = pre.size(1), d = djoint.size(1) - u;
  HD_CHECK(u >= 1 && u <= SCAN_MAX_COLS && d >= 0, "scan_input: pre must have 1 to ", SCAN_MAX_COLS,
           " columns, no more than djoint", got(pre, djoint));
  HD_CHECK(partial.dim() == 3, "scan_input: partial must be (parts, 2, U)", got(partial));
  ScanInputBwdArgs a{};
  a.rows = b, a.size = d, a.cols = u, a.parts = partial.size(0);
  a.djoint = in(checked(djoint, {b, d + u}, pre, "scan_input: djoint"));
  a.pre = in(checked(pre, {b, u}, pre, "scan_input: pre"));
  a.scale = in(checked(scale, {u}, pre, "scan_input: scale"));
  a.bias = in(checked(bias, {u}, pre, "scan_input: bias"));
  a.dtype = storage(dpre, "scan_input: dpre");
  a.dpre = out<void>(checked(dpre, {b, u}, pre, "scan_input: dpre", dpre.scalar_type()));
  a.partial = out(checked(partial, {a.parts, 2, u}, pre, "scan_input: partial"));
  HD_CHECK(a.parts >= 1, "scan_input: partial must have at least one part", got(partial));
  const Stats s = check_stats(stats, b, pre, "scan_input: stats");
  a.mean = s.mean, a.rstd = s.rstd;
  return a;
}

void run_input_bwd(const Tensor& pre, const ScanInputBwdArgs& a) {
  run(
      pre, [&](auto stream) { launch_scan_input_bwd(a, stream); },
      [&](auto threads) {
        threads.split(a.parts, 6 * (a.cols + a.size) * std::max<int64_t>(1, a.rows / a.parts),
                      [&](int64_t begin, int64_t end) { cpu::scan_input_bwd(a, begin, end); });
      });
}

void scan_norm_bwd(Tensor dy, Tensor x, Tensor stats, Tensor scale, Tensor bias, Tensor dx, Tensor partial) {
  const ScanInputBwdArgs a = input_bwd_args(dy, x, stats, scale, bias, dx, partial);
  HD_CHECK(a.size == 0, "scan_norm: dy must be as wide as x", got(x, dy));
  run_input_bwd(x, a);
}

void scan_start_bwd(Tensor djoint, Tensor direct, Tensor pre, Tensor stats, Tensor scale, Tensor bias, Tensor dpre,
                    Tensor dbefore, Tensor partial) {
  ScanInputBwdArgs a = input_bwd_args(djoint, pre, stats, scale, bias, dpre, partial);
  a.direct = in(checked(direct, {a.rows, a.size}, pre, "scan_input: direct"));
  a.dbefore = out(checked(dbefore, {a.rows, a.size}, pre, "scan_input: dbefore"));
  run_input_bwd(pre, a);
}

void scan_next_bwd(Tensor djoint, Tensor direct, Tensor reset, Tensor pre, Tensor stats, Tensor scale, Tensor bias,
                   Tensor dpre, Tensor dmasked, Tensor dbefore, Tensor carry, Tensor partial) {
  ScanInputBwdArgs a = input_bwd_args(djoint, pre, stats, scale, bias, dpre, partial);
  a.direct = in(checked(direct, {a.rows, a.size}, pre, "scan_input: direct"));
  a.reset = in<bool>(checked(reset, {a.rows}, pre, "scan_input: reset", ScalarType::Bool));
  a.dmasked = out<void>(checked(dmasked, {a.rows, a.cols}, pre, "scan_input: dmasked", dpre.scalar_type()));
  a.dbefore = out(checked(dbefore, {a.rows, a.size}, pre, "scan_input: dbefore"));
  a.carry = out(checked(carry, {a.rows, a.size}, pre, "scan_input: carry"));
  run_input_bwd(pre, a);
}

void scan_gates_fwd(Tensor x, Tensor deter, Tensor scale, Tensor bias, Tensor following, Maybe copy, Tensor stats) {
  HD_CHECK(deter.dim() == 2, "scan_gates: deter must be (B, D)", got(deter));
  check_sizes(deter, "scan_gates: deter");
  const int64_t b = deter.size(0), d = deter.size(1);
  GruGatesFwdArgs a{};
  a.rows = b, a.size = d, a.dtype = DType::F32;
  a.x = in<void>(checked(x, {b, 3 * d}, deter, "scan_gates: x"));
  a.deter = in(checked(deter, {b, d}, deter, "scan_gates: deter"));
  a.scale = in(checked(scale, {3 * d}, deter, "scan_gates: scale"));
  a.bias = in(checked(bias, {3 * d}, deter, "scan_gates: bias"));
  a.next = out(checked(following, {b, d}, deter, "scan_gates: following"));
  if (copy) {
    a.copy_dtype = check_operand(*copy, b, d, deter, "scan_gates: copy");
    a.next_copy = out<void>(*copy), a.copy_stride = copy->stride(0);
  }
  const Stats s = check_stats(stats, b, deter, "scan_gates: stats");
  a.mean = s.mean, a.rstd = s.rstd;
  run(
      deter, [&](auto stream) { launch_gru_gates_fwd(a, stream); },
      [&](auto threads) {
        threads.split(b, 6 * d, [&](int64_t begin, int64_t end) { cpu::gru_gates_fwd(a, begin, end); });
      });
}

void scan_gates_bwd(Tensor dnext, Tensor x, Tensor deter, Tensor stats, Tensor scale, Tensor bias, Tensor dx,
                    Tensor ddeter, Tensor partial) {
  HD_CHECK(deter.dim() == 2 && partial.dim() == 3, "scan_gates: deter must be (B, D), partial (parts, 2, 3D)",
           got(deter, partial));
  check_sizes(deter, "scan_gates: deter");
  const int64_t b = deter.size(0), d = deter.size(1);
  GruGatesBwdArgs a{};
  a.rows = b, a.size = d, a.parts = partial.size(0), a.dtype = DType::F32;
  a.dnext = in(checked(dnext, {b, d}, deter, "scan_gates: dnext"));
  a.x = in<void>(checked(x, {b, 3 * d}, deter, "scan_gates: x"));
  a.deter = in(checked(deter, {b, d}, deter, "scan_gates: deter"));
  a.scale = in(checked(scale, {3 * d}, deter, "scan_gates: scale"));
  a.bias = in(checked(bias, {3 * d}, deter, "scan_gates: bias"));
  a.dx_dtype = storage(dx, "scan_gates: dx");
  a.dx = out<void>(checked(dx, {b, 3 * d}, deter, "scan_gates: dx", dx.scalar_type()));
  a.ddeter = out(checked(ddeter, {b, d}, deter, "scan_gates: ddeter"));
  a.partial = out(checked(partial, {a.parts, 2, 3 * d}, deter, "scan_gates: partial"));
  HD_CHECK(a.parts >= 1, "scan_gates: partial must have at least one part", got(partial));
  const Stats s = check_stats(stats, b, deter, "scan_gates: stats");
  a.mean = s.mean, a.rstd = s.rstd;
  run(
      deter, [&](auto stream) { launch_gru_gates_bwd(a, stream); },
      [&](auto threads) {
        threads.split(a.parts, 20 * d * std::max<int64_t>(1, b / a.parts),
                      [&](int64_t begin, int64_t end) { cpu::gru_gates_bwd(a, begin, end); });
      });
}

void run_latent(const Tensor& logit, const LatentFwdArgs& a) {
  run(
      logit, [&](auto stream) { launch_latent_fwd(a, stream); },
      [&](auto threads) {
        threads.split(a.groups, 2 * a.classes, [&](int64_t begin, int64_t end) { cpu::latent_fwd(a, begin, end); });
      });
}

void scan_logp_fwd(Tensor logit, Tensor bias, double mix, Tensor logp) {
  LatentFwdArgs a = latent_args(logit, bias, mix);
  a.logp = out<void>(checked(logp, {logit.size(0), a.row_groups, a.classes}, logit, "scan_logp: logp"));
  run_latent(logit, a);
}

void scan_sample_fwd(Tensors draw, double mix, Maybe logp, Maybe onehot, Tensor index) {
  const LatentFwdArgs a = draw_args(draw, mix, logp, onehot, index);
  run_latent(draw[0], a);
}

void scan_sample_bwd(Tensor logit, Tensor bias, Maybe donehot, Maybe dlogp, double mix, Tensor dlogit) {
  HD_CHECK(logit.dim() == 3, "scan_sample: logit must be (B, S, K)", got(logit));
  check_sizes(logit, "scan_sample: logit");
  const int64_t b = logit.size(0), s = logit.size(1), k = logit.size(2);
  HD_CHECK(k >= 1 && k <= LATENT_MAX_CLASSES,
           "scan_sample: logit must have groups, and 1 to ", LATENT_MAX_CLASSES, " classes", got(logit));
  LatentBwdArgs a{};
  a.groups = times(b, s, "scan_sample: logit"), a.classes = k, a.mix = float(mix), a.dtype = DType::F32;
  a.logit = in<void>(checked(logit, {b, s, k}, logit, "scan_sample: logit"));
  a.bias = in(checked(bias, {s * k}, logit, "scan_sample: bias")), a.row_groups = s;
  a.donehot = checked<void>(donehot, {b, s, k}, logit, "scan_sample: donehot");
  a.dlogp = checked<void>(dlogp, {b, s, k}, logit, "scan_sample: dlogp");
  a.dlogit_dtype = storage(dlogit, "scan_sample: dlogit");
  a.dlogit = out<void>(checked(dlogit, {b, s, k}, logit, "scan_sample: dlogit", dlogit.scalar_type()));
  run(
      logit, [&](auto stream) { launch_latent_bwd(a, stream); },
      [&](auto threads) {
        threads.split(a.groups, 2 * k, [&](int64_t begin, int64_t end) { cpu::latent_bwd(a, begin, end); });
      });
}

}  // namespace
}  // namespace hd::ops

HD_LIBRARY(m) {
  m.def("scan_norm_fwd(Tensor x, Tensor scale, Tensor bias, Tensor(a!) y, Tensor(b!) stats) -> ()");
  m.def(
      "scan_norm_bwd(Tensor dy, Tensor x, Tensor stats, Tensor scale, Tensor bias, Tensor(a!) dx, "
      "Tensor(b!) partial) -> ()");
  m.def(
      "scan_start_fwd(Tensor(a!) pre, Tensor start, Tensor start_index, Tensor kernel, Tensor scale, Tensor bias, "
      "Tensor(b!) before, Tensor(c!) joint, Tensor(d!) stats) -> ()");
  m.def(
      "scan_start_bwd(Tensor djoint, Tensor direct, Tensor pre, Tensor stats, Tensor scale, Tensor bias, "
      "Tensor(a!) dpre, Tensor(b!) dbefore, Tensor(c!) partial) -> ()");
  m.def(
      "scan_next_fwd(Tensor(a!) pre, Tensor[] state, Tensor reset, Tensor[] draw, float mix, Tensor(b!)[] drawn, "
      "Tensor kernel, Tensor scale, Tensor bias, Tensor(c!) before, Tensor(d!) joint, Tensor(e!) stats) -> ()");
  m.def(
      "scan_next_bwd(Tensor djoint, Tensor direct, Tensor reset, Tensor pre, Tensor stats, Tensor scale, "
      "Tensor bias, Tensor(a!) dpre, Tensor(b!) dmasked, Tensor(c!) dbefore, Tensor(d!) carry, "
      "Tensor(e!) partial) -> ()");
  m.def(
      "scan_gather(Tensor(a!) pre, Tensor deter, Tensor index, Tensor[] draw, float mix, Tensor(b!) action, "
      "Tensor kernel, Tensor action_kernel, Tensor scale, Tensor bias, Tensor(c!) joint, Tensor(d!) stats) -> ()");
  m.def(
      "scan_act(Tensor(a!) pre, Tensor deter, Tensor[] draw, float mix, Tensor(b!) action, Tensor action_kernel, "
      "Tensor scale, Tensor bias, Tensor(c!) joint, Tensor(d!) stats) -> ()");
  m.def(
      "scan_gates_fwd(Tensor x, Tensor deter, Tensor scale, Tensor bias, Tensor(a!) following, Tensor(b!)? copy, "
      "Tensor(c!) stats) -> ()");
  m.def(
      "scan_gates_bwd(Tensor dnext, Tensor x, Tensor deter, Tensor stats, Tensor scale, Tensor bias, Tensor(a!) dx, "
      "Tensor(b!) ddeter, Tensor(c!) partial) -> ()");
  m.def("scan_logp_fwd(Tensor logit, Tensor bias, float mix, Tensor(a!) logp) -> ()");
  m.def("scan_sample_fwd(Tensor[] draw, float mix, Tensor(a!)? logp, Tensor(b!)? onehot, Tensor(c!) index) -> ()");
  m.def(
      "scan_sample_bwd(Tensor logit, Tensor bias, Tensor? donehot, Tensor? dlogp, float mix, Tensor(a!) dlogit) "
      "-> ()");
}

HD_IMPLEMENT(m) {
  m.impl("scan_norm_fwd", HD_BOX(hd::ops::scan_norm_fwd));
  m.impl("scan_norm_bwd", HD_BOX(hd::ops::scan_norm_bwd));
  m.impl("scan_start_fwd", HD_BOX(hd::ops::scan_start_fwd));
  m.impl("scan_start_bwd", HD_BOX(hd::ops::scan_start_bwd));
  m.impl("scan_next_fwd", HD_BOX(hd::ops::scan_next_fwd));
  m.impl("scan_next_bwd", HD_BOX(hd::ops::scan_next_bwd));
  m.impl("scan_gather", HD_BOX(hd::ops::scan_gather));
  m.impl("scan_act", HD_BOX(hd::ops::scan_act));
  m.impl("scan_gates_fwd", HD_BOX(hd::ops::scan_gates_fwd));
  m.impl("scan_gates_bwd", HD_BOX(hd::ops::scan_gates_bwd));
  m.impl("scan_logp_fwd", HD_BOX(hd::ops::scan_logp_fwd));
  m.impl("scan_sample_fwd", HD_BOX(hd::ops::scan_sample_fwd));
  m.impl("scan_sample_bwd", HD_BOX(hd::ops::scan_sample_bwd));
}
