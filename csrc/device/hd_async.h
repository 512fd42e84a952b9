// hd_async.h -- cp.async: 16-byte copies from global to shared memory that bypass registers (sm_80 on).
//
// Commit closes a group; wait<N> returns when at most N of this thread's latest groups are still in flight; a
// barrier must follow before other threads read. Under emulation the bytes arrive only at the wait, so a
// missing wait shows.
#pragma once
#include "hd.h"

namespace hd {

__device__ __forceinline__ void cp_async16(void* shared, const void* global) {
#ifdef __CUDACC__
  unsigned to = unsigned(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;\n" ::"r"(to), "l"(global) : "memory");
#else
  emu::Quiet quiet;
  emu::Fiber* f = emu::current;
  if (f->copies_pending == emu::MAX_ASYNC_COPIES) emu::fail("too many cp.async in flight", f);
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) & 15)
    emu::fail("misaligned cp.async", f);
  f->copies[f->copies_pending++] = {shared, global, 16, f->copy_group};
#endif
}

__device__ __forceinline__ void cp_async_commit() {
#ifdef __CUDACC__
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#else
  emu::current->copy_group++;
#endif
}

template <int PENDING>
__device__ __forceinline__ void cp_async_wait() {
#ifdef __CUDACC__
  asm volatile("cp.async.wait_group %0;\n" ::"n"(PENDING) : "memory");
#else
  emu::Fiber* f = emu::current;
  unsigned kept = 0;
  for (unsigned i = 0; i < f->copies_pending; ++i) {
    emu::AsyncCopy c = f->copies[i];
    bool due = c.group < f->copy_group && f->copy_group - c.group > unsigned(PENDING);
    if (due) memcpy(c.to, c.from, c.bytes);  // instrumented: sanitizers see it as the thread's own access
    else f->copies[kept++] = c;
  }
  f->copies_pending = kept;
#endif
}

}  // namespace hd
