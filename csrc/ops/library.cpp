// library.cpp -- what belongs to the library as a whole: torch's current stream, and what the build was made
// of.
#include <dlfcn.h>

#include "build_info.h"  // written by CMake
#include "ops/glue.h"

namespace hd::ops {

hdStream current_stream(int32_t device) {
  using Getter = AOTITorchError (*)(int32_t, void**);
  // libtorch_cuda is loaded already wherever a CUDA tensor exists. Linking it would tie the library to CUDA
  // builds.
  static const Getter getter = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_NOLOAD | RTLD_LAZY);
    return library ? reinterpret_cast<Getter>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  HD_CHECK(getter, "this torch has no CUDA, or does not tell its current stream");
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(getter(device, &stream));
  return static_cast<hdStream>(stream);
}

}  // namespace hd::ops

// One line of JSON, read through ctypes: the library itself says how it was built.
extern "C" __attribute__((visibility("default"))) const char* hdfast_build_info() { return HDFAST_BUILD_INFO; }
