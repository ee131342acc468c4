// Multiply-add on packed codes: scores (lanes are tokens) and values (lanes are directions).
//
// Included by attend_pieces-inl.h only, once per target. The queries and weights come as pairs of
// int16 with the scales folded in; codes are unpacked in registers, once for all rows of a tile.
#if defined(KVGEAR_KERNELS_CPU_ATTEND_CODES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVGEAR_KERNELS_CPU_ATTEND_CODES_INL_H_
#undef KVGEAR_KERNELS_CPU_ATTEND_CODES_INL_H_
#else
#define KVGEAR_KERNELS_CPU_ATTEND_CODES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/cache_control.h"
#include "kernels/cpu/attend_base-inl.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE::attend {

inline constexpr size_t kRowBytes = 64;  // of 16 words, one for each lane of the layout
inline constexpr size_t kRowVectors = 16 / kN;

// The bits of pair kPair (0 .. 7) of half a tile in a plane of kBits, moved to bit kTo; 2 * kN
// codes. `plane` points at the words of the vector's lanes in the plane's first row. A half is 8
// pairs: of K 16 tokens, of V 16 tokens too.
template <size_t kBits, size_t kPair, size_t kTo>
HWY_INLINE VU PlaneBits(const uint8_t* plane, size_t half) {
  constexpr size_t kPerHalf = 16 / kBits;
  constexpr size_t kShift = kBits * (kPair % kPerHalf);
  constexpr uint16_t kMask = static_cast<uint16_t>(((1u << kBits) - 1) << kTo);
  VU words;
  if constexpr (kBits == 1) {  // both halves share the row
    words = hn::LoadU(DU(), reinterpret_cast<const uint16_t*>(plane));
    words = hn::ShiftRightSame(words, static_cast<int>(8 * half));
  } else {
    const uint8_t* row = plane + (half * (kBits / 2) + kPair / kPerHalf) * kRowBytes;
    words = hn::LoadU(DU(), reinterpret_cast<const uint16_t*>(row));
  }
  if constexpr (kShift > kTo) {
    const VU moved = hn::ShiftRight<static_cast<int>(kShift - kTo)>(words);
    if constexpr (kTo == 0 && kShift + kBits == 16) return moved;
    return hn::And(moved, hn::Set(DU(), kMask));
  } else if constexpr (kShift < kTo) {
    return hn::And(hn::ShiftLeft<static_cast<int>(kTo - kShift)>(words), hn::Set(DU(), kMask));
  } else {
    return hn::And(words, hn::Set(DU(), kMask));
  }
}

// Codes of width kWidth, pair kPair of a half. `tile` points at the words of the vector's lanes in
// the tile's first row.
template <size_t kWidth, size_t kPair>
HWY_INLINE VH Unpack(const uint8_t* tile, size_t half) {
  if constexpr (kWidth == 3) {
    return hn::BitCast(DH(), hn::Or(PlaneBits<2, kPair, 0>(tile, half),
                                    PlaneBits<1, kPair, 2>(tile + 2 * kRowBytes, half)));
  } else if constexpr (kWidth == 6) {
    return hn::BitCast(DH(), hn::Or(PlaneBits<4, kPair, 0>(tile, half),
                                    PlaneBits<2, kPair, 4>(tile + 4 * kRowBytes, half)));
  } else {
    return hn::BitCast(DH(), PlaneBits<kWidth, kPair, 0>(tile, half));
  }
}

// How many vectors of codes are worked on beside one another: as many as share a broadcast and
// leave the accumulators in registers.
inline constexpr size_t kBeside = 2;

// Pairs take turns with so many sums, since each multiply-add waits for the one before.
template <size_t kRows>
inline constexpr size_t kTurns = kRows == 1   ? 4
                                 : kRows == 2 ? 2
                                              : 1;

template <size_t kRows, size_t kU>
using Sums = PairSum[kRows][kU][kTurns<kRows>];

template <size_t kRows, size_t kU>
HWY_INLINE void ClearSums(Sums<kRows, kU>& sums) {
  Unroll<kRows * kU>([&](auto i) KVG_LAMBDA_INLINE {
    Unroll<kTurns<kRows>>([&](auto turn)
                              KVG_LAMBDA_INLINE { sums[i / kU][i % kU][turn] = ZeroPairSum(); });
  });
}

