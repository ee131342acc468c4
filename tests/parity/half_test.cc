// The conversions of kernels/half.h: every fp16 and bf16 number, and the edges between them.
#include "kernels/half.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace kvg {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

// The value of fp16 bits by definition.
double ValueOf(uint32_t bits) {
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  const int exponent = static_cast<int>((bits >> 10) & 31);
  const int mantissa = static_cast<int>(bits & 1023);
  return sign *
         (exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25));
}

TEST(Half, EveryFiniteF16HasItsValueAndComesBack) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    if (!F16IsFinite(h)) continue;
    ASSERT_EQ(static_cast<double>(F16ToF32(h)), ValueOf(bits)) << bits;
    ASSERT_EQ(F32ToF16(F16ToF32(h)), h);
    ASSERT_EQ(F32ToF16Saturate(F16ToF32(h)), h);
  }
}

TEST(Half, RoundsToNearestAndTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const auto below = static_cast<uint16_t>(bits);
    const auto above = static_cast<uint16_t>(bits + 1);
    const float middle = static_cast<float>((ValueOf(bits) + ValueOf(bits + 1)) / 2);
    const uint16_t even = bits % 2 == 0 ? below : above;
    for (const uint32_t sign : {0u, 0x8000u}) {
      const float s = sign != 0 ? -1.0f : 1.0f;
      ASSERT_EQ(F32ToF16(s * middle), even | sign) << bits;
      ASSERT_EQ(F32ToF16(s * std::nextafter(middle, 0.0f)), below | sign) << bits;
      ASSERT_EQ(F32ToF16(s * std::nextafter(middle, kInf)), above | sign) << bits;
    }
  }
}

TEST(Half, EndsOfTheRange) {
  EXPECT_EQ(F32ToF16(65504.0f), 0x7BFF);
  EXPECT_EQ(F32ToF16(std::nextafter(kF16Overflow, 0.0f)), 0x7BFF);
  EXPECT_EQ(F32ToF16(kF16Overflow), 0x7C00);
  EXPECT_EQ(F32ToF16(-kF16Overflow), 0xFC00);
  EXPECT_EQ(F32ToF16(kInf), 0x7C00);
  EXPECT_EQ(F32ToF16Saturate(kF16Overflow), 0x7BFF);
  EXPECT_EQ(F32ToF16Saturate(-1e30f), 0xFBFF);
  EXPECT_EQ(F32ToF16Saturate(kInf), 0x7BFF);
  EXPECT_EQ(F32ToF16Saturate(-kInf), 0xFBFF);
  EXPECT_EQ(F32ToF16(1e-30f), 0);
  EXPECT_EQ(F32ToF16(-1e-30f), 0x8000);
  EXPECT_EQ(F16ToF32(0x7C00), kInf);
  EXPECT_EQ(F16ToF32(0xFC00), -kInf);
}

TEST(Half, NanStaysNanAndTurnsQuiet) {
  for (uint32_t mantissa = 1; mantissa < 1024; ++mantissa) {
    const float f = F16ToF32(static_cast<uint16_t>(0x7C00 | mantissa));
    ASSERT_TRUE(std::isnan(f));
    ASSERT_EQ(std::bit_cast<uint32_t>(f), 0x7FC00000u | mantissa << 13);
    ASSERT_EQ(F32ToF16(f), 0x7E00 | mantissa);
    ASSERT_EQ(F32ToF16Saturate(f), 0x7E00 | mantissa);
  }
  const float low_bits_only = std::bit_cast<float>(0x7F800001u);
  EXPECT_EQ(F32ToF16(low_bits_only), 0x7E00);
  EXPECT_EQ(F32ToBF16(low_bits_only), 0x7FC0);
}

TEST(BHalf, EveryNumberComesBackAndTiesGoToEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    const float f = BF16ToF32(b);
    if (std::isnan(f)) {
      ASSERT_EQ(F32ToBF16(f), b | 0x40);
      continue;
    }
    ASSERT_EQ(std::bit_cast<uint32_t>(f), bits << 16);
    ASSERT_EQ(F32ToBF16(f), b);
    if (std::isinf(f)) continue;
    const uint32_t even = bits + bits % 2;
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>((bits << 16) + 0x8000)), even);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>((bits << 16) + 0x7FFF)), bits);
    ASSERT_EQ(F32ToBF16(std::bit_cast<float>((bits << 16) + 0x8001)), bits + 1);
  }
}

}  // namespace
}  // namespace kvg
