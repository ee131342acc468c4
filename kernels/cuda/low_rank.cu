// Low-rank factors of a residual by power iteration: E ~ A B^T, with the bits of
// kernels/reference/lowrank.cc, which says what each step is. Sums run in the order that it fixes.
//
// A thread block for each head. A lies in shared memory where it fits; E is read twice a sweep from
// L2 or device memory.
#include "kernels/cuda/seal.cuh"

#include "kernels/reference/start.h"

namespace kvg::cuda {
namespace {

constexpr uint32_t kThreads = 512;
constexpr uint32_t kMostShared = 160 * 1024;
constexpr uint32_t kUnrolled = 16;  // tokens whose rows are on their way at once

// Half a warp: 16 partial sums of the products whose index is the same modulo 16, folded in halves.
// The result is in lane 0 of the half.
__device__ inline float FoldSixteen(float sum) {
#pragma unroll
  for (uint32_t half = 8; half > 0; half /= 2) sum += __shfl_down_sync(~0u, sum, half, 16);
  return sum;
}

// For the first warp alone; the result goes to *out.
__device__ void Dot(const float* x, const float* y, uint32_t n, float* out) {
  if (threadIdx.x < 32) {
    float sum = 0;
    if (threadIdx.x < 16) {
#pragma unroll 8
      for (uint32_t i = threadIdx.x; i < n; i += 16) sum += x[i] * y[i];
    }
    sum = FoldSixteen(sum);
    if (threadIdx.x == 0) *out = sum;
  }
  __syncthreads();
}

__device__ void Orthonormalise(float* columns, uint32_t rank, uint32_t n, uint32_t stride,
                               float* shared) {
  for (uint32_t c = 0; c < rank; ++c) {
    float* const column = columns + uint64_t{c} * stride;
    Dot(column, column, n, shared);
    const float before = __fsqrt_rn(*shared);
    __syncthreads();
    for (uint32_t pass = 0; pass < 2; ++pass) {
      for (uint32_t p = 0; p < c; ++p) {
        const float* const other = columns + uint64_t{p} * stride;
        Dot(other, column, n, shared);
        const float share = *shared;
        for (uint32_t i = threadIdx.x; i < n; i += kThreads) column[i] -= share * other[i];
        __syncthreads();
      }
    }
    Dot(column, column, n, shared);
    const float after = __fsqrt_rn(*shared);
    const float factor = after > reference::kDependent * before ? __fdiv_rn(1.0f, after) : 0.0f;
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < n; i += kThreads) column[i] *= factor;
    __syncthreads();
  }
}

__device__ float MaxAbs(const float* x, uint32_t n, float* shared) {
  float most = 0;
  for (uint32_t i = threadIdx.x; i < n; i += kThreads) most = fmaxf(most, fabsf(x[i]));
  for (uint32_t step = 16; step > 0; step /= 2) {
    most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = most;
  __syncthreads();
  for (uint32_t warp = 0; warp < kThreads / 32; ++warp) most = fmaxf(most, shared[warp]);
  return most;
}

template <uint32_t kJobs>
__global__ void __launch_bounds__(kThreads)
    LowRankKernel(const __grid_constant__ Batch<kJobs> batch,
                  const __grid_constant__ SealShape shape, bool a_shared) {
  extern __shared__ float memory[];
  __shared__ float few[32];
  const ops::SealOut& out = batch.job[blockIdx.y].out;
  const uint32_t head = blockIdx.x;
  const uint32_t rank = shape.spec.rank, dim = shape.head_dim, dirs = shape.dirs;
  const auto tokens = static_cast<uint32_t>(shape.tokens);
  const auto stride = static_cast<uint32_t>(shape.padded_tokens);
  const float* const e = shape.Residual(blockIdx.y, head);
  float* const b = memory;  // [rank][dirs]
  float* const a = a_shared ? memory + rank * dirs : shape.A(blockIdx.y, head);  // [rank][stride]
  for (uint32_t i = threadIdx.x; i < rank * dirs; i += kThreads) {
    const uint32_t r = i / dirs, d = i % dirs;
    b[i] = d < dim ? reference::PowerStart(batch.job[blockIdx.y].args.spec.seed, head, r, d) : 0.0f;
  }
  __syncthreads();
  const uint32_t lane = threadIdx.x % 16;
  for (uint32_t sweep = 0; sweep < shape.spec.sweeps; ++sweep) {
    // A = E B: half a warp for each token. All lanes of a warp stay together, for the folding.
    for (uint32_t first = threadIdx.x / 32 * 2; first < tokens; first += kThreads / 16) {
      const uint32_t t = first + threadIdx.x / 16 % 2;
      const float* const row = e + uint64_t{min(t, tokens - 1)} * dirs;
      float x[ops::kMaxHeadDim / 16];
#pragma unroll
      for (uint32_t i = 0; i < ops::kMaxHeadDim / 16; ++i) {
        const uint32_t d = i * 16 + lane;
        x[i] = d < dim ? row[d] : 0.0f;
      }
      for (uint32_t r = 0; r < rank; ++r) {
        float sum = 0;
#pragma unroll
        for (uint32_t i = 0; i < ops::kMaxHeadDim / 16; ++i) {
          const uint32_t d = i * 16 + lane;
          if (d < dim) sum += x[i] * b[r * dirs + d];
        }
        sum = FoldSixteen(sum);
        if (lane == 0 && t < tokens) a[r * stride + t] = sum;
      }
    }
    __syncthreads();
    Orthonormalise(a, rank, tokens, stride, few);
    // B = E^T A: a thread for each direction and some of the columns, tokens in ascending order.
    for (uint32_t i = threadIdx.x; i < rank * dirs; i += kThreads) {
      const uint32_t r = i / dirs, d = i % dirs;
      const float* const column = a + r * stride;
      const float* const from = e + d;
      float sum = 0;
      uint32_t t = 0;
      for (; t + kUnrolled <= tokens; t += kUnrolled) {
        float x[kUnrolled];
#pragma unroll
        for (uint32_t j = 0; j < kUnrolled; ++j) x[j] = from[uint64_t{t + j} * dirs];
#pragma unroll
        for (uint32_t j = 0; j < kUnrolled; ++j) sum += column[t + j] * x[j];
      }
      for (; t < tokens; ++t) sum += column[t] * from[uint64_t{t} * dirs];
      b[i] = sum;
    }
    __syncthreads();
  }
  for (uint32_t r = 0; r < rank; ++r) {
    const float* const column = a + r * stride;
    const float* const row = b + r * dirs;
    const float max_a = MaxAbs(column, tokens, few);
    const float max_b = MaxAbs(row, dim, few);
    const bool empty = max_a == 0 || max_b == 0;
    const int shift = empty ? 0 : (ilogbf(max_b) - ilogbf(max_a)) / 2;
    const float factor_a = ldexpf(1.0f, shift), factor_b = ldexpf(1.0f, -shift);
    const uint64_t at = uint64_t{head} * rank + r;
    for (uint32_t t = threadIdx.x; t < out.padded_tokens; t += kThreads) {
      out.a[at * out.padded_tokens + t] = t < tokens ? FloatToHalfSaturate(column[t] * factor_a) : 0;
    }
    for (uint32_t d = threadIdx.x; d < dirs; d += kThreads) {
      out.b[at * dirs + d] = d < dim ? FloatToHalfSaturate(row[d] * factor_b) : 0;
    }
  }
}

}  // namespace

template <uint32_t kJobs>
cudaError_t FitLowRank(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                       cudaStream_t stream) {
  const uint64_t of_b = uint64_t{shape.spec.rank} * shape.dirs * sizeof(float);
  const uint64_t of_a = shape.spec.rank * shape.padded_tokens * sizeof(float);
  const bool a_shared = of_a + of_b <= kMostShared;
  LowRankKernel<kJobs><<<dim3(shape.kv_heads, jobs), kThreads, of_b + (a_shared ? of_a : 0), stream>>>(
      batch, shape, a_shared);
  return cudaGetLastError();
}
KVG_SEAL_INSTANTIATE(FitLowRank)

cudaError_t PrepareFitLowRank() {
  const auto allow = [](auto kernel) {
    return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kMostShared);
  };
  const cudaError_t error = allow(LowRankKernel<1>);
  return error == cudaSuccess ? allow(LowRankKernel<kMostJobs>) : error;
}

}  // namespace kvg::cuda
