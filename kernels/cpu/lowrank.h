// Low-rank factors of a residual: the same operations as kernels/reference/lowrank.cc in the same
// order, and so the same bits on every target.
//
// Included once per Highway target by seal.cc. Nothing here may be fused: not all targets can.
#if defined(KVG_KERNELS_CPU_LOWRANK_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_LOWRANK_H_
#undef KVG_KERNELS_CPU_LOWRANK_H_
#else
#define KVG_KERNELS_CPU_LOWRANK_H_
#endif

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/pack_half.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/reference/start.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// The partial sums of a product of vectors, the upper halves added to the lower until 4 are left.
inline constexpr size_t kDotLanes = 16;
inline constexpr size_t kDotVectors = kDotLanes / kF32Lanes;
using F32x4Tag = hn::Full128<float>;
using F32x4 = hn::Vec<F32x4Tag>;
HWY_INLINE F32x4 FoldDot(const F32 (&sums)[kDotVectors]) {
#if HWY_MAX_BYTES == 16
  return hn::Add(hn::Add(sums[0], sums[2]), hn::Add(sums[1], sums[3]));
#else
#if HWY_MAX_BYTES == 32
  const F32 sum = hn::Add(sums[0], sums[1]);
#else
  const hn::Half<F32Tag> d8;
  const auto sum = hn::Add(hn::LowerHalf(d8, sums[0]), hn::UpperHalf(d8, sums[0]));
#endif
  return hn::Add(hn::LowerHalf(F32x4Tag(), sum), hn::UpperHalf(F32x4Tag(), sum));
#endif
}

// Lane i is the sum of the lanes of v[i], folded on as in FoldDot.
HWY_INLINE F32x4 FoldFour(const F32x4 (&v)[4]) {
  const F32x4Tag d;
  const hn::Full128<uint64_t> d64;  // pairs of floats
  const F32x4 v01 = hn::Add(hn::InterleaveLower(d, v[0], v[1]), hn::InterleaveUpper(d, v[0], v[1]));
  const F32x4 v23 = hn::Add(hn::InterleaveLower(d, v[2], v[3]), hn::InterleaveUpper(d, v[2], v[3]));
  const auto pairs01 = hn::BitCast(d64, v01);
  const auto pairs23 = hn::BitCast(d64, v23);
  return hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, pairs01, pairs23)),
                 hn::BitCast(d, hn::InterleaveUpper(d64, pairs01, pairs23)));
}

// n: a multiple of 16, as for all lengths here; what is padded holds 0.
HWY_INLINE float Dot(const float* x, const float* y, size_t n) {
  const F32Tag df;
  F32 sums[kDotVectors];
  for (size_t v = 0; v < kDotVectors; ++v) sums[v] = hn::Zero(df);
  for (size_t i = 0; i < n; i += kDotLanes) {
    for (size_t v = 0; v < kDotVectors; ++v) {
      const size_t j = i + v * kF32Lanes;
      sums[v] = hn::Add(sums[v], hn::Mul(hn::Load(df, x + j), hn::Load(df, y + j)));
    }
  }
  const F32x4 sum = FoldDot(sums);
  const F32x4 same[4] = {sum, sum, sum, sum};
  return hn::GetLane(FoldFour(same));
}

// The residual of one head and its factors, in fp32. Padded tokens and directions hold 0.
struct LowRankWork {
  const float* residual;  // [tokens][dirs]
  float* a;               // [rank][tokens]
  float* b;               // [rank][dirs]
  size_t tokens;          // a multiple of kBlockTokens
  size_t dirs;
  size_t rank;
};

// As many columns as leave the partial sums of 4 tokens in registers.
inline constexpr size_t kProjectColumns = kDotVectors == 1 ? 4 : 1;

// Columns [r, r + kR) of A = E B.
template <size_t kR>
HWY_INLINE void Project(const LowRankWork& work, size_t r) {
  const F32Tag df;
  const float* const b = work.b + r * work.dirs;
  for (size_t token = 0; token < work.tokens; token += 4) {
    const float* const e = work.residual + token * work.dirs;
    F32 sums[kR][4][kDotVectors];
    for (size_t c = 0; c < kR; ++c) {
      for (size_t t = 0; t < 4; ++t) {
        for (size_t v = 0; v < kDotVectors; ++v) sums[c][t][v] = hn::Zero(df);
      }
    }
    for (size_t d = 0; d < work.dirs; d += kDotLanes) {
      for (size_t v = 0; v < kDotVectors; ++v) {
        const size_t i = d + v * kF32Lanes;
        F32 column[kR];
        for (size_t c = 0; c < kR; ++c) column[c] = hn::Load(df, b + c * work.dirs + i);
        for (size_t t = 0; t < 4; ++t) {
          const F32 row = hn::Load(df, e + t * work.dirs + i);
          for (size_t c = 0; c < kR; ++c) {
            sums[c][t][v] = hn::Add(sums[c][t][v], hn::Mul(row, column[c]));
          }
        }
      }
    }
    for (size_t c = 0; c < kR; ++c) {
      F32x4 folded[4];
      for (size_t t = 0; t < 4; ++t) folded[t] = FoldDot(sums[c][t]);
      hn::Store(FoldFour(folded), F32x4Tag(), work.a + (r + c) * work.tokens + token);
    }
  }
}

HWY_INLINE void ProjectAll(const LowRankWork& work) {
  size_t r = 0;
  for (; r + kProjectColumns <= work.rank; r += kProjectColumns) Project<kProjectColumns>(work, r);
  for (; r < work.rank; ++r) Project<1>(work, r);
}

// Adds the kBlockTokens tokens from `token` on to kR columns of B = E^T A, kV vectors of them.
template <size_t kR, size_t kV>
HWY_INLINE void Accumulate(const LowRankWork& work, size_t token, size_t r, size_t direction) {
  const F32Tag df;
  float* const b = work.b + r * work.dirs + direction;
  const float* const a = work.a + r * work.tokens + token;
  const float* e = work.residual + token * work.dirs + direction;
  F32 sums[kR][kV];
  for (size_t c = 0; c < kR; ++c) {
    for (size_t v = 0; v < kV; ++v) sums[c][v] = hn::Load(df, b + c * work.dirs + v * kF32Lanes);
  }
  for (size_t t = 0; t < ops::kBlockTokens; ++t, e += work.dirs) {
    F32 row[kV];
    for (size_t v = 0; v < kV; ++v) row[v] = hn::Load(df, e + v * kF32Lanes);
    for (size_t c = 0; c < kR; ++c) {
      const F32 weight = hn::Set(df, a[c * work.tokens + t]);
      for (size_t v = 0; v < kV; ++v) sums[c][v] = hn::Add(sums[c][v], hn::Mul(weight, row[v]));
    }
  }
  for (size_t c = 0; c < kR; ++c) {
    for (size_t v = 0; v < kV; ++v) hn::Store(sums[c][v], df, b + c * work.dirs + v * kF32Lanes);
  }
}

template <size_t kR>
HWY_INLINE void AccumulateRow(const LowRankWork& work, size_t token, size_t r) {
  constexpr size_t kV = kF32Lanes == 16 ? 4 : 2;
  size_t d = 0;
  for (; d + kV * kF32Lanes <= work.dirs; d += kV * kF32Lanes) {
    Accumulate<kR, kV>(work, token, r, d);
  }
  for (; d < work.dirs; d += kF32Lanes) Accumulate<kR, 1>(work, token, r, d);
}

HWY_INLINE void AccumulateAll(const LowRankWork& work) {
  std::fill_n(work.b, work.rank * work.dirs, 0.0f);
  for (size_t token = 0; token < work.tokens; token += ops::kBlockTokens) {
    size_t r = 0;
    for (; r + 4 <= work.rank; r += 4) AccumulateRow<4>(work, token, r);
    for (; r < work.rank; ++r) AccumulateRow<1>(work, token, r);
  }
}

