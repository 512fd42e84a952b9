// module.cpp -- the pybind11 module hdfast._host: host-side code that takes numpy arrays and knows nothing of
// torch.
//
// Arrays are checked here, with the interpreter's lock held; the work itself runs without it.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <exception>
#include <new>
#include <string>

#include "build_info.h"  // written by CMake
#include "host/gather.h"

namespace py = pybind11;

namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Index = py::array_t<int64_t, py::array::c_style>;

std::string shape_of(const py::array& a) { return py::str(a.attr("shape")).cast<std::string>(); }

// ring (capacity, ...), index any shape I of row numbers, out (*I, ...): out[i] = ring[index[i]]
void gather(const Bytes& ring, const Index& index, Bytes& out, int threads) {
  const auto fail = [](const std::string& text) { throw py::value_error("gather: " + text); };
  if (ring.ndim() < 1) fail("ring must have shape (capacity, ...), got " + shape_of(ring) + "; add an axis");
  bool same = out.ndim() == index.ndim() + ring.ndim() - 1;
  for (py::ssize_t d = 0; same && d < out.ndim(); ++d)
    same = out.shape(d) == (d < index.ndim() ? index.shape(d) : ring.shape(d - index.ndim() + 1));
  if (!same)
    fail("out must have index's shape and then a row's, index " + shape_of(index) + " and ring " + shape_of(ring) +
         ", got " + shape_of(out) + "; allocate it so");
  if (!out.writeable()) fail("out must be writeable, got a read-only array; copy it");
  if (threads < 1) fail("threads must be at least 1, got " + std::to_string(threads) + "; give 1");
  const int64_t capacity = ring.shape(0), count = index.size();
  int64_t row_bytes = 1;
  for (py::ssize_t d = 1; d < ring.ndim(); ++d) row_bytes *= ring.shape(d);
  const int64_t* at = index.data();
  for (int64_t i = 0; i < count; ++i)
    if (at[i] < 0 || at[i] >= capacity)
      fail("index must be rows 0 to " + std::to_string(capacity - 1) + ", got " + std::to_string(at[i]) +
           "; wrap it into the ring first");
  const uint8_t* from = ring.data();
  uint8_t* to = out.mutable_data();
  const auto overlaps = [&](const uint8_t* a, int64_t n) { return a < to + out.nbytes() && to < a + n; };
  if (overlaps(from, ring.nbytes()) && count) fail("out must not overlap ring, got a view of it; allocate it apart");
  py::gil_scoped_release unlocked;
  hd::host::gather_rows(from, row_bytes, at, count, to, threads);
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      std::rethrow_exception(thrown);
    } catch (const std::bad_alloc&) {
      PyErr_SetString(PyExc_MemoryError, "hdfast._host: out of memory; use a smaller batch, or more memory");
    }
  });
  m.doc() = "Host-side code of hdfast without torch: replay gather, build information.";
  m.def("gather", &gather, py::arg("ring").noconvert(), py::arg("index").noconvert(), py::arg("out").noconvert(),
        py::kw_only(), py::arg("threads") = 1,
        "out[i] = ring[index[i]]: ring (capacity, ...) uint8, index (*I) int64, out (*I, ...) uint8.\n"
        "Runs without the interpreter's lock on up to `threads` threads; nobody may write them meanwhile.");
  m.def(
      "build_info", [] { return py::module_::import("json").attr("loads")(HDFAST_BUILD_INFO); },
      "How the native part was built: version, torch, compiler, cuda ('' without CUDA kernels), archs.");
}
