// Ingest: the caller's tensor to fp16 rows, with a mark where an element is not finite.
#include "kernels/cuda/operations.h"

#include <algorithm>

#include "kernels/cuda/common.cuh"

namespace kvg::cuda {
namespace {

constexpr uint32_t kEight = 8;  // directions of one thread; head_dim is a multiple

__device__ inline float Load(const void* x, ops::DType dtype, int64_t i) {
  switch (dtype) {
    case ops::kF16:
      return __half2float(static_cast<const __half*>(x)[i]);
    case ops::kBF16:
      return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[i]);
    default:
      return static_cast<const float*>(x)[i];
  }
}

constexpr uint32_t kMostJobs = 64;

// They travel as a kernel parameter.
template <uint32_t kJobs>
struct Jobs {
  ops::DeviceIngestJob job[kJobs];
};

// Columns of thread blocks are jobs. kWide: 16 bytes at once may be read.
template <bool kWide, uint32_t kJobs>
__global__ void IngestKernel(const __grid_constant__ Jobs<kJobs> jobs) {
  const ops::DeviceIngestJob& job = jobs.job[blockIdx.y];
  const ops::IngestArgs& args = job.args;
  const uint32_t eights = args.head_dim / kEight;
  const uint64_t total = args.tokens * args.kv_heads * eights;
  bool bad = false;
  for (uint64_t i = blockIdx.x * uint64_t{blockDim.x} + threadIdx.x; i < total;
       i += uint64_t{gridDim.x} * blockDim.x) {
    const uint32_t eight = static_cast<uint32_t>(i % eights);
    const uint32_t head = static_cast<uint32_t>(i / eights % args.kv_heads);
    const uint64_t token = i / eights / args.kv_heads;
    const int64_t at = static_cast<int64_t>(token) * args.token_stride +
                       static_cast<int64_t>(head) * args.head_stride +
                       static_cast<int64_t>(eight * kEight) * args.dim_stride;
    union {
      uint4 all;
      uint16_t h[kEight];
    } out;
    if (kWide && args.dtype == ops::kF16) {
      out.all = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(args.x) + at);
    } else if (kWide && args.dtype == ops::kBF16) {
      union {
        uint4 all;
        __nv_bfloat16 b[kEight];
      } in;
      in.all = *reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(args.x) + at);
      for (uint32_t j = 0; j < kEight; ++j) out.h[j] = FloatToHalf(__bfloat162float(in.b[j]));
    } else if (kWide) {
      const auto* const from = reinterpret_cast<const float4*>(static_cast<const float*>(args.x) + at);
      const float4 low = from[0], high = from[1];
      const float in[kEight] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      for (uint32_t j = 0; j < kEight; ++j) out.h[j] = FloatToHalf(in[j]);
    } else {
      for (uint32_t j = 0; j < kEight; ++j) {
        out.h[j] = FloatToHalf(Load(args.x, args.dtype, at + j * args.dim_stride));
      }
    }
    for (uint32_t j = 0; j < kEight; ++j) bad |= (out.h[j] & 0x7C00u) == 0x7C00u;
    *reinterpret_cast<uint4*>(args.rows + head * args.rows_head_stride + token * args.head_dim +
                              eight * kEight) = out.all;
  }
  if (bad) {
    volatile uint64_t* const to = job.marked;
    if (*to == 0) *to = job.mark;
  }
}

uint64_t EightsOf(const ops::IngestArgs& args) {
  return args.tokens * args.kv_heads * (args.head_dim / kEight);
}

bool IsWide(const ops::IngestArgs& args) {
  const int64_t size = args.dtype == ops::kF32 ? 4 : 2;
  return args.dim_stride == 1 && reinterpret_cast<uintptr_t>(args.x) % 16 == 0 &&
         args.token_stride * size % 16 == 0 && args.head_stride * size % 16 == 0;
}

template <uint32_t kJobs>
cudaError_t Launch(const ops::DeviceIngestJob* jobs, uint32_t count, cudaStream_t stream) {
  Jobs<kJobs> batch;
  uint64_t most = 0;
  bool wide = true;
  for (uint32_t i = 0; i < count; ++i) {
    batch.job[i] = jobs[i];
    most = std::max(most, EightsOf(jobs[i].args));
    wide = wide && IsWide(jobs[i].args);
  }
  if (most == 0) return cudaSuccess;
  const dim3 grid(static_cast<uint32_t>(std::min<uint64_t>((most + 255) / 256, 4096)), count);
  if (wide) {
    IngestKernel<true, kJobs><<<grid, 256, 0, stream>>>(batch);
  } else {
    IngestKernel<false, kJobs><<<grid, 256, 0, stream>>>(batch);
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t Ingest(const ops::DeviceIngestJob* jobs, uint32_t count, cudaStream_t stream) {
  for (uint32_t first = 0; first < count; first += kMostJobs) {
    const uint32_t some = std::min(kMostJobs, count - first);
    const cudaError_t error = some == 1 ? Launch<1>(jobs + first, 1, stream)
                                        : Launch<kMostJobs>(jobs + first, some, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace kvg::cuda
