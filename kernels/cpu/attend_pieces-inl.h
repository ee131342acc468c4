// Scores and values of one piece within a chunk: folds scales into queries and weights, then runs
// the kernels of the piece's kind. Included by attend.cc only, once per target.
#if defined(KVGEAR_KERNELS_CPU_ATTEND_PIECES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVGEAR_KERNELS_CPU_ATTEND_PIECES_INL_H_
#undef KVGEAR_KERNELS_CPU_ATTEND_PIECES_INL_H_
#else
#define KVGEAR_KERNELS_CPU_ATTEND_PIECES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attend_base-inl.h"
#include "kernels/cpu/attend_codes-inl.h"
#include "kernels/cpu/attend_parts-inl.h"
#include "kernels/cpu/attend_rows-inl.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE::attend {

// Tiles of equal width: [begin, end) of a head's, and the bytes of the tiles before them.
struct WidthRun {
  size_t begin, end, offset, width;
};

// Calls f for each run of equal width within tiles [begin, end); `offset` is that of tile `begin`.
// Returns the offset of tile `end`.
template <typename F>
HWY_INLINE size_t ForWidthRuns(const uint8_t* widths, size_t begin, size_t end, size_t offset,
                               const F& f) {
  while (begin < end) {
    const size_t width = widths[begin];
    size_t stop = begin + 1;
    while (stop < end && widths[stop] == width) ++stop;
    f(WidthRun{begin, stop, offset, width});
    offset += (stop - begin) * width * kRowBytes;
    begin = stop;
  }
  return offset;
}

inline const uint8_t* RegionWidths(const Region& region) {
  return region.piece->widths + region.head * (region.piece->dirs / ops::kTileDirs);
}
inline const uint8_t* RegionCodes(const Region& region) {
  return region.piece->codes + region.piece->codes_head[region.head] +
         region.first_block() * region.piece->codes_block[region.head];
}

// Token axis: tiles that share the scale of a token.
inline size_t GroupTiles(const ops::Piece& piece) {
  const size_t tiles = piece.dirs / ops::kTileDirs;
  return piece.group >= piece.head_dim ? tiles : piece.group / ops::kTileDirs;
}

// Maxima of scales, which are not negative: their bits are then in the order of the numbers.
template <size_t kScales>
class LargestScales {
 public:
  HWY_INLINE LargestScales() {
    Unroll<kScales / kStep>([&](auto i) KVG_LAMBDA_INLINE { most_[i] = hn::Zero(D()); });
  }
  HWY_INLINE void Add(const uint16_t* scales) {
    Unroll<kScales / kStep>([&](auto i) KVG_LAMBDA_INLINE {
      most_[i] = hn::Max(most_[i], hn::LoadU(D(), scales + i * kStep));
    });
  }
  HWY_INLINE void Store(float* to) const {
    HWY_ALIGN uint16_t bits[kScales];
    Unroll<kScales / kStep>([&](auto i)
                                KVG_LAMBDA_INLINE { hn::Store(most_[i], D(), bits + i * kStep); });
    for (size_t i = 0; i < kScales; i += kN) hn::Store(LoadF16(bits + i), DF(), to + i);
  }

 private:
  static constexpr size_t kStep = HWY_MIN(kScales, 2 * kN);
  using D = hn::FixedTag<uint16_t, kStep>;
  hn::Vec<D> most_[kScales / kStep];
};

// ---------------------------------------------------------------------------------------- scores

