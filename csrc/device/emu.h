// emu.h -- CUDA C++ kernels executed on the CPU, for tests: the g++ side of hd.h.
//
//   g++ -x c++ -std=c++20 -O2 kernels.cu        (nvcc never sees these files)
//   sanitised:  -O1 -g -fsanitize=address,undefined   or   -O1 -g -fsanitize=thread -Wno-tsan
//
// Every CUDA thread is a fiber on the calling OS thread; a switch is ten instructions. An ordinary launch
// runs its blocks one after another, a cooperative launch keeps the whole grid resident. A fiber runs until
// it must wait (barrier, warp collective, grid barrier) and hands over to the next runnable one, so a run is
// deterministic for
//   HD_EMU_ORDER = fwd | rev | rand     priority of threads (and block order)
//   HD_EMU_POLICY = rr | greedy         round robin | always the runnable thread of highest priority
//   HD_EMU_SEED = n                     for rand
// A correct kernel gives the same bits under all of them; a missing barrier shows in some schedule, and under
// TSan in every one: there each CUDA thread is a TSan fiber and only barriers (not shuffles) order memory.
// Blocks of one launch are not ordered with each other either, so races between blocks are seen (unless both
// accesses come from the same thread index). Shared memory has its exact size (ASan redzones) and starts as
// NaN.
//
// Deadlock, divergent barriers, exit past a waiting barrier, bad shuffle masks or sources, mismatched
// collectives and more than 48 KiB of shared memory raise std::runtime_error naming kernel
// file:line, block and thread.
//
// Limits: x86-64; at most 64 bytes per lane in a collective; synchronous launches; no clusters, TMA or
// textures; floats differ from a GPU's in the last bits. The fibers of a failed launch are leaked on purpose.
#pragma once
#include "emu_types.h"
#include "emu_fiber.h"
#include "emu_sync.h"
#include "emu_launch.h"
#include "emu_builtins.h"
