// scan_step.cpp -- what is computed between two products of a step, as torch ops that write into given buffers; the
// equations are in kernels/scan_step.h, gru_gates.h and latent.h.
//
// Rows are 2-d here: (B, columns). Buffers that a product reads may be float32 or bfloat16, the rest is float32.
#include "kernels/scan_step.h"

#include "kernels/gru_gates.h"
#include "kernels/latent.h"
#include "ops/glue.h"

namespace hd::ops {
namespace {

// An operand of `rows` rows of `columns` elements, any distance apart; its type.
DType check_operand(const Tensor& t, int64_t rows, int64_t columns, const Tensor& like, const char* what) {
  check_sizes(t, what);
  check_shape(t, {rows, columns}, what);
  HD_CHECK(t.stride(1) == 1 && t.stride(0) >= columns, what,
           " must have rows that are contiguous and apart, got strides ", strides_of(t), "; copy it");
  check_device(t, like, what);
  return storage(t, what);
}

// Sums over slices of the rows, (parts, 2, columns).
float* take_parts(const Tensor& partial, int64_t& parts, int64_t columns, const Tensor& like) {
  HD_CHECK(partial.dim() == 3 && partial.size(0) >= 1, "partial must be (parts, 2, columns), at least one part",
           got(partial));
  parts = partial.size(0);
  return take(partial, {parts, 2, columns}, like, "partial");
}

// unimix(logit + bias) of (B, S, K) logits, bias (S*K,), or its backward.
template <class Args>
Args latent_args(const Tensor& logit, const Tensor& bias, double mix) {
  HD_CHECK(logit.dim() == 3, "logit must be (B, S, K)", got(logit));
  check_sizes(logit, "logit");
  const int64_t b = logit.size(0), s = logit.size(1), k = logit.size(2);
  HD_CHECK(s >= 1 && k >= 1 && k <= LATENT_MAX_CLASSES, "logit must have groups, and 1 to ", LATENT_MAX_CLASSES,
           " classes", got(logit));
  Args a{};
  a.groups = times(b, s, "logit"), a.classes = k, a.mix = float(mix), a.dtype = DType::F32;
  HD_TAKE(a, logit, {b, s, k}, logit);
  HD_TAKE(a, bias, {s * k}, logit), a.row_groups = s;
  return a;
}

// A sample of it: draw = [logit, bias, u (B, S)] -> index (B, S), and where wanted logp (B, S, K), onehot (B, S*K).
LatentFwdArgs draw_args(const Tensors& draw, double mix, const Maybe& logp, const Maybe& onehot, const Tensor& index) {
  HD_CHECK(draw.size() == 3, "draw must be logit, bias and u, got ", draw.size(), " tensors; give three");
  const Tensor& logit = draw[0];
  auto a = latent_args<LatentFwdArgs>(logit, draw[1], mix);
  const int64_t b = logit.size(0), s = a.row_groups, k = a.classes;
  a.u = take(draw[2], {b, s}, logit, "u");
  HD_TAKE(a, logp, {b, s, k}, logit);
  HD_TAKE(a, index, {b, s}, logit);
  if (onehot) {
    a.onehot_dtype = check_operand(*onehot, b, s * k, logit, "onehot");
    a.onehot = out<void>(*onehot), a.onehot_stride = onehot->stride(0);
  }
  return a;
}

// What every input of a step has in either direction: pre (B, U), joint or its gradient (B, D + U), norm's scale and
// bias (U,), stats (2, B).
template <class Args>
Args step_args(const Tensor& pre, const Tensor& joint, const Tensor& scale, const Tensor& bias, const Tensor& stats) {
  HD_CHECK(pre.dim() == 2 && joint.dim() == 2, "pre must be (B, U), joint or djoint (B, D + U)", got(pre, joint));
  check_sizes(joint, "joint or djoint");
  const int64_t b = pre.size(0), u = pre.size(1), d = joint.size(1) - u;
  HD_CHECK(u >= 1 && u <= SCAN_MAX_COLS && d >= 0, "pre must have 1 to ", SCAN_MAX_COLS,
           " columns, no more than joint or djoint", got(pre, joint));
  Args a{};
  a.rows = b, a.size = d, a.cols = u;
  HD_TAKE(a, pre, {b, u}, pre);
  HD_TAKE(a, scale, {u}, pre), HD_TAKE(a, bias, {u}, pre);
  a.mean = take(stats, {2, b}, pre, "stats"), a.rstd = a.mean + b;
  return a;
}

ScanInputFwdArgs input_args(const Tensor& pre, const Tensor& scale, const Tensor& bias, const Tensor& joint,
                            const Tensor& stats) {
  auto a = step_args<ScanInputFwdArgs>(pre, joint, scale, bias, stats);
  a.dtype = check_operand(joint, a.rows, a.size + a.cols, pre, "joint");
  a.joint = out<void>(joint), a.stride = joint.stride(0), a.accumulate = true;
  return a;
}

// The kernel whose rows are gathered, (groups * classes, U) of joint's type.
void take_kernel(ScanInputFwdArgs& a, const Tensor& kernel, int64_t groups, const Tensor& joint) {
  HD_CHECK(groups >= 1 && kernel.dim() == 2 && kernel.size(0) >= groups,
           "kernel must have as many rows as groups times classes, at least one, got ", groups, " groups and shape ",
           shape_of(kernel), "; give the kernel of this model");
  a.groups = groups, a.classes = kernel.size(0) / groups;
  a.kernel = take_as(joint.scalar_type(), kernel, {groups * a.classes, a.cols}, joint, "kernel");
}

// The state that rows start from: start (D,), start_index (S,), whose rows of kernel are added; before (B, D).
void take_start(ScanInputFwdArgs& a, const Tensor& start, const Tensor& start_index, const Tensor& kernel,
                const Tensor& before, const Tensor& joint) {
  HD_TAKE(a, start, {a.size}, joint);
  take_kernel(a, kernel, start_index.numel(), joint);
  HD_TAKE(a, start_index, {a.groups}, joint);
  HD_TAKE(a, before, {a.rows, a.size}, joint);
}

// The action that is drawn, draw = [logit (B, 1, A), bias, u] -> action (B, 1), and its row of action_kernel (A, U).
LatentFwdArgs take_action(ScanInputFwdArgs& a, const Tensors& draw, double mix, const Tensor& action,
                          const Tensor& action_kernel, const Tensor& joint) {
  const LatentFwdArgs sample = draw_args(draw, mix, {}, {}, action);
  check_device(draw[0], joint, "logit");
  check_shape(draw[0], {a.rows, 1, sample.classes}, "logit");
  a.actions = sample.classes, a.action = sample.index;
  a.action_kernel = take_as(joint.scalar_type(), action_kernel, {a.actions, a.cols}, joint, "action_kernel");
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

HD_OP(void, scan_norm_fwd, (Tensor x, Tensor scale, Tensor bias, Out y, Out stats)) {
  const ScanInputFwdArgs a = input_args(x, scale, bias, y, stats);
  HD_CHECK(a.size == 0, "y must be as wide as x", got(x, y));
  run_input(x, a);
}

HD_OP(void, scan_joint_fwd, (Tensor pre, Tensor deter, Tensor scale, Tensor bias, Out joint, Out stats)) {
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  HD_TAKE(a, deter, {a.rows, a.size}, pre);
  run_input(pre, a);
}

HD_OP(void, scan_start_fwd,
      (Out pre, Tensor start, Tensor start_index, Tensor kernel, Tensor scale, Tensor bias, Out before, Out joint,
       Out stats)) {
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  take_start(a, start, start_index, kernel, before, joint);
  run_input(pre, a);
}

// state = [deter (B, D), start (D,), start_index (S,)]; drawn = [logp, onehot, index].
HD_OP(void, scan_next_fwd,
      (Out pre, Tensors state, Tensor reset, Tensors draw, double mix, Outs drawn, Tensor kernel, Tensor scale,
       Tensor bias, Out before, Out joint, Out stats)) {
  HD_CHECK(state.size() == 3 && drawn.size() == 3, "state and drawn must be three tensors each, got ", state.size(),
           " and ", drawn.size(), "; give the three");
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  a.deter = take(state[0], {a.rows, a.size}, pre, "deter");
  HD_TAKE(a, reset, {a.rows}, pre);
  take_start(a, state[1], state[2], kernel, before, joint);
  const LatentFwdArgs sample = draw_args(draw, mix, drawn[0], drawn[1], drawn[2]);
  check_device(draw[0], pre, "logit");
  check_shape(draw[0], {a.rows, a.groups, a.classes}, "logit");
  a.index = sample.index;
  run_input(pre, a, &sample);
}

HD_OP(void, scan_gather,
      (Out pre, Tensor deter, Tensor index, Tensors draw, double mix, Out action, Tensor kernel, Tensor action_kernel,
       Tensor scale, Tensor bias, Out joint, Out stats)) {
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  a.accumulate = false;
  HD_TAKE(a, deter, {a.rows, a.size}, pre);
  HD_CHECK(index.dim() == 2, "index must be (B, S)", got(index));
  take_kernel(a, kernel, index.size(1), joint);
  HD_TAKE(a, index, {a.rows, a.groups}, pre);
  const LatentFwdArgs sample = take_action(a, draw, mix, action, action_kernel, joint);
  run_input(pre, a, &sample);
}

HD_OP(void, scan_act,
      (Out pre, Tensor deter, Tensors draw, double mix, Out action, Tensor action_kernel, Tensor scale, Tensor bias,
       Out joint, Out stats)) {
  ScanInputFwdArgs a = input_args(pre, scale, bias, joint, stats);
  HD_TAKE(a, deter, {a.rows, a.size}, pre);
  const LatentFwdArgs sample = take_action(a, draw, mix, action, action_kernel, joint);
  run_input(pre, a, &sample);
}

// dpre (B, U), partial (parts, 2, U).
ScanInputBwdArgs input_bwd_args(const Tensor& djoint, const Tensor& pre, const Tensor& stats, const Tensor& scale,
                                const Tensor& bias, const Tensor& dpre, const Tensor& partial) {
  auto a = step_args<ScanInputBwdArgs>(pre, djoint, scale, bias, stats);
  HD_TAKE(a, djoint, {a.rows, a.size + a.cols}, pre);
  a.dtype = storage(dpre, "dpre"), a.dpre = take_as(dpre.scalar_type(), dpre, {a.rows, a.cols}, pre, "dpre");
  a.partial = take_parts(partial, a.parts, a.cols, pre);
  return a;
}

void run_input_bwd(const Tensor& pre, const ScanInputBwdArgs& a) {
  HD_RUN(scan_input_bwd, pre, a, a.parts, 6 * (a.cols + a.size) * a.rows / a.parts);
}

HD_OP(void, scan_norm_bwd, (Tensor dy, Tensor x, Tensor stats, Tensor scale, Tensor bias, Out dx, Out partial)) {
  const ScanInputBwdArgs a = input_bwd_args(dy, x, stats, scale, bias, dx, partial);
  HD_CHECK(a.size == 0, "dy must be as wide as x", got(x, dy));
  run_input_bwd(x, a);
}

HD_OP(void, scan_joint_bwd,
      (Tensor djoint, Tensor direct, Tensor pre, Tensor stats, Tensor scale, Tensor bias, Out dpre, MaybeOut carry,
       Out partial)) {
  ScanInputBwdArgs a = input_bwd_args(djoint, pre, stats, scale, bias, dpre, partial);
  HD_TAKE(a, direct, {a.rows, a.size}, pre);
  HD_TAKE(a, carry, {a.rows, a.size}, pre);
  run_input_bwd(pre, a);
}

HD_OP(void, scan_start_bwd,
      (Tensor djoint, Tensor direct, Tensor pre, Tensor stats, Tensor scale, Tensor bias, Out dpre, Out dbefore,
       Out partial)) {
  ScanInputBwdArgs a = input_bwd_args(djoint, pre, stats, scale, bias, dpre, partial);
  HD_TAKE(a, direct, {a.rows, a.size}, pre);
  HD_TAKE(a, dbefore, {a.rows, a.size}, pre);
  run_input_bwd(pre, a);
}

HD_OP(void, scan_next_bwd,
      (Tensor djoint, Tensor direct, Tensor reset, Tensor pre, Tensor stats, Tensor scale, Tensor bias, Out dpre,
       Out dmasked, Out dbefore, Out carry, Out partial)) {
  ScanInputBwdArgs a = input_bwd_args(djoint, pre, stats, scale, bias, dpre, partial);
  HD_TAKE(a, direct, {a.rows, a.size}, pre);
  HD_TAKE(a, reset, {a.rows}, pre);
  a.dmasked = take_as(dpre.scalar_type(), dmasked, {a.rows, a.cols}, pre, "dmasked");
  HD_TAKE(a, dbefore, {a.rows, a.size}, pre);
  HD_TAKE(a, carry, {a.rows, a.size}, pre);
  run_input_bwd(pre, a);
}

// x (B, 3D), deter (B, D), scale and bias (3D,), stats (2, B).
template <class Args>
Args step_gates_args(const Tensor& x, const Tensor& deter, const Tensor& scale, const Tensor& bias,
                     const Tensor& stats) {
  HD_CHECK(deter.dim() == 2, "deter must be (B, D)", got(deter));
  check_sizes(deter, "deter");
  const int64_t b = deter.size(0), d = deter.size(1);
  Args a{};
  a.rows = b, a.size = d, a.dtype = DType::F32;
  HD_TAKE(a, x, {b, 3 * d}, deter), HD_TAKE(a, deter, {b, d}, deter);
  HD_TAKE(a, scale, {3 * d}, deter), HD_TAKE(a, bias, {3 * d}, deter);
  a.mean = take(stats, {2, b}, deter, "stats"), a.rstd = a.mean + b;
  return a;
}

HD_OP(void, scan_gates_fwd,
      (Tensor x, Tensor deter, Tensor scale, Tensor bias, Out following, MaybeOut copy, Out stats)) {
  auto a = step_gates_args<GruGatesFwdArgs>(x, deter, scale, bias, stats);
  a.next = take(following, {a.rows, a.size}, deter, "following");
  if (copy) {
    a.copy_dtype = check_operand(*copy, a.rows, a.size, deter, "copy");
    a.next_copy = out<void>(*copy), a.copy_stride = copy->stride(0);
  }
  HD_RUN(gru_gates_fwd, deter, a, a.rows, 6 * a.size);
}

HD_OP(void, scan_gates_bwd,
      (Tensor dnext, Tensor x, Tensor deter, Tensor stats, Tensor scale, Tensor bias, Out dx, Out ddeter,
       Out partial)) {
  auto a = step_gates_args<GruGatesBwdArgs>(x, deter, scale, bias, stats);
  HD_TAKE(a, dnext, {a.rows, a.size}, deter), HD_TAKE(a, ddeter, {a.rows, a.size}, deter);
  a.dx_dtype = storage(dx, "dx"), a.dx = take_as(dx.scalar_type(), dx, {a.rows, 3 * a.size}, deter, "dx");
  a.partial = take_parts(partial, a.parts, 3 * a.size, deter);
  HD_RUN(gru_gates_bwd, deter, a, a.parts, 20 * a.size * a.rows / a.parts);
}

void run_latent(const Tensor& logit, const LatentFwdArgs& a) { HD_RUN(latent_fwd, logit, a, a.groups, 2 * a.classes); }

HD_OP(void, scan_logp_fwd, (Tensor logit, Tensor bias, double mix, Out logp)) {
  auto a = latent_args<LatentFwdArgs>(logit, bias, mix);
  HD_TAKE(a, logp, {logit.size(0), a.row_groups, a.classes}, logit);
  run_latent(logit, a);
}

HD_OP(void, scan_sample_fwd, (Tensors draw, double mix, MaybeOut logp, MaybeOut onehot, Out index)) {
  const LatentFwdArgs a = draw_args(draw, mix, logp, onehot, index);
  run_latent(draw[0], a);
}

HD_OP(void, scan_sample_bwd, (Tensor logit, Tensor bias, Maybe donehot, Maybe dlogp, double mix, Out dlogit)) {
  auto a = latent_args<LatentBwdArgs>(logit, bias, mix);
  const int64_t b = logit.size(0), s = a.row_groups, k = a.classes;
  HD_TAKE(a, donehot, {b, s, k}, logit), HD_TAKE(a, dlogp, {b, s, k}, logit);
  a.dlogit_dtype = storage(dlogit, "dlogit");
  a.dlogit = take_as(dlogit.scalar_type(), dlogit, {b, s, k}, logit, "dlogit");
  HD_RUN(latent_bwd, logit, a, a.groups, 2 * k);
}

}  // namespace
}  // namespace hd::ops
