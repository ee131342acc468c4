// The low-rank and the sparse part of a code piece. Included by attend_pieces-inl.h only, once per
// target.
#if defined(KVGEAR_KERNELS_CPU_ATTEND_PARTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVGEAR_KERNELS_CPU_ATTEND_PARTS_INL_H_
#undef KVGEAR_KERNELS_CPU_ATTEND_PARTS_INL_H_
#else
#define KVGEAR_KERNELS_CPU_ATTEND_PARTS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/attend_base-inl.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE::attend {

// The blocks of one head of a code piece that fall into a chunk.
struct Region {
  const ops::Piece* piece;
  size_t head;
  size_t begin;   // first token, counted from the piece's first; a multiple of kBlockTokens
  size_t tokens;  // valid ones
  size_t blocks;
  size_t in_chunk;  // place of the first token in the chunk

  size_t padded() const { return blocks * ops::kBlockTokens; }
  size_t first_block() const { return begin / ops::kBlockTokens; }
};

// -------------------------------------------------------------------------------------- low rank

inline const uint16_t* FactorA(const Region& region, size_t r) {
  const ops::Piece& piece = *region.piece;
  return piece.a + (region.head * piece.rank + r) * piece.padded_tokens + region.begin;
}
inline const uint16_t* FactorB(const ops::Piece& piece, size_t head, size_t r) {
  return piece.b + (head * piece.rank + r) * piece.dirs;
}

// q . b of every row, kept as long as the piece stays the same.
template <size_t kRows>
void UpdateQueryFactor(const ops::Piece& piece, size_t head, Basis& basis) {
  if (basis.q_factor_piece == &piece) return;
  basis.q_factor_piece = &piece;
  const DF df;
  for (size_t f = 0; f < piece.rank; ++f) {
    const uint16_t* const b = FactorB(piece, head, f);
    VF sums[kRows];
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { sums[r] = hn::Zero(df); });
    for (size_t d = 0; d < piece.dirs; d += kN) {
      const VF factor = LoadF16(b + d);
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        sums[r] = hn::MulAdd(hn::Load(df, basis.q[r] + d), factor, sums[r]);
      });
    }
    float dots[kRows];
    SumRows<kRows>(sums, dots);
    for (size_t r = 0; r < kRows; ++r) basis.q_factor[r][f] = dots[r];
  }
}

// Starts the scores of a region with the low-rank part, or zero.
template <size_t kRows>
void StartScores(const Region& region, Basis& basis, float* scores) {
  const DF df;
  const size_t rank = region.piece->rank;
  if (rank != 0) UpdateQueryFactor<kRows>(*region.piece, region.head, basis);
  for (size_t t = 0; t < region.padded(); t += kN) {
    VF sums[kRows];
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { sums[r] = hn::Zero(df); });
    for (size_t f = 0; f < rank; ++f) {
      const VF a = LoadF16(FactorA(region, f) + t);
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        sums[r] = hn::MulAdd(a, hn::Set(df, basis.q_factor[r][f]), sums[r]);
      });
    }
    Unroll<kRows>(
        [&](auto r) KVG_LAMBDA_INLINE { hn::StoreU(sums[r], df, scores + r * kScoreStride + t); });
  }
}

// Multiplies what AddLowRankValues gathered by the factor b of its piece.
template <size_t kRows>
void FlushLowRankValues(size_t head, Basis& basis) {
  if (basis.acc_factor_piece == nullptr) return;
  const ops::Piece& piece = *basis.acc_factor_piece;
  basis.acc_factor_piece = nullptr;
  const DF df;
  for (size_t d = 0; d < piece.dirs; d += kN) {
    VF sums[kRows];
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { sums[r] = hn::Load(df, basis.acc[r] + d); });
    for (size_t f = 0; f < piece.rank; ++f) {
      const VF b = LoadF16(FactorB(piece, head, f) + d);
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        sums[r] = hn::MulAdd(b, hn::Set(df, basis.acc[r][piece.dirs + f]), sums[r]);
      });
    }
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { hn::Store(sums[r], df, basis.acc[r] + d); });
  }
  for (size_t r = 0; r < kRows; ++r) {
    std::fill_n(basis.acc[r] + piece.dirs, ops::kMaxRank, 0.0f);
  }
}