// Channel axis: the scale of a group of tokens is folded into the query, of which there is then a
// 16-bit copy for each group. Tiles of one width have a unit of their own, from the largest scales
// in the region: the fewer bits, the larger are scales, and wider codes would suffer.
template <size_t kRows>
void AddChannelScores(const Region& region, const Basis& basis, const WidthRun& tiles,
                      Temporaries& temp, float* scores) {
  const DF df;
  const ops::Piece& piece = *region.piece;
  const size_t dirs = (tiles.end - tiles.begin) * ops::kTileDirs;
  const size_t first_dir = tiles.begin * ops::kTileDirs;
  const size_t first_group = region.begin / piece.group;
  const size_t last_group = (region.begin + region.tokens - 1) / piece.group;
  const size_t head_scales = region.head * piece.scale_head_stride + first_dir;
  const uint16_t* const scales = piece.scale + head_scales;
  const uint16_t* const minima = piece.minimum + head_scales;

  VF bound[kRows];
  Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { bound[r] = hn::Zero(df); });
  for (size_t d = 0; d < dirs; d += ops::kTileDirs) {
    LargestScales<ops::kTileDirs> most;
    for (size_t g = first_group; g <= last_group; ++g) {
      most.Add(scales + g * piece.scale_group_stride + d);
    }
    HWY_ALIGN float largest[ops::kTileDirs];
    most.Store(largest);
    for (size_t i = 0; i < ops::kTileDirs; i += kN) {
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        const VF q = hn::Load(df, basis.q[r] + first_dir + d + i);
        bound[r] = hn::Max(bound[r], hn::Mul(hn::Load(df, largest + i), hn::Abs(q)));
      });
    }
  }
  ScoreRun run;
  for (size_t r = 0; r < kRows; ++r) {
    const Quant quant = QuantFor(MaxLanes(bound[r]));
    run.mul[r] = quant.step;
    const VF inverse = hn::Set(df, quant.inverse);
    for (size_t d = 0; d < dirs; d += kN) {
      const VF q = hn::Load(df, basis.q[r] + first_dir + d);
      hn::Store(hn::Mul(q, inverse), df, temp.scaled_q[r] + d);
    }
    if (kN == 16) hn::Store(hn::Zero(df), df, temp.scaled_q[r] + dirs);  // behind an odd tile
  }

  run.block_bytes = piece.codes_block[region.head];
  run.first_tile = 0;
  run.tiles = tiles.end - tiles.begin;
  run.pairs = temp.pairs[0];
  run.scale = nullptr;
  const uint8_t* const codes = RegionCodes(region) + tiles.offset;
  for (size_t g = first_group; g <= last_group; ++g) {
    const uint16_t* const scale = scales + g * piece.scale_group_stride;
    const uint16_t* const minimum = minima + g * piece.scale_group_stride;
    VF dots[kRows];
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { dots[r] = hn::Zero(df); });
    for (size_t d = 0; d < dirs; d += 2 * kN) {
      const bool two = kN < 16 || d + kN < dirs;
      const VF scale0 = LoadF16(scale + d);
      const VF scale1 = two ? LoadF16(scale + d + kN) : hn::Zero(df);
      const VF minimum0 = LoadF16(minimum + d);
      const VF minimum1 = two ? LoadF16(minimum + d + kN) : hn::Zero(df);
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        StorePairs(hn::Load(df, temp.scaled_q[r] + d), scale0,
                   hn::Load(df, temp.scaled_q[r] + d + kN), scale1, temp.pairs[r] + d / 2);
        const float* const q = basis.q[r] + first_dir + d;
        dots[r] = hn::MulAdd(hn::Load(df, q), minimum0, dots[r]);
        dots[r] = hn::MulAdd(hn::Load(df, q + kN), minimum1, dots[r]);
      });
    }
    SumRows<kRows>(dots, run.add);
    const size_t begin = std::max(g * piece.group, region.begin) - region.begin;
    const size_t end = std::min((g + 1) * piece.group - region.begin, region.padded());
    run.blocks = (end - begin) / ops::kBlockTokens;
    run.scores = scores + begin;
    run.codes = codes + begin / ops::kBlockTokens * run.block_bytes;
    AddScores<kRows>(tiles.width, run, temp.ahead);
  }
}

// Sums of a query over groups of directions.
inline void SumQueryGroups(size_t group_tiles, size_t tiles, Basis& basis, size_t r) {
  const DF df;
  for (size_t first = 0, g = 0; first < tiles; first += group_tiles, ++g) {
    const size_t end = std::min(first + group_tiles, tiles) * ops::kTileDirs;
    VF sum = hn::Zero(df);
    for (size_t d = first * ops::kTileDirs; d < end; d += kN) {
      sum = hn::Add(sum, hn::Load(df, basis.q[r] + d));
    }
    basis.q_group_sum[r][g] = SumLanes(sum);
  }
}

