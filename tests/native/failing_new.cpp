// failing_new.cpp -- operator new that fails at the n-th call out of the library that HD_FAILING names; preloaded into
// a Python process by test_memory.py.
#include <link.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

namespace {

std::atomic<long> left{-1};  // calls until the one that fails; below 0: none does

const char *begin = nullptr, *end = nullptr;  // the library's code and data

// Whether the call comes from the library. Everything else allocates as ever.
bool ours(const void* caller) { return caller >= begin && caller < end; }

int find(dl_phdr_info* info, size_t, void*) {
  if (!std::strstr(info->dlpi_name, std::getenv("HD_FAILING"))) return 0;
  begin = reinterpret_cast<const char*>(info->dlpi_addr);
  for (int i = 0; i < info->dlpi_phnum; ++i)
    if (const auto& part = info->dlpi_phdr[i]; part.p_type == PT_LOAD)
      end = reinterpret_cast<const char*>(info->dlpi_addr + part.p_vaddr + part.p_memsz);
  return 1;
}

void* allocate(std::size_t size, void* caller) {
  if (left.load() >= 0 && ours(caller) && left.fetch_sub(1) == 0) throw std::bad_alloc();
  if (void* p = std::malloc(size ? size : 1)) return p;
  throw std::bad_alloc();
}

}  // namespace

// The call after n more fails; a negative n disarms. Returns what was left before: negative once the failure has come.
extern "C" long hd_fail_after(long n) {
  if (!begin) dl_iterate_phdr(find, nullptr);
  return left.exchange(n);
}

void* operator new(std::size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new[](std::size_t size) { return allocate(size, __builtin_return_address(0)); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }
