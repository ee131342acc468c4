// Linear maps of rows, forth and back, with the bits of kernels/reference/map.h.
//
// Included once per Highway target by seal.cc, read.cc (through decode.h) and attend.cc. Sums in the
// order of kernels/ops.h and not fused.
#if defined(KVG_KERNELS_CPU_MAP_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_MAP_H_
#undef KVG_KERNELS_CPU_MAP_H_
#else
#define KVG_KERNELS_CPU_MAP_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/pack_half.h"
#include "kernels/half.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// The rows of a matrix that belong to a head.
HWY_INLINE const uint16_t* MatrixOf(const uint16_t* matrices, size_t head, size_t dim,
                                    size_t dirs) {
  return matrices + head * dim * dirs;
}

// One stage of H within vectors: lane i and lane i ^ kDistance.
template <size_t kDistance>
HWY_INLINE void HadamardLanes(float* row, size_t dim) {
  const F32Tag df;
  const U32Tag du;
  alignas(ops::kAlign) int32_t partner[kF32Lanes];
  for (size_t i = 0; i < kF32Lanes; ++i) partner[i] = static_cast<int32_t>(i ^ kDistance);
  const auto indices = hn::SetTableIndices(df, partner);
  const auto lanes = hn::Iota(du, 0);
  const auto bit = hn::Set(du, uint32_t{kDistance});
  const auto is_second = hn::RebindMask(df, hn::TestBit(lanes, bit));
  for (size_t d = 0; d < dim; d += kF32Lanes) {
    const F32 v = hn::LoadU(df, row + d);
    const F32 other = hn::TableLookupLanes(v, indices);
    hn::StoreU(hn::IfThenElse(is_second, hn::Sub(other, v), hn::Add(v, other)), df, row + d);
  }
}

// row = H row in each run of `block` elements. What lies behind dim, up to the next vector, is
// overwritten.
HWY_INLINE void Hadamard(size_t block, size_t dim, float* row) {
  const F32Tag df;
  if (block > 1) HadamardLanes<1>(row, dim);
  if (block > 2) HadamardLanes<2>(row, dim);
  if constexpr (kF32Lanes > 4) {
    if (block > 4) HadamardLanes<4>(row, dim);
  }
  if constexpr (kF32Lanes > 8) {
    if (block > 8) HadamardLanes<8>(row, dim);
  }
  for (size_t distance = kF32Lanes; distance < block; distance *= 2) {
    for (size_t first = 0; first < dim; first += 2 * distance) {
      for (size_t d = first; d < first + distance; d += kF32Lanes) {
        const F32 u = hn::LoadU(df, row + d);
        const F32 v = hn::LoadU(df, row + d + distance);
        hn::StoreU(hn::Add(u, v), df, row + d);
        hn::StoreU(hn::Sub(u, v), df, row + d + distance);
      }
    }
  }
}

// Rows of a run of tokens that go through a dense matrix together: as many as have their sums in
// registers.
inline constexpr size_t kMapTokens = kF32Lanes == 16 ? 8 : 4;

// y[j] = sum over i of x[i] * forward[i][j] for kMapTokens rows, two vectors of j at a time.
HWY_INLINE void MapDenseRows(const uint16_t* forward, size_t dim, size_t dirs,
                             const float* const (&x)[kMapTokens], float* y, size_t y_stride) {
  const F32Tag df;
  constexpr size_t kU = ops::kTileDirs / kF32Lanes > 2 ? 2 : ops::kTileDirs / kF32Lanes;
  for (size_t j = 0; j < dirs; j += kU * kF32Lanes) {
    F32 sum[kMapTokens][kU];
    for (size_t t = 0; t < kMapTokens; ++t) {
      for (size_t u = 0; u < kU; ++u) sum[t][u] = hn::Zero(df);
    }
    for (size_t i = 0; i < dim; ++i) {
      F32 factor[kU];
      for (size_t u = 0; u < kU; ++u) factor[u] = LoadHalf(forward + i * dirs + j + u * kF32Lanes);
      for (size_t t = 0; t < kMapTokens; ++t) {
        const F32 value = hn::Set(df, x[t][i]);
        for (size_t u = 0; u < kU; ++u) sum[t][u] = hn::Add(sum[t][u], hn::Mul(value, factor[u]));
      }
    }
    for (size_t t = 0; t < kMapTokens; ++t) {
      for (size_t u = 0; u < kU; ++u) {
        hn::StoreU(sum[t][u], df, y + t * y_stride + j + u * kF32Lanes);
      }
    }
  }
}

