// The maps that need no data: block Hadamard matrices of every size.
//
// Called by core/codec/segment.
#ifndef KVGEAR_CORE_CODEC_MAP_H_
#define KVGEAR_CORE_CODEC_MAP_H_

#include <bit>
#include <cstdint>
#include <iterator>

#include "kernels/ops.h"

namespace kvg {

// Blocks of the largest power of two that divides head_dim (a multiple of 8, at most 256): 8 of 72,
// 16 of 80, 32 of 96, 128 of 128. Lives forever.
inline const ops::Map* HadamardMap(uint32_t head_dim) {
  static constexpr ops::Map kMaps[] = {
      {ops::kMapHadamard, 8, nullptr, nullptr},   {ops::kMapHadamard, 16, nullptr, nullptr},
      {ops::kMapHadamard, 32, nullptr, nullptr},  {ops::kMapHadamard, 64, nullptr, nullptr},
      {ops::kMapHadamard, 128, nullptr, nullptr}, {ops::kMapHadamard, 256, nullptr, nullptr},
  };
  static_assert(std::size(kMaps) == 6 && ops::kMaxHeadDim == 256);
  return &kMaps[std::countr_zero(head_dim) - 3];
}

}  // namespace kvg

#endif  // KVGEAR_CORE_CODEC_MAP_H_
