// Vectors of fp16 to and from fp32, of bf16 from fp32, and of fp16 to integer keys of the same
// order.
//
// Included once per Highway target by seal.cc, read.cc, ingest.cc and the headers of all kernels.
#if defined(KVG_KERNELS_CPU_PACK_HALF_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_PACK_HALF_H_
#undef KVG_KERNELS_CPU_PACK_HALF_H_
#else
#define KVG_KERNELS_CPU_PACK_HALF_H_
#endif

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/internal.h"
#include "hwy/highway.h"  // after internal.h
#include "kernels/half.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

namespace hn = hwy::HWY_NAMESPACE;

// No vector is longer than a tile has directions, so that every tile is a whole number of vectors.
using F32Tag = hn::CappedTag<float, 16>;
using I32Tag = hn::RebindToSigned<F32Tag>;
using U32Tag = hn::RebindToUnsigned<F32Tag>;
using U16OfF32Tag = hn::Rebind<uint16_t, F32Tag>;  // as many lanes as F32Tag
using I16OfF32Tag = hn::Rebind<int16_t, F32Tag>;
using I16Tag = hn::CappedTag<int16_t, 16>;
using U16Tag = hn::RebindToUnsigned<I16Tag>;
using F32 = hn::Vec<F32Tag>;
using I32 = hn::Vec<I32Tag>;
using U32 = hn::Vec<U32Tag>;
using I16 = hn::Vec<I16Tag>;
inline constexpr size_t kF32Lanes = hn::MaxLanes(F32Tag());
inline constexpr size_t kI16Lanes = hn::MaxLanes(I16Tag());

// Finite fp16 only.
HWY_INLINE F32 LoadHalf(const uint16_t* p) {
  const hn::Rebind<hwy::float16_t, F32Tag> dh;
  return hn::PromoteTo(F32Tag(), hn::BitCast(dh, hn::LoadU(U16OfF32Tag(), p)));
}

// Rounds to nearest even; |v| < kF16Overflow.
HWY_INLINE hn::Vec<U16OfF32Tag> ToHalf(F32 v) {
#if HWY_TARGET == HWY_SSE4
  // Highway truncates where the processor has no conversion. See F32ToF16 for the normal numbers;
  // for the others 0.5, whose last bit is worth 2^-24, makes the addition round.
  const U32Tag du;
  const F32Tag df;
  const U32 bits = hn::BitCast(du, v);
  const U32 magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFFu));
  const U32 odd = hn::And(hn::ShiftRight<13>(magnitude), hn::Set(du, 1));
  const U32 bias = hn::Set(du, 0xFFFu - (112u << 23));
  const U32 normal = hn::ShiftRight<13>(hn::Add(hn::Add(magnitude, bias), odd));
  const F32 half = hn::Set(df, 0.5f);
  const U32 steps =
      hn::Sub(hn::BitCast(du, hn::Add(hn::BitCast(df, magnitude), half)), hn::BitCast(du, half));
  const auto is_normal = hn::Ge(hn::BitCast(df, magnitude), hn::Set(df, 0x1p-14f));
  const U32 result = hn::IfThenElse(hn::RebindMask(du, is_normal), normal, steps);
  const U32 sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000u));
  return hn::DemoteTo(U16OfF32Tag(), hn::BitCast(I32Tag(), hn::Or(result, sign)));
#else
  const hn::Rebind<hwy::float16_t, F32Tag> dh;
  return hn::BitCast(U16OfF32Tag(), hn::DemoteTo(dh, v));
#endif
}

HWY_INLINE void StoreHalf(F32 v, uint16_t* p) { hn::StoreU(ToHalf(v), U16OfF32Tag(), p); }

// As F32ToF16Saturate; NaN is not expected.
HWY_INLINE void StoreHalfSaturated(F32 v, uint16_t* p) {
  const F32 limit = hn::Set(F32Tag(), kF16Max);
  StoreHalf(hn::Max(hn::Min(v, limit), hn::Neg(limit)), p);
}

// As F32ToBF16, to nearest even; v is finite.
HWY_INLINE void StoreBF16(F32 v, uint16_t* p) {
  const U32Tag du;
  const U32 bits = hn::BitCast(du, v);
  const U32 odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const U32 rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7FFFu))));
  hn::StoreU(hn::DemoteTo(U16OfF32Tag(), hn::BitCast(I32Tag(), rounded)), U16OfF32Tag(), p);
}

// KEYS: a finite fp16 as an int16 of the same order, 0 for both zeros. |key| <= kMaxKey.
inline constexpr int16_t kMaxKey = 0x7BFF;

HWY_INLINE I16 LoadKeys(const uint16_t* p) {
  const I16Tag di;
  const I16 bits = hn::BitCast(di, hn::LoadU(U16Tag(), p));
  const I16 sign = hn::ShiftRight<15>(bits);
  const I16 magnitude = hn::And(bits, hn::Set(di, int16_t{0x7FFF}));
  return hn::Sub(hn::Xor(magnitude, sign), sign);
}

// The fp16 of each key; of the two zeros it is +0.
HWY_INLINE void StoreKeysAsHalf(I16 keys, uint16_t* p) {
  const I16Tag di;
  const I16 sign = hn::And(keys, hn::Set(di, static_cast<int16_t>(0x8000)));
  hn::StoreU(hn::BitCast(U16Tag(), hn::Or(hn::Abs(keys), sign)), U16Tag(), p);
}

// A sum in fp64 of vectors of fp32.
class WideSum {
 public:
  HWY_INLINE WideSum() : low_(hn::Zero(F64Tag())), high_(hn::Zero(F64Tag())) {}

  HWY_INLINE void Add(F32 v) {
    low_ = hn::Add(low_, hn::PromoteTo(F64Tag(), hn::LowerHalf(HalfTag(), v)));
    high_ = hn::Add(high_, hn::PromoteTo(F64Tag(), hn::UpperHalf(HalfTag(), v)));
  }
  HWY_INLINE double Total() const {
    return hn::GetLane(hn::SumOfLanes(F64Tag(), hn::Add(low_, high_)));
  }

 private:
  using HalfTag = hn::Half<F32Tag>;
  using F64Tag = hn::Rebind<double, HalfTag>;
  hn::Vec<F64Tag> low_, high_;
};

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_PACK_HALF_H_
