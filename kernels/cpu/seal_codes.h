// One block of one head: values to packed codes, what the codes leave, and its squares.
//
// Included once per Highway target by seal.cc. No operation on values may be fused: codes are the
// same on every target.
#if defined(KVG_KERNELS_CPU_SEAL_CODES_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_SEAL_CODES_H_
#undef KVG_KERNELS_CPU_SEAL_CODES_H_
#else
#define KVG_KERNELS_CPU_SEAL_CODES_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>

#include "kernels/cpu/lowrank.h"
#include "kernels/cpu/pack_half.h"
#include "kernels/cpu/pack_scale.h"
#include "kernels/cpu/pack_tile.h"
#include "kernels/cpu/seal_range.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/tile.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// Of x and of x - decoded, summed over whatever was sealed.
struct Squares {
  HWY_INLINE Squares() : norm(), error() {}
  WideSum norm, error;
};

// What one block of a head is sealed with.
struct BlockJob {
  ops::Side side;
  ops::Axis axis;
  uint32_t group;
  BlockRows rows;
  SkipBits skip;           // entries that do not count as error and leave no residual
  uint32_t last_valid;     // one bit for each direction of the last tile that is no padding
  const uint8_t* widths;   // of the tiles
  size_t tiles;
  const BlockScales* scales;
  uint8_t* codes;          // of the block
  bool keep_other_tokens;  // else their codes become 0
  float* residual;         // [row][direction], or null: then the error is measured
};

// Codes and residual of the rows of one tile. kMasked: job.skip or padding is to be heeded.
template <ops::Axis kAxis, bool kMasked, bool kResidual>
HWY_INLINE void QuantiseTile(const BlockJob& job, size_t tile, TileRows* codes, Squares* squares) {
  const F32Tag df;
  const BlockScales& scales = *job.scales;
  const size_t at = TileScales(kAxis, job.group, static_cast<uint32_t>(tile));
  const F32 levels = hn::Set(df, static_cast<float>((1u << job.widths[tile]) - 1));
  const uint32_t valid = tile + 1 == job.tiles ? job.last_valid : 0xFFFFu;
  for (size_t lane = 0; lane < kTileLanes; lane += kF32Lanes) {
    const size_t direction = tile * kTileLanes + lane;
    F32 scale, minimum, inverse;
    if constexpr (kAxis == ops::kAxisChannel) {
      scale = hn::Load(df, scales.scale + at + lane);
      minimum = hn::Load(df, scales.minimum + at + lane);
      inverse = hn::Load(df, scales.inverse + at + lane);
    }
    F32 error_sum = hn::Zero(df);
    for (size_t i = 0; i < job.rows.count(); ++i) {
      const size_t token = job.rows.begin + i;
      if constexpr (kAxis == ops::kAxisToken) {
        scale = hn::Set(df, scales.scale[at + token]);
        minimum = hn::Set(df, scales.minimum[at + token]);
        inverse = hn::Set(df, scales.inverse[at + token]);
      }
      const F32 x = LoadHalf(job.rows.row + i * job.rows.stride + direction);
      const F32 steps = hn::Mul(hn::Sub(x, minimum), inverse);
      const F32 inside = hn::Min(hn::Max(steps, hn::Zero(df)), levels);
      I32 code = hn::NearestInt(inside);
      const F32 decoded = hn::Add(hn::Mul(scale, hn::ConvertTo(df, code)), minimum);
      F32 error = hn::Sub(x, decoded);
      if constexpr (kMasked) {
        uint32_t skip = ~valid;
        if (job.skip.bits != nullptr) skip |= job.skip.bits[tile * job.skip.stride + i];
        error = hn::IfThenZeroElse(MaskOfBits(df, skip, lane), error);
        const auto is_valid = MaskOfBits(df, valid, lane);
        code = hn::IfThenElseZero(hn::RebindMask(I32Tag(), is_valid), code);
      }
      hn::Store(hn::DemoteTo(I16OfF32Tag(), code), I16OfF32Tag(),
                codes->code + token * kTileLanes + lane);
      squares->norm.Add(hn::Mul(x, x));  // exact, for a product of fp16 numbers
      if constexpr (kResidual) {
        hn::Store(error, df, job.residual + i * job.tiles * kTileLanes + direction);
      } else {
        error_sum = hn::MulAdd(error, error, error_sum);
      }
    }
    if constexpr (!kResidual) squares->error.Add(error_sum);
  }
}

