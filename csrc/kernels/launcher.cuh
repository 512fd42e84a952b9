// launcher.cuh -- launchers of kernels over items that are independent of each other.
#pragma once
#include "device/hd.h"

// `launch_<op>` of a kernel over a.<items>, `each` of them a block of `threads`; none is launched for no items.
#define HD_LAUNCHER(op, Args, kernel, items, each, threads)                                                \
  void launch_##op(const Args& a, hdStream stream) {                                                       \
    if (a.items > 0) HD_LAUNCH(kernel, unsigned(ceil_div(a.items, int64_t(each))), threads, 0, stream, a); \
  }
