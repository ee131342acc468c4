// What a block of a piece stands for: codes, low-rank part, sparse part and map, in fp32.
//
// Included once per Highway target by read.cc and seal.cc. Sums in the order of the reference and
// without fused operations, so the results are the same bits.
#if defined(KVG_KERNELS_CPU_DECODE_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_DECODE_H_
#undef KVG_KERNELS_CPU_DECODE_H_
#else
#define KVG_KERNELS_CPU_DECODE_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/map.h"
#include "kernels/cpu/pack_half.h"
#include "kernels/cpu/pack_scale.h"
#include "kernels/cpu/pack_tile.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/tile.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// The tokens of one block in fp32, directions padded.
struct alignas(ops::kAlign) Rows {
  float value[ops::kBlockTokens * ops::kMaxHeadDim];
};

// The part of a block that is wanted: tokens [begin, end) of block `block` of `head`.
struct Slice {
  uint32_t head;
  uint64_t block;
  uint32_t begin, end;
};

// scale * code + minimum for one vector of a row of codes.
template <ops::Axis kAxis>
HWY_INLINE F32 Decode(I32 code, const BlockScales& scales, size_t first, size_t token,
                      size_t direction) {
  const F32Tag df;
  const F32 c = hn::ConvertTo(df, code);
  if constexpr (kAxis == ops::kAxisChannel) {
    return hn::Add(hn::Mul(hn::Load(df, scales.scale + first + direction), c),
                   hn::Load(df, scales.minimum + first + direction));
  } else {
    return hn::Add(hn::Mul(hn::Set(df, scales.scale[first + token]), c),
                   hn::Set(df, scales.minimum[first + token]));
  }
}

// V side: a word holds the codes of two tokens.
template <ops::Axis kAxis>
void DecodeTileV(const TilePairs& pairs, const BlockScales& scales, size_t first, float* out,
                 size_t stride) {
  const U32Tag du;
  const I32Tag di;
  for (size_t p = 0; p < kTilePairs; ++p) {
    for (size_t d = 0; d < kTileLanes; d += kF32Lanes) {
      const U32 word = hn::Load(du, pairs.word + p * kTileLanes + d);
      const I32 even = hn::BitCast(di, hn::And(word, hn::Set(du, 0xFFFFu)));
      const I32 odd = hn::BitCast(di, hn::ShiftRight<16>(word));
      float* const to = out + 2 * p * stride + d;
      hn::StoreU(Decode<kAxis>(even, scales, first, 2 * p, d), F32Tag(), to);
      hn::StoreU(Decode<kAxis>(odd, scales, first, 2 * p + 1, d), F32Tag(), to + stride);
    }
  }
}

// K side: tokens are in the lanes and change places with the directions first.
template <ops::Axis kAxis>
void DecodeTileK(const TilePairs& pairs, const BlockScales& scales, size_t first, float* out,
                 size_t stride) {
  TileRows rows;
  PairsToRowsK(pairs, &rows);
  for (size_t token = 0; token < ops::kBlockTokens; ++token) {
    for (size_t d = 0; d < kTileLanes; d += kF32Lanes) {
      const auto narrow = hn::Load(I16OfF32Tag(), rows.code + token * kTileLanes + d);
      const I32 code = hn::PromoteTo(I32Tag(), narrow);
      hn::StoreU(Decode<kAxis>(code, scales, first, token, d), F32Tag(), out + token * stride + d);
    }
  }
}

template <ops::Axis kAxis>
void DecodeCodes(const ops::Piece& piece, const Slice& slice, Rows* rows) {
  BlockScales scales;
  const uint64_t head_scales = slice.head * piece.scale_head_stride;
  LoadBlockScales(kAxis, piece.group, piece.head_dim, piece.dirs, piece.scale + head_scales,
                  piece.minimum + head_scales, piece.scale_group_stride, slice.block, &scales);
  const uint32_t tiles = piece.dirs / ops::kTileDirs;
  const uint8_t* const widths = piece.widths + uint64_t{slice.head} * tiles;
  const uint8_t* codes = piece.codes + piece.codes_head[slice.head] +
                         slice.block * piece.codes_block[slice.head];
  TilePairs pairs;
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    UnpackTile(codes, widths[tile], &pairs);
    codes += ops::TileBytes(widths[tile]);
    const size_t first = TileScales(kAxis, piece.group, tile);
    float* const out = rows->value + tile * ops::kTileDirs;
    if (piece.side == ops::kSideK) {
      DecodeTileK<kAxis>(pairs, scales, first, out, piece.dirs);
    } else {
      DecodeTileV<kAxis>(pairs, scales, first, out, piece.dirs);
    }
  }
}

inline void AddLowRank(const ops::Piece& piece, const Slice& slice, Rows* rows) {
  const F32Tag df;
  const size_t dirs = piece.dirs;
  alignas(ops::kAlign) float b[ops::kMaxRank * ops::kMaxHeadDim];
  const uint16_t* const b_half = piece.b + uint64_t{slice.head} * piece.rank * dirs;
  for (size_t i = 0; i < piece.rank * dirs; i += kF32Lanes) hn::Store(LoadHalf(b_half + i), df, b + i);
  const uint16_t* const a =
      piece.a + uint64_t{slice.head} * piece.rank * piece.padded_tokens +
      slice.block * ops::kBlockTokens;
  for (size_t token = slice.begin; token < slice.end; ++token) {
    float at[ops::kMaxRank];
    for (size_t r = 0; r < piece.rank; ++r) at[r] = F16ToF32(a[r * piece.padded_tokens + token]);
    float* const row = rows->value + token * dirs;
    for (size_t d = 0; d < dirs; d += kF32Lanes) {
      F32 sum = hn::Zero(df);
      for (size_t r = 0; r < piece.rank; ++r) {
        sum = hn::Add(sum, hn::Mul(hn::Set(df, at[r]), hn::Load(df, b + r * dirs + d)));
      }
      hn::StoreU(hn::Add(hn::LoadU(df, row + d), sum), df, row + d);
    }
  }
}

inline void AddSparse(const ops::Piece& piece, const Slice& slice, Rows* rows) {
  const uint64_t blocks = piece.padded_tokens / ops::kBlockTokens;
  const uint8_t* const count = piece.sparse_count + slice.head * piece.padded_tokens +
                               slice.block * ops::kBlockTokens;
  uint64_t entry = piece.sparse_start[slice.head * (blocks + 1) + slice.block];
  for (size_t token = 0; token < slice.end; ++token) {
    const uint64_t end = entry + count[token];
    for (; entry < end; ++entry) {
      float& value = rows->value[token * piece.dirs + piece.sparse_dir[entry]];
      value += F16ToF32(piece.sparse_value[entry]);
    }
  }
}

// Rows [slice.begin, slice.end) of the block; of the others some parts may be missing.
inline void DecodeSlice(const ops::Piece& piece, const Slice& slice, Rows* rows) {
  if (piece.axis == ops::kAxisChannel) {
    DecodeCodes<ops::kAxisChannel>(piece, slice, rows);
  } else {
    DecodeCodes<ops::kAxisToken>(piece, slice, rows);
  }
  if (piece.rank > 0) AddLowRank(piece, slice, rows);
  if (piece.sparse_start != nullptr) AddSparse(piece, slice, rows);
  if (piece.map == nullptr) return;
  for (size_t token = slice.begin; token < slice.end; ++token) {
    UnmapRow(*piece.map, slice.head, piece.head_dim, piece.dirs, rows->value + token * piece.dirs);
  }
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_DECODE_H_
