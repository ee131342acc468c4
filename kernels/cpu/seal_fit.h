// Scales and minima of least squared error, a vector of channels at a time: kernels/fit.h.
//
// Included once per Highway target by seal.cc. Each lane does what the reference does, in its order.
#if defined(KVG_KERNELS_CPU_SEAL_FIT_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_SEAL_FIT_H_
#undef KVG_KERNELS_CPU_SEAL_FIT_H_
#else
#define KVG_KERNELS_CPU_SEAL_FIT_H_
#endif

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/pack_half.h"
#include "kernels/cpu/pack_tile.h"
#include "kernels/cpu/seal_range.h"
#include "kernels/fit.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// The reference's Line for a vector of groups.
struct FitLine {
  F32 scale, minimum, inverse;
  F32 error, codes, squares, products;

  HWY_INLINE FitLine() {}
  HWY_INLINE FitLine(F32 wanted_scale, F32 wanted_minimum) {
    const F32Tag df;
    scale = Rounded(wanted_scale);
    minimum = Rounded(wanted_minimum);
    inverse = hn::IfThenElseZero(hn::Gt(scale, hn::Zero(df)), hn::Div(hn::Set(df, 1.0f), scale));
    error = codes = squares = products = hn::Zero(df);
  }

  static HWY_INLINE F32 Rounded(F32 v) {
    alignas(ops::kAlign) uint16_t half[kF32Lanes];
    StoreHalfSaturated(v, half);
    return LoadHalf(half);
  }

  HWY_INLINE void Add(F32 x, F32 around, F32 levels, hn::Mask<F32Tag> counts) {
    const F32Tag df;
    const F32 steps = hn::Mul(hn::Sub(x, minimum), inverse);
    const F32 inside = hn::Min(hn::Max(steps, hn::Zero(df)), levels);
    const F32 code = hn::IfThenElseZero(counts, hn::Round(inside));
    const F32 left =
        hn::IfThenElseZero(counts, hn::Sub(x, hn::Add(hn::Mul(scale, code), minimum)));
    error = hn::Add(error, hn::Mul(left, left));
    codes = hn::Add(codes, code);
    squares = hn::Add(squares, hn::Mul(code, code));
    products = hn::Add(products, hn::Mul(code, around));
  }

  HWY_INLINE void TakeIf(hn::Mask<F32Tag> better, const FitLine& other) {
    scale = hn::IfThenElse(better, other.scale, scale);
    minimum = hn::IfThenElse(better, other.minimum, minimum);
    error = hn::IfThenElse(better, other.error, error);
    codes = hn::IfThenElse(better, other.codes, codes);
    squares = hn::IfThenElse(better, other.squares, squares);
    products = hn::IfThenElse(better, other.products, products);
  }
};

// `for_entries` calls its argument with (x, mask of the lanes that count) for all tokens of the
// groups, in ascending order.
template <typename ForEntries>
HWY_INLINE void FitLeast(const ForEntries& for_entries, uint32_t width, uint16_t* scale,
                         uint16_t* minimum) {
  const F32Tag df;
  const F32 zero = hn::Zero(df);
  const F32 one = hn::Set(df, 1.0f);
  const auto levels_of_width = static_cast<float>((1u << width) - 1);
  const F32 levels = hn::Set(df, levels_of_width);
  F32 count = zero, sum = zero;
  F32 low = hn::Set(df, kF16Max), high = hn::Set(df, -kF16Max);
  for_entries([&](F32 x, hn::Mask<F32Tag> counts) {
    count = hn::Add(count, hn::IfThenElseZero(counts, one));
    sum = hn::Add(sum, hn::IfThenElseZero(counts, x));
    low = hn::IfThenElse(counts, hn::Min(low, x), low);
    high = hn::IfThenElse(counts, hn::Max(high, x), high);
  });
  const auto any = hn::Gt(count, zero);
  const F32 n = hn::IfThenElse(any, count, one);
  low = hn::IfThenElseZero(any, low);
  high = hn::IfThenElseZero(any, high);
  const F32 mean = hn::Div(sum, n);
  F32 around = zero, spread = zero;
  for_entries([&](F32 x, hn::Mask<F32Tag> counts) {
    const F32 from_mean = hn::IfThenElseZero(counts, hn::Sub(x, mean));
    around = hn::Add(around, from_mean);
    spread = hn::Add(spread, hn::Mul(from_mean, from_mean));
  });
  const F32 unit = hn::Mul(hn::Sqrt(hn::Div(spread, n)), hn::Set(df, ops::kGaussStep[width]));
  const F32 half_levels = hn::Set(df, levels_of_width * 0.5f);
  FitLine lines[ops::kFitCandidates];
  lines[0] = FitLine(hn::Div(hn::Sub(high, low), levels), low);
  for (size_t i = 1; i < ops::kFitCandidates; ++i) {
    const F32 step = hn::Mul(unit, hn::Set(df, ops::kFitSteps[i - 1]));
    lines[i] = FitLine(step, hn::Sub(mean, hn::Mul(step, half_levels)));
  }
  for_entries([&](F32 x, hn::Mask<F32Tag> counts) {
    const F32 from_mean = hn::Sub(x, mean);
    for (FitLine& line : lines) line.Add(x, from_mean, levels, counts);
  });
  FitLine best = lines[0];
  for (size_t i = 1; i < ops::kFitCandidates; ++i) {
    best.TakeIf(hn::Lt(lines[i].error, best.error), lines[i]);
  }
  auto going_on = any;
  for (uint32_t round = 0; round < ops::kFitRounds; ++round) {
    const F32 centre = hn::Div(best.codes, n);
    const F32 codes_spread = hn::Sub(best.squares, hn::Mul(centre, best.codes));
    going_on = hn::And(going_on, hn::Gt(codes_spread, zero));
    const F32 slope = hn::Div(hn::Sub(best.products, hn::Mul(centre, around)),
                              hn::IfThenElse(going_on, codes_spread, one));
    going_on = hn::And(going_on, hn::Gt(slope, zero));
    FitLine line(hn::IfThenElseZero(going_on, slope),
                 hn::Add(mean, hn::Sub(hn::Div(around, n), hn::Mul(slope, centre))));
    for_entries([&](F32 x, hn::Mask<F32Tag> counts) {
      line.Add(x, hn::Sub(x, mean), levels, counts);
    });
    going_on = hn::And(going_on, hn::Lt(line.error, best.error));
    best.TakeIf(going_on, line);
  }
  StoreHalfSaturated(best.scale, scale);
  StoreHalfSaturated(hn::Add(best.minimum, zero), minimum);  // -0 becomes 0
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_SEAL_FIT_H_
