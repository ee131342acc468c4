// fp16 and bf16 to and from fp32 in software: round to nearest even, subnormals, infinities, NaN.
//
// May be called from anywhere (core, every kernel, tests). The results are those of the conversion
// instructions of x86 (F16C) and Arm, NaN payloads included, so that scalar and SIMD code agree.
#ifndef KVGEAR_KERNELS_HALF_H_
#define KVGEAR_KERNELS_HALF_H_

#include <bit>
#include <cstdint>

namespace kvg {

inline constexpr float kF16Max = 65504.0f;

// The smallest magnitude that rounds to infinity: halfway between 65504 and the next step, 65536.
inline constexpr float kF16Overflow = 65520.0f;

inline constexpr bool F16IsFinite(uint16_t h) { return (h & 0x7C00u) != 0x7C00u; }

inline constexpr float F16ToF32(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t exponent = (h >> 10) & 0x1Fu;
  const uint32_t mantissa = h & 0x3FFu;
  if (exponent == 0x1F) {  // infinity or NaN; a signalling NaN comes back quiet
    const uint32_t quiet = mantissa != 0 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7F800000u | quiet | (mantissa << 13));
  }
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24, exact in fp32
    const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

inline constexpr uint16_t F32ToF16(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const uint32_t magnitude = bits & 0x7FFFFFFFu;
  if (magnitude > 0x7F800000u) {  // NaN: quiet, upper payload bits kept
    return static_cast<uint16_t>(sign | 0x7E00u | ((magnitude >> 13) & 0x3FFu));
  }
  if (magnitude >= std::bit_cast<uint32_t>(kF16Overflow)) {
    return static_cast<uint16_t>(sign | 0x7C00u);
  }
  if (magnitude >= std::bit_cast<uint32_t>(0x1p-14f)) {  // normal
    // Adding half a step, less one where the last kept bit is even, carries into it exactly when
    // rounding to nearest even goes up; a carry out of the mantissa raises the exponent as it must.
    const uint32_t odd = (magnitude >> 13) & 1u;
    return static_cast<uint16_t>(sign | ((magnitude - (112u << 23) + 0xFFFu + odd) >> 13));
  }
  const uint32_t exponent = magnitude >> 23;
  if (exponent < 102) return static_cast<uint16_t>(sign);  // below 2^-25, half the smallest step
  // Subnormal: count the steps of 2^-24. The value is mantissa * 2^(exponent - 150).
  const uint32_t mantissa = (magnitude & 0x7FFFFFu) | 0x800000u;
  const uint32_t shift = 126 - exponent;  // 14 .. 24
  const uint32_t rest = mantissa & ((1u << shift) - 1);
  const uint32_t half = 1u << (shift - 1);
  uint32_t steps = mantissa >> shift;
  if (rest > half || (rest == half && (steps & 1u) != 0)) ++steps;
  return static_cast<uint16_t>(sign | steps);
}

// As F32ToF16, but what would overflow, infinity included, becomes +-65504. NaN stays NaN.
inline constexpr uint16_t F32ToF16Saturate(float f) {
  if (f > kF16Max) return 0x7BFFu;
  if (f < -kF16Max) return 0xFBFFu;
  return F32ToF16(f);
}

inline constexpr float BF16ToF32(uint16_t b) {
  const uint32_t bits = static_cast<uint32_t>(b) << 16;
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return std::bit_cast<float>(nan ? bits | 0x400000u : bits);
}

inline constexpr uint16_t F32ToBF16(float f) {
  const uint32_t bits = std::bit_cast<uint32_t>(f);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace kvg

#endif  // KVGEAR_KERNELS_HALF_H_
