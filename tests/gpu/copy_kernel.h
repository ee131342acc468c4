// Kernels of the tests' own: a copy at the full rate of device memory, to compare attention with, and
// a fault.
//
// Called by tests/gpu/attend_bench.cc and cuda_main.cc.
#ifndef KVGEAR_TESTS_GPU_COPY_KERNEL_H_
#define KVGEAR_TESTS_GPU_COPY_KERNEL_H_

#include <cuda_runtime_api.h>

#include <cstdint>

namespace kvg::gpu_test {

// bytes: a multiple of 16.
cudaError_t LaunchCopy(void* to, const void* from, uint64_t bytes, cudaStream_t stream);
// Ends the device's context: every later call of CUDA in this process fails.
cudaError_t LaunchFault(cudaStream_t stream);

}  // namespace kvg::gpu_test

#endif  // KVGEAR_TESTS_GPU_COPY_KERNEL_H_
