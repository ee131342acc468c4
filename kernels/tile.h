// Where a code lies: position (lane, pair, hi) inside a tile, planes of a width, tiles of a block.
//
// The layout is defined at the top of kernels/ops.h. May be called from anywhere; written for
// clarity, one code at a time, so kernels that need speed unpack whole rows of words themselves.
#ifndef KVGEAR_KERNELS_TILE_H_
#define KVGEAR_KERNELS_TILE_H_

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::ops {

inline constexpr uint32_t kTileRowBytes = 64;  // 16 lanes of one uint32 word

struct CodePosition {
  uint32_t lane, pair, hi;
};

// token < kBlockTokens counts inside the block, direction < kTileDirs inside the tile.
inline constexpr CodePosition PositionOf(Side side, uint32_t token, uint32_t direction) {
  if (side == kSideK) {
    return {.lane = token % 16, .pair = token / 16 * 8 + direction / 2, .hi = direction % 2};
  }
  return {.lane = direction, .pair = token / 2, .hi = token % 2};
}

inline constexpr bool WidthIsValid(uint32_t width) {
  return width <= 8 && width != 5 && width != 7;
}

inline constexpr uint32_t TileBytes(uint32_t width) { return kTileRowBytes * width; }

// The planes of a width, lowest code bits first.
struct Planes {
  uint32_t count;
  uint32_t bits[2];
};

inline constexpr Planes PlanesOf(uint32_t width) {
  switch (width) {
    case 0:
      return {0, {0, 0}};
    case 3:
      return {2, {2, 1}};
    case 6:
      return {2, {4, 2}};
    default:
      return {1, {width, 0}};
  }
}

// The byte of a plane of `bits` bits that holds a code's bits, and how far they are shifted in it.
// A field never crosses a byte, because its width is a power of two and its shift a multiple of it;
// so the words are read and written bytewise, which gives little-endian words on any machine.
struct PlaneField {
  uint32_t byte, shift;
};

inline constexpr PlaneField FieldOf(uint32_t bits, CodePosition at) {
  const uint32_t per_half = 16 / bits;
  const uint32_t word = at.pair / per_half * 16 + at.lane;
  const uint32_t shift = bits * (at.pair % per_half) + 16 * at.hi;
  return {.byte = word * 4 + shift / 8, .shift = shift % 8};
}

inline constexpr uint32_t GetCode(const uint8_t* tile, uint32_t width, CodePosition at) {
  const Planes planes = PlanesOf(width);
  uint32_t code = 0;
  uint32_t done = 0;  // bits read so far, which is also the number of rows passed
  for (uint32_t i = 0; i < planes.count; ++i) {
    const uint32_t bits = planes.bits[i];
    const PlaneField field = FieldOf(bits, at);
    const uint32_t byte = tile[kTileRowBytes * done + field.byte];
    code |= ((byte >> field.shift) & ((1u << bits) - 1)) << done;
    done += bits;
  }
  return code;
}

// Overwrites one code and leaves its neighbours; code < 2^width.
inline constexpr void PutCode(uint8_t* tile, uint32_t width, CodePosition at, uint32_t code) {
  const Planes planes = PlanesOf(width);
  uint32_t done = 0;
  for (uint32_t i = 0; i < planes.count; ++i) {
    const uint32_t bits = planes.bits[i];
    const PlaneField field = FieldOf(bits, at);
    const uint32_t mask = (1u << bits) - 1;
    uint8_t& byte = tile[kTileRowBytes * done + field.byte];
    byte = static_cast<uint8_t>((byte & ~(mask << field.shift)) |
                                (((code >> done) & mask) << field.shift));
    done += bits;
  }
}

// Byte offset, from the start of its block, of tile `tile` of a head whose tiles have `widths`.
// TileOffset(widths, dirs / kTileDirs) is the size of the block.
inline constexpr uint32_t TileOffset(const uint8_t* widths, uint32_t tile) {
  uint32_t offset = 0;
  for (uint32_t i = 0; i < tile; ++i) offset += TileBytes(widths[i]);
  return offset;
}

}  // namespace kvg::ops

#endif  // KVGEAR_KERNELS_TILE_H_
