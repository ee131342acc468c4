// Vector helpers of the attention kernels. Included by attend_*-inl.h only, once per target.
#if defined(KVGEAR_KERNELS_CPU_ATTEND_BASE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVGEAR_KERNELS_CPU_ATTEND_BASE_INL_H_
#undef KVGEAR_KERNELS_CPU_ATTEND_BASE_INL_H_
#else
#define KVGEAR_KERNELS_CPU_ATTEND_BASE_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <utility>

// clang-format off
#include "kernels/cpu/internal.h"
#include "hwy/highway.h"  // after internal.h
// clang-format on
#include "kernels/cpu/attend_state.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE::attend {

namespace hn = hwy::HWY_NAMESPACE;
using namespace attention;  // attend_state.h

// Every target here has vectors of a fixed size, so vectors can be array elements.
inline constexpr size_t kN = HWY_LANES(float);
using DF = hn::FixedTag<float, kN>;
using DI = hn::FixedTag<int32_t, kN>;
using DH = hn::FixedTag<int16_t, 2 * kN>;
using DU = hn::FixedTag<uint16_t, 2 * kN>;
using D4 = hn::FixedTag<float, kLanes>;
using VF = hn::Vec<DF>;
using VI = hn::Vec<DI>;
using VH = hn::Vec<DH>;
using VU = hn::Vec<DU>;
using V4 = hn::Vec<D4>;

// UndefinedBehaviorSanitizer would check every captured reference at every step that is unrolled,
// which takes minutes to compile. (AddressSanitizer still sees the loads.)
#define KVG_LAMBDA_INLINE __attribute__((always_inline, no_sanitize("undefined")))

// The most rows of a tile: 8 need the 32 registers of AVX-512; with fewer they gain little.
inline constexpr size_t kMostRows = kN == 16 ? 8 : 4;
// The number of rows to be computed for `rows` rows. Each possible one is code of its own.
inline constexpr uint32_t ComputedRows(uint32_t rows) {
  if (rows == 1) return 1;
  if (rows == 2 && kN >= 8) return 2;
  return rows <= 4 ? 4 : 8;
}

template <size_t... kI, typename F>
HWY_INLINE void UnrollIndices(std::index_sequence<kI...>, const F& f) {
  (f(std::integral_constant<size_t, kI>{}), ...);
}
// Calls f with the constants 0 .. kCount - 1. Arrays of vectors indexed so stay in registers, which
// a loop that the compiler may or may not unroll does not promise.
template <size_t kCount, typename F>
HWY_INLINE void Unroll(const F& f) {
  UnrollIndices(std::make_index_sequence<kCount>{}, f);
}

HWY_INLINE VF LoadF16(const uint16_t* from) {
  const hn::FixedTag<hwy::float16_t, kN> d16;
  return hn::PromoteTo(DF(), hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(from)));
}

// As LoadF16, but of the first 8 values; the others are zero. For kN > 8.
HWY_INLINE VF LoadF16Half(const uint16_t* from) {
#if HWY_MAX_BYTES <= 32
  return LoadF16(from);
#else
  const hn::FixedTag<hwy::float16_t, 8> d16;
  const hn::FixedTag<float, 8> d8;
  const auto* half = reinterpret_cast<const hwy::float16_t*>(from);
  return hn::ZeroExtendVector(DF(), hn::PromoteTo(d8, hn::LoadU(d16, half)));
#endif
}

// 2^x to about 2e-7 of it; zero for x < -126, which -infinity is.
HWY_INLINE VF Exp2(VF x) {
  const DF df;
  const DI di;
  const auto normal = hn::Ge(x, hn::Set(df, -126.0f));
  const VF whole = hn::Round(x);
  const VF f = hn::Sub(x, whole);
  VF p = hn::Set(df, 1.33908634e-3f);
  p = hn::MulAdd(p, f, hn::Set(df, 9.67603192e-3f));
  p = hn::MulAdd(p, f, hn::Set(df, 5.55035711e-2f));
  p = hn::MulAdd(p, f, hn::Set(df, 2.40221075e-1f));
  p = hn::MulAdd(p, f, hn::Set(df, 6.93147188e-1f));
  p = hn::MulAdd(p, f, hn::Set(df, 1.0f));
  const VI exponent = hn::ShiftLeft<23>(hn::Add(hn::ConvertTo(di, whole), hn::Set(di, 127)));
  return hn::IfThenElseZero(normal, hn::Mul(p, hn::BitCast(df, exponent)));
}
HWY_INLINE float Exp2(float x) { return hn::GetLane(Exp2(hn::Set(DF(), x))); }

// Sums of products of int16 pairs: lane i holds a[2i] * b[2i] + a[2i + 1] * b[2i + 1] (spread over
// two vectors on Arm, whose multiply-add takes half vectors).
struct PairSum {
  // Spelt out: what the compiler writes by itself does not belong to the target and could not be
  // given the constructors of vectors.
  HWY_INLINE PairSum() {}
  HWY_INLINE PairSum(VI a, VI b) : sum0(a), sum1(b) {}
  VI sum0, sum1;
};
HWY_INLINE PairSum ZeroPairSum() { return {hn::Zero(DI()), hn::Zero(DI())}; }
HWY_INLINE void PairMulAdd(VH a, VH b, PairSum& sum) {
#if KVG_CPU_VNNI
  sum.sum0 = VI{_mm512_dpwssd_epi32(sum.sum0.raw, a.raw, b.raw)};
#else
  sum.sum0 = hn::ReorderWidenMulAccumulate(DI(), a, b, sum.sum0, sum.sum1);
#endif
}
HWY_INLINE VF FinishPairSum(const PairSum& sum) {
  return hn::ConvertTo(DF(), hn::RearrangeToOddPlusEven(sum.sum0, sum.sum1));
}

