// emu_launch.h -- builds the fibers of a launch, runs its blocks, reports what went wrong.
#pragma once
#include <algorithm>
#include <numeric>
#include <tuple>

#include "emu_sync.h"

namespace hd::emu {

inline void fiber_main() {
#ifdef HD_EMU_ASAN
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
  for (;;) {  // one turn per block; the fiber is reused
    acquire(&engine->order_start);
    try {
      engine->body(engine->argument);
    } catch (const std::exception& e) {
      engine->error = std::string("emulator: exception in a kernel: ") + e.what();
    }
    if (!engine->error.empty()) abandon();
    Quiet quiet;
    Fiber* f = current;
    Block* b = f->block;
    suspend(f, State::Done);
    engine->live--;
    b->live--;
    release(&engine->order_end);
    if (b->waiting) fail("a thread exits while others wait at __syncthreads", f, &b->place);
    reschedule();
  }
}

inline void prepare_fiber(Fiber& f) {
  if (f.stack) return;
  void* memory = mmap(nullptr, STACK_BYTES + GUARD_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, GUARD_BYTES, PROT_NONE);
  f.stack = static_cast<unsigned char*>(memory) + GUARD_BYTES;
#ifdef HD_EMU_TSAN
  f.tsan = __tsan_create_fiber(0);
#endif
  void** sp = reinterpret_cast<void**>(f.stack + STACK_BYTES - 64);
  *--sp = nullptr;  // return address of fiber_main, never used: keeps the ABI's stack alignment
  *--sp = reinterpret_cast<void*>(&fiber_main);
  for (int i = 0; i < 6; ++i) *--sp = nullptr;  // the registers swap_stacks pops
  f.sp = sp;
}

inline const char* setting(const char* name, const char* otherwise) {
  const char* value = getenv(name);
  return value && *value ? value : otherwise;
}
inline void read_schedule(Engine* e) {
  std::string order = setting("HD_EMU_ORDER", "fwd"), policy = setting("HD_EMU_POLICY", "rr");
  if (order != "fwd" && order != "rev" && order != "rand")
    throw std::runtime_error("HD_EMU_ORDER is " + order + "; fwd, rev or rand");
  if (policy != "rr" && policy != "greedy") throw std::runtime_error("HD_EMU_POLICY is " + policy + "; rr or greedy");
  e->priority = order == "rev" ? 1 : order == "rand" ? 2 : 0;
  e->greedy = policy == "greedy";
  e->random.seed(strtoull(setting("HD_EMU_SEED", "1"), nullptr, 0));
}

// Priorities of this wave's fibers. Random: whole warps are shuffled, then the lanes inside each.
inline void set_priorities(Engine* e) {
  unsigned n = e->fibers_used;
  for (unsigned i = 0; i < n; ++i) e->order[i] = e->priority == 1 ? n - 1 - i : i;
  if (e->priority == 2) {
    std::vector<unsigned> warps((n + 31) / 32);
    std::iota(warps.begin(), warps.end(), 0);
    std::shuffle(warps.begin(), warps.end(), e->random);
    auto filled = e->order.begin();
    for (unsigned w : warps) {
      const auto begin = filled;
      for (unsigned j = w * 32; j < std::min(n, w * 32 + 32); ++j) *filled++ = j;
      std::shuffle(begin, filled, e->random);
    }
  }
  for (unsigned s = 0; s < n; ++s) e->slot[e->order[s]] = s;
}

inline void place_block(Engine* e, unsigned k, unsigned number, size_t dynamic_bytes) {
  const dim3 &g = e->grid, &d = e->block;
  Block& b = e->blocks[k];
  b.index = {number % g.x, number / g.x % g.y, number / (g.x * g.y)};
  b.live = e->threads;
  b.waiting = b.generation = 0;
  b.first = &e->fibers[size_t(k) * e->threads];
  b.dynamic = dynamic_bytes ? poisoned(dynamic_bytes) : nullptr;
  b.shared_bytes = dynamic_bytes;
  b.warps.resize((e->threads + 31) / 32);
  for (Warp& w : b.warps)
    for (auto& c : w.groups) c->arrived = 0;
  for (unsigned t = 0; t < e->threads; ++t) {
    Fiber& f = b.first[t];
    f.block = &b;
    f.linear = t;
    f.id = k * e->threads + t;
    f.thread = {t % d.x, t / d.x % d.y, t / (d.x * d.y)};
    f.place = {};
    make_ready(&f);
  }
}

inline std::string deadlock(const Engine* e) {
  std::string text = "emulator: deadlock;";
  int listed = 0;
  for (unsigned i = 0; i < e->fibers_used && listed < 8; ++i) {
    const Fiber& f = e->fibers[i];
    if (f.state == State::Done) continue;
    text += f.state == State::Barrier ? "\n  __syncthreads: "
            : f.state == State::Warp  ? "\n  warp collective: "
                                      : "\n  grid barrier: ";
    text += where(&f);
    ++listed;
  }
  return text;
}

inline void free_shared(Block& b) {
  for (auto& v : b.shared) free(v.memory);
  b.shared.clear();
  free(b.dynamic);
  b.dynamic = nullptr;
}

inline void reserve(Engine* e, unsigned resident) {
  if (!e->fibers) {
    void* memory = mmap(nullptr, sizeof(Fiber) * MAX_FIBERS, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    e->fibers = static_cast<Fiber*>(memory);
  }
  for (; e->fibers_built < e->fibers_used; ++e->fibers_built) new (&e->fibers[e->fibers_built]) Fiber();
  for (unsigned i = 0; i < e->fibers_used; ++i) prepare_fiber(e->fibers[i]);
  if (e->blocks.size() < resident) e->blocks.resize(resident);
  e->order.resize(e->fibers_used);
  e->slot.resize(e->fibers_used);
  e->ready.assign(e->fibers_used / 64 + 1, 0);
#ifdef HD_EMU_TSAN
  e->host_tsan = __tsan_get_current_fiber();
#endif
#ifdef HD_EMU_ASAN
  pthread_attr_t attributes;
  void* stack;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &stack, &e->host_stack_bytes);
  pthread_attr_destroy(&attributes);
  e->host_stack = stack;
#endif
}

inline void run(dim3 grid, dim3 block, size_t dynamic_bytes, bool cooperative, void (*body)(void*), void* argument) {
  Quiet quiet;
  if (current) throw std::runtime_error("emulator: launch from inside a kernel");
  if (!engine) engine = new Engine;
  Engine* e = engine;
  e->grid = grid, e->block = block, e->threads = block.x * block.y * block.z;
  e->cooperative = cooperative, e->body = body, e->argument = argument;
  e->error.clear();
  read_schedule(e);
  size_t blocks = size_t(grid.x) * grid.y * grid.z;
  if (e->threads == 0 || e->threads > 1024 || blocks == 0 || grid.y > 65535 || grid.z > 65535 || grid.x >= 1u << 31)
    throw std::runtime_error("emulator: invalid launch of " + std::to_string(blocks) + " blocks of " +
                             std::to_string(e->threads));
  if (dynamic_bytes > SHARED_BYTES)
    throw std::runtime_error("emulator: more dynamic shared memory than a block gets unasked");
  size_t resident = cooperative ? blocks : 1;
  if (resident * e->threads > MAX_FIBERS) throw std::runtime_error("emulator: cooperative grid too large");
  e->fibers_used = unsigned(resident) * e->threads;
  reserve(e, unsigned(resident));

  release(&e->order_start);  // once: blocks of one launch are not ordered with each other
  for (size_t first = 0; first < blocks && e->error.empty(); first += resident) {
    set_priorities(e);
    for (unsigned k = 0; k < resident; ++k) {
      size_t number = first + k;
      place_block(e, k, unsigned(e->priority == 1 ? blocks - 1 - number : number), dynamic_bytes);
    }
    e->live = e->fibers_used, e->at_grid = 0, e->cursor = e->fibers_used;
    while (e->live && e->error.empty()) {
      if (Fiber* next = pick(false)) switch_to(&e->host_sp, &e->host_fake, next);
      else e->error = deadlock(e);
      current = nullptr;
    }
    for (unsigned k = 0; k < resident; ++k) free_shared(e->blocks[k]);
  }
  acquire(&e->order_end);
  if (e->error.empty()) return;
  for (unsigned i = 0; i < e->fibers_built; ++i) e->fibers[i] = Fiber();  // abandoned where they stand
  e->blocks.clear();
  throw std::runtime_error(e->error);
}

template <class... P, class... A>
inline void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t dynamic_bytes, hdStream stream, bool cooperative,
                   A&&... args) {
  if (!stream)  // which would break the capture of a graph
    throw std::runtime_error("emulator: launch on the default stream; a launcher uses the one it is given");
  std::tuple<P...> exact(static_cast<P>(args)...);
  auto call = [&] { std::apply(kernel, exact); };
  run(grid, block, dynamic_bytes, cooperative, [](void* c) { (*static_cast<decltype(call)*>(c))(); }, &call);
}

}  // namespace hd::emu
