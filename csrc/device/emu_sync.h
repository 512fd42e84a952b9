// emu_sync.h -- block barrier, grid barrier, warp collectives, shared memory of the emulator.
#pragma once
#include "emu_fiber.h"

namespace hd::emu {

// ---- __syncthreads and relatives
// ---------------------------------------------------------------------------------

inline void open_barrier(Block* b) {  // every live thread has arrived
  b->waiting = 0;
  b->generation++;
  for (unsigned i = 0; i < engine->threads; ++i)
    if (b->first[i].state == State::Barrier) make_ready(&b->first[i]);
}

// Returns how many threads voted; all of them must stand at the same source line.
inline int sync_block(const char* file, int line, bool vote = false) {
  Quiet quiet;
  Fiber* f = current;
  Block* b = f->block;
  unsigned generation = b->generation & 1;
  f->file = file, f->line = line;
  if (b->live != engine->threads) fail("__syncthreads after some threads of the block exited", f);
  if (b->waiting == 0) {
    b->file = file, b->line = line, b->votes[generation] = 0;
  } else if (b->line != line || strcmp(b->file, file)) {
    fail("divergent __syncthreads", f, b->file, b->line);
  }
  b->votes[generation] += vote;
  release(&b->order[generation]);
  suspend(f, State::Barrier);
  if (++b->waiting == b->live) open_barrier(b);
  reschedule();
  acquire(&b->order[generation]);
  return b->votes[generation];
}

inline void sync_grid(const char* file, int line) {
  Quiet quiet;
  Fiber* f = current;
  f->file = file, f->line = line;
  unsigned generation = engine->grid_generation & 1;
  if (!engine->cooperative) fail("grid barrier in an ordinary launch", f);
  release(&engine->order_grid[generation]);
  suspend(f, State::Grid);
  if (++engine->at_grid == engine->live) {
    engine->at_grid = 0;
    engine->grid_generation++;
    for (unsigned i = 0; i < engine->fibers_used; ++i)
      if (engine->fibers[i].state == State::Grid) make_ready(&engine->fibers[i]);
  }
  reschedule();
  acquire(&engine->order_grid[generation]);
}

inline void spin_pause() {
  Quiet quiet;
  reschedule(true);
}

// ---- warp collectives: deposit a value, wait for the mask, read the others'
// ---------------------------------------

using Lanes = const unsigned char (*)[LANE_BYTES];

inline unsigned lane() { return current->linear & 31; }
inline uint32_t warp_lanes(const Fiber* f) {  // lanes that exist in this warp
  unsigned rest = engine->threads - (f->linear & ~31u);
  return rest >= 32 ? ~0u : (1u << rest) - 1;
}
inline Collective* group_of(Warp& warp, uint32_t mask) {
  for (auto& g : warp.groups)
    if (g->mask == mask) return g.get();
  warp.groups.push_back(std::make_unique<Collective>());
  warp.groups.back()->mask = mask;
  return warp.groups.back().get();
}

template <class T>
inline Lanes exchange(uint32_t mask, const T& value, const char* file, int line, bool orders_memory = false) {
  static_assert(sizeof(T) <= LANE_BYTES, "value too large for a warp collective");
  Fiber* f = current;
  f->file = file, f->line = line;
  unsigned me = lane();
  if (!(mask >> me & 1)) fail("lane is not in its own warp mask", f);
  Collective* g = group_of(f->block->warps[f->linear >> 5], mask);
  if (!g->arrived) g->file = file, g->line = line;
  else if (g->line != line || strcmp(g->file, file)) fail("mismatched warp collectives", f, g->file, g->line);
  unsigned buffer = g->generation & 1;
  memcpy(g->lane[buffer][me], &value, sizeof(T));
  g->arrived |= 1u << me;
  if (orders_memory) release(&g->lane[buffer]);
  uint32_t expected = mask & warp_lanes(f);
  if (g->arrived == expected) {
    g->arrived = 0;
    g->generation++;
    Fiber* lane0 = f - me;
    for (uint32_t rest = expected & ~(1u << me); rest; rest &= rest - 1) make_ready(lane0 + __builtin_ctz(rest));
    if (engine->greedy) reschedule();
  } else {
    suspend(f, State::Warp);
    reschedule();
  }
  if (orders_memory) acquire(&g->lane[buffer]);
  return g->lane[buffer];
}

inline void sync_warp(uint32_t mask, const char* file, int line) {
  Quiet quiet;
  exchange(mask, 0, file, line, true);
}
template <class T>
inline T shuffle(uint32_t mask, T value, int source, const char* file, int line) {
  Quiet quiet;
  Lanes lanes = exchange(mask, value, file, line);
  if (!((mask & warp_lanes(current)) >> source & 1)) fail("shuffle reads a lane outside the mask", current);
  T result;
  memcpy(&result, lanes[source], sizeof(T));
  return result;
}
inline uint32_t ballot(uint32_t mask, bool predicate, const char* file, int line) {
  Quiet quiet;
  Lanes lanes = exchange(mask, predicate, file, line);
  uint32_t result = 0;
  for (uint32_t rest = mask & warp_lanes(current); rest; rest &= rest - 1)
    result |= uint32_t(lanes[__builtin_ctz(rest)][0]) << __builtin_ctz(rest);
  return result;
}
// Source lane of each shuffle flavour within segments of `width` lanes; out of range means one's own value.
inline int source_index(int from, int width) { return (int(lane()) & ~(width - 1)) + (from & (width - 1)); }
inline int source_xor(int bits, int width) {
  int me = int(lane()), to = me ^ bits;
  return to >= (me & ~(width - 1)) + width ? me : to;
}
inline int source_down(int by, int width) {
  int me = int(lane());
  return (me & (width - 1)) + by >= width ? me : me + by;
}
inline int source_up(int by, int width) {
  int me = int(lane());
  return (me & (width - 1)) < by ? me : me - by;
}

// ---- shared memory: exact size per block, filled with NaN
// -----------------------------------------------------------

inline void* poisoned(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 128, bytes)) throw std::bad_alloc();
  memset(memory, 0xFF, bytes);
  return memory;
}
inline void* shared_variable(const void* tag, size_t bytes) {
  Quiet quiet;
  for (auto& v : current->block->shared)
    if (v.tag == tag) return v.memory;
  if ((current->block->shared_bytes += bytes) > SHARED_BYTES)
    fail("more shared memory, static and dynamic, than a block gets unasked", current);
  current->block->shared.push_back({tag, poisoned(bytes)});
  return current->block->shared.back().memory;
}

}  // namespace hd::emu
