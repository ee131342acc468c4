// What the steps of sealing share: a batch of jobs, the shape they have in common, scratch memory.
//
// The steps, each a kernel over all jobs of a batch:
//   outliers.cu   mark the entries to be kept exact, count them
//   quantise.cu   scales, codes; the residual where a low-rank part follows
//   low_rank.cu   factors of the residual
//   finish.cu     values of the outliers, measured error
// With a map map.cu comes first, whose result is what the others seal, and last, with the error as
// those see it who do not know of the map.
// All are compiled without fused multiply-add, so that codes, scales, factors and outliers have the
// bits of kernels/reference.
#ifndef KVGEAR_KERNELS_CUDA_SEAL_CUH_
#define KVGEAR_KERNELS_CUDA_SEAL_CUH_

#include "kernels/cuda/common.cuh"
#include "kernels/plugin.h"

namespace kvg::cuda {

// Jobs travel as a kernel parameter, so nothing has to be copied to the device first.
inline constexpr uint32_t kMostJobs = 64;
template <uint32_t kJobs>
struct Batch {
  ops::DeviceSealJob job[kJobs];
};

// What all jobs of a batch have in common, and where their parts of the scratch memory lie.
struct SealShape {
  ops::SealSpec spec;  // but for the seed, which differs
  uint32_t kv_heads, head_dim, dirs, tiles;
  uint64_t tokens;         // of each job
  uint64_t at;             // of each job
  uint64_t padded_tokens;  // of `tokens`
  uint64_t first_block, blocks;  // to be written, of the segment
  uint32_t unit_tokens;    // of one thread block of quantise.cu
  uint32_t units;
  uint32_t finish_units;   // thread blocks of finish.cu for a head, 0 where it has nothing to do
  bool ranged;             // scales were found by a kernel of their own
  uint32_t map_block;      // of the Hadamard map, 0 = none
  // Byte offsets from the start of a job's scratch memory.
  uint64_t bits;      // uint16 [kv_heads][tiles][padded_tokens]
  uint64_t residual;  // float [kv_heads][padded_tokens][dirs]
  uint64_t a;         // float [kv_heads][rank][padded_tokens]
  uint64_t sums;      // double [kv_heads][units + finish_units][2]
  uint64_t mapped;    // uint16 [kv_heads][tokens][head_dim]
  uint64_t job_bytes;
  uint8_t* scratch;

  __device__ uint16_t* Bits(uint32_t job) const {
    return spec.outliers == 0 ? nullptr
                              : reinterpret_cast<uint16_t*>(scratch + job * job_bytes + bits);
  }
  __device__ float* Residual(uint32_t job, uint32_t head) const {
    return reinterpret_cast<float*>(scratch + job * job_bytes + residual) +
           head * padded_tokens * dirs;
  }
  __device__ float* A(uint32_t job, uint32_t head) const {
    return reinterpret_cast<float*>(scratch + job * job_bytes + a) +
           head * spec.rank * padded_tokens;
  }
  __device__ double* Sums(uint32_t job, uint32_t head, uint32_t unit) const {
    return reinterpret_cast<double*>(scratch + job * job_bytes + sums) +
           (head * (units + finish_units) + unit) * 2;
  }
};

// fp16 numbers as integers in the same order; both zeros are one.
__device__ inline uint32_t KeyOf(uint16_t h) {
  return h & 0x8000u ? 0x8000u - (h & 0x7FFFu) : 0x8000u + h;
}
__device__ inline float ValueOfKey(uint32_t key) {
  return HalfToFloat(static_cast<uint16_t>(key >= 0x8000u ? key - 0x8000u : 0x8000u | (0x8000u - key)));
}
inline constexpr uint32_t kNoLow = 0xFFFF, kNoHigh = 0;  // of a group without entries: low > high

struct Scale {
  float scale, minimum, inverse;
};
__device__ inline Scale ScaleOf(uint16_t scale, uint16_t minimum) {
  const float s = HalfToFloat(scale);
  return {s, HalfToFloat(minimum), s > 0 ? __fdiv_rn(1.0f, s) : 0.0f};
}
// Of a group whose keys reach from low to high.
__device__ inline void StoreScale(uint32_t low, uint32_t high, uint32_t width, uint16_t* scale,
                                  uint16_t* minimum) {
  if (low > high) {
    *scale = *minimum = 0;
    return;
  }
  const float least = ValueOfKey(low);
  const float levels = static_cast<float>((1u << width) - 1);
  *scale = FloatToHalfSaturate(__fdiv_rn(ValueOfKey(high) - least, levels));
  *minimum = FloatToHalf(least + 0.0f);
}
__device__ inline float StepsOf(const Scale& s, float x, float levels) {
  return fminf(fmaxf(rintf((x - s.minimum) * s.inverse), 0.0f), levels);
}

// Sum over the threads of a block of at most 1024, the same whatever runs first; valid in thread 0.
__device__ inline double BlockSum(double x, double* shared) {
  for (uint32_t step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (uint32_t warp = 0; warp < (blockDim.x + 31) / 32; ++warp) sum += shared[warp];
  }
  return sum;
}

// Maps the rows of each job and has the jobs seal the result.
template <uint32_t kJobs>
cudaError_t MapRows(Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape, cudaStream_t stream);
// The sums of each job, from rows of `batch` and from what was sealed of them.
template <uint32_t kJobs>
cudaError_t MeasureMapped(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                          cudaStream_t stream);
template <uint32_t kJobs>
cudaError_t MarkOutliers(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                         cudaStream_t stream);
template <uint32_t kJobs>
cudaError_t Quantise(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                     cudaStream_t stream);
template <uint32_t kJobs>
cudaError_t FitLowRank(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                       cudaStream_t stream);
template <uint32_t kJobs>
cudaError_t Finish(const Batch<kJobs>& batch, uint32_t jobs, const SealShape& shape,
                   cudaStream_t stream);
cudaError_t PrepareMarkOutliers();
cudaError_t PrepareQuantise();
cudaError_t PrepareFitLowRank();

#define KVG_SEAL_INSTANTIATE(function)                                                          \
  template cudaError_t function<1>(const Batch<1>&, uint32_t, const SealShape&, cudaStream_t);  \
  template cudaError_t function<kMostJobs>(const Batch<kMostJobs>&, uint32_t, const SealShape&, \
                                           cudaStream_t);

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_SEAL_CUH_
