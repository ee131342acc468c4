// Scales and minima of groups, from the lowest and the highest value in each.
//
// Included once per Highway target by seal.cc. Values are compared as the keys of pack_half.h.
#if defined(KVG_KERNELS_CPU_SEAL_RANGE_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_SEAL_RANGE_H_
#undef KVG_KERNELS_CPU_SEAL_RANGE_H_
#else
#define KVG_KERNELS_CPU_SEAL_RANGE_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/pack_half.h"
#include "kernels/cpu/pack_tile.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// Tokens of one block and head, from the block's token `begin` on: row[i * stride + direction], up
// to the padded number of directions.
struct BlockRows {
  const uint16_t* row;
  size_t stride;
  size_t begin, end;

  HWY_INLINE size_t count() const { return end - begin; }
};

// Which entries of a block are left out, one bit for each direction of a tile:
// bits[tile * stride + i] for row i. Null when there are none.
struct SkipBits {
  const uint16_t* bits;
  size_t stride;
};

// Masks of kI16Lanes or kF32Lanes lanes, from bit `first` of `bits` on.
HWY_INLINE hn::Mask<I16Tag> MaskOfBits(I16Tag di, uint32_t bits, size_t first) {
  alignas(ops::kAlign) static constexpr uint16_t kBit[16] = {
      1,     2,     4,      8,      0x10,   0x20,   0x40,   0x80,
      0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000};
  const U16Tag du;
  const auto bit = hn::Load(du, kBit + first);
  return hn::RebindMask(di, hn::TestBit(hn::Set(du, static_cast<uint16_t>(bits)), bit));
}

HWY_INLINE hn::Mask<F32Tag> MaskOfBits(F32Tag df, uint32_t bits, size_t first) {
  alignas(ops::kAlign) static constexpr uint32_t kBit[16] = {
      1,     2,     4,      8,      0x10,   0x20,   0x40,   0x80,
      0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000, 0x4000, 0x8000};
  const U32Tag du;
  return hn::RebindMask(df, hn::TestBit(hn::Set(du, bits), hn::Load(du, kBit + first)));
}

// Lowest and highest keys. A group without entries keeps low > high.
inline constexpr int16_t kNoLow = 0x7FFF;
inline constexpr int16_t kNoHigh = -0x7FFF;

struct KeyRange {
  I16 low, high;

  HWY_INLINE KeyRange() : low(hn::Set(I16Tag(), kNoLow)), high(hn::Set(I16Tag(), kNoHigh)) {}
  HWY_INLINE void Add(I16 key) {
    low = hn::Min(low, key);
    high = hn::Max(high, key);
  }
  HWY_INLINE void AddUnless(hn::Mask<I16Tag> skip, I16 key) {
    const I16Tag di;
    low = hn::Min(low, hn::IfThenElse(skip, hn::Set(di, kNoLow), key));
    high = hn::Max(high, hn::IfThenElse(skip, hn::Set(di, kNoHigh), key));
  }
};

// Channel axis: adds a block to low[direction] and high[direction].
HWY_INLINE void FoldColumns(const BlockRows& rows, const SkipBits& skip, size_t tiles,
                            int16_t* low, int16_t* high) {
  const I16Tag di;
  for (size_t d = 0; d < tiles * kTileLanes; d += kI16Lanes) {
    KeyRange range;
    range.low = hn::Load(di, low + d);
    range.high = hn::Load(di, high + d);
    if (skip.bits == nullptr) {
      for (size_t i = 0; i < rows.count(); ++i) range.Add(LoadKeys(rows.row + i * rows.stride + d));
    } else {
      const uint16_t* const bits = skip.bits + d / kTileLanes * skip.stride;
      for (size_t i = 0; i < rows.count(); ++i) {
        range.AddUnless(MaskOfBits(di, bits[i], d % kTileLanes),
                        LoadKeys(rows.row + i * rows.stride + d));
      }
    }
    hn::Store(range.low, di, low + d);
    hn::Store(range.high, di, high + d);
  }
}

// Token axis: 8 partial results per token, which ReduceTokens brings together. Of a block, tokens
// [begin, end) are looked at, rounded to multiples of 8.
struct alignas(ops::kAlign) TokenRanges {
  int16_t low[ops::kBlockTokens * 8], high[ops::kBlockTokens * 8];
  size_t begin, end;

  HWY_INLINE void Clear(size_t first_token, size_t tokens_end) {
    begin = first_token / 8 * 8;
    end = (tokens_end + 7) / 8 * 8;
    std::fill(low + begin * 8, low + end * 8, kNoLow);
    std::fill(high + begin * 8, high + end * 8, kNoHigh);
  }
};