// Token axis: the query as it is; a token's scale multiplies the sum over its group of directions.
template <size_t kRows>
void AddTokenScores(const Region& region, Basis& basis, Temporaries& temp, float* scores) {
  const ops::Piece& piece = *region.piece;
  const size_t tiles = piece.dirs / ops::kTileDirs;
  const size_t group_tiles = GroupTiles(piece);
  if (basis.q_sum_group != piece.group) {
    basis.q_sum_group = piece.group;
    for (size_t r = 0; r < kRows; ++r) SumQueryGroups(group_tiles, tiles, basis, r);
  }
  ScoreRun run;
  run.block_bytes = piece.codes_block[region.head];
  run.blocks = region.blocks;
  run.pairs = basis.q_pairs[0];
  run.scores = scores;
  for (size_t r = 0; r < kRows; ++r) run.mul[r] = basis.q_step[r];
  const uint8_t* const codes = RegionCodes(region);
  size_t offset = 0;
  for (size_t first = 0, g = 0; first < tiles; first += group_tiles, ++g) {
    const size_t at =
        region.head * piece.scale_head_stride + g * piece.scale_group_stride + region.begin;
    run.scale = piece.scale + at;
    run.minimum = piece.minimum + at;
    for (size_t r = 0; r < kRows; ++r) run.add[r] = basis.q_group_sum[r][g];
    offset = ForWidthRuns(RegionWidths(region), first, std::min(first + group_tiles, tiles), offset,
                          [&](const WidthRun& width_run) {
                            run.codes = codes + width_run.offset;
                            run.first_tile = width_run.begin;
                            run.tiles = width_run.end - width_run.begin;
                            AddScores<kRows>(width_run.width, run, temp.ahead);
                          });
  }
}

// Scores of a region; `scores` is at its first token. Writes the scores of whole blocks.
template <size_t kRows>
void CodeScores(const Region& region, Basis& basis, Temporaries& temp, float* scores) {
  StartScores<kRows>(region, basis, scores);
  if (region.piece->axis == ops::kAxisChannel) {
    ForWidthRuns(
        RegionWidths(region), 0, region.piece->dirs / ops::kTileDirs, 0,
        [&](const WidthRun& tiles) { AddChannelScores<kRows>(region, basis, tiles, temp, scores); });
  } else {
    AddTokenScores<kRows>(region, basis, temp, scores);
  }
  AddSparseScores<kRows>(region, basis, temp, scores);
}

// ---------------------------------------------------------------------------------------- values

// The weights of a region, scaled so that the largest of the chunk is kQuantMax, zero behind its
// tokens.
template <size_t kRows>
void ScaleWeights(const Region& region, const float* weights, const Quant* quant,
                  Temporaries& temp) {
  const DF df;
  for (size_t r = 0; r < kRows; ++r) {
    const VF inverse = hn::Set(df, quant[r].inverse);
    for (size_t t = 0; t < region.padded(); t += kN) {
      const VF w = hn::Mul(hn::LoadU(df, weights + r * kScoreStride + t), inverse);
      hn::Store(w, df, temp.weights[r] + t);
    }
    std::fill(temp.weights[r] + region.tokens, temp.weights[r] + region.padded(), 0.0f);
  }
}

// The largest of n scales. Those behind may be of tokens that were taken back.
HWY_INLINE float LargestScale(const uint16_t* scales, size_t n) {
  LargestScales<ops::kBlockTokens> most;
  size_t t = 0;
  for (; t + ops::kBlockTokens <= n; t += ops::kBlockTokens) most.Add(scales + t);
  if (t < n) {
    HWY_ALIGN uint16_t last[ops::kBlockTokens] = {};
    std::copy(scales + t, scales + n, last);
    most.Add(last);
  }
  HWY_ALIGN float values[ops::kBlockTokens];
  most.Store(values);
  VF largest = hn::Zero(DF());
  for (size_t i = 0; i < ops::kBlockTokens; i += kN) {
    largest = hn::Max(largest, hn::Load(DF(), values + i));
  }
  return MaxLanes(largest);
}