// Gathers the weighted sum of the factor a. `weights` are those of temp.weights: to be multiplied
// by `unit[r]`, and zero behind the region's tokens.
template <size_t kRows>
void AddLowRankValues(const Region& region, const float* weights, const float* unit, Basis& basis) {
  const ops::Piece& piece = *region.piece;
  if (piece.rank == 0) return;
  if (basis.acc_factor_piece != &piece) FlushLowRankValues<kRows>(region.head, basis);
  basis.acc_factor_piece = &piece;
  const DF df;
  for (size_t f = 0; f < piece.rank; ++f) {
    const uint16_t* const a = FactorA(region, f);
    VF sums[kRows];
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE { sums[r] = hn::Zero(df); });
    for (size_t t = 0; t < region.padded(); t += kN) {
      const VF factor = LoadF16(a + t);
      Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
        sums[r] = hn::MulAdd(hn::Load(df, weights + r * kChunk + t), factor, sums[r]);
      });
    }
    float dots[kRows];
    SumRows<kRows>(sums, dots);
    for (size_t r = 0; r < kRows; ++r) basis.acc[r][piece.dirs + f] += unit[r] * dots[r];
  }
}

// ---------------------------------------------------------------------------------------- sparse

// Calls f(first entry, entries, tokens of the entries, values of the entries) over the entries of
// the region, batch by batch. Tokens count from the region's first, values are fp32. There is no
// branch on the number of entries of a token: it cannot be predicted.
template <typename F>
HWY_INLINE void ForSparseBatches(const Region& region, Temporaries& temp, const F& f) {
  const ops::Piece& piece = *region.piece;
  const size_t all_blocks = piece.padded_tokens / ops::kBlockTokens;
  const uint32_t* const start =
      piece.sparse_start + region.head * (all_blocks + 1) + region.first_block();
  const uint8_t* const count =
      piece.sparse_count + region.head * piece.padded_tokens + region.begin;
  size_t block = 0;
  while (block < region.blocks) {
    size_t end = block + 1;
    while (end < region.blocks && start[end + 1] - start[block] <= kSparseBatch) ++end;
    const size_t first = start[block];
    const size_t entries = start[end] - first;
    uint8_t* to = temp.sparse_token;
    for (size_t t = block * ops::kBlockTokens; t < end * ops::kBlockTokens; ++t) {
      const uint64_t copies = t * 0x0101010101010101u;
      std::memcpy(to, &copies, sizeof(copies));
      for (size_t more = 8; HWY_UNLIKELY(more < count[t]); more += 8) {
        std::memcpy(to + more, &copies, sizeof(copies));
      }
      to += count[t];
    }
    // Whole vectors only while they stay inside the entries of the batch.
    size_t e = 0;
    for (; e + kN <= entries; e += kN) {
      hn::Store(LoadF16(piece.sparse_value + first + e), DF(), temp.sparse_value + e);
    }
    if (e < entries) {
      uint16_t last[kN] = {};
      std::memcpy(last, piece.sparse_value + first + e, (entries - e) * sizeof(uint16_t));
      hn::Store(LoadF16(last), DF(), temp.sparse_value + e);
    }
    f(first, entries, temp.sparse_token, temp.sparse_value);
    block = end;
  }
}

