// Attend on CUDA: what a kernel is made for, and the shared memory that follows from it.
//
// Included by attend.cu and attend_kernel.cuh; plain C++.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_SPEC_H_
#define KVGEAR_KERNELS_CUDA_ATTEND_SPEC_H_

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::cuda {

// How the blocks of a piece reach the tensor cores. kDecoded: by way of fp16 rows in shared memory,
// whatever the piece looks like.
enum Form : uint32_t { kDecoded = 0, kStagedRows = 1, kByToken = 2, kByChannel = 3, kAnyForm = 4 };

// Forms and widths of keys and values; kAnyForm: codes of any width by any axis.
template <Form kForm, int kBits, Form vForm, int vBits, bool sparse>
struct Spec {
  static constexpr Form kKForm = kForm, kVForm = vForm;
  static constexpr int kKWidth = kBits, kVWidth = vBits;
  static constexpr bool kSparse = sparse;
};

inline constexpr uint32_t kWarps = 4;
inline constexpr uint32_t kThreads = 32 * kWarps;
inline constexpr uint32_t kColumns = 8;

// Room for sparse entries in a slot: [32] counts, directions, values.
inline constexpr uint32_t kSparseDirBytes = 160;
inline constexpr uint32_t kSparseValueBytes = 320;
inline constexpr uint32_t kSparseArea = 32 + kSparseDirBytes + kSparseValueBytes;
inline constexpr uint32_t kRowBytes = 64;  // a half for each token of a block
inline constexpr uint32_t kMostExtras = 8;  // rows of minima by token and of low rank, together

// fp16 rows in shared memory: 32 tokens of kPairs * 32 directions. 16 bytes to each row and 32 to
// each 8 rows keep both ways of reading them free of bank conflicts.
constexpr uint32_t RowTilePitch(uint32_t pairs) { return pairs * 64 + 16; }
constexpr uint32_t RowTileBytes(uint32_t pairs) { return 32 * RowTilePitch(pairs) + 128; }

// Of a multiprocessor with 228 KB, which keeps 1 KB for each thread block. A device with less
// holds fewer blocks at a time.
inline constexpr uint32_t kSharedOfAll = 227 * 1024;
inline constexpr uint32_t kSharedStatic = 5120;  // at most, and the queries

// The ring of a warp: slots of a block of keys and one of values.
template <int kPairs, class S>
struct Ring {
  static constexpr uint32_t Codes(Form form, int width) {
    return form == kStagedRows ? RowTileBytes(kPairs)
                               : static_cast<uint32_t>(kPairs * 128 * (form == kAnyForm ? 8 : width));
  }
  static constexpr uint32_t kKCodes = Codes(S::kKForm, S::kKWidth);
  static constexpr uint32_t kVCodes = Codes(S::kVForm, S::kVWidth);
  // By token a row for each group, of which there are at most kPairs; by channel scales and minima
  // of all directions.
  static constexpr uint32_t kKScales = S::kKForm == kStagedRows ? 0
                                       : S::kKForm == kByToken  ? kPairs * kRowBytes
                                                                : kPairs * 128;
  static constexpr uint32_t kKExtras = S::kKForm == kStagedRows ? 0
                                       : S::kKForm == kByToken  ? kPairs * kRowBytes
                                                                : kMostExtras * kRowBytes;
  static constexpr uint32_t kVScales = S::kVForm == kStagedRows ? 0 : kPairs * kRowBytes;
  static constexpr uint32_t kSparse = S::kSparse ? kSparseArea : 0;
  static constexpr uint32_t kKBytes = kKCodes + kKScales + kKExtras + kSparse;
  static constexpr uint32_t kVBytes = kVCodes + 2 * kVScales + kSparse;
  static constexpr uint32_t kSlot = kKBytes + kVBytes;
  static constexpr uint32_t kSparseTile = S::kSparse ? 8192 : 0;
  // Blocks that are not staged are decoded into the ring.
  static constexpr uint32_t kLeast = RowTileBytes(kPairs);
  static constexpr uint32_t kSums = (kColumns * (kPairs * 32 + 4) + 2 * kColumns) * 4;

  static constexpr uint32_t RoomOfWarp(uint32_t blocks) {
    return (kSharedOfAll / blocks - 1024 - kSharedStatic - kPairs * 512) / kWarps - kSparseTile -
           kSums;
  }
  static constexpr uint32_t StagesFor(uint32_t blocks) {
    const uint32_t n = RoomOfWarp(blocks) < kLeast ? 0 : RoomOfWarp(blocks) / kSlot;
    return n < 3 ? n : 3;
  }
  // As many blocks as have registers and two stages.
  static constexpr uint32_t ChooseBlocks() {
    for (uint32_t blocks = kPairs <= 4 ? 3 : 2; blocks > 1; --blocks) {
      if (StagesFor(blocks) >= 2) return blocks;
    }
    return 1;
  }
  static constexpr uint32_t kBlocks = ChooseBlocks();
  static constexpr uint32_t kStages = StagesFor(kBlocks);
  static constexpr uint32_t kStaged = kStages * kSlot > kLeast ? kStages * kSlot : kLeast;
  static constexpr uint32_t kBytes = (kStaged + kSparseTile + 127) / 128 * 128;
  static constexpr uint32_t kBytesOfAll = kWarps * (kBytes + kSums);
  static_assert(kStages > 0);
};

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_SPEC_H_
