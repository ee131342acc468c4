// Scales and minima of one block, widened to fp32: what quantising and decoding multiply with.
//
// Included once per Highway target by seal.cc and read.cc.
#if defined(KVG_KERNELS_CPU_PACK_SCALE_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVG_KERNELS_CPU_PACK_SCALE_H_
#undef KVG_KERNELS_CPU_PACK_SCALE_H_
#else
#define KVG_KERNELS_CPU_PACK_SCALE_H_
#endif

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/pack_half.h"
#include "kernels/ops.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE::codec {

// Channel axis: [direction]. Token axis: [group * kBlockTokens + token in the block].
inline constexpr size_t kMaxBlockScales =
    ops::kMaxHeadDim / ops::kTileDirs * size_t{ops::kBlockTokens};
struct alignas(ops::kAlign) BlockScales {
  float scale[kMaxBlockScales];
  float minimum[kMaxBlockScales];
  float inverse[kMaxBlockScales];  // 1 / scale; 0 where the scale is 0
};

// Groups of directions of one token.
inline constexpr uint32_t TokenGroups(uint32_t head_dim, uint32_t group) {
  return group >= head_dim ? 1 : (head_dim + group - 1) / group;
}

// Widens n scales (a multiple of 16) to entries `at` and following.
HWY_INLINE void WidenScales(const uint16_t* scale, const uint16_t* minimum, size_t n, size_t at,
                            BlockScales* to) {
  const F32Tag df;
  for (size_t i = 0; i < n; i += kF32Lanes) {
    const F32 s = LoadHalf(scale + i);
    const F32 inverse = hn::Div(hn::Set(df, 1.0f), s);
    hn::Store(s, df, to->scale + at + i);
    hn::Store(LoadHalf(minimum + i), df, to->minimum + at + i);
    hn::Store(hn::IfThenElseZero(hn::Gt(s, hn::Zero(df)), inverse), df, to->inverse + at + i);
  }
}

// The scales that hold for block `block` of a head whose first scale is scale[0].
HWY_INLINE void LoadBlockScales(ops::Axis axis, uint32_t group, uint32_t head_dim, uint32_t dirs,
                                const uint16_t* scale, const uint16_t* minimum,
                                uint64_t group_stride, uint64_t block, BlockScales* to) {
  if (axis == ops::kAxisChannel) {
    const uint64_t first = block * ops::kBlockTokens / group * group_stride;
    WidenScales(scale + first, minimum + first, dirs, 0, to);
    return;
  }
  const uint32_t groups = TokenGroups(head_dim, group);
  for (uint32_t g = 0; g < groups; ++g) {
    const uint64_t first = g * group_stride + block * ops::kBlockTokens;
    WidenScales(scale + first, minimum + first, ops::kBlockTokens, g * ops::kBlockTokens, to);
  }
}

// Index of the first scale of a tile in BlockScales: one per direction, or one per token.
HWY_INLINE size_t TileScales(ops::Axis axis, uint32_t group, uint32_t tile) {
  const size_t direction = size_t{tile} * ops::kTileDirs;
  return axis == ops::kAxisChannel ? direction : direction / group * ops::kBlockTokens;
}

}  // namespace kvg::cpu::HWY_NAMESPACE::codec
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET

#endif  // KVG_KERNELS_CPU_PACK_SCALE_H_
