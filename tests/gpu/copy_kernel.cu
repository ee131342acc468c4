// A plain copy, 4 loads of 16 bytes under way in each thread, and a trap.
#include "tests/gpu/copy_kernel.h"

namespace kvg::gpu_test {
namespace {

__global__ void __launch_bounds__(512) Copy(uint4* to, const uint4* from, uint64_t n) {
  const uint64_t step = uint64_t{gridDim.x} * 512;
  uint64_t i = uint64_t{blockIdx.x} * 512 + threadIdx.x;
  for (; i + 3 * step < n; i += 4 * step) {
    uint4 x[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = __ldcs(from + i + k * step);
#pragma unroll
    for (int k = 0; k < 4; ++k) __stcs(to + i + k * step, x[k]);
  }
  for (; i < n; i += step) to[i] = from[i];
}

__global__ void Fault() { __trap(); }

}  // namespace

cudaError_t LaunchFault(cudaStream_t stream) {
  Fault<<<1, 1, 0, stream>>>();
  return cudaGetLastError();
}

cudaError_t LaunchCopy(void* to, const void* from, uint64_t bytes, cudaStream_t stream) {
  Copy<<<132 * 4, 512, 0, stream>>>(static_cast<uint4*>(to), static_cast<const uint4*>(from),
                                    bytes / 16);
  return cudaGetLastError();
}

}  // namespace kvg::gpu_test
