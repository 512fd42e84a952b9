// emu_fiber.h -- fibers, their scheduler and the state of one launch.
//
// `ready` is a bit set over priority slots: slot s belongs to fiber order[s], so "next runnable" is a count
// of trailing zeros. Engine bookkeeping is hidden from TSan (Quiet); the only happens-before edges it sees
// are the ones that acquire() and release() state on purpose.
#pragma once
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "emu_types.h"

#if defined(__SANITIZE_ADDRESS__)
#define HD_EMU_ASAN 1
#include <pthread.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#define HD_EMU_TSAN 1
extern "C" {
void* __tsan_get_current_fiber(void);
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
void __tsan_ignore_thread_begin(void);
void __tsan_ignore_thread_end(void);
}
#endif

namespace hd::emu {

constexpr size_t STACK_BYTES = 256 << 10;  // per CUDA thread, above one guard page
constexpr size_t GUARD_BYTES = 4096;
constexpr unsigned MAX_FIBERS = 1 << 16;   // 64 co-resident blocks of 1024 threads
constexpr size_t SHARED_BYTES = 48 << 10;  // of a block, static and dynamic: no launcher asks for more
constexpr size_t LANE_BYTES = 64;          // largest value of a warp collective

using Place = std::source_location;  // of a barrier or a warp collective
inline bool same(Place a, Place b) { return a.line() == b.line() && !strcmp(a.file_name(), b.file_name()); }

struct Block;
enum class State : uint8_t { Run, Barrier, Warp, Grid, Done };

struct Fiber {
  void* sp;              // saved stack pointer while suspended
  unsigned char* stack;  // null: to be built by prepare_fiber
  Block* block;
  uint3 thread;         // threadIdx
  unsigned linear, id;  // linear thread number in the block; index in Engine::fibers
  State state;
  Place place;  // of the last collective or barrier
  void *fake_stack, *tsan;
};

struct Collective {  // lanes of one warp meeting under one mask; double buffered by generation
  uint32_t mask = 0, arrived = 0;
  unsigned generation = 0;
  Place place;
  alignas(16) unsigned char lane[2][32][LANE_BYTES];
};
struct Warp {
  std::vector<std::unique_ptr<Collective>> groups;
};
struct SharedVariable {
  const void* tag;
  void* memory;
};
struct Block {
  uint3 index;
  unsigned live = 0, waiting = 0, generation = 0;
  Place place;            // of the barrier being waited at
  int votes[2] = {0, 0};  // __syncthreads_count, by generation
  char order[2];          // TSan tokens of the barrier, by generation
  std::vector<SharedVariable> shared;
  void* dynamic = nullptr;
  size_t shared_bytes = 0;  // of both kinds, so far
  std::vector<Warp> warps;
  Fiber* first = nullptr;
};

struct Engine {  // one per OS thread, kept between launches
  dim3 grid, block;
  unsigned threads = 0, fibers_used = 0, fibers_built = 0, live = 0;
  bool cooperative = false, greedy = false;
  unsigned at_grid = 0, grid_generation = 0;
  Fiber* fibers = nullptr;  // never moves: suspended frames point into it
  std::vector<Block> blocks;
  std::vector<uint64_t> ready;
  std::vector<unsigned> order, slot;  // priority slot -> fiber, fiber -> slot
  unsigned cursor = 0;
  int priority = 0;  // 0 forward, 1 reverse, 2 random
  std::mt19937_64 random;
  void *host_sp = nullptr, *host_fake = nullptr, *host_tsan = nullptr;
  const void* host_stack = nullptr;
  size_t host_stack_bytes = 0;
  char order_start, order_end, order_grid[2];
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::string error;
};

inline thread_local Engine* engine = nullptr;
inline thread_local Fiber* current = nullptr;  // null on the host side

inline void acquire([[maybe_unused]] void* token) {
#ifdef HD_EMU_TSAN
  __tsan_acquire(token);
#endif
}
inline void release([[maybe_unused]] void* token) {
#ifdef HD_EMU_TSAN
  __tsan_release(token);
#endif
}
struct Quiet {  // accesses in this scope are the engine's own, not the kernel's
#ifdef HD_EMU_TSAN
  Quiet() { __tsan_ignore_thread_begin(); }
  ~Quiet() { __tsan_ignore_thread_end(); }
#else
  Quiet() {}
#endif
};

// ---- switching
// ---------------------------------------------------------------------------------------------------

// Saves the callee-saved registers on the current stack and continues on another (System V x86-64).
__attribute__((naked, noinline, no_sanitize("address", "thread", "undefined"))) inline void swap_stacks(void** /*from*/,
                                                                                                        void* /*to*/) {
  asm volatile("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
               "movq %rsp,(%rdi); movq %rsi,%rsp\n"
               "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret\n");
}

inline void switch_stack(void** from, [[maybe_unused]] void** fake, void* to, [[maybe_unused]] const void* bottom,
                         [[maybe_unused]] size_t bytes, [[maybe_unused]] void* tsan) {
#ifdef HD_EMU_ASAN
  __sanitizer_start_switch_fiber(fake, bottom, bytes);
#endif
#ifdef HD_EMU_TSAN
  __tsan_switch_to_fiber(tsan, 1);  // 1: the switch itself orders nothing
#endif
  swap_stacks(from, to);
#ifdef HD_EMU_ASAN
  __sanitizer_finish_switch_fiber(*fake, nullptr, nullptr);
#endif
}
inline void switch_to_host() {
  Fiber* me = current;
  switch_stack(&me->sp, &me->fake_stack, engine->host_sp, engine->host_stack, engine->host_stack_bytes,
               engine->host_tsan);
}
inline void switch_to(void** from, void** fake, Fiber* next) {
  current = next;
  switch_stack(from, fake, next->sp, next->stack, STACK_BYTES, next->tsan);
}

// ---- scheduler
// ---------------------------------------------------------------------------------------------------

inline void make_ready(Fiber* f) {
  unsigned s = engine->slot[f->id];
  engine->ready[s >> 6] |= 1ull << (s & 63);
  f->state = State::Run;
}
inline void suspend(Fiber* f, State why) {
  unsigned s = engine->slot[f->id];
  engine->ready[s >> 6] &= ~(1ull << (s & 63));
  f->state = why;
}
inline int first_ready(unsigned from, unsigned end) {
  for (unsigned word = from >> 6; word <= (end - 1) >> 6; ++word) {
    uint64_t bits = engine->ready[word];
    if (word == from >> 6) bits &= ~0ull << (from & 63);
    if (bits) {
      unsigned s = word * 64 + unsigned(__builtin_ctzll(bits));
      return s < end ? int(s) : -1;
    }
  }
  return -1;
}
inline Fiber* pick(bool yielding) {
  int s = -1;
  bool onward = !engine->greedy || yielding;
  if (onward && engine->cursor + 1 < engine->fibers_used) s = first_ready(engine->cursor + 1, engine->fibers_used);
  if (s < 0) s = first_ready(0, engine->fibers_used);
  if (s < 0) return nullptr;
  engine->cursor = unsigned(s);
  return &engine->fibers[engine->order[engine->cursor]];
}
inline void reschedule(bool yielding = false) {
  Fiber* me = current;
  Fiber* next = pick(yielding);
  if (next == me) return;
  release(&engine->order_end);  // should the launch fail, this thread stops here
  if (next) switch_to(&me->sp, &me->fake_stack, next);
  else switch_to_host();
}

// ---- errors
// ------------------------------------------------------------------------------------------------------

inline std::string site(Place p) { return std::string(p.file_name()) + ":" + std::to_string(p.line()); }
inline std::string where(const Fiber* f) {
  char text[160];
  const uint3 &b = f->block->index, &t = f->thread;
  snprintf(text, sizeof text, "block (%u,%u,%u) thread (%u,%u,%u) at ", b.x, b.y, b.z, t.x, t.y, t.z);
  return text + site(f->place);
}
// Leaves a kernel for good: the launch ends with engine->error. The fiber's frames are never unwound, so
// callers own no heap memory at this point.
[[noreturn]] inline void abandon() {
  release(&engine->order_end);
  switch_to_host();
  __builtin_trap();
}
// Ends the launch naming the mistake, the place of this thread and, for a mismatch, the other call site.
[[noreturn]] inline void fail(const char* mistake, const Fiber* f, const Place* other = nullptr) {
  {
    std::string& text = engine->error;
    text = std::string("emulator: ") + mistake + ": ";
    if (other) text += site(*other) + " and ";
    text += where(f);
  }
  abandon();
}

}  // namespace hd::emu