// Adds tiles [first, end) of a block to the ranges of its tokens.
HWY_INLINE void FoldTokens(const BlockRows& rows, const SkipBits& skip, size_t first, size_t end,
                           TokenRanges* ranges) {
  const I16Tag di;
  const hn::Full128<int16_t> d8;
  for (size_t i = 0; i < rows.count(); ++i) {
    const uint16_t* const row = rows.row + i * rows.stride;
    KeyRange range;
    if (skip.bits == nullptr) {
      for (size_t d = first * kTileLanes; d < end * kTileLanes; d += kI16Lanes) {
        range.Add(LoadKeys(row + d));
      }
    } else {
      for (size_t d = first * kTileLanes; d < end * kTileLanes; d += kI16Lanes) {
        const uint32_t bits = skip.bits[d / kTileLanes * skip.stride + i];
        range.AddUnless(MaskOfBits(di, bits, d % kTileLanes), LoadKeys(row + d));
      }
    }
    int16_t* const low = ranges->low + (rows.begin + i) * 8;
    int16_t* const high = ranges->high + (rows.begin + i) * 8;
#if HWY_MAX_BYTES == 16
    hn::Store(hn::Min(range.low, hn::Load(d8, low)), d8, low);
    hn::Store(hn::Max(range.high, hn::Load(d8, high)), d8, high);
#else
    const auto low8 = hn::Min(hn::LowerHalf(d8, range.low), hn::UpperHalf(d8, range.low));
    const auto high8 = hn::Max(hn::LowerHalf(d8, range.high), hn::UpperHalf(d8, range.high));
    hn::Store(hn::Min(low8, hn::Load(d8, low)), d8, low);
    hn::Store(hn::Max(high8, hn::Load(d8, high)), d8, high);
#endif
  }
}

// to[i] = what `op` makes of the 8 numbers from[8 * i] and following; n is a multiple of 8.
template <typename Op>
HWY_INLINE void ReduceEights(const int16_t* from, size_t n, const Op& op, int16_t* to) {
  const hn::Full128<int16_t> d;
  const hn::Full128<uint32_t> d32;
  const hn::Full128<uint64_t> d64;
  for (size_t i = 0; i < n; i += 8) {
    hn::Vec<decltype(d)> v[8];
    for (size_t j = 0; j < 8; ++j) v[j] = hn::Load(d, from + (i + j) * 8);
    for (size_t j = 0; j < 4; ++j) {
      v[j] = op(hn::InterleaveLower(d, v[2 * j], v[2 * j + 1]),
                hn::InterleaveUpper(d, v[2 * j], v[2 * j + 1]));
    }
    for (size_t j = 0; j < 2; ++j) {
      const auto even = hn::BitCast(d32, v[2 * j]);
      const auto odd = hn::BitCast(d32, v[2 * j + 1]);
      v[j] = op(hn::BitCast(d, hn::InterleaveLower(d32, even, odd)),
                hn::BitCast(d, hn::InterleaveUpper(d32, even, odd)));
    }
    const auto even = hn::BitCast(d64, v[0]);
    const auto odd = hn::BitCast(d64, v[1]);
    hn::Store(op(hn::BitCast(d, hn::InterleaveLower(d64, even, odd)),
                 hn::BitCast(d, hn::InterleaveUpper(d64, even, odd))),
              d, to + i);
  }
}

HWY_INLINE void ReduceTokens(const TokenRanges& ranges, int16_t* low, int16_t* high) {
  using V = hn::Vec<hn::Full128<int16_t>>;
  const size_t first = ranges.begin;
  const size_t n = ranges.end - first;
  ReduceEights(ranges.low + first * 8, n, [](V a, V b) { return hn::Min(a, b); }, low + first);
  ReduceEights(ranges.high + first * 8, n, [](V a, V b) { return hn::Max(a, b); }, high + first);
}

// Scales and minima of 16 groups of a width above 0.
HWY_INLINE void FinishScales(const int16_t* low, const int16_t* high, uint32_t width,
                             uint16_t* scale, uint16_t* minimum) {
  const I16Tag di;
  const F32Tag df;
  alignas(ops::kAlign) uint16_t ends[2][kTileLanes];
  for (size_t i = 0; i < kTileLanes; i += kI16Lanes) {
    const I16 low_key = hn::Load(di, low + i);
    const I16 high_key = hn::Load(di, high + i);
    const auto empty = hn::Gt(low_key, high_key);
    StoreKeysAsHalf(hn::IfThenZeroElse(empty, low_key), ends[0] + i);
    StoreKeysAsHalf(hn::IfThenZeroElse(empty, high_key), ends[1] + i);
  }
  const F32 levels = hn::Set(df, static_cast<float>((1u << width) - 1));
  for (size_t i = 0; i < kTileLanes; i += kF32Lanes) {
    const F32 range = hn::Sub(LoadHalf(ends[1] + i), LoadHalf(ends[0] + i));
    StoreHalfSaturated(hn::Div(range, levels), scale + i);
  }
  std::copy_n(ends[0], kTileLanes, minimum);
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_SEAL_RANGE_H_
