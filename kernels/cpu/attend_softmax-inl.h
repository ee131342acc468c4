// What happens to the rows of a tile outside the pieces: queries in, masks and softmax, sums out.
//
// Included by attend.cc only, once per target.
#if defined(KVGEAR_KERNELS_CPU_ATTEND_SOFTMAX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVGEAR_KERNELS_CPU_ATTEND_SOFTMAX_INL_H_
#undef KVGEAR_KERNELS_CPU_ATTEND_SOFTMAX_INL_H_
#else
#define KVGEAR_KERNELS_CPU_ATTEND_SOFTMAX_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/cpu/attend_base-inl.h"
#include "kernels/cpu/pack_half.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE::attend {

inline constexpr float kLog2E = 1.44269504f;

// --------------------------------------------------------------------------------------- queries

inline size_t SizeOf(ops::DType dtype) { return dtype == ops::kF32 ? 4 : 2; }

// n elements times `factor`, zeros behind them up to kDims.
inline void LoadQuery(const void* q, ops::DType dtype, size_t n, float factor, float* to) {
  const DF df;
  HWY_ALIGN uint16_t narrow[kDims] = {};
  HWY_ALIGN float wide[kDims] = {};
  std::memcpy(dtype == ops::kF32 ? static_cast<void*>(wide) : narrow, q, n * SizeOf(dtype));
  const VF factors = hn::Set(df, factor);
  for (size_t d = 0; d < kDims; d += kN) {
    VF v;
    if (dtype == ops::kF16) {
      v = LoadF16(narrow + d);
    } else if (dtype == ops::kBF16) {
      const hn::FixedTag<uint32_t, kN> du;
      const hn::FixedTag<uint16_t, kN> d16;
      v = hn::BitCast(df, hn::ShiftLeft<16>(hn::PromoteTo(du, hn::Load(d16, narrow + d))));
    } else {
      v = hn::Load(df, wide + d);
    }
    hn::Store(hn::Mul(v, factors), df, to + d);
  }
}

// What the kernels need of the queries of a basis beside the queries themselves.
inline void PrepareQueries(uint32_t rows, Basis& basis) {
  const DF df;
  for (uint32_t r = 0; r < rows; ++r) {
    std::fill_n(basis.q[r] + kDims, ops::kTileDirs, 0.0f);
    VF most = hn::Zero(df);
    for (size_t d = 0; d < kDims; d += kN) {
      most = hn::Max(most, hn::Abs(hn::Load(df, basis.q[r] + d)));
    }
    const Quant quant = QuantFor(MaxLanes(most));
    basis.q_step[r] = quant.step;
    const VF inverse = hn::Set(df, quant.inverse);
    for (size_t d = 0; d < kDims; d += 2 * kN) {
      StorePairs(hn::Load(df, basis.q[r] + d), inverse, hn::Load(df, basis.q[r] + d + kN), inverse,
                 basis.q_pairs[r] + d / 2);
    }
  }
  for (size_t set = 0; set < (rows + kLanes - 1) / kLanes; ++set) {
    for (size_t d = 0; d < kDims; ++d) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const size_t r = set * kLanes + lane;
        basis.q_lanes[set][d][lane] = r < rows ? basis.q[r][d] : 0.0f;
      }
    }
  }
  basis.q_factor_piece = nullptr;
  basis.q_sum_group = 0;
}

inline void ClearValues(uint32_t rows, Basis& basis) {
  for (uint32_t r = 0; r < rows; ++r) std::fill_n(basis.acc[r], kAccStride, 0.0f);
  for (size_t set = 0; set < (rows + kLanes - 1) / kLanes; ++set) {
    std::fill_n(basis.acc_lanes[set][0], kDims * kLanes, 0.0f);
  }
  basis.acc_factor_piece = nullptr;
  basis.acc_lanes_used = false;
}

