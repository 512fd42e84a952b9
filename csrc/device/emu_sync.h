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
inline int sync_block(Place place, bool vote = false) {
  Quiet quiet;
  Fiber* f = current;
  Block* b = f->block;
  unsigned generation = b->generation & 1;
  f->place = place;
  if (b->live != engine->threads) fail("__syncthreads after some threads of the block exited", f);
  if (b->waiting == 0) b->place = place, b->votes[generation] = 0;
  else if (!same(b->place, place)) fail("divergent __syncthreads", f, &b->place);
  b->votes[generation] += vote;
  release(&b->order[generation]);
  suspend(f, State::Barrier);
  if (++b->waiting == b->live) open_barrier(b);
  reschedule();
  acquire(&b->order[generation]);
  return b->votes[generation];
}

inline void sync_grid(Place place) {
  Quiet quiet;
  Fiber* f = current;
  f->place = place;
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
inline Lanes exchange(uint32_t mask, const T& value, Place place, bool orders_memory = false) {
  static_assert(sizeof(T) <= LANE_BYTES, "value too large for a warp collective");
  Fiber* f = current;
  f->place = place;
  unsigned me = lane();
  if (!(mask >> me & 1)) fail("lane is not in its own warp mask", f);
  Collective* g = group_of(f->block->warps[f->linear >> 5], mask);
  if (!g->arrived) g->place = place;
  else if (!same(g->place, place)) fail("mismatched warp collectives", f, &g->place);
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

inline void sync_warp(Place place) {
  Quiet quiet;
  exchange(~0u, 0, place, true);
}
template <class T>
inline T shuffle(uint32_t mask, T value, int source, Place place) {
  Quiet quiet;
  Lanes lanes = exchange(mask, value, place);
  if (!((mask & warp_lanes(current)) >> source & 1)) fail("shuffle reads a lane outside the mask", current);
  T result;
  memcpy(&result, lanes[source], sizeof(T));
  return result;
}
inline uint32_t ballot(uint32_t mask, bool predicate, Place place) {
  Quiet quiet;
  Lanes lanes = exchange(mask, predicate, place);
  uint32_t result = 0;
  for (uint32_t rest = mask & warp_lanes(current); rest; rest &= rest - 1)
    result |= uint32_t(lanes[__builtin_ctz(rest)][0]) << __builtin_ctz(rest);
  return result;
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
