// The random start of the power iteration, the same for every kernel of every backend.
//
// May be called by any kernel that seals. Stateless, so that workers and lanes need no order.
#ifndef KVGEAR_KERNELS_REFERENCE_START_H_
#define KVGEAR_KERNELS_REFERENCE_START_H_

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::reference {

// Entry (r, direction) of the start matrix of a head: a multiple of 2^-23 in [-1, 1), which is
// output number (head * kMaxRank + r) * kMaxHeadDim + direction of the splitmix64 generator.
inline constexpr float PowerStart(uint64_t seed, uint32_t head, uint32_t r, uint32_t direction) {
  const uint64_t index = (uint64_t{head} * ops::kMaxRank + r) * ops::kMaxHeadDim + direction;
  uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  z ^= z >> 31;
  return static_cast<float>(z >> 40) * 0x1p-23f - 1.0f;
}

}  // namespace kvg::reference

#endif  // KVGEAR_KERNELS_REFERENCE_START_H_
