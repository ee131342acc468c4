// Whole tiles of codes: to and from the packed words of kernels/ops.h, and from tokens in lanes to
// directions in lanes.
//
// Included once per Highway target by seal.cc and read.cc.
#if defined(KVG_KERNELS_CPU_PACK_TILE_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_PACK_TILE_H_
#undef KVG_KERNELS_CPU_PACK_TILE_H_
#else
#define KVG_KERNELS_CPU_PACK_TILE_H_
#endif

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/pack_half.h"
#include "kernels/ops.h"
#include "kernels/tile.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

inline constexpr size_t kTileLanes = 16;
inline constexpr size_t kTilePairs = 16;

// The codes of a tile, unpacked: word[pair * 16 + lane] = code(hi = 0) | code(hi = 1) << 16.
struct alignas(ops::kAlign) TilePairs {
  uint32_t word[kTilePairs * kTileLanes];
};

// The codes of a tile, row by row: code[token * 16 + direction].
struct alignas(ops::kAlign) TileRows {
  int16_t code[ops::kBlockTokens * ops::kTileDirs];
};

// Bits kDone .. kDone + kBits - 1 of every code, as one plane.
template <int kBits, int kDone>
HWY_INLINE void PackPlane(const TilePairs& pairs, uint8_t* out) {
  constexpr size_t kPerRow = 16 / kBits;
  const U32Tag du;
  const U32 mask = hn::Set(du, ((1u << kBits) - 1) * 0x10001u);
  auto* words = reinterpret_cast<uint32_t*>(out);
  for (size_t row = 0; row < kBits; ++row) {
    for (size_t lane = 0; lane < kTileLanes; lane += kF32Lanes) {
      U32 word = hn::Zero(du);
      for (size_t j = kPerRow; j-- > 0;) {
        const U32 codes = hn::Load(du, pairs.word + (row * kPerRow + j) * kTileLanes + lane);
        word = hn::Or(hn::ShiftLeft<kBits>(word), hn::And(hn::ShiftRight<kDone>(codes), mask));
      }
      hn::StoreU(word, du, words + row * kTileLanes + lane);
    }
  }
}

// Packs a tile into ops::TileBytes(width) bytes; codes are below 2^width.
HWY_INLINE void PackTile(const TilePairs& pairs, uint32_t width, uint8_t* out) {
  switch (width) {
    case 1:
      PackPlane<1, 0>(pairs, out);
      break;
    case 2:
      PackPlane<2, 0>(pairs, out);
      break;
    case 3:
      PackPlane<2, 0>(pairs, out);
      PackPlane<1, 2>(pairs, out + 2 * ops::kTileRowBytes);
      break;
    case 4:
      PackPlane<4, 0>(pairs, out);
      break;
    case 6:
      PackPlane<4, 0>(pairs, out);
      PackPlane<2, 4>(pairs, out + 4 * ops::kTileRowBytes);
      break;
    case 8:
      PackPlane<8, 0>(pairs, out);
      break;
    default:  // 0 stores nothing
      break;
  }
}

// The inverse of PackPlane: puts kBits bits of every code in their place; the first plane (kDone 0)
// overwrites the codes, a second one adds to them.
template <int kBits, int kDone>
HWY_INLINE void UnpackPlane(const uint8_t* in, TilePairs* pairs) {
  constexpr size_t kPerRow = 16 / kBits;
  const U32Tag du;
  const U32 mask = hn::Set(du, ((1u << kBits) - 1) * 0x10001u);
  const auto* words = reinterpret_cast<const uint32_t*>(in);
  for (size_t row = 0; row < kBits; ++row) {
    for (size_t lane = 0; lane < kTileLanes; lane += kF32Lanes) {
      U32 word = hn::LoadU(du, words + row * kTileLanes + lane);
      for (size_t j = 0; j < kPerRow; ++j) {
        uint32_t* const to = pairs->word + (row * kPerRow + j) * kTileLanes + lane;
        U32 codes = hn::ShiftLeft<kDone>(hn::And(word, mask));
        if constexpr (kDone > 0) codes = hn::Or(codes, hn::Load(du, to));
        hn::Store(codes, du, to);
        word = hn::ShiftRight<kBits>(word);
      }
    }
  }
}

HWY_INLINE void UnpackTile(const uint8_t* in, uint32_t width, TilePairs* pairs) {
  switch (width) {
    case 1:
      UnpackPlane<1, 0>(in, pairs);
      break;
    case 2:
      UnpackPlane<2, 0>(in, pairs);
      break;
    case 3:
      UnpackPlane<2, 0>(in, pairs);
      UnpackPlane<1, 2>(in + 2 * ops::kTileRowBytes, pairs);
      break;
    case 4:
      UnpackPlane<4, 0>(in, pairs);
      break;
    case 6:
      UnpackPlane<4, 0>(in, pairs);
      UnpackPlane<2, 4>(in + 4 * ops::kTileRowBytes, pairs);
      break;
    case 8:
      UnpackPlane<8, 0>(in, pairs);
      break;
    default:
      hwy::ZeroBytes<sizeof(TilePairs)>(pairs);
      break;
  }
}

