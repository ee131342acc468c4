// CRC32C: the examples of RFC 3720, both ways of computing it, and every way to cut a text.
#include "core/base/crc32c.h"

#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"

namespace kvg::test {
namespace {

// Bit by bit, from the definition.
uint32_t Plain(const std::vector<uint8_t>& bytes) {
  uint32_t state = 0xFFFFFFFFu;
  for (const uint8_t b : bytes) {
    state ^= b;
    for (int bit = 0; bit < 8; ++bit) state = (state >> 1) ^ (0x82F63B78u & (0u - (state & 1)));
  }
  return ~state;
}

TEST(Crc32c, ExamplesOfTheStandard) {
  EXPECT_EQ(Crc32c("", 0), 0u);
  EXPECT_EQ(Crc32c("123456789", 9), 0xE3069283u);
  std::vector<uint8_t> bytes(32, 0);
  EXPECT_EQ(Crc32c(bytes.data(), 32), 0x8A9136AAu);
  bytes.assign(32, 0xFF);
  EXPECT_EQ(Crc32c(bytes.data(), 32), 0x62A8AB43u);
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  EXPECT_EQ(Crc32c(bytes.data(), 32), 0x46DD794Eu);
}

TEST(Crc32c, AllWaysAgree) {
  Random random(1);
  std::vector<uint8_t> bytes(20000);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(random.Next());
  for (const size_t size : {1u, 7u, 8u, 9u, 63u, 6143u, 6144u, 6145u, 12290u, 19999u, 20000u}) {
    const std::vector<uint8_t> text(bytes.begin(), bytes.begin() + static_cast<long>(size));
    const uint32_t want = Plain(text);
    EXPECT_EQ(ExtendCrc32cPortable(0, text.data(), size), want) << size;
    EXPECT_EQ(Crc32c(text.data(), size), want) << size;
    // In two parts, and from an odd address.
    const size_t cut = size / 3;
    EXPECT_EQ(ExtendCrc32c(Crc32c(text.data(), cut), text.data() + cut, size - cut), want);
    EXPECT_EQ(Crc32c(bytes.data() + 1, size - 1),
              ExtendCrc32cPortable(0, bytes.data() + 1, size - 1));
  }
}

}  // namespace
}  // namespace kvg::test
