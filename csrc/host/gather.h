// gather.h -- copies rows of a byte ring to where a batch wants them, on several threads.
#pragma once
#include <cstdint>

namespace hd::host {

// out[i] = ring[index[i]] for i < count, rows of `row_bytes`. Each thread copies one contiguous part of
// `out`. Reads and writes count * row_bytes each; threads beyond one per MiB are not started, a copy that
// small is done before they are. Where a thread cannot be had its part is copied by this one: nothing throws.
// Indices are taken as they are: the caller has checked them.
void gather_rows(const uint8_t* ring, int64_t row_bytes, const int64_t* index, int64_t count, uint8_t* out,
                 int64_t threads) noexcept;

}  // namespace hd::host
