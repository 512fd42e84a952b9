// level.cpp -- which of their compiled versions the kernels run, for Python.
#include "cpu/vec.h"

extern "C" __attribute__((visibility("default"))) int hdfast_vector_width() { return hd::cpu::vector_width(); }
