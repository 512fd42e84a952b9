// manylinux_2_28.cpp -- with HDFAST_MANYLINUX=1 a part of every library: what newer headers and the CUDA runtime ask
// for and glibc 2.28 or the libstdc++ of GCC 8 does not have. For x86-64 and glibc. A symbol that is missing here does
// not go unnoticed: `make wheel` ends with auditwheel's list of those that are too new.
#include <new>
#include <sstream>

// Functions whose version changed when glibc 2.34 moved them into libc, and pow, which got another error handling in
// 2.29: calls from this library go to the version that every glibc for x86-64 has. Each is a section of its own, so
// that the linker drops those that nobody calls.
__asm__(R"(
.macro old name, version
  .symver hd_old_\name, \name\()@\version
  .section .text.hd_old_\name, "ax", @progbits
  .globl \name
  .hidden \name
  .type \name, @function
\name:
  jmp *hd_old_\name@GOTPCREL(%rip)
  .size \name, . - \name
.endm
.macro oldest names:vararg
  .irp name, \names
    old \name GLIBC_2.2.5
  .endr
.endm
oldest dlclose, dlerror, dlopen, dlsym, dlvsym, pthread_condattr_setpshared, pthread_create, pthread_detach
oldest pthread_getspecific, pthread_join, pthread_key_create, pthread_key_delete, pthread_kill
oldest pthread_mutex_trylock, pthread_mutexattr_destroy, pthread_mutexattr_init, pthread_mutexattr_setpshared
oldest pthread_mutexattr_settype, pthread_once, pthread_rwlock_destroy, pthread_rwlock_init, pthread_rwlock_rdlock
oldest pthread_rwlock_timedrdlock, pthread_rwlock_timedwrlock, pthread_rwlock_tryrdlock, pthread_rwlock_trywrlock
oldest pthread_rwlock_unlock, pthread_rwlock_wrlock, pthread_rwlockattr_destroy, pthread_rwlockattr_init
oldest pthread_rwlockattr_setpshared, pthread_setspecific, pthread_spin_destroy, pthread_spin_init
oldest pthread_spin_lock, pthread_spin_trylock, pthread_spin_unlock, sem_destroy, sem_init, sem_post
oldest sem_timedwait, sem_trywait, sem_wait, shm_open, shm_unlink, pow
old dlmopen GLIBC_2.3.4
.text
)");

// Told by glibc 2.32: whether the process has one thread, so that counters need no atomics. Not knowing is safe.
extern "C" {
extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}

// Functions of libstdc++ that newer headers call and no longer inline.
namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
template basic_stringstream<char>::basic_stringstream();
template basic_ostringstream<char>::basic_ostringstream();
}  // namespace std