// Rounds 2N products a * b, each of at most 16 bits, to int16 and stores them as kN pairs of
// neighbours. Pair p of a sequence of values lies at PairPos(p); PairPos(8 * i + p) = PairPos(8 *
// i)
// + PairPos(p) for p < 8.
HWY_INLINE void StorePairs(VF a0, VF b0, VF a1, VF b1, int32_t* to) {
#if HWY_MAX_BYTES == 64
  // Behind the binary point of a number of this size there is nothing, and its lower 16 bits are
  // the integer.
  const VF magic = hn::Set(DF(), 0x1.8p23f);
  const VI sum0 = hn::BitCast(DI(), hn::MulAdd(a0, b0, magic));
  const VI sum1 = hn::BitCast(DI(), hn::MulAdd(a1, b1, magic));
  const VH even = hn::Add(hn::Iota(DH(), 0), hn::Iota(DH(), 0));
  hn::StoreU(VI{_mm512_permutex2var_epi16(sum0.raw, even.raw, sum1.raw)}, DI(), to);
#else
  // Vectors are packed without crossing their 128-bit blocks.
  const VH packed =
      hn::ReorderDemote2To(DH(), hn::NearestInt(hn::Mul(a0, b0)), hn::NearestInt(hn::Mul(a1, b1)));
  hn::StoreU(hn::BitCast(DI(), packed), DI(), to);
#endif
}
inline constexpr size_t PairPos(size_t pair) {
  if (kN == 16) return pair;
  const size_t value = 2 * pair;
  const size_t lane = value % kN;
  return value / (2 * kN) * kN + lane / 4 * 4 + value / kN % 2 * 2 + lane % 4 / 2;
}
HWY_INLINE VH BroadcastPair(const int32_t* pair) { return hn::BitCast(DH(), hn::Set(DI(), *pair)); }

HWY_INLINE float SumLanes(VF v) { return hn::GetLane(hn::SumOfLanes(DF(), v)); }
HWY_INLINE float MaxLanes(VF v) { return hn::GetLane(hn::MaxOfLanes(DF(), v)); }

// Sums within the 128-bit blocks of four vectors: block k holds the sums of block k of each.
HWY_INLINE VF SumBlocks(VF a, VF b, VF c, VF d) {
  const DF df;
  const VF ab = hn::Add(hn::InterleaveLower(df, a, b), hn::InterleaveUpper(df, a, b));
  const VF cd = hn::Add(hn::InterleaveLower(df, c, d), hn::InterleaveUpper(df, c, d));
  const hn::FixedTag<uint64_t, kN / 2> d64;  // pairs of floats
  const auto ab64 = hn::BitCast(d64, ab);
  const auto cd64 = hn::BitCast(d64, cd);
  return hn::Add(hn::BitCast(df, hn::InterleaveLower(d64, ab64, cd64)),
                 hn::BitCast(df, hn::InterleaveUpper(d64, ab64, cd64)));
}

// sums[r] = sum of the lanes of v[r].
template <size_t kRows>
HWY_INLINE void SumRows(const VF (&v)[kRows], float* sums) {
  if constexpr (kRows % 4 == 0) {
    const D4 d4;
    Unroll<kRows / 4>([&](auto i) KVG_LAMBDA_INLINE {
      const VF blocks = SumBlocks(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]);
      HWY_ALIGN float parts[kN];
      hn::Store(blocks, DF(), parts);
      V4 sum = hn::Load(d4, parts);
      for (size_t k = 4; k < kN; k += 4) sum = hn::Add(sum, hn::Load(d4, parts + k));
      hn::StoreU(sum, d4, sums + 4 * i);
    });
  } else {
    for (size_t r = 0; r < kRows; ++r) sums[r] = SumLanes(v[r]);
  }
}

// Lane i is the sum of the lanes of v[i].
HWY_INLINE VF SumEach(const VF (&v)[kN]) {
#if HWY_MAX_BYTES == 16
  return SumBlocks(v[0], v[1], v[2], v[3]);
#elif HWY_MAX_BYTES == 32
  const DF df;
  const VF x0 = SumBlocks(v[0], v[1], v[2], v[3]);
  const VF x1 = SumBlocks(v[4], v[5], v[6], v[7]);
  return hn::Add(hn::ConcatLowerLower(df, x1, x0), hn::ConcatUpperUpper(df, x1, x0));
#else
  const DF df;
  const VF x0 = SumBlocks(v[0], v[1], v[2], v[3]);
  const VF x1 = SumBlocks(v[4], v[5], v[6], v[7]);
  const VF x2 = SumBlocks(v[8], v[9], v[10], v[11]);
  const VF x3 = SumBlocks(v[12], v[13], v[14], v[15]);
  const VF y0 = hn::Add(hn::ConcatLowerLower(df, x1, x0), hn::ConcatUpperUpper(df, x1, x0));
  const VF y1 = hn::Add(hn::ConcatLowerLower(df, x3, x2), hn::ConcatUpperUpper(df, x3, x2));
  // Blocks of y0: x0 even, x0 odd, x1 even, x1 odd.
  return hn::Add(VF{_mm512_shuffle_f32x4(y0.raw, y1.raw, 0x88)},
                 VF{_mm512_shuffle_f32x4(y0.raw, y1.raw, 0xDD)});
#endif
}

}  // namespace kvg::cpu::HWY_NAMESPACE::attend
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVGEAR_KERNELS_CPU_ATTEND_BASE_INL_H_