// Rows from `first` on, `rows` of them, of one KV head. Row = query * group + head in the group.
inline void BeginTile(const ops::AttendArgs& args, const ops::AttendItem& item, uint32_t kv_head,
                      uint64_t first, uint32_t rows, Tile& tile) {
  const uint64_t group = args.q_heads / args.kv_heads;
  tile.rows = rows;
  tile.tile_rows = ComputedRows(rows);
  tile.any_begin = item.length;
  tile.any_end = 0;
  // Logits are in units of log2, but for the soft cap, which multiplies by that later.
  const float factor = args.softcap > 0 ? args.scale : args.scale * kLog2E;
  for (uint32_t r = 0; r < tile.tile_rows; ++r) {
    const uint64_t row = first + std::min(r, rows - 1);
    const uint64_t query = row / group;
    const int64_t at = static_cast<int64_t>(query) * args.q_token_stride +
                       static_cast<int64_t>(kv_head * group + row % group) * args.q_head_stride;
    LoadQuery(static_cast<const uint8_t*>(item.q) + at * static_cast<int64_t>(SizeOf(args.q_dtype)),
              args.q_dtype, args.head_dim, factor, tile.own.q[r]);
    const uint64_t own = item.length - args.queries + query;
    const uint64_t window = args.sliding_window;
    tile.visible_begin[r] = window == 0 || window > own ? 0 : own + 1 - window;
    tile.visible_end[r] = args.causal ? own + 1 : item.length;
    tile.any_begin = std::min(tile.any_begin, tile.visible_begin[r]);
    tile.any_end = std::max(tile.any_end, tile.visible_end[r]);
    tile.row_max[r] = kLowestMax;
    tile.row_sum[r] = 0.0f;
  }
  PrepareQueries(tile.tile_rows, tile.own);
  ClearValues(tile.tile_rows, tile.own);
  for (Basis* const basis : {&tile.own, &tile.mapped}) {
    basis->q_map = nullptr;
    basis->acc_map = nullptr;
  }
}

// --------------------------------------------------------------------------------------- softmax

// cap * tanh(x / cap), in units of log2.
HWY_INLINE VF SoftCap(VF x, VF inverse_cap, VF cap_log2) {
  const DF df;
  const VF one = hn::Set(df, 1.0f);
  const VF limit = hn::Set(df, 10.0f);  // tanh is 1 from there on
  const VF y = hn::Max(hn::Min(hn::Mul(x, inverse_cap), limit), hn::Neg(limit));
  const VF e = Exp2(hn::Mul(y, hn::Set(df, 2 * kLog2E)));
  return hn::Mul(cap_log2, hn::Div(hn::Sub(e, one), hn::Add(e, one)));
}

// Multiplies the sums of the rows by `shrink` (1 for most rows, most of the time).
template <size_t kRows>
void ShrinkSums(const float (&shrink)[kTileRows], Basis& basis) {
  const DF df;
  const D4 d4;
  for (size_t r = 0; r < kRows; ++r) {
    if (shrink[r] == 1.0f) continue;
    const VF factor = hn::Set(df, shrink[r]);
    for (size_t d = 0; d < kAccStride; d += kN) {
      hn::Store(hn::Mul(hn::Load(df, basis.acc[r] + d), factor), df, basis.acc[r] + d);
    }
  }
  if (!basis.acc_lanes_used) return;
  for (size_t set = 0; set < (kRows + kLanes - 1) / kLanes; ++set) {
    const V4 factor = hn::LoadU(d4, shrink + set * kLanes);
    for (size_t d = 0; d < kDims; ++d) {
      float* const sum = basis.acc_lanes[set][d];
      hn::Store(hn::Mul(hn::Load(d4, sum), factor), d4, sum);
    }
  }
}

template <size_t kRows>
void ShrinkSums(const float (&shrink)[kTileRows], Tile& tile) {
  for (size_t r = 0; r < kRows; ++r) tile.row_sum[r] *= shrink[r];
  ShrinkSums<kRows>(shrink, tile.own);
  if (tile.mapped.acc_map != nullptr) ShrinkSums<kRows>(shrink, tile.mapped);
}

