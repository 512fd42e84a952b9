// Launchers of normal.
#include "kernels/launcher.cuh"
#include "kernels/normal.cuh"

namespace hd {

HD_LAUNCHER(normal_policy_fwd, NormalPolicyArgs, normal_policy_fwd_kernel, size, NORMAL_THREADS, NORMAL_THREADS)
HD_LAUNCHER(normal_policy_bwd, NormalPolicyArgs, normal_policy_bwd_kernel, size, NORMAL_THREADS, NORMAL_THREADS)
HD_LAUNCHER(normal_log_prob_fwd, NormalLogProbArgs, normal_log_prob_fwd_kernel, rows, NORMAL_ROWS, NORMAL_THREADS)
HD_LAUNCHER(normal_log_prob_bwd, NormalLogProbArgs, normal_log_prob_bwd_kernel, rows* a.actions, NORMAL_THREADS,
            NORMAL_THREADS)
HD_LAUNCHER(normal_sample, NormalSampleArgs, normal_sample_kernel, rows* a.actions, NORMAL_THREADS, NORMAL_THREADS)

}  // namespace hd
