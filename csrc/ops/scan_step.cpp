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

// A sample of unimix(logit + bias) of (B, S, K) logits into `index` (B, S); without it log-probabilities alone.
LatentFwdArgs sample_args(const Tensor& logit, const Maybe& bias, const Maybe& u, double mix, const Maybe& logp,
                          const Maybe& onehot, const Maybe& index) {
  HD_CHECK(logit.dim() == 3, "scan_sample: logit must be (B, S, K)", got(logit));
  check_sizes(logit, "scan_sample: logit");
  const int64_t b = logit.size(0), s = logit.size(1), k = logit.size(2);
  HD_CHECK(s >= 1 && k >= 1 && k <= LATENT_MAX_CLASSES,
           "scan_sample: logit must have groups, and 1 to ", LATENT_MAX_CLASSES, " classes", got(logit));
  LatentFwdArgs a{};
  a.groups = times(b, s, "scan_sample: logit"), a.classes = k, a.mix = float(mix), a.dtype = DType::F32;
  a.logit = in<void>(checked(logit, {b, s, k}, logit, "scan_sample: logit"));
  a.bias = checked(bias, {s * k}, logit, "scan_sample: bias");
  a.u = checked(u, {b, s}, logit, "scan_sample: u");
  HD_CHECK(a.u || !(index || onehot), "scan_sample: u must be given with index or onehot, got neither; give it");
  a.logp = checked<void>(logp, {b, s, k}, logit, "scan_sample: logp");
  a.index = checked<int64_t>(index, {b, s}, logit, "scan_sample: index", ScalarType::Long), a.row_groups = s;
  if (onehot) {
    a.onehot_dtype = check_operand(*onehot, b, s * k, logit, "scan_sample: onehot");
    a.onehot = out<void>(*onehot), a.onehot_stride = onehot->stride(0);
  }
  return a;
}

// The rows that a step gathers: of latents, of an action.
void take_rows(ScanInputFwdArgs& a, const Maybe& index, const Maybe& action, const Maybe& start_index,
               const Maybe& kernel, const Maybe& action_kernel, const Tensor& pre, ScalarType type) {
  if (index || start_index) {
    const Tensor& of = start_index ? *start_index : *index;
    HD_CHECK(kernel && of.dim() >= 1 && cols(of) >= 1, "scan_input: an index must have groups, and a kernel",
             got(of));
    a.groups = cols(of), a.classes = kernel->dim() == 2 ? kernel->size(0) / a.groups : 0;
    HD_CHECK(a.classes >= 1, "scan_input: kernel must have as many rows as groups times classes", got(*kernel, of));
    a.index = checked<int64_t>(index, {a.rows, a.groups}, pre, "scan_input: index", ScalarType::Long);
    a.start_index = checked<int64_t>(start_index, {a.groups}, pre, "scan_input: start_index", ScalarType::Long);
    a.kernel = checked<void>(kernel, {a.groups * a.classes, a.cols}, pre, "scan_input: kernel", type);
  }
  if (action) {
    HD_CHECK(action_kernel->dim() == 2 && action_kernel->size(0) >= 1,
             "scan_input: action_kernel must be (A, U), at least one action", got(*action_kernel));
    a.actions = action_kernel->size(0);
    a.action = checked<int64_t>(action, {a.rows, 1}, pre, "scan_input: drawn", ScalarType::Long);
    a.action_kernel = checked<void>(action_kernel, {a.actions, a.cols}, pre, "scan_input: action_kernel", type);
  }
}