// y = M x for `count` rows of a head, at most kBlockTokens; rows of both are `dim` long.
inline void MapRows(const ops::Map& map, size_t head, size_t dim, const uint16_t* x, size_t count,
                    uint16_t* y) {
  const F32Tag df;
  const size_t dirs = ops::PadDirs(static_cast<uint32_t>(dim));
  struct alignas(ops::kAlign) Wide {
    float row[ops::kBlockTokens][ops::kMaxHeadDim];
  };
  Wide from, to;
  for (size_t t = 0; t < count; ++t) {
    size_t d = 0;
    for (; d + kF32Lanes <= dim; d += kF32Lanes) {
      hn::Store(LoadHalf(x + t * dim + d), df, from.row[t] + d);
    }
    for (; d < dim; ++d) from.row[t][d] = F16ToF32(x[t * dim + d]);
    std::fill(from.row[t] + dim, from.row[t] + dirs, 0.0f);
  }
  const Wide* result = &from;
  F32 factor = hn::Set(df, 1.0f);
  if (map.kind == ops::kMapHadamard) {
    for (size_t t = 0; t < count; ++t) Hadamard(map.block, dim, from.row[t]);
    factor = hn::Set(df, 1.0f / static_cast<float>(map.block));
  } else {
    const uint16_t* const forward = MatrixOf(map.forward, head, dim, dirs);
    for (size_t t = 0; t < count; t += kMapTokens) {
      const float* rows[kMapTokens];
      for (size_t i = 0; i < kMapTokens; ++i) rows[i] = from.row[std::min(t + i, count - 1)];
      MapDenseRows(forward, dim, dirs, rows, to.row[t], ops::kMaxHeadDim);
    }
    result = &to;
  }
  for (size_t t = 0; t < count; ++t) {
    const float* const row = result->row[t];
    size_t d = 0;
    for (; d + kF32Lanes <= dim; d += kF32Lanes) {
      StoreHalfSaturated(hn::Mul(hn::Load(df, row + d), factor), y + t * dim + d);
    }
    for (; d < dim; ++d) y[t * dim + d] = F32ToF16Saturate(row[d] * hn::GetLane(factor));
  }
}

// row = M^-1 row; `row` has room for `dirs` elements, zero behind the first dim.
inline void UnmapRow(const ops::Map& map, size_t head, size_t dim, size_t dirs, float* row) {
  if (map.kind == ops::kMapHadamard) return Hadamard(map.block, dim, row);
  const F32Tag df;
  constexpr size_t kVectors = ops::kTileDirs / kF32Lanes;
  const uint16_t* back = MatrixOf(map.back, head, dim, dirs);
  alignas(ops::kAlign) float x[ops::kMaxHeadDim];
  for (size_t i = 0; i < dim; ++i, back += dirs) {
    F32 sum[kVectors];
    for (size_t k = 0; k < kVectors; ++k) sum[k] = hn::Zero(df);
    for (size_t j = 0; j < dirs; j += ops::kTileDirs) {
      for (size_t k = 0; k < kVectors; ++k) {
        const size_t at = j + k * kF32Lanes;
        sum[k] = hn::Add(sum[k], hn::Mul(LoadHalf(back + at), hn::LoadU(df, row + at)));
      }
    }
    alignas(ops::kAlign) float part[ops::kTileDirs];
    for (size_t k = 0; k < kVectors; ++k) hn::Store(sum[k], df, part + k * kF32Lanes);
    for (size_t half = ops::kTileDirs / 2; half > 0; half /= 2) {
      for (size_t k = 0; k < half; ++k) part[k] += part[k + half];
    }
    x[i] = part[0];
  }
  std::copy_n(x, dim, row);
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_MAP_H_
