// The convolutions of cpu/conv.h by their definition, for images of few channels: see conv_direct.cpp.
#pragma once

#include "cpu/conv.h"

namespace hd::cpu {

void direct_down(const Pool& pool, const ConvSizes& z, const Pixels& x, const float* kernel, const Pixels& y);
void direct_up(const Pool& pool, const ConvSizes& z, const Pixels& y, const float* kernel, const Pixels& x);
void direct_kernel(const Pool& pool, const ConvSizes& z, const Pixels& x, const Pixels& y, float* dkernel);

}  // namespace hd::cpu