// What is drawn is the action where there is an action_kernel, else the latents, in place of index.
void scan_input_fwd(Tensor pre, Maybe deter, Maybe index, Maybe reset, Maybe start, Maybe start_index, Maybe kernel,
                    Maybe action_kernel, Tensor scale, Tensor bias, Maybe before, Tensor joint, Tensor stats,
                    bool accumulate, Maybe logit, Maybe logit_bias, Maybe uniform, double mix, Maybe logp,
                    Maybe onehot, Maybe drawn) {
  HD_CHECK(pre.dim() == 2 && joint.dim() == 2, "scan_input: pre must be (B, U), joint (B, D + U)", got(pre, joint));
  check_sizes(joint, "scan_input: joint");
  const int64_t b = pre.size(0), u = pre.size(1), d = joint.size(1) - u;
  HD_CHECK(u >= 1 && u <= SCAN_MAX_COLS && d >= 0,
           "scan_input: pre must have 1 to ", SCAN_MAX_COLS, " columns, no more than joint",
           got(pre, joint));
  ScanInputFwdArgs a{};
  a.rows = b, a.size = d, a.cols = u, a.stride = joint.stride(0), a.accumulate = accumulate;
  a.dtype = check_operand(joint, b, d + u, pre, "scan_input: joint");
  a.joint = out<void>(joint), a.pre = out(checked(pre, {b, u}, pre, "scan_input: pre"));
  a.scale = in(checked(scale, {u}, pre, "scan_input: scale"));
  a.bias = in(checked(bias, {u}, pre, "scan_input: bias"));
  a.deter = checked(deter, {b, d}, pre, "scan_input: deter");
  a.start = checked(start, {d}, pre, "scan_input: start");
  a.before = checked(before, {b, d}, pre, "scan_input: before");
  a.reset = checked<bool>(reset, {b}, pre, "scan_input: reset", ScalarType::Bool);
  HD_CHECK(d == 0 || deter || start,
           "scan_input: deter or start must be given where joint has a state, got neither; give one");
  HD_CHECK(!reset || (start && start_index),
           "scan_input: start and start_index must be given with reset, got one at most; give both");
  HD_CHECK(bool(logit) == bool(drawn) && (drawn || !action_kernel),
           "scan_input: logit and drawn must be given together, and with action_kernel, got one alone; give both");
  HD_CHECK(!drawn || action_kernel || !index,
           "scan_input: index must be left out where it is drawn, got both; give one");
  take_rows(a, drawn && !action_kernel ? drawn : index, action_kernel ? drawn : Maybe{}, start_index, kernel,
            action_kernel, pre, joint.scalar_type());
  const Stats s = check_stats(stats, b, pre, "scan_input: stats");
  a.mean = s.mean, a.rstd = s.rstd;
  LatentFwdArgs sample{};
  if (logit) {
    check_device(*logit, pre, "scan_input: logit");
    check_shape(*logit, {b, a.action ? 1 : a.groups, a.action ? a.actions : a.classes}, "scan_input: logit");
    sample = sample_args(*logit, logit_bias, uniform, mix, logp, onehot, drawn);
  }
  const bool inside = logit && sample.row_groups <= SCAN_MAX_GROUPS && sample.classes <= SCAN_MAX_CLASSES;
  run(
      pre,
      [&](auto stream) {
        if (logit && !inside) launch_latent_fwd(sample, stream);
        launch_scan_input_fwd(a, inside ? &sample : nullptr, stream);
      },
      [&](auto threads) {
        threads.split(b, (a.groups + 4) * u + 2 * d + 2 * sample.row_groups * sample.classes,
                      [&](int64_t begin, int64_t end) {
                        if (logit) cpu::latent_fwd(sample, begin * sample.row_groups, end * sample.row_groups);
                        cpu::scan_input_fwd(a, begin, end);
                      });
      });
}