// x[i] = x[i] - share * y[i].
HWY_INLINE void TakeOut(float share, const float* y, size_t n, float* x) {
  const F32Tag df;
  const F32 factor = hn::Set(df, share);
  for (size_t i = 0; i < n; i += kF32Lanes) {
    hn::Store(hn::Sub(hn::Load(df, x + i), hn::Mul(factor, hn::Load(df, y + i))), df, x + i);
  }
}

HWY_INLINE void Scale(float factor, size_t n, float* x) {
  const F32Tag df;
  const F32 by = hn::Set(df, factor);
  for (size_t i = 0; i < n; i += kF32Lanes) {
    hn::Store(hn::Mul(hn::Load(df, x + i), by), df, x + i);
  }
}

HWY_INLINE float MaxAbs(const float* x, size_t n) {
  const F32Tag df;
  F32 most = hn::Zero(df);
  for (size_t i = 0; i < n; i += kF32Lanes) most = hn::Max(most, hn::Abs(hn::Load(df, x + i)));
  return hn::GetLane(hn::MaxOfLanes(df, most));
}

HWY_INLINE void Orthonormalise(const LowRankWork& work) {
  const size_t n = work.tokens;
  for (size_t c = 0; c < work.rank; ++c) {
    float* const column = work.a + c * n;
    const float before = std::sqrt(Dot(column, column, n));
    for (int pass = 0; pass < 2; ++pass) {
      for (size_t p = 0; p < c; ++p) {
        const float* const other = work.a + p * n;
        TakeOut(Dot(other, column, n), other, n, column);
      }
    }
    const float after = std::sqrt(Dot(column, column, n));
    Scale(after > reference::kDependent * before ? 1.0f / after : 0.0f, n, column);
  }
}

// Rounds x * factor to fp16 and keeps what was rounded in x as well.
HWY_INLINE void RoundColumn(float factor, size_t n, float* x, uint16_t* out) {
  const F32Tag df;
  const F32 by = hn::Set(df, factor);
  for (size_t i = 0; i < n; i += kF32Lanes) {
    StoreHalfSaturated(hn::Mul(hn::Load(df, x + i), by), out + i);
    hn::Store(LoadHalf(out + i), df, x + i);
  }
}

// Writes the factors to a[r * a_stride + token] and b[r * b_stride + direction], padding up to
// work.tokens and work.dirs included, and leaves the rounded ones in `work`.
HWY_INLINE void FitLowRank(const LowRankWork& work, const ops::SealSpec& spec, uint32_t head,
                           uint32_t head_dim, uint16_t* a, size_t a_stride, uint16_t* b,
                           size_t b_stride) {
  for (uint32_t r = 0; r < work.rank; ++r) {
    float* const column = work.b + r * work.dirs;
    for (uint32_t d = 0; d < head_dim; ++d) {
      column[d] = reference::PowerStart(spec.seed, head, r, d);
    }
    std::fill(column + head_dim, column + work.dirs, 0.0f);
  }
  for (uint32_t sweep = 0; sweep < spec.sweeps; ++sweep) {
    ProjectAll(work);
    Orthonormalise(work);
    AccumulateAll(work);
  }
  for (size_t r = 0; r < work.rank; ++r) {
    float* const a_column = work.a + r * work.tokens;
    float* const b_column = work.b + r * work.dirs;
    const reference::Balance balance = reference::BalanceOf(MaxAbs(a_column, work.tokens),
                                                            MaxAbs(b_column, work.dirs));
    RoundColumn(balance.a, work.tokens, a_column, a + r * a_stride);
    RoundColumn(balance.b, work.dirs, b_column, b + r * b_stride);
  }
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_LOWRANK_H_
