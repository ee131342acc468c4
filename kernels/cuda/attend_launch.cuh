// Attend on CUDA: launching the kernel of one Spec; instantiated by attend_*.cu, one Spec to a file.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_LAUNCH_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_LAUNCH_CUH_

#include <cuda_runtime_api.h>

#include "kernels/cuda/attend_kernel.cuh"

namespace kvg::cuda {

// No units: raises the limit of shared memory instead.
template <int kPairs, class S>
cudaError_t LaunchPairs(const AttendParams& p, cudaStream_t stream) {
  using R = Ring<kPairs, S>;
  constexpr uint32_t bytes = R::kBytesOfAll;
  if (p.units == 0) {
    return cudaFuncSetAttribute(AttendKernel<kPairs, S>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  error = cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
  if (error != cudaSuccess) return error;
  const uint64_t most = static_cast<uint64_t>(processors) * R::kBlocks;
  const auto blocks = static_cast<uint32_t>(p.units < most ? p.units : most);
  AttendParams shared_out = p;
  shared_out.units_of_block = p.units / blocks;
  shared_out.units_left = static_cast<uint32_t>(p.units % blocks);
  AttendKernel<kPairs, S><<<blocks, kThreads, bytes, stream>>>(shared_out);
  return cudaGetLastError();
}

template <class S>
cudaError_t LaunchSpec(const AttendParams& p, cudaStream_t stream) {
  if (p.units == 0) {
    for (const auto launch :
         {LaunchPairs<2, S>, LaunchPairs<3, S>, LaunchPairs<4, S>, LaunchPairs<8, S>}) {
      const cudaError_t error = launch(p, stream);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }
  if (p.head_dim <= 64) return LaunchPairs<2, S>(p, stream);
  if (p.head_dim <= 96) return LaunchPairs<3, S>(p, stream);
  if (p.head_dim <= 128) return LaunchPairs<4, S>(p, stream);
  return LaunchPairs<8, S>(p, stream);
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_LAUNCH_CUH_
