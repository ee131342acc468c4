// Read: a range of tokens of one side, decompressed block by block.
//
// Called through the operation tables alone. Sums in the order of the reference and without fused
// operations, so the results are the same bits.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/internal.h"
#include "kernels/half.h"
#include "kernels/tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/read.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "kernels/cpu/pack_half.h"
#include "kernels/cpu/pack_scale.h"
#include "kernels/cpu/pack_tile.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE {
namespace read {

using namespace codec;

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

void AddLowRank(const ops::Piece& piece, const Slice& slice, Rows* rows) {
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

void AddSparse(const ops::Piece& piece, const Slice& slice, Rows* rows) {
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

HWY_INLINE void StoreElements(F32 v, float* to) { hn::StoreU(v, F32Tag(), to); }

HWY_INLINE void StoreElements(F32 v, uint16_t* to) { StoreHalfSaturated(v, to); }

struct BF16 {
  uint16_t bits;
};
HWY_INLINE void StoreElements(F32 v, BF16* to) {
  StoreBF16(v, reinterpret_cast<uint16_t*>(to));
}

// Writes `dim` elements; `row` may be read up to the next multiple of kTileDirs.
template <typename T>
HWY_INLINE void StoreRow(const float* row, size_t dim, T* out) {
  size_t d = 0;
  for (; d + kF32Lanes <= dim; d += kF32Lanes) StoreElements(hn::LoadU(F32Tag(), row + d), out + d);
  if (d < dim) {
    T rest[kF32Lanes];
    StoreElements(hn::LoadU(F32Tag(), row + d), rest);
    std::copy_n(rest, dim - d, out + d);
  }
}

template <typename T>
class Reader {
 public:
  explicit Reader(const ops::ReadArgs& args) : args_(args) {}

  void Run() {
    const uint64_t begin = args_.first_token;
    const uint64_t end = begin + args_.tokens;
    for (uint64_t i = 0; i < args_.side.count; ++i) {
      const ops::Piece& piece = *args_.side.pieces[i];
      const uint64_t from = std::max(begin, piece.first_token);
      const uint64_t to = std::min(end, piece.first_token + piece.tokens);
      if (from >= to) continue;
      // Slots, counted from the start of the piece.
      if (piece.kind == ops::kRows) {
        ReadRows(piece, from - piece.first_token, to - piece.first_token);
      } else {
        ReadCodes(piece, from - piece.first_token, to - piece.first_token);
      }
    }
  }

 private:
  T* OutRow(const ops::Piece& piece, uint32_t head, uint64_t slot) const {
    const uint64_t token = piece.first_token + slot - args_.first_token;
    return static_cast<T*>(args_.out) + (token * args_.kv_heads + head) * args_.head_dim;
  }

  void ReadRows(const ops::Piece& piece, uint64_t from, uint64_t to) const {
    alignas(ops::kAlign) float row[ops::kMaxHeadDim] = {};
    const size_t dim = args_.head_dim;
    for (uint64_t slot = from; slot < to; ++slot) {
      for (uint32_t head = 0; head < args_.kv_heads; ++head) {
        const uint16_t* const x = piece.rows + head * piece.rows_head_stride + slot * dim;
        size_t d = 0;
        for (; d + kF32Lanes <= dim; d += kF32Lanes) hn::Store(LoadHalf(x + d), F32Tag(), row + d);
        for (; d < dim; ++d) row[d] = F16ToF32(x[d]);
        StoreRow(row, dim, OutRow(piece, head, slot));
      }
    }
  }

  void ReadCodes(const ops::Piece& piece, uint64_t from, uint64_t to) const {
    Rows rows;
    for (uint64_t slot = from; slot < to;) {
      const uint64_t first = slot / ops::kBlockTokens * ops::kBlockTokens;
      const uint64_t next = std::min<uint64_t>(to, first + ops::kBlockTokens);
      for (uint32_t head = 0; head < args_.kv_heads; ++head) {
        const Slice slice{head, slot / ops::kBlockTokens, static_cast<uint32_t>(slot - first),
                          static_cast<uint32_t>(next - first)};
        if (piece.axis == ops::kAxisChannel) {
          DecodeCodes<ops::kAxisChannel>(piece, slice, &rows);
        } else {
          DecodeCodes<ops::kAxisToken>(piece, slice, &rows);
        }
        if (piece.rank > 0) AddLowRank(piece, slice, &rows);
        if (piece.sparse_start != nullptr) AddSparse(piece, slice, &rows);
        for (uint32_t token = slice.begin; token < slice.end; ++token) {
          StoreRow(rows.value + token * piece.dirs, args_.head_dim,
                   OutRow(piece, head, first + token));
        }
      }
      slot = next;
    }
  }

  const ops::ReadArgs& args_;
};

}  // namespace read

void Read(const ops::ReadArgs* args) {
  switch (args->dtype) {
    case ops::kF16:
      read::Reader<uint16_t>(*args).Run();
      return;
    case ops::kBF16:
      read::Reader<read::BF16>(*args).Run();
      return;
    case ops::kF32:
      break;
  }
  read::Reader<float>(*args).Run();
}

}  // namespace kvg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET
