// Attend on CUDA: the instructions that the kernel is built of, and codes to halves.
//
// Included by attend_kernel.cuh and the files it is made of. A warp works on a block of 32 tokens.
// Lane 4 g + t (g < 8, t < 4) plays these parts in a multiplication by mma.m16n8k16:
//   A   rows g and g + 8, columns in pairs      B   column g, rows in pairs
//   C   rows g and g + 8, columns 2 t and 2 t + 1
// Rows of A and pairs of the inner dimension may be taken in any order that both factors share, so
// they are taken in the order in which a lane finds them in a few whole words of the tiles.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_MATH_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_MATH_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/ops.h"

namespace kvg::cuda {

inline constexpr uint32_t kAllLanes = 0xFFFFFFFFu;

// ops::PadDirs, which device code may not call.
__host__ __device__ constexpr uint32_t PaddedDirs(uint32_t head_dim) {
  return (head_dim + ops::kTileDirs - 1) / ops::kTileDirs * ops::kTileDirs;
}

__device__ __forceinline__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes to shared memory, done later; `valid` of them, or all, are read, the rest becomes zero.
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from, uint32_t valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid)
               : "memory");
}
__device__ __forceinline__ void CopyAsync(uint32_t to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void CopyAsync8(uint32_t to, const void* from) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(to), "l"(from) : "memory");
}
__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until at most kPending of this lane's newest groups are under way.
template <int kPending>
__device__ __forceinline__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// c += a b, fp16 factors and fp32 sums.
__device__ __forceinline__ void Mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
  asm(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// An 8 x 8 matrix of halves, a row to 4 lanes and a pair to each, becomes its transpose.
__device__ __forceinline__ uint32_t Transpose(uint32_t x) {
  uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t Bits(half2 x) { return *reinterpret_cast<uint32_t*>(&x); }
__device__ __forceinline__ half2 Halves(uint32_t x) { return *reinterpret_cast<half2*>(&x); }
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  return Bits(__floats2half2_rn(low, high));
}
__device__ __forceinline__ uint32_t Times(uint32_t x, uint32_t y) {
  return Bits(__hmul2(Halves(x), Halves(y)));
}
__device__ __forceinline__ float FromHalf(uint16_t x) { return __half2float(__ushort_as_half(x)); }

// Codes become fp16 numbers by a mask alone: bits of the mantissa below an exponent of 0 are a
// number times 2^-24, and the tensor cores take these as exactly as any. A pair of codes that stands
// further up in its halves stands for more; CodeSums evens that out.
inline constexpr float kCodeUnit = 16777216.0f;

// How far up LoadCodes leaves pair p of 4.
template <int kWidth>
__host__ __device__ constexpr int CodeShift(int p) {
  return kWidth == 4 ? p % 2 * 4 : kWidth == 2 || kWidth == 1 ? p * kWidth : 0;
}

// Reads of shared memory by 32-bit address: a lane's base and offsets known to the compiler.
__device__ __forceinline__ uint4 Load16(uint32_t at) {
  uint4 x;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
               : "r"(at));
  return x;
}
__device__ __forceinline__ uint2 Load8(uint32_t at) {
  uint2 x;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "r"(at));
  return x;
}

__device__ __forceinline__ uint32_t LoadByte(uint32_t at) {
  uint32_t x;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(x) : "r"(at));
  return x;
}
__device__ __forceinline__ uint32_t LoadHalf(uint32_t at) {
  uint16_t x;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(x) : "r"(at));
  return x;
}
__device__ __forceinline__ void StoreHalf(uint32_t at, uint32_t x) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(at), "h"(static_cast<uint16_t>(x)) : "memory");
}

