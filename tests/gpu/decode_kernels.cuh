// What a decode step of a transformer does beside products and attention: norms, rotation, gates.
//
// Included by decode_bench.cu. Rows are sequences; sums are fp32.
#ifndef KVGEAR_TESTS_GPU_DECODE_KERNELS_CUH_
#define KVGEAR_TESTS_GPU_DECODE_KERNELS_CUH_

#include <cuda_fp16.h>

#include <cstdint>

namespace decode {

// Random numbers of deviation `deviation`, the same for the same seed: sums of four uniform ones.
__global__ void RandomKernel(__half* x, uint64_t count, uint64_t seed, float deviation) {
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < count;
       i += uint64_t{gridDim.x} * blockDim.x) {
    uint64_t z = (i + seed * 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 30)) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    float sum = 0;
    for (int part = 0; part < 4; ++part) sum += static_cast<float>(z >> (16 * part) & 0xFFFF);
    // Each has mean 32767.5 and variance 65536^2 / 12.
    x[i] = __float2half((sum - 131070.0f) * (deviation / 37837.2f));
  }
}

__device__ inline float BlockSum(float x) {
  __shared__ float sums[32];
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = x;
  __syncthreads();
  float sum = 0;
  for (uint32_t warp = 0; warp < blockDim.x / 32; ++warp) sum += sums[warp];
  return sum;
}

// out = x / rms(x); a block for each row. The weights of the norm would be ones.
__global__ void NormKernel(const __half* x, __half* out, uint32_t width) {
  const __half* const row = x + uint64_t{blockIdx.x} * width;
  float sum = 0;
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
    const float value = __half2float(row[i]);
    sum += value * value;
  }
  const float scale = rsqrtf(BlockSum(sum) / static_cast<float>(width) + 1e-5f);
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
    out[uint64_t{blockIdx.x} * width + i] = __float2half(__half2float(row[i]) * scale);
  }
}

// Rotates the first `heads` heads of each row by `position`; a block for each row and head.
__global__ void RotateKernel(__half* x, uint32_t row_width, uint32_t head_dim, uint32_t position) {
  __half* const head = x + uint64_t{blockIdx.x} * row_width + uint64_t{blockIdx.y} * head_dim;
  const uint32_t i = threadIdx.x, half = head_dim / 2;
  if (i >= half) return;
  const float angle = static_cast<float>(position) *
                      exp2f(-13.2877f * static_cast<float>(i) / static_cast<float>(half));  // 10000^-
  float sine, cosine;
  sincosf(angle, &sine, &cosine);
  const float a = __half2float(head[i]), b = __half2float(head[i + half]);
  head[i] = __float2half(a * cosine - b * sine);
  head[i + half] = __float2half(b * cosine + a * sine);
}

// out = silu(gate) * up, where a row of x holds gate, then up.
__global__ void GateKernel(const __half* x, __half* out, uint32_t width) {
  const __half* const row = x + uint64_t{blockIdx.y} * 2 * width;
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= width) return;
  const float gate = __half2float(row[i]);
  out[uint64_t{blockIdx.y} * width + i] =
      __float2half(gate / (1 + __expf(-gate)) * __half2float(row[width + i]));
}

// The row of the embedding that belongs to the largest logit of each row: the greedy next token.
__global__ void NextKernel(const __half* logits, uint32_t vocabulary, const __half* embedding,
                           __half* x, uint32_t width) {
  __shared__ float best[1024];
  __shared__ uint32_t where[1024];
  float most = -INFINITY;
  uint32_t at = 0;
  for (uint32_t i = threadIdx.x; i < vocabulary; i += blockDim.x) {
    const float value = __half2float(logits[uint64_t{blockIdx.x} * vocabulary + i]);
    if (value > most) {
      most = value;
      at = i;
    }
  }
  best[threadIdx.x] = most;
  where[threadIdx.x] = at;
  __syncthreads();
  for (uint32_t step = blockDim.x / 2; step > 0; step /= 2) {
    if (threadIdx.x < step && best[threadIdx.x + step] > best[threadIdx.x]) {
      best[threadIdx.x] = best[threadIdx.x + step];
      where[threadIdx.x] = where[threadIdx.x + step];
    }
    __syncthreads();
  }
  for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
    x[uint64_t{blockIdx.x} * width + i] = embedding[uint64_t{where[0]} * width + i];
  }
}

}  // namespace decode

#endif  // KVGEAR_TESTS_GPU_DECODE_KERNELS_CUH_
