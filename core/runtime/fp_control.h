// The floating-point control word of a thread: rounding, flushing of subnormals, trapping.
//
// Called by core/runtime/thread_pool.cc. A host may set another mode on its thread than the workers
// got when they were started; a call must give the same bits on all of them.
#ifndef KVGEAR_CORE_RUNTIME_FP_CONTROL_H_
#define KVGEAR_CORE_RUNTIME_FP_CONTROL_H_

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace kvg {

inline uint64_t GetFpControl() {
#if defined(__x86_64__)
  return _mm_getcsr() & ~0x3Fu;  // without the flags of past exceptions
#elif defined(__aarch64__)
  uint64_t control;
  asm volatile("mrs %0, fpcr" : "=r"(control));
  return control;
#else
  return 0;
#endif
}

inline void SetFpControl([[maybe_unused]] uint64_t control) {
#if defined(__x86_64__)
  _mm_setcsr(static_cast<uint32_t>(control));
#elif defined(__aarch64__)
  asm volatile("msr fpcr, %0" : : "r"(control));
#endif
}

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_FP_CONTROL_H_
