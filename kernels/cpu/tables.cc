// CpuTables(): one operation table per Highway target that this processor runs, best first.
#include <array>
#include <cstddef>
#include <cstdint>

// clang-format off
#include "kernels/cpu/internal.h"
#include "hwy/highway.h"  // after internal.h, which says what Highway is to compile
// clang-format on
#include "kernels/ops.h"

namespace kvg::ops {
namespace {

struct Entry {
  int64_t target;
  Table table;
};

#define KVG_CPU_ENTRY(target)                                                                  \
  Entry {                                                                                      \
    HWY_##target, {                                                                            \
      kOpsMagic, kOpsVersion, sizeof(Table), #target, cpu::N_##target::AttendScratch,          \
          cpu::N_##target::Attend, cpu::N_##target::SealScratch, cpu::N_##target::Seal,        \
          cpu::N_##target::Read, cpu::N_##target::Ingest, cpu::N_##target::ScoreScratch,       \
          cpu::N_##target::Score                                                               \
    }                                                                                          \
  }

struct Tables {
  static constexpr size_t kMax = 8;
  std::array<const Table*, kMax> tables{};
  size_t count = 0;

  Tables() {
    // Best first. A target that was not compiled (another architecture, an older Highway) has no
    // functions to name.
    static const Entry entries[] = {
#if HWY_TARGETS & HWY_AVX3_ZEN4
      KVG_CPU_ENTRY(AVX3_ZEN4),
#endif
#if HWY_TARGETS & HWY_AVX3_DL
      KVG_CPU_ENTRY(AVX3_DL),
#endif
#if HWY_TARGETS & HWY_AVX3
      KVG_CPU_ENTRY(AVX3),
#endif
#if HWY_TARGETS & HWY_AVX2
      KVG_CPU_ENTRY(AVX2),
#endif
#if HWY_TARGETS & HWY_SSE4
      KVG_CPU_ENTRY(SSE4),
#endif
#if HWY_TARGETS & HWY_NEON
      KVG_CPU_ENTRY(NEON),
#endif
#if HWY_TARGETS & HWY_NEON_WITHOUT_AES
      KVG_CPU_ENTRY(NEON_WITHOUT_AES),
#endif
      {0, ReferenceTable()},
    };
    const int64_t supported = hwy::SupportedTargets();
    for (const Entry& entry : entries) {
      if ((supported & entry.target) != 0) tables[count++] = &entry.table;
    }
    // The processor has none of them: the scalar code serves it.
    if (count == 0) tables[count++] = &ReferenceTable();
  }
};

}  // namespace

const Table* const* CpuTables(size_t* count) {
  static const Tables tables;
  *count = tables.count;
  return tables.tables.data();
}

}  // namespace kvg::ops