// to[token][rows] += value * from[direction][rows] for kSets sets of kLanes rows, or the reverse.
template <size_t kSets, bool kToTokens>
HWY_INLINE void AddSparse(const uint8_t* dirs, const uint8_t* tokens, const float* values,
                          size_t entries, const float* from, float* to) {
  const D4 d4;
  for (size_t e = 0; e < entries; ++e) {
    const V4 value = hn::Set(d4, values[e]);
    const float* const source = from + kLanes * (kToTokens ? dirs[e] : tokens[e]);
    float* const target = to + kLanes * (kToTokens ? tokens[e] : dirs[e]);
    constexpr size_t kFromSet = kLanes * (kToTokens ? kDims : kChunk);
    constexpr size_t kToSet = kLanes * (kToTokens ? kChunk : kDims);
    Unroll<kSets>([&](auto s) KVG_LAMBDA_INLINE {
      const V4 sum =
          hn::MulAdd(value, hn::Load(d4, source + s * kFromSet), hn::Load(d4, target + s * kToSet));
      hn::Store(sum, d4, target + s * kToSet);
    });
  }
}

template <size_t kRows>
inline constexpr size_t kLaneSets = (kRows + kLanes - 1) / kLanes;

// Adds the sparse part to the scores of a region.
template <size_t kRows>
void AddSparseScores(const Region& region, const Basis& basis, Temporaries& temp, float* scores) {
  const ops::Piece& piece = *region.piece;
  if (piece.sparse_start == nullptr) return;
  const DF df;
  constexpr size_t kSets = kLaneSets<kRows>;
  for (size_t s = 0; s < kSets; ++s) {
    std::fill_n(temp.chunk_lanes[s][0], region.padded() * kLanes, 0.0f);
  }
  ForSparseBatches(region, temp,
                   [&](size_t first, size_t entries, const uint8_t* tokens, const float* values) {
                     AddSparse<kSets, true>(piece.sparse_dir + first, tokens, values, entries,
                                            basis.q_lanes[0][0], temp.chunk_lanes[0][0]);
                   });
  for (size_t t = 0; t < region.padded(); t += kN) {
    Unroll<kSets>([&](auto s) KVG_LAMBDA_INLINE {
      VF part[kLanes];
      hn::LoadInterleaved4(df, temp.chunk_lanes[s][t], part[0], part[1], part[2], part[3]);
      Unroll<(kRows < kLanes ? kRows : kLanes)>([&](auto lane) KVG_LAMBDA_INLINE {
        float* const to = scores + (s * kLanes + lane) * kScoreStride + t;
        hn::StoreU(hn::Add(hn::LoadU(df, to), part[lane]), df, to);
      });
    });
  }
}

// Adds the sparse part of a region to the values. `weights` as for AddLowRankValues.
template <size_t kRows>
void AddSparseValues(const Region& region, const float* weights, const float* unit, Basis& basis,
                     Temporaries& temp) {
  const ops::Piece& piece = *region.piece;
  if (piece.sparse_start == nullptr) return;
  const DF df;
  constexpr size_t kSets = kLaneSets<kRows>;
  basis.acc_lanes_used = true;
  for (size_t t = 0; t < region.padded(); t += kN) {
    Unroll<kSets>([&](auto s) KVG_LAMBDA_INLINE {
      VF part[kLanes];
      Unroll<kLanes>([&](auto lane) KVG_LAMBDA_INLINE {
        constexpr size_t kRow = s * kLanes + lane;
        if constexpr (kRow < kRows) {
          part[lane] = hn::Mul(hn::Set(df, unit[kRow]), hn::Load(df, weights + kRow * kChunk + t));
        } else {
          part[lane] = hn::Zero(df);
        }
      });
      hn::StoreInterleaved4(part[0], part[1], part[2], part[3], df, temp.chunk_lanes[s][t]);
    });
  }
  ForSparseBatches(region, temp,
                   [&](size_t first, size_t entries, const uint8_t* tokens, const float* values) {
                     AddSparse<kSets, false>(piece.sparse_dir + first, tokens, values, entries,
                                             temp.chunk_lanes[0][0], basis.acc_lanes[0][0]);
                   });
}

}  // namespace kvg::cpu::HWY_NAMESPACE::attend
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVGEAR_KERNELS_CPU_ATTEND_PARTS_INL_H_