void scan_input_bwd(Tensor djoint, Maybe direct, Maybe reset, Tensor pre, Tensor stats, Tensor scale, Tensor bias,
                    Tensor dpre, Maybe dmasked, Maybe dbefore, Maybe carry, Tensor partial) {
  HD_CHECK(pre.dim() == 2 && djoint.dim() == 2, "scan_input: pre must be (B, U), djoint (B, D + U)", got(pre, djoint));
  check_sizes(djoint, "scan_input: djoint");
  const int64_t b = pre.size(0), u = pre.size(1), d = djoint.size(1) - u;
  HD_CHECK(u >= 1 && u <= SCAN_MAX_COLS && d >= 0,
           "scan_input: pre must have 1 to ", SCAN_MAX_COLS, " columns, no more than djoint",
           got(pre, djoint));
  HD_CHECK(partial.dim() == 3, "scan_input: partial must be (parts, 2, U)", got(partial));
  ScanInputBwdArgs a{};
  a.rows = b, a.size = d, a.cols = u, a.parts = partial.size(0);
  a.djoint = in(checked(djoint, {b, d + u}, pre, "scan_input: djoint"));
  a.pre = in(checked(pre, {b, u}, pre, "scan_input: pre"));
  a.scale = in(checked(scale, {u}, pre, "scan_input: scale"));
  a.bias = in(checked(bias, {u}, pre, "scan_input: bias"));
  a.reset = checked<bool>(reset, {b}, pre, "scan_input: reset", ScalarType::Bool);
  HD_CHECK(d == 0 || (direct && dbefore),
           "scan_input: direct and dbefore must be given where djoint has a state, got one at most; give both");
  a.direct = checked(direct, {b, d}, pre, "scan_input: direct");
  a.dbefore = checked(dbefore, {b, d}, pre, "scan_input: dbefore");
  a.carry = checked(carry, {b, d}, pre, "scan_input: carry");
  a.dtype = storage(dpre, "scan_input: dpre");
  a.dpre = out<void>(checked(dpre, {b, u}, pre, "scan_input: dpre", dpre.scalar_type()));
  a.dmasked = checked<void>(dmasked, {b, u}, pre, "scan_input: dmasked", dpre.scalar_type());
  a.partial = out(checked(partial, {a.parts, 2, u}, pre, "scan_input: partial"));
  HD_CHECK(a.parts >= 1, "scan_input: partial must have at least one part", got(partial));
  const Stats s = check_stats(stats, b, pre, "scan_input: stats");
  a.mean = s.mean, a.rstd = s.rstd;
  run(
      pre, [&](auto stream) { launch_scan_input_bwd(a, stream); },
      [&](auto threads) {
        threads.split(a.parts, 6 * (u + d) * std::max<int64_t>(1, b / a.parts),
                      [&](int64_t begin, int64_t end) { cpu::scan_input_bwd(a, begin, end); });
      });
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

void scan_sample_fwd(Tensor logit, Maybe bias, Maybe u, double mix, Maybe logp, Maybe onehot, Maybe index) {
  const LatentFwdArgs a = sample_args(logit, bias, u, mix, logp, onehot, index);
  run(
      logit, [&](auto stream) { launch_latent_fwd(a, stream); },
      [&](auto threads) {
        threads.split(a.groups, 2 * a.classes, [&](int64_t begin, int64_t end) { cpu::latent_fwd(a, begin, end); });
      });
}

void scan_sample_bwd(Tensor logit, Maybe bias, Maybe donehot, Maybe dlogp, double mix, Tensor dlogit) {
  HD_CHECK(logit.dim() == 3, "scan_sample: logit must be (B, S, K)", got(logit));
  check_sizes(logit, "scan_sample: logit");
  const int64_t b = logit.size(0), s = logit.size(1), k = logit.size(2);
  HD_CHECK(k >= 1 && k <= LATENT_MAX_CLASSES,
           "scan_sample: logit must have groups, and 1 to ", LATENT_MAX_CLASSES, " classes", got(logit));
  LatentBwdArgs a{};
  a.groups = times(b, s, "scan_sample: logit"), a.classes = k, a.mix = float(mix), a.dtype = DType::F32;
  a.logit = in<void>(checked(logit, {b, s, k}, logit, "scan_sample: logit"));
  a.bias = checked(bias, {s * k}, logit, "scan_sample: bias"), a.row_groups = s;
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
  m.def(
      "scan_input_fwd(Tensor(a!) pre, Tensor? deter, Tensor? index, Tensor? reset, Tensor? start, "
      "Tensor? start_index, Tensor? kernel, Tensor? action_kernel, Tensor scale, Tensor bias, Tensor(b!)? before, "
      "Tensor(c!) joint, Tensor(d!) stats, bool accumulate, Tensor? logit, Tensor? logit_bias, Tensor? u, float mix, "
      "Tensor(e!)? logp, Tensor(f!)? onehot, Tensor(g!)? drawn) -> ()");
  m.def(
      "scan_input_bwd(Tensor djoint, Tensor? direct, Tensor? reset, Tensor pre, Tensor stats, Tensor scale, "
      "Tensor bias, Tensor(a!) dpre, Tensor(b!)? dmasked, Tensor(c!)? dbefore, Tensor(d!)? carry, "
      "Tensor(e!) partial) -> ()");
  m.def(
      "scan_gates_fwd(Tensor x, Tensor deter, Tensor scale, Tensor bias, Tensor(a!) following, Tensor(b!)? copy, "
      "Tensor(c!) stats) -> ()");
  m.def(
      "scan_gates_bwd(Tensor dnext, Tensor x, Tensor deter, Tensor stats, Tensor scale, Tensor bias, Tensor(a!) dx, "
      "Tensor(b!) ddeter, Tensor(c!) partial) -> ()");
  m.def(
      "scan_sample_fwd(Tensor logit, Tensor? bias, Tensor? u, float mix, Tensor(a!)? logp, Tensor(b!)? onehot, "
      "Tensor(c!)? index) -> ()");
  m.def(
      "scan_sample_bwd(Tensor logit, Tensor? bias, Tensor? donehot, Tensor? dlogp, float mix, Tensor(a!) dlogit) "
      "-> ()");
}

HD_IMPLEMENT(m) {
  m.impl("scan_input_fwd", HD_BOX(hd::ops::scan_input_fwd));
  m.impl("scan_input_bwd", HD_BOX(hd::ops::scan_input_bwd));
  m.impl("scan_gates_fwd", HD_BOX(hd::ops::scan_gates_fwd));
  m.impl("scan_gates_bwd", HD_BOX(hd::ops::scan_gates_bwd));
  m.impl("scan_sample_fwd", HD_BOX(hd::ops::scan_sample_fwd));
  m.impl("scan_sample_bwd", HD_BOX(hd::ops::scan_sample_bwd));
}
