// library.cpp -- what the library _host offers: plain C functions, without torch and without Python, so that one file
// serves every Python. hdfast/replay/host.py checks arrays and calls them through ctypes, which holds no interpreter's
// lock meanwhile.
#include "build_info.h"  // written by CMake
#include "host/gather.h"

#define HD_EXPORT extern "C" __attribute__((visibility("default")))

HD_EXPORT void hdfast_gather(const uint8_t* ring, int64_t row_bytes, const int64_t* index, int64_t count, uint8_t* out,
                             int64_t threads) {
  hd::host::gather_rows(ring, row_bytes, index, count, out, threads);
}

HD_EXPORT const char* hdfast_build_info() { return HDFAST_BUILD_INFO; }
