// What the files of kernels/cpu share: which Highway targets get kernels, and the functions that
// each of those targets defines. Included by attend.cc, seal.cc, read.cc, ingest.cc (before any
// Highway header) and by tables.cc.
//
// A kernel file looks like this; the functions it defines are declared below, once per target:
//
//   #include "kernels/cpu/internal.h"
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "kernels/cpu/seal.cc"
//   #include "hwy/foreach_target.h"
//   #include "hwy/highway.h"
//   #if KVG_CPU_TARGET
//   HWY_BEFORE_NAMESPACE();
//   namespace kvg::cpu::HWY_NAMESPACE { ... void Seal(...) { ... } ... }
//   HWY_AFTER_NAMESPACE();
//   #endif
//
// Do not leave loops that sum products of int16 or int8 to the compiler's vectoriser: Highway 1.0.3
// names "avxvnni" among the features of AVX3_DL, which Zen 4 and Ice Lake lack, and the vectoriser
// is the only one who would use it.
#ifndef KVGEAR_KERNELS_CPU_INTERNAL_H_
#define KVGEAR_KERNELS_CPU_INTERNAL_H_

#ifndef HWY_WANT_AVX3_DL
#define HWY_WANT_AVX3_DL  // older Highway compiles that target only when asked
#endif

#include <cstdint>

#include "kernels/ops.h"

// Whether the target being compiled gets kernels. Names that a version of Highway does not know are
// 0 here, which no HWY_TARGET is. Elsewhere (scalar, SSE2, SSSE3, SVE) CpuTables() takes the next
// lower target or, where there is none, the reference.
#define KVG_CPU_TARGET                                                                   \
  (HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 ||         \
   HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3_ZEN4 || HWY_TARGET == HWY_NEON || \
   HWY_TARGET == HWY_NEON_WITHOUT_AES)

// Targets whose processors multiply and add int16 pairs in one instruction.
#define KVG_CPU_VNNI (HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3_ZEN4)

// For those, between KVG_CPU_VNNI_BEGIN and KVG_CPU_VNNI_END (inside HWY_BEFORE_NAMESPACE) the
// compiler knows it too; Highway 1.0.3 forgets to say so.
#if defined(__clang__)
// Of two target attributes clang takes the first, so this one replaces Highway's.
#define KVG_CPU_VNNI_BEGIN HWY_POP_ATTRIBUTES HWY_PUSH_ATTRIBUTES(HWY_TARGET_STR ",avx512vnni")
#define KVG_CPU_VNNI_END
#else
#define KVG_CPU_VNNI_BEGIN _Pragma("GCC push_options") _Pragma("GCC target(\"avx512vnni\")")
#define KVG_CPU_VNNI_END _Pragma("GCC pop_options")
#endif

#define KVG_CPU_DECLARE(target_namespace)                                                       \
  namespace target_namespace {                                                                  \
  uint64_t AttendScratch(const ops::AttendArgs* args, uint32_t workers);                        \
  void Attend(const ops::AttendArgs* args, const ops::Parallel* parallel);                      \
  uint64_t SealScratch(const ops::SealArgs* args, const ops::SealOut* out, uint32_t workers);   \
  void Seal(const ops::SealArgs* args, ops::SealOut* out, const ops::Parallel* parallel);       \
  void Read(const ops::ReadArgs* args);                                                         \
  bool Ingest(const ops::IngestArgs* args);                                                     \
  uint64_t ScoreScratch(const ops::ScoreArgs* args, uint32_t workers);                          \
  void Score(const ops::ScoreArgs* args, const ops::Parallel* parallel);                        \
  }

namespace kvg::cpu {
KVG_CPU_DECLARE(N_SSE4)
KVG_CPU_DECLARE(N_AVX2)
KVG_CPU_DECLARE(N_AVX3)
KVG_CPU_DECLARE(N_AVX3_DL)
KVG_CPU_DECLARE(N_AVX3_ZEN4)
KVG_CPU_DECLARE(N_NEON)
KVG_CPU_DECLARE(N_NEON_WITHOUT_AES)
}  // namespace kvg::cpu

#undef KVG_CPU_DECLARE
#endif  // KVGEAR_KERNELS_CPU_INTERNAL_H_
