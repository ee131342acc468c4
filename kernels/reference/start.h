// The random start and the scaling at the end of the power iteration, the same for every kernel of
// every backend.
//
// May be called by any kernel that seals. Stateless, so that workers and lanes need no order.
#ifndef KVGEAR_KERNELS_REFERENCE_START_H_
#define KVGEAR_KERNELS_REFERENCE_START_H_

#include <cmath>
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

// A column whose norm falls below this share when those before it are taken out depends on them:
// what is left is rounding.
inline constexpr float kDependent = 1e-6f;

// What column r of A and of B are multiplied with.
struct Balance {
  float a, b;
};

// A column of A has norm 1, that of B is as long as the residual. A power of two moves both to the
// same magnitude, where fp16 holds them best.
inline Balance BalanceOf(float max_a, float max_b) {
  const bool empty = max_a == 0 || max_b == 0;
  const int shift = empty ? 0 : (std::ilogb(max_b) - std::ilogb(max_a)) / 2;
  return {.a = std::ldexp(1.0f, shift), .b = std::ldexp(1.0f, -shift)};
}

}  // namespace kvg::reference

#endif  // KVGEAR_KERNELS_REFERENCE_START_H_