// Keeps a number in its register: the compiler would rather compute it anew each time.
__device__ __forceinline__ uint32_t Keep(uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// Where a lane finds its share of a tile of codes: pairs `pair` .. pair + 3 of words 4 quad ..
// 4 quad + 3 of the rows; pair is a multiple of 4.
template <int kWidth>
struct CodeLane {
  static constexpr int kLowBits = kWidth == 6 ? 4 : kWidth == 3 ? 2 : kWidth;
  static constexpr int kHighBits = kWidth - kLowBits;  // of a second plane
  uint32_t low, low_shift, high, high_shift;           // bytes from the tile's start; bits

  __device__ __forceinline__ CodeLane(uint32_t tile_bytes, uint32_t pair, uint32_t quad) {
    low = Keep(tile_bytes + pair / (16 / kLowBits) * 64 + quad * 16);
    low_shift = Keep(kLowBits * (pair % (16 / kLowBits)));
    if constexpr (kHighBits > 0) {
      high = Keep(tile_bytes + 64 * kLowBits + pair / (16 / kHighBits) * 64 + quad * 16);
      high_shift = Keep(kHighBits * (pair % (16 / kHighBits)));
    }
  }
};

// A lane's share of a tile: out[j][p] holds pair `pair` + p of word 4 quad + j, as halves.
template <int kWidth>
__device__ __forceinline__ void LoadCodes(uint32_t tile, const CodeLane<kWidth>& lane,
                                          uint32_t (&out)[4][4]) {
  const uint4 words = Load16(tile + lane.low);
  const uint32_t word[4] = {words.x, words.y, words.z, words.w};
  if constexpr (kWidth == 8) {
    const uint4 more = Load16(tile + lane.low + 64);
    const uint32_t next[4] = {more.x, more.y, more.z, more.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      out[j][0] = word[j] & 0x00FF00FFu;
      out[j][1] = word[j] >> 8 & 0x00FF00FFu;
      out[j][2] = next[j] & 0x00FF00FFu;
      out[j][3] = next[j] >> 8 & 0x00FF00FFu;
    }
  } else if constexpr (kWidth == 4) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t x = word[j], y = x >> 8;
      out[j][0] = x & 0x000F000Fu;
      out[j][1] = x & 0x00F000F0u;
      out[j][2] = y & 0x000F000Fu;
      out[j][3] = y & 0x00F000F0u;
    }
  } else if constexpr (kWidth == 2 || kWidth == 1) {
    constexpr uint32_t mask = kWidth == 2 ? 0x00030003u : 0x00010001u;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t x = word[j] >> lane.low_shift;
#pragma unroll
      for (int p = 0; p < 4; ++p) out[j][p] = x & mask << (kWidth * p);
    }
  } else {
    // Two planes: the low one as above, and the high one moved to its place above it.
    constexpr int low_bits = CodeLane<kWidth>::kLowBits, high_bits = CodeLane<kWidth>::kHighBits;
    constexpr uint32_t low_mask = kWidth == 6 ? 0x000F000Fu : 0x00030003u;
    constexpr uint32_t high_mask = kWidth == 6 ? 0x00300030u : 0x00040004u;
    const uint4 more = Load16(tile + lane.high);
    const uint32_t high[4] = {more.x, more.y, more.z, more.w};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint32_t x = word[j] >> lane.low_shift, y = high[j] >> lane.high_shift;
#pragma unroll
      for (int p = 0; p < 4; ++p) {
        const int up = low_bits - high_bits * p;  // from where the high bits are to their place
        const uint32_t moved = up >= 0 ? y << up : y >> -up;
        out[j][p] = (moved & high_mask) | (x >> (low_bits * p) & low_mask);
      }
    }
  }
}

// c0, c1: 32 rows, in the order of a lane's 4 (j), times 32 of the inner dimension.
__device__ __forceinline__ void MmaBlock(float (&c0)[4], float (&c1)[4], const uint32_t (&a)[4][4],
                                         uint32_t b0, uint32_t b1, uint32_t b2, uint32_t b3) {
  Mma(c0, a[0][0], a[1][0], a[0][1], a[1][1], b0, b1);
  Mma(c1, a[2][0], a[3][0], a[2][1], a[3][1], b0, b1);
  Mma(c0, a[0][2], a[1][2], a[0][3], a[1][3], b2, b3);
  Mma(c1, a[2][2], a[3][2], a[2][3], a[3][3], b2, b3);
}

// Sums of products with codes as LoadCodes leaves them: those of pairs that stand equally far up, or
// whose second factors make up for it, in one of two sets.
struct CodeSums {
  float c[2][2][4] = {};  // [set][m]: rows as in MmaBlock

  // In units of kCodeUnit.
  template <int kWidth>
  __device__ __forceinline__ float Sum(int m, int k) const {
    return fmaf(c[1][m][k], 1.0f / static_cast<float>(1 << CodeShift<kWidth>(kWidth == 4 ? 1 : 2)),
                c[0][m][k]);
  }
  template <int kWidth>
  __device__ __forceinline__ void AddTo(float& sum, int m, int k) const {
    constexpr float unit = kCodeUnit / static_cast<float>(1 << CodeShift<kWidth>(kWidth == 4 ? 1 : 2));
    sum = fmaf(c[0][m][k], kCodeUnit, fmaf(c[1][m][k], unit, sum));
  }
};

template <int kWidth>
__device__ __forceinline__ void MmaCodes(CodeSums& sums, const uint32_t (&a)[4][4], uint32_t b0,
                                         uint32_t b1, uint32_t b2, uint32_t b3) {
  constexpr int second = kWidth == 4 ? 2 : 1, third = kWidth == 4 ? 1 : 2;
  if constexpr (CodeShift<kWidth>(1) > 0 && kWidth != 4) {
    constexpr uint32_t down = static_cast<uint32_t>(15 - CodeShift<kWidth>(1)) << 10;
    b1 = Times(b1, down * 0x10001u);
    b3 = Times(b3, down * 0x10001u);
  }
  const uint32_t b[4] = {b0, b1, b2, b3};
#pragma unroll
  for (int m = 0; m < 2; ++m) {
    Mma(sums.c[0][m], a[2 * m][0], a[2 * m + 1][0], a[2 * m][second], a[2 * m + 1][second], b[0],
        b[second]);
    Mma(sums.c[1][m], a[2 * m][third], a[2 * m + 1][third], a[2 * m][3], a[2 * m + 1][3], b[third],
        b[3]);
  }
}

__device__ __forceinline__ float LoadElement(const void* base, ops::DType dtype, int64_t i) {
  if (dtype == ops::kF32) return static_cast<const float*>(base)[i];
  if (dtype == ops::kF16) return __half2float(static_cast<const half*>(base)[i]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(base)[i]);
}

__device__ __forceinline__ void StoreElement(void* base, ops::DType dtype, int64_t i, float x) {
  if (dtype == ops::kF32) {
    static_cast<float*>(base)[i] = x;
  } else if (dtype == ops::kF16) {
    static_cast<half*>(base)[i] = __float2half_rn(x);
  } else {
    static_cast<__nv_bfloat16*>(base)[i] = __float2bfloat16_rn(x);
  }
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_MATH_CUH_