// Token axis: the scales of a group of directions are folded into the weights, of which there is
// then a 16-bit copy for each group.
template <size_t kRows>
void AddTokenValues(const Region& region, const Quant* quant, Basis& basis, Temporaries& temp) {
  const DF df;
  const ops::Piece& piece = *region.piece;
  const size_t tiles = piece.dirs / ops::kTileDirs;
  const size_t group_tiles = GroupTiles(piece);
  ValueRun run;
  run.block_bytes = piece.codes_block[region.head];
  run.blocks = region.blocks;
  run.pairs = temp.pairs[0];
  run.scale = nullptr;
  const uint8_t* const codes = RegionCodes(region);
  size_t offset = 0;
  for (size_t first = 0, g = 0; first < tiles; first += group_tiles, ++g) {
    const size_t at =
        region.head * piece.scale_head_stride + g * piece.scale_group_stride + region.begin;
    const uint16_t* const scale = piece.scale + at;
    const uint16_t* const minimum = piece.minimum + at;
    const float largest = LargestScale(scale, region.tokens);
    const VF inverse = hn::Set(df, largest > 0.0f ? 1.0f / largest : 0.0f);
    VF sums[kRows];
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { sums[r] = hn::Zero(df); });
    for (size_t t = 0; t < region.padded(); t += 2 * kN) {
      const VF scale0 = hn::Mul(LoadF16(scale + t), inverse);
      const VF scale1 = hn::Mul(LoadF16(scale + t + kN), inverse);
      const VF minimum0 = LoadF16(minimum + t);
      const VF minimum1 = LoadF16(minimum + t + kN);
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        const VF w0 = hn::Load(df, temp.weights[r] + t);
        const VF w1 = hn::Load(df, temp.weights[r] + t + kN);
        StorePairs(w0, scale0, w1, scale1, temp.pairs[r] + t / 2);
        sums[r] = hn::MulAdd(w0, minimum0, sums[r]);
        sums[r] = hn::MulAdd(w1, minimum1, sums[r]);
      });
    }
    SumRows<kRows>(sums, run.add);
    for (size_t r = 0; r < kRows; ++r) {
      run.mul[r] = quant[r].step * largest;
      run.add[r] *= quant[r].step;
    }
    offset = ForWidthRuns(RegionWidths(region), first, std::min(first + group_tiles, tiles), offset,
                          [&](const WidthRun& width_run) {
                            run.codes = codes + width_run.offset;
                            run.tiles = width_run.end - width_run.begin;
                            run.acc = basis.acc[0] + width_run.begin * ops::kTileDirs;
                            AddValues<kRows>(width_run.width, run, temp.ahead);
                          });
  }
}

// Channel axis: the weights as they are; a direction's scale multiplies the sum over its group.
template <size_t kRows>
void AddChannelValues(const Region& region, const Quant* quant, Basis& basis, Temporaries& temp) {
  const DF df;
  const ops::Piece& piece = *region.piece;
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t t = 0; t < region.padded(); t += 2 * kN) {
      const VF one = hn::Set(df, 1.0f);
      StorePairs(hn::Load(df, temp.weights[r] + t), one, hn::Load(df, temp.weights[r] + t + kN),
                 one, temp.pairs[r] + t / 2);
    }
  }
  ValueRun run;
  run.block_bytes = piece.codes_block[region.head];
  for (size_t r = 0; r < kRows; ++r) run.mul[r] = quant[r].step;
  const uint8_t* const codes = RegionCodes(region);
  for (size_t begin = 0; begin < region.padded();) {
    const size_t g = (region.begin + begin) / piece.group;
    const size_t end = std::min((g + 1) * piece.group - region.begin, region.padded());
    for (size_t r = 0; r < kRows; ++r) {
      VF sum = hn::Zero(df);
      for (size_t t = begin; t < end; t += kN) {
        sum = hn::Add(sum, hn::Load(df, temp.weights[r] + t));
      }
      run.add[r] = quant[r].step * SumLanes(sum);
    }
    run.blocks = (end - begin) / ops::kBlockTokens;
    run.pairs = temp.pairs[0] + begin / 2;
    const size_t at = region.head * piece.scale_head_stride + g * piece.scale_group_stride;
    const uint8_t* const group_codes = codes + begin / ops::kBlockTokens * run.block_bytes;
    ForWidthRuns(RegionWidths(region), 0, piece.dirs / ops::kTileDirs, 0,
                 [&](const WidthRun& width_run) {
                   const size_t direction = width_run.begin * ops::kTileDirs;
                   run.codes = group_codes + width_run.offset;
                   run.tiles = width_run.end - width_run.begin;
                   run.acc = basis.acc[0] + direction;
                   run.scale = piece.scale + at + direction;
                   run.minimum = piece.minimum + at + direction;
                   AddValues<kRows>(width_run.width, run, temp.ahead);
                 });
    begin = end;
  }
}

// Adds the values of a region; `weights` is at its first token.
template <size_t kRows>
void CodeValues(const Region& region, const float* weights, Basis& basis, Temporaries& temp) {
  Quant quant[kRows];
  float unit[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    quant[r] = QuantFor(temp.weight_max[r]);
    unit[r] = quant[r].step;
  }
  ScaleWeights<kRows>(region, weights, quant, temp);
  if (region.piece->axis == ops::kAxisChannel) {
    AddChannelValues<kRows>(region, quant, basis, temp);
  } else {
    AddTokenValues<kRows>(region, quant, basis, temp);
  }
  AddLowRankValues<kRows>(region, temp.weights[0], unit, basis);
  AddSparseValues<kRows>(region, temp.weights[0], unit, basis, temp);
}

}  // namespace kvg::cpu::HWY_NAMESPACE::attend
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVGEAR_KERNELS_CPU_ATTEND_PIECES_INL_H_
