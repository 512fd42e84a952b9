// Images of either type as floats, a block at a time: convolutions compute in fp32 whatever they read and write.
#pragma once

#include "cpu/conv.h"
#include "cpu/rows.h"
#include "cpu/simd.h"

namespace hd::cpu {

// Numbers of one image.
inline int64_t big(const ConvSizes& z) { return 4 * z.h * z.w * z.c; }
inline int64_t small(const ConvSizes& z) { return z.h * z.w * z.d; }

// Pixels [begin, begin + n) as floats to read: they themselves, or a wider copy.
class Read {
 public:
  Read(const Pixels& x, int64_t begin, int64_t n) {
    if (x.type == DType::F32) {
      p_ = static_cast<const float*>(x.p) + begin;
      return;
    }
    copy_ = floats(n);
    widen_bf16(n, static_cast<const Bf16*>(x.p) + begin, copy_.get());
    p_ = copy_.get();
  }
  operator const float*() const { return p_; }

 private:
  Floats copy_;
  const float* p_;
};

// Pixels [begin, begin + n) as floats to write: they themselves, or a copy that is rounded to them in the end.
class Write {
 public:
  Write(const Pixels& x, int64_t begin, int64_t n) : n_(n) {
    if (x.type == DType::F32) {
      p_ = static_cast<float*>(x.p) + begin;
      return;
    }
    copy_ = floats(n);
    to_ = static_cast<Bf16*>(x.p) + begin;
    p_ = copy_.get();
  }
  Write(const Write&) = delete;
  ~Write() {
    if (to_) round_bf16(n_, p_, to_);
  }
  operator float*() const { return p_; }

 private:
  Floats copy_;
  int64_t n_;
  float* p_;
  Bf16* to_ = nullptr;
};

}  // namespace hd::cpu