// Turns the scores of n tokens from `chunk` on into weights, zero for tokens that a row must not
// see and behind the last token up to a multiple of kBlockTokens.
template <size_t kRows>
void Softmax(float softcap, uint64_t chunk, size_t n, Tile& tile, Temporaries& temp) {
  constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
  const DF df;
  const size_t padded = (n + ops::kBlockTokens - 1) / ops::kBlockTokens * ops::kBlockTokens;
  const auto place = [chunk, n](uint64_t token) {
    return token <= chunk ? 0 : std::min<uint64_t>(token - chunk, n);
  };
  float shrink[kTileRows];
  std::fill_n(shrink, kTileRows, 1.0f);
  bool any_shrinks = false;
  float raised[kRows];
  for (size_t r = 0; r < kRows; ++r) {
    float* const scores = temp.scores[r];
    if (softcap > 0) {
      const VF inverse = hn::Set(df, 1.0f / softcap);
      const VF cap = hn::Set(df, softcap * kLog2E);
      for (size_t t = 0; t < n; t += kN) {
        hn::Store(SoftCap(hn::Load(df, scores + t), inverse, cap), df, scores + t);
      }
    }
    const size_t begin = place(tile.visible_begin[r]);
    const size_t end = std::max(begin, place(tile.visible_end[r]));
    std::fill(scores, scores + begin, kMinusInfinity);
    std::fill(scores + end, scores + padded, kMinusInfinity);
    VF most0 = hn::Load(df, scores);
    VF most1 = hn::Load(df, scores + kN);
    for (size_t t = 2 * kN; t < padded; t += 2 * kN) {
      most0 = hn::Max(most0, hn::Load(df, scores + t));
      most1 = hn::Max(most1, hn::Load(df, scores + t + kN));
    }
    const float most = MaxLanes(hn::Max(most0, most1));
    const float old = tile.row_max[r];
    raised[r] = std::max(old, most);
    if (raised[r] > old) {
      tile.row_max[r] = raised[r];
      shrink[r] = Exp2(old - raised[r]);
      any_shrinks = true;
    }
    temp.weight_max[r] = Exp2(most - raised[r]);
  }
  if (any_shrinks) ShrinkSums<kRows>(shrink, tile);
  for (size_t r = 0; r < kRows; ++r) {
    float* const scores = temp.scores[r];
    const VF top = hn::Set(df, raised[r]);
    VF sum0 = hn::Zero(df);
    VF sum1 = hn::Zero(df);
    for (size_t t = 0; t < padded; t += 2 * kN) {
      const VF w0 = Exp2(hn::Sub(hn::Load(df, scores + t), top));
      const VF w1 = Exp2(hn::Sub(hn::Load(df, scores + t + kN), top));
      hn::Store(w0, df, scores + t);
      hn::Store(w1, df, scores + t + kN);
      sum0 = hn::Add(sum0, w0);
      sum1 = hn::Add(sum1, w1);
    }
    tile.row_sum[r] += SumLanes(hn::Add(sum0, sum1));
  }
}

// ---------------------------------------------------------------------------------------- output

// Adds the sparse part, gathered row by row in lanes, to the sums.
inline void FlushLanes(uint32_t rows, Basis& basis) {
  if (!basis.acc_lanes_used) return;
  for (size_t r = 0; r < rows; ++r) {
    for (size_t d = 0; d < kDims; ++d) {
      basis.acc[r][d] += basis.acc_lanes[r / kLanes][d][r % kLanes];
    }
  }
  basis.acc_lanes_used = false;
}

// Sums of a row, padded directions included, times `factor`: to element `at` of `out`.
inline void StoreOutput(const float* sums, float factor, size_t n, ops::DType dtype, void* out,
                        int64_t at) {
  const DF df;
  HWY_ALIGN float wide[kDims];
  HWY_ALIGN uint16_t narrow[kDims];
  const VF factors = hn::Set(df, factor);
  const VF limit = hn::Set(df, 65536.0f);  // as fp16 infinity; see ToHalf
  for (size_t d = 0; d < n; d += kN) {
    const VF v = hn::Mul(hn::LoadU(df, sums + d), factors);
    if (dtype == ops::kF32) {
      hn::Store(v, df, wide + d);
    } else if (dtype == ops::kF16) {
      codec::StoreHalf(hn::Max(hn::Min(v, limit), hn::Neg(limit)), narrow + d);
    } else {
      codec::StoreBF16(v, narrow + d);
    }
  }
  const void* const from = dtype == ops::kF32 ? static_cast<const void*>(wide) : narrow;
  std::memcpy(static_cast<uint8_t*>(out) + at * static_cast<int64_t>(SizeOf(dtype)), from,
              n * SizeOf(dtype));
}

}  // namespace kvg::cpu::HWY_NAMESPACE::attend
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVGEAR_KERNELS_CPU_ATTEND_SOFTMAX_INL_H_
