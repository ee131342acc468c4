// Pieces with a map: folds it into the queries, and undoes it on the sums of values.
//
// Included by attend.cc only, once per target. A map costs one product of a matrix and a row for
// each row of a tile, whatever the number of tokens and pieces that share it.
#if defined(KVGEAR_KERNELS_CPU_ATTEND_MAPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVGEAR_KERNELS_CPU_ATTEND_MAPS_INL_H_
#undef KVGEAR_KERNELS_CPU_ATTEND_MAPS_INL_H_
#else
#define KVGEAR_KERNELS_CPU_ATTEND_MAPS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attend_base-inl.h"
#include "kernels/cpu/attend_parts-inl.h"
#include "kernels/cpu/attend_softmax-inl.h"
#include "kernels/cpu/map.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE::attend {

// q' = M^-T q of all rows: x = back y, so q . x = (back^T q) . y. H is its own transpose.
template <size_t kRows>
void FoldQueries(const ops::Piece& piece, size_t head, Tile& tile) {
  const DF df;
  const ops::Map& map = *piece.map;
  const size_t dim = piece.head_dim;
  Basis& to = tile.mapped;
  if (map.kind == ops::kMapHadamard) {
    for (size_t r = 0; r < kRows; ++r) {
      std::copy_n(tile.own.q[r], kDims, to.q[r]);
      codec::Hadamard(map.block, dim, to.q[r]);
    }
  } else {
    const uint16_t* const back = codec::MatrixOf(map.back, head, dim, piece.dirs);
    for (size_t j = 0; j < piece.dirs; j += kN) {
      VF sums[kRows];
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { sums[r] = hn::Zero(df); });
      for (size_t i = 0; i < dim; ++i) {
        const VF factor = LoadF16(back + i * piece.dirs + j);
        Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
          sums[r] = hn::MulAdd(hn::Set(df, tile.own.q[r][i]), factor, sums[r]);
        });
      }
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { hn::Store(sums[r], df, to.q[r] + j); });
    }
    for (size_t r = 0; r < kRows; ++r) std::fill(to.q[r] + piece.dirs, to.q[r] + kDims, 0.0f);
  }
  PrepareQueries(kRows, to);
  to.q_map = &map;
}

// Adds the sums of pieces with a map to those of the caller's basis.
template <size_t kRows>
void FlushMappedValues(size_t dim, size_t head, Tile& tile) {
  Basis& from = tile.mapped;
  if (from.acc_map == nullptr) return;
  const DF df;
  const ops::Map& map = *from.acc_map;
  from.acc_map = nullptr;
  FlushLowRankValues<kRows>(head, from);
  FlushLanes(kRows, from);
  if (map.kind == ops::kMapHadamard) {
    for (size_t r = 0; r < kRows; ++r) {
      codec::Hadamard(map.block, dim, from.acc[r]);
      for (size_t d = 0; d < dim; ++d) tile.own.acc[r][d] += from.acc[r][d];
    }
    return;
  }
  const size_t dirs = ops::PadDirs(static_cast<uint32_t>(dim));
  const uint16_t* back = codec::MatrixOf(map.back, head, dim, dirs);
  for (size_t i = 0; i < dim; ++i, back += dirs) {
    VF sums[kRows];
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { sums[r] = hn::Zero(df); });
    for (size_t j = 0; j < dirs; j += kN) {
      const VF factor = LoadF16(back + j);
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        sums[r] = hn::MulAdd(hn::Load(df, from.acc[r] + j), factor, sums[r]);
      });
    }
    float dots[kRows];
    SumRows<kRows>(sums, dots);
    for (size_t r = 0; r < kRows; ++r) tile.own.acc[r][i] += dots[r];
  }
}

// The basis in which a piece of K meets its queries.
template <size_t kRows>
HWY_INLINE Basis& QueryBasis(const ops::Piece& piece, size_t head, Tile& tile) {
  if (piece.map == nullptr) return tile.own;
  if (tile.mapped.q_map != piece.map) FoldQueries<kRows>(piece, head, tile);
  return tile.mapped;
}

// The basis in which the values of a piece of V are added up.
template <size_t kRows>
HWY_INLINE Basis& ValueBasis(const ops::Piece& piece, size_t head, Tile& tile) {
  if (piece.map == nullptr) return tile.own;
  if (tile.mapped.acc_map != piece.map) {
    FlushMappedValues<kRows>(piece.head_dim, head, tile);
    ClearValues(kRows, tile.mapped);
    tile.mapped.acc_map = piece.map;
  }
  return tile.mapped;
}

}  // namespace kvg::cpu::HWY_NAMESPACE::attend
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVGEAR_KERNELS_CPU_ATTEND_MAPS_INL_H_
