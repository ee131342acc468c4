// The code layout of kernels/tile.h against the formulas of kernels/ops.h, spelled out in words.
#include "kernels/tile.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <set>
#include <tuple>
#include <vector>

namespace kvg::ops {
namespace {

constexpr uint32_t kWidths[] = {0, 1, 2, 3, 4, 6, 8};

uint32_t Word(const std::vector<uint8_t>& bytes, uint32_t index) {
  uint32_t word = 0;
  for (uint32_t i = 0; i < 4; ++i) word |= uint32_t{bytes[4 * index + i]} << 8 * i;
  return word;
}

// Reads a code by the formula of ops.h, plane by plane, from whole words.
uint32_t CodeByFormula(const std::vector<uint8_t>& tile, uint32_t width, CodePosition at) {
  static constexpr uint32_t kPlanes[9][2] = {{0, 0}, {1, 0}, {2, 0}, {2, 1}, {4, 0},
                                             {0, 0}, {4, 2}, {0, 0}, {8, 0}};
  uint32_t code = 0;
  uint32_t low = 0;
  for (const uint32_t b : kPlanes[width]) {
    if (b == 0) continue;
    const uint32_t p = 16 / b;
    const uint32_t word = Word(tile, 16 * low + (at.pair / p) * 16 + at.lane);
    code |= ((word >> (b * (at.pair % p) + 16 * at.hi)) & ((1u << b) - 1)) << low;
    low += b;
  }
  return code;
}

TEST(Tile, PositionsAreABijection) {
  for (const Side side : {kSideK, kSideV}) {
    std::set<std::tuple<uint32_t, uint32_t, uint32_t>> seen;
    for (uint32_t token = 0; token < kBlockTokens; ++token) {
      for (uint32_t direction = 0; direction < kTileDirs; ++direction) {
        const CodePosition at = PositionOf(side, token, direction);
        EXPECT_LT(at.lane, 16u);
        EXPECT_LT(at.pair, 16u);
        EXPECT_LT(at.hi, 2u);
        seen.insert({at.lane, at.pair, at.hi});
      }
    }
    EXPECT_EQ(seen.size(), kBlockTokens * kTileDirs);
  }
}

TEST(Tile, PairsLieInOneWordForTheMultiplyAdd) {
  for (uint32_t i = 0; i < 16; i += 2) {
    const CodePosition even = PositionOf(kSideK, 21, i);
    const CodePosition odd = PositionOf(kSideK, 21, i + 1);
    EXPECT_EQ(even.lane, 5u);
    EXPECT_EQ(odd.lane, even.lane);
    EXPECT_EQ(odd.pair, even.pair);
    EXPECT_EQ(even.pair, 8 + i / 2);
    EXPECT_EQ(even.hi, 0u);
    EXPECT_EQ(odd.hi, 1u);
  }
  for (uint32_t token = 0; token < 32; token += 2) {
    const CodePosition even = PositionOf(kSideV, token, 9);
    const CodePosition odd = PositionOf(kSideV, token + 1, 9);
    EXPECT_EQ(even.lane, 9u);
    EXPECT_EQ(odd.lane, 9u);
    EXPECT_EQ(even.pair, token / 2);
    EXPECT_EQ(odd.pair, token / 2);
    EXPECT_EQ(even.hi, 0u);
    EXPECT_EQ(odd.hi, 1u);
  }
}

TEST(Tile, PutThenGetForEveryWidth) {
  std::mt19937 random(1);
  for (const uint32_t width : kWidths) {
    for (const Side side : {kSideK, kSideV}) {
      std::vector<uint8_t> tile(TileBytes(width) + 1, 0xA5);  // starts poisoned; last byte a guard
      std::vector<uint32_t> codes;
      for (uint32_t i = 0; i < kBlockTokens * kTileDirs; ++i) {
        codes.push_back(static_cast<uint32_t>(random()) & ((1u << width) - 1));
        PutCode(tile.data(), width, PositionOf(side, i / kTileDirs, i % kTileDirs), codes.back());
      }
      for (uint32_t i = 0; i < kBlockTokens * kTileDirs; ++i) {
        const CodePosition at = PositionOf(side, i / kTileDirs, i % kTileDirs);
        ASSERT_EQ(GetCode(tile.data(), width, at), codes[i]) << "width " << width;
        ASSERT_EQ(CodeByFormula(tile, width, at), codes[i]) << "width " << width;
      }
      EXPECT_EQ(tile.back(), 0xA5);
    }
  }
}

TEST(Tile, EveryByteOfATileIsUsed) {
  for (const uint32_t width : kWidths) {
    std::vector<uint8_t> tile(TileBytes(width), 0);
    for (uint32_t i = 0; i < kBlockTokens * kTileDirs; ++i) {
      PutCode(tile.data(), width, PositionOf(kSideV, i / kTileDirs, i % kTileDirs),
              (1u << width) - 1);
    }
    EXPECT_EQ(tile, std::vector<uint8_t>(TileBytes(width), 0xFF)) << "width " << width;
  }
}

TEST(Tile, WorkedExample) {
  // Width 3, K side, token 17, direction 5: lane 1, pair 10, hi 1. Code 6 = 0b110: the low plane
  // (2 bits) gets 2 in row 10 / 8 = 1, shift 2 * 2 + 16; the high plane (1 bit) gets 1 in row 0,
  // shift 10 + 16.
  std::vector<uint8_t> tile(TileBytes(3), 0);
  PutCode(tile.data(), 3, PositionOf(kSideK, 17, 5), 6);
  std::vector<uint32_t> words;
  for (uint32_t i = 0; i < 48; ++i) words.push_back(Word(tile, i));
  std::vector<uint32_t> expected(48, 0);
  expected[1 * 16 + 1] = 2u << 20;
  expected[2 * 16 + 1] = 1u << 26;
  EXPECT_EQ(words, expected);
}

TEST(Tile, OffsetsSumTheWidthsBefore) {
  const uint8_t widths[] = {8, 3, 0, 1};
  EXPECT_EQ(TileOffset(widths, 0), 0u);
  EXPECT_EQ(TileOffset(widths, 1), 512u);
  EXPECT_EQ(TileOffset(widths, 2), 704u);
  EXPECT_EQ(TileOffset(widths, 3), 704u);
  EXPECT_EQ(TileOffset(widths, 4), 768u);
}

}  // namespace
}  // namespace kvg::ops