template <size_t kTurns>
HWY_INLINE VF FinishSum(const PairSum (&sum)[kTurns]) {
  PairSum total = sum[0];
  Unroll<kTurns - 1>([&](auto i) KVG_LAMBDA_INLINE {
    total.sum0 = hn::Add(total.sum0, sum[i + 1].sum0);
    total.sum1 = hn::Add(total.sum1, sum[i + 1].sum1);
  });
  return FinishPairSum(total);
}

// Fetches as many bytes as a vector of tiles takes, and moves on.
template <size_t kBytes>
HWY_INLINE void FetchAhead(const uint8_t*& ahead) {
  Unroll<kBytes / 64>([&](auto i) KVG_LAMBDA_INLINE { hwy::Prefetch(ahead + 64 * i); });
  ahead += kBytes;
}

// Adds the 8 pairs of kU half tiles. `pairs` are those of the first row; PairPos of them starts at
// 0.
template <size_t kWidth, size_t kRows, size_t kU>
HWY_INLINE void AddHalfTiles(const uint8_t* const (&tile)[kU], const size_t (&half)[kU],
                             const int32_t* pairs, Sums<kRows, kU>& sums) {
  Unroll<8>([&](auto p) KVG_LAMBDA_INLINE {
    VH codes[kU];
    Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE { codes[u] = Unpack<kWidth, p>(tile[u], half[u]); });
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
      const VH factors = BroadcastPair(pairs + r * (kDims / 2) + PairPos(p));
      Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
        PairMulAdd(codes[u], factors, sums[r][u][p % kTurns<kRows>]);
      });
    });
  });
}

// Scores of consecutive tiles of equal width over consecutive blocks of one head, added to
// `scores`.
struct ScoreRun {
  const uint8_t* codes;  // first tile, first block
  size_t block_bytes;
  size_t blocks;
  size_t first_tile, tiles;
  const int32_t* pairs;  // [rows][kDims / 2] queries of all tiles
  float* scores;         // [rows][kScoreStride], at the first token
  // Channel axis: score += mul * sum + add. Token axis, with scale and minimum of the token:
  // score += mul * sum * scale + add * minimum.
  float mul[kTileRows], add[kTileRows];
  const uint16_t* scale;  // of the first token; nullptr = channel axis
  const uint16_t* minimum;
};

template <size_t kWidth, size_t kRows>
HWY_NOINLINE const uint8_t* AddScores(const ScoreRun& run, const uint8_t* ahead) {
  constexpr size_t kU = kBeside;
  const DF df;
  for (size_t block = 0; block < run.blocks; ++block) {
    const uint8_t* const first = run.codes + block * run.block_bytes;
    for (size_t column = 0; column < ops::kBlockTokens / kN; column += kU) {  // of kN tokens
      Sums<kRows, kU> sums;
      ClearSums<kRows, kU>(sums);
      if constexpr (kWidth != 0) {
        const uint8_t* tile[kU];
        size_t half[kU];
        Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
          tile[u] = first + (column + u) % kRowVectors * kN * 4;
          half[u] = (column + u) / kRowVectors;
        });
        for (size_t i = run.first_tile; i < run.first_tile + run.tiles; ++i) {
          AddHalfTiles<kWidth, kRows, kU>(tile, half, run.pairs + PairPos(8 * i), sums);
          Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE { tile[u] += kWidth * kRowBytes; });
          if (column == 0) FetchAhead<kWidth * kRowBytes>(ahead);
        }
      }
      Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
        const size_t token = block * ops::kBlockTokens + (column + u) * kN;
        if (run.scale == nullptr) {
          Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
            float* const to = run.scores + r * kScoreStride + token;
            const VF sum = hn::Add(hn::LoadU(df, to), hn::Set(df, run.add[r]));
            hn::StoreU(hn::MulAdd(FinishSum(sums[r][u]), hn::Set(df, run.mul[r]), sum), df, to);
          });
        } else {
          const VF scale = LoadF16(run.scale + token);
          const VF minimum = LoadF16(run.minimum + token);
          Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
            float* const to = run.scores + r * kScoreStride + token;
            const VF sum = hn::MulAdd(minimum, hn::Set(df, run.add[r]), hn::LoadU(df, to));
            const VF dot = hn::Mul(FinishSum(sums[r][u]), hn::Set(df, run.mul[r]));
            hn::StoreU(hn::MulAdd(dot, scale, sum), df, to);
          });
        }
      });
    }
  }
  return ahead;
}

