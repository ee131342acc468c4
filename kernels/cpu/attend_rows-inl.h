// Scores and values of fp16 rows. Included by attend_pieces-inl.h only, once per target.
#if defined(KVGEAR_KERNELS_CPU_ATTEND_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVGEAR_KERNELS_CPU_ATTEND_ROWS_INL_H_
#undef KVGEAR_KERNELS_CPU_ATTEND_ROWS_INL_H_
#else
#define KVGEAR_KERNELS_CPU_ATTEND_ROWS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/cache_control.h"
#include "kernels/cpu/attend_base-inl.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE::attend {

// Dot products of kRows queries with kN / kRows tokens; kRows divides kN.
template <size_t kRows>
HWY_INLINE VF RowDots(const uint16_t* const (&keys)[kN / kRows], const float (*q)[kQStride],
                      size_t head_dim) {
  constexpr size_t kTokens = kN / kRows;
  const DF df;
  VF sums[kN];  // [kRows][kTokens]
  Unroll<kN>([&](auto i) KVG_LAMBDA_INLINE { sums[i] = hn::Zero(df); });
  const auto step = [&](size_t d, auto load) KVG_LAMBDA_INLINE {
    VF key[kTokens];
    Unroll<kTokens>([&](auto t) KVG_LAMBDA_INLINE { key[t] = load(keys[t] + d); });
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
      const VF query = hn::Load(df, q[r] + d);
      Unroll<kTokens>([&](auto t) KVG_LAMBDA_INLINE {
        sums[r * kTokens + t] = hn::MulAdd(query, key[t], sums[r * kTokens + t]);
      });
    });
  };
  size_t d = 0;
  for (; d + kN <= head_dim; d += kN) {
    step(d, [](const uint16_t* from) KVG_LAMBDA_INLINE { return LoadF16(from); });
  }
  if constexpr (kN > 8) {  // head_dim is a multiple of 8
    if (d < head_dim) {
      step(d, [](const uint16_t* from) KVG_LAMBDA_INLINE { return LoadF16Half(from); });
    }
  }
  return SumEach(sums);
}

// Fetches what follows `rows` kFetchBytes later. The processor does so by itself, but starts anew
// in every page.
inline constexpr size_t kFetchBytes = 4096;
HWY_INLINE void FetchRowsAhead(const uint16_t* rows, size_t elements) {
  const auto* const from = reinterpret_cast<const uint8_t*>(rows) + kFetchBytes;
  for (size_t i = 0; i < elements * sizeof(*rows); i += 64) hwy::Prefetch(from + i);
}

// scores[r][t] = q[r] . keys[t] for `tokens` tokens; stride of scores: kScoreStride. May write a
// few scores more.
template <size_t kRows>
void ScoreRows(const uint16_t* keys, size_t tokens, size_t head_dim, const float (*q)[kQStride],
               float* scores) {
  constexpr size_t kSub = kRows < 4 ? kRows : 4;  // queries at a time; 4 leave enough registers
  constexpr size_t kTokens = kN / kSub;
  const DF df;
  for (size_t t = 0; t < tokens; t += kTokens) {
    const uint16_t* at[kTokens];
    for (size_t i = 0; i < kTokens; ++i) at[i] = keys + std::min(t + i, tokens - 1) * head_dim;
    FetchRowsAhead(at[0], kTokens * head_dim);
    for (size_t r = 0; r < kRows; r += kSub) {
      HWY_ALIGN float dots[kN];
      hn::Store(RowDots<kSub>(at, q + r, head_dim), df, dots);
      Unroll<kSub>([&](auto s) KVG_LAMBDA_INLINE {
        Unroll<kTokens>([&](auto i) KVG_LAMBDA_INLINE {
          scores[(r + s) * kScoreStride + t + i] = dots[s * kTokens + i];
        });
      });
    }
  }
}

// acc[r] += sum of weights[r * kScoreStride + t] * values[t], over kU vectors of directions from
// `values` on.
template <size_t kRows, size_t kU, bool kHalf, bool kFetch = false>
HWY_INLINE void AddRowColumns(const uint16_t* values, size_t tokens, size_t head_dim,
                              const float* weights, float* acc) {
  const DF df;
  VF sums[kRows][kU];
  Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
    Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
      sums[r][u] = hn::LoadU(df, acc + r * kAccStride + u * kN);
    });
  });
  for (size_t t = 0; t < tokens; ++t, values += head_dim) {
    if constexpr (kFetch) FetchRowsAhead(values, head_dim);
    VF value[kU];
    Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
      value[u] = kHalf ? LoadF16Half(values + u * kN) : LoadF16(values + u * kN);
    });
    Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
      const VF weight = hn::Set(df, weights[r * kScoreStride + t]);
      Unroll<kU>([&](auto u)
                     KVG_LAMBDA_INLINE { sums[r][u] = hn::MulAdd(weight, value[u], sums[r][u]); });
    });
  }
  Unroll<kRows>([&](auto r) KVG_LAMBDA_INLINE {
    Unroll<kU>([&](auto u) KVG_LAMBDA_INLINE {
      hn::StoreU(sums[r][u], df, acc + r * kAccStride + u * kN);
    });
  });
}

template <size_t kRows>
void AddRowValues(const uint16_t* values, size_t tokens, size_t head_dim, const float* weights,
                  float* acc) {
  constexpr size_t kRegisters = kN == 16 || HWY_ARCH_ARM ? 16 : 8;  // accumulators
  constexpr size_t kU = kRows == 1 ? 4 : kRegisters / kRows;
  size_t d = 0;
  if (kU * kN <= head_dim) {  // the first columns fetch whole rows
    AddRowColumns<kRows, kU, false, true>(values, tokens, head_dim, weights, acc);
    d += kU * kN;
  }
  for (; d + kU * kN <= head_dim; d += kU * kN) {
    AddRowColumns<kRows, kU, false>(values + d, tokens, head_dim, weights, acc + d);
  }
  for (; d + kN <= head_dim; d += kN) {
    AddRowColumns<kRows, 1, false>(values + d, tokens, head_dim, weights, acc + d);
  }
  if constexpr (kN > 8) {
    if (d < head_dim) {
      AddRowColumns<kRows, 1, true>(values + d, tokens, head_dim, weights, acc + d);
    }
  }
}

}  // namespace kvg::cpu::HWY_NAMESPACE::attend
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVGEAR_KERNELS_CPU_ATTEND_ROWS_INL_H_