// Packs the codes of job.rows. Those of the block's other tokens stay or become 0.
HWY_INLINE void PackRows(const BlockJob& job, uint32_t width, TileRows* rows, uint8_t* tile) {
  const bool whole = job.rows.count() == ops::kBlockTokens;
  TilePairs pairs;
  if (job.side == ops::kSideK) {
    if (!whole && job.keep_other_tokens) {
      TileRows others;
      UnpackTile(tile, width, &pairs);
      PairsToRowsK(pairs, &others);
      std::copy_n(others.code, job.rows.begin * kTileLanes, rows->code);
      std::copy(others.code + job.rows.end * kTileLanes, std::end(others.code),
                rows->code + job.rows.end * kTileLanes);
    }
    RowsToPairsK(*rows, &pairs);
  } else if (!whole && job.keep_other_tokens) {
    for (size_t token = job.rows.begin; token < job.rows.end; ++token) {
      PutTokenV(rows->code + token * kTileLanes, token, width, tile);
    }
    return;
  } else {
    RowsToPairsV(*rows, &pairs);
  }
  PackTile(pairs, width, tile);
}

template <ops::Axis kAxis, bool kMasked, bool kResidual>
HWY_NOINLINE void QuantiseBlock(const BlockJob& job, Squares* squares) {
  TileRows rows;
  if (job.rows.count() < ops::kBlockTokens) hwy::ZeroBytes<sizeof(TileRows)>(&rows);
  uint8_t* tile_codes = job.codes;
  for (size_t tile = 0; tile < job.tiles; ++tile) {
    QuantiseTile<kAxis, kMasked, kResidual>(job, tile, &rows, squares);
    PackRows(job, job.widths[tile], &rows, tile_codes);
    tile_codes += ops::TileBytes(job.widths[tile]);
  }
}

template <ops::Axis kAxis>
HWY_INLINE void QuantiseBlockOfAxis(const BlockJob& job, Squares* squares) {
  const bool masked = job.skip.bits != nullptr || job.last_valid != 0xFFFFu;
  if (job.residual == nullptr) {
    masked ? QuantiseBlock<kAxis, true, false>(job, squares)
           : QuantiseBlock<kAxis, false, false>(job, squares);
  } else {
    masked ? QuantiseBlock<kAxis, true, true>(job, squares)
           : QuantiseBlock<kAxis, false, true>(job, squares);
  }
}

HWY_INLINE void QuantiseBlock(const BlockJob& job, Squares* squares) {
  if (job.axis == ops::kAxisChannel) {
    QuantiseBlockOfAxis<ops::kAxisChannel>(job, squares);
  } else {
    QuantiseBlockOfAxis<ops::kAxisToken>(job, squares);
  }
}

// What the low-rank part adds to one entry. `token` counts from the start of the piece.
HWY_INLINE float LowRankAt(const LowRankWork& work, size_t token, size_t direction) {
  float sum = 0;
  for (size_t r = 0; r < work.rank; ++r) {
    sum += work.a[r * work.tokens + token] * work.b[r * work.dirs + direction];
  }
  return sum;
}

// Adds the squares of what codes and low rank leave of a block whose first token is `token`.
HWY_INLINE void MeasureLowRank(const LowRankWork& work, size_t token, const BlockRows& rows,
                               const SkipBits& skip, WideSum* error) {
  const F32Tag df;
  for (size_t i = 0; i < rows.count(); ++i) {
    const float* const residual = work.residual + (token + i) * work.dirs;
    const float* const a = work.a + token + i;
    F32 error_sum = hn::Zero(df);
    for (size_t d = 0; d < work.dirs; d += kF32Lanes) {
      F32 sum = hn::Zero(df);
      for (size_t r = 0; r < work.rank; ++r) {
        const F32 b = hn::Load(df, work.b + r * work.dirs + d);
        sum = hn::Add(sum, hn::Mul(hn::Set(df, a[r * work.tokens]), b));
      }
      // The backbone comes back as it was, or off by the rounding of a residual that is larger than
      // x. What reading adds up is rounded, which shows where little is left.
      const F32 x = LoadHalf(rows.row + i * rows.stride + d);
      const F32 backbone = hn::Sub(x, hn::Load(df, residual + d));
      F32 left = hn::Sub(x, hn::Add(backbone, sum));
      if (skip.bits != nullptr) {
        const uint32_t bits = skip.bits[d / kTileLanes * skip.stride + i];
        left = hn::IfThenZeroElse(MaskOfBits(df, bits, d % kTileLanes), left);
      }
      error_sum = hn::MulAdd(left, left, error_sum);
    }
    error->Add(error_sum);
  }
}

// The backbone at one entry of a block, as the kernels above round it.
HWY_INLINE float BackboneAt(const BlockScales& scales, size_t at, uint32_t width, float x) {
  const float steps = (x - scales.minimum[at]) * scales.inverse[at];
  const float inside = std::clamp(steps, 0.0f, static_cast<float>((1u << width) - 1));
  const float code = (inside + 0x1.8p23f) - 0x1.8p23f;  // to nearest even
  return scales.scale[at] * code + scales.minimum[at];
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_SEAL_CODES_H_