// Weighted sums of consecutive tiles of equal width over consecutive blocks of one head (at most
// kChunk tokens), added to `acc`.
struct ValueRun {
  const uint8_t* codes;  // first tile, first block
  size_t block_bytes;
  size_t blocks;
  size_t tiles;
  const int32_t* pairs;  // [rows][kDims / 2] weights, from the first token on
  float* acc;            // [rows][kAccStride], at the first direction
  // Token axis: acc += mul * sum + add. Channel axis, with scale and minimum of the direction:
  // acc += mul * sum * scale + add * minimum.
  float mul[kTileRows], add[kTileRows];
  const uint16_t* scale;  // of the first direction; nullptr = token axis
  const uint16_t* minimum;
};

template <size_t kWidth, size_t kRows>
HWY_NOINLINE const uint8_t* AddValues(const ValueRun& run, const uint8_t* ahead) {
  constexpr size_t kU = kBeside;
  const DF df;
  const size_t columns = run.tiles * kRowVectors;  // of kN directions
  for (size_t column = 0; column < columns; column += kU) {
    Sums<kRows, kU> sums;
    ClearSums<kRows, kU>(sums);
    // Behind an odd number of columns the last one is summed twice and stored once.
    const auto at = [&](size_t u) { return std::min(column + u, columns - 1); };
    if constexpr (kWidth != 0) {
      const uint8_t* tile[kU];
      Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
        tile[u] =
            run.codes + at(u) / kRowVectors * kWidth * kRowBytes + at(u) % kRowVectors * kN * 4;
      });
      const int32_t* pairs = run.pairs;
      for (size_t block = 0; block < run.blocks; ++block, pairs += ops::kBlockTokens / 2) {
        for (size_t i = 0; i < 2; ++i) {
          size_t half[kU];
          Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE { half[u] = i; });
          AddHalfTiles<kWidth, kRows, kU>(tile, half, pairs + PairPos(8 * i), sums);
        }
        Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE { tile[u] += run.block_bytes; });
        FetchAhead<kWidth * kRowBytes * kU / kRowVectors / 64 * 64>(ahead);
      }
    }
    Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
      if (column + u >= columns) return;
      const size_t direction = (column + u) * kN;
      if (run.scale == nullptr) {
        Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
          float* const to = run.acc + r * kAccStride + direction;
          const VF sum = hn::Add(hn::LoadU(df, to), hn::Set(df, run.add[r]));
          hn::StoreU(hn::MulAdd(FinishSum(sums[r][u]), hn::Set(df, run.mul[r]), sum), df, to);
        });
      } else {
        const VF scale = LoadF16(run.scale + direction);
        const VF minimum = LoadF16(run.minimum + direction);
        Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
          float* const to = run.acc + r * kAccStride + direction;
          const VF sum = hn::MulAdd(minimum, hn::Set(df, run.add[r]), hn::LoadU(df, to));
          const VF dot = hn::Mul(FinishSum(sums[r][u]), hn::Set(df, run.mul[r]));
          hn::StoreU(hn::MulAdd(dot, scale, sum), df, to);
        });
      }
    });
  }
  return ahead;
}

// Calls f with the width as a constant.
template <typename F>
HWY_INLINE void WithWidth(size_t width, const F& f) {
  switch (width) {
    case 0:
      return f(std::integral_constant<size_t, 0>{});
    case 1:
      return f(std::integral_constant<size_t, 1>{});
    case 2:
      return f(std::integral_constant<size_t, 2>{});
    case 3:
      return f(std::integral_constant<size_t, 3>{});
    case 4:
      return f(std::integral_constant<size_t, 4>{});
    case 6:
      return f(std::integral_constant<size_t, 6>{});
    default:
      return f(std::integral_constant<size_t, 8>{});
  }
}

// `ahead`: memory to be fetched meanwhile.
template <size_t kRows>
void AddScores(size_t width, const ScoreRun& run, const uint8_t*& ahead) {
  WithWidth(width, [&](auto w) { ahead = AddScores<w, kRows>(run, ahead); });
}
template <size_t kRows>
void AddValues(size_t width, const ValueRun& run, const uint8_t*& ahead) {
  WithWidth(width, [&](auto w) { ahead = AddValues<w, kRows>(run, ahead); });
}

}  // namespace kvg::cpu::HWY_NAMESPACE::attend
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVGEAR_KERNELS_CPU_ATTEND_CODES_INL_H_