// to[column * to_stride + row] = from[row * from_stride + column], 4 x 4 words.
HWY_INLINE void Transpose4x4(const uint32_t* from, size_t from_stride, uint32_t* to,
                             size_t to_stride) {
  const hn::Full128<uint32_t> d;
  const hn::Full128<uint64_t> d64;
  const auto r0 = hn::Load(d, from);
  const auto r1 = hn::Load(d, from + from_stride);
  const auto r2 = hn::Load(d, from + 2 * from_stride);
  const auto r3 = hn::Load(d, from + 3 * from_stride);
  const auto low01 = hn::BitCast(d64, hn::InterleaveLower(d, r0, r1));
  const auto low23 = hn::BitCast(d64, hn::InterleaveLower(d, r2, r3));
  const auto high01 = hn::BitCast(d64, hn::InterleaveUpper(d, r0, r1));
  const auto high23 = hn::BitCast(d64, hn::InterleaveUpper(d, r2, r3));
  hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, low01, low23)), d, to);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, low01, low23)), d, to + to_stride);
  hn::Store(hn::BitCast(d, hn::InterleaveLower(d64, high01, high23)), d, to + 2 * to_stride);
  hn::Store(hn::BitCast(d, hn::InterleaveUpper(d64, high01, high23)), d, to + 3 * to_stride);
}

inline constexpr size_t kRowWords = ops::kTileDirs / 2;  // a row of codes, two to a word

// K side: two codes of neighbouring directions already are the two halves of a word, so rows become
// pairs by moving words.
HWY_INLINE void RowsToPairsK(const TileRows& rows, TilePairs* pairs) {
  const auto* words = reinterpret_cast<const uint32_t*>(rows.code);
  for (size_t token = 0; token < ops::kBlockTokens; token += 4) {
    uint32_t* const to = pairs->word + token / 16 * kRowWords * kTileLanes + token % 16;
    for (size_t w = 0; w < kRowWords; w += 4) {
      Transpose4x4(words + token * kRowWords + w, kRowWords, to + w * kTileLanes, kTileLanes);
    }
  }
}

HWY_INLINE void PairsToRowsK(const TilePairs& pairs, TileRows* rows) {
  auto* words = reinterpret_cast<uint32_t*>(rows->code);
  for (size_t token = 0; token < ops::kBlockTokens; token += 4) {
    const uint32_t* const from = pairs.word + token / 16 * kRowWords * kTileLanes + token % 16;
    for (size_t w = 0; w < kRowWords; w += 4) {
      Transpose4x4(from + w * kTileLanes, kTileLanes, words + token * kRowWords + w, kRowWords);
    }
  }
}

// V side: a word holds the codes of two neighbouring tokens.
HWY_INLINE void RowsToPairsV(const TileRows& rows, TilePairs* pairs) {
  const U32Tag du;
  const U16OfF32Tag du16;
  const auto* codes = reinterpret_cast<const uint16_t*>(rows.code);
  for (size_t p = 0; p < kTilePairs; ++p) {
    for (size_t lane = 0; lane < kTileLanes; lane += kF32Lanes) {
      const uint16_t* const even = codes + 2 * p * kTileLanes + lane;
      const U32 low = hn::PromoteTo(du, hn::Load(du16, even));
      const U32 high = hn::PromoteTo(du, hn::Load(du16, even + kTileLanes));
      hn::Store(hn::Or(low, hn::ShiftLeft<16>(high)), du, pairs->word + p * kTileLanes + lane);
    }
  }
}

// V side: overwrites the codes of one token, which lie in one row of each plane.
HWY_INLINE void PutTokenV(const int16_t* codes, size_t token, uint32_t width, uint8_t* tile) {
  const U32Tag du;
  const ops::Planes planes = ops::PlanesOf(width);
  uint32_t done = 0;
  for (uint32_t i = 0; i < planes.count; ++i) {
    const uint32_t bits = planes.bits[i];
    const auto pair = static_cast<uint32_t>(token / 2);
    const auto shift = static_cast<int>(bits * (pair % (16 / bits)) + 16 * (token % 2));
    auto* const row = reinterpret_cast<uint32_t*>(
        tile + (done + pair / (16 / bits)) * ops::kTileRowBytes);
    const U32 mask = hn::Set(du, (1u << bits) - 1);
    for (size_t lane = 0; lane < kTileLanes; lane += kF32Lanes) {
      const auto narrow = hn::Load(I16OfF32Tag(), codes + lane);
      const U32 code = hn::BitCast(du, hn::PromoteTo(I32Tag(), narrow));
      const U32 field = hn::And(hn::ShiftRightSame(code, static_cast<int>(done)), mask);
      const U32 others = hn::AndNot(hn::ShiftLeftSame(mask, shift), hn::LoadU(du, row + lane));
      hn::StoreU(hn::Or(others, hn::ShiftLeftSame(field, shift)), du, row + lane);
    }
    done += bits;
  }
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_PACK_TILE_H_
