// Small things that every file of this folder uses: halves, planes of codes, launches.
#ifndef KVGEAR_KERNELS_CUDA_COMMON_CUH_
#define KVGEAR_KERNELS_CUDA_COMMON_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::cuda {

using ops::kBlockTokens;
using ops::kTileDirs;

__device__ inline float HalfToFloat(uint16_t h) { return __half2float(__ushort_as_half(h)); }
__device__ inline uint16_t FloatToHalf(float f) { return __half_as_ushort(__float2half_rn(f)); }
// What would overflow becomes +-65504.
__device__ inline uint16_t FloatToHalfSaturate(float f) {
  return FloatToHalf(fminf(fmaxf(f, -65504.0f), 65504.0f));
}

// The planes of a width, lowest bits first: 3 is 2 + 1, 6 is 4 + 2, the others are one.
struct Planes {
  uint32_t first, second;  // bits; 0 = none
};
__host__ __device__ inline Planes PlanesOf(uint32_t width) {
  if (width == 3) return {2, 1};
  if (width == 6) return {4, 2};
  return {width, 0};
}

// One code, as kernels/tile.h has it, of a tile of words.
__device__ inline uint32_t CodeOfPlane(const uint32_t* words, uint32_t bits, uint32_t lane,
                                       uint32_t pair, uint32_t hi) {
  const uint32_t per_half = 16 / bits;
  const uint32_t word = words[pair / per_half * 16 + lane];
  return (word >> (bits * (pair % per_half) + 16 * hi)) & ((1u << bits) - 1);
}
__device__ inline uint32_t CodeOf(const uint32_t* tile, uint32_t width, ops::Side side,
                                  uint32_t token, uint32_t direction) {
  if (width == 0) return 0;
  const bool k = side == ops::kSideK;
  const uint32_t lane = k ? token % 16 : direction;
  const uint32_t pair = k ? token / 16 * 8 + direction / 2 : token / 2;
  const uint32_t hi = k ? direction % 2 : token % 2;
  const Planes planes = PlanesOf(width);
  uint32_t code = CodeOfPlane(tile, planes.first, lane, pair, hi);
  if (planes.second != 0) {
    code |= CodeOfPlane(tile + 16 * planes.first, planes.second, lane, pair, hi) << planes.first;
  }
  return code;
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_COMMON_CUH_
