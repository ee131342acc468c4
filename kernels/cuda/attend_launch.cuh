// Attend on CUDA: launching the kernel of one Spec; instantiated by attend_*.cu, one Spec to a file.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_LAUNCH_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_LAUNCH_CUH_

#include <cuda_runtime_api.h>

#include "kernels/cuda/attend_kernel.cuh"

namespace kvg::cuda {

// units == 0: raises the limit of shared memory instead.
template <int kPairs, class S>
cudaError_t LaunchPairs(const AttendParams& p, uint32_t units, cudaStream_t stream) {
  constexpr uint32_t bytes = kWarps * Ring<kPairs, S>::kBytes;
  if (units == 0) {
    return cudaFuncSetAttribute(AttendKernel<kPairs, S>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  }
  AttendKernel<kPairs, S><<<units, kThreads, bytes, stream>>>(p);
  return cudaGetLastError();
}

template <class S>
cudaError_t LaunchSpec(const AttendParams& p, uint32_t units, cudaStream_t stream) {
  if (units == 0) {
    for (const auto launch :
         {LaunchPairs<2, S>, LaunchPairs<3, S>, LaunchPairs<4, S>, LaunchPairs<8, S>}) {
      const cudaError_t error = launch(p, 0, stream);
      if (error != cudaSuccess) return error;
    }
    return cudaSuccess;
  }
  if (p.head_dim <= 64) return LaunchPairs<2, S>(p, units, stream);
  if (p.head_dim <= 96) return LaunchPairs<3, S>(p, units, stream);
  if (p.head_dim <= 128) return LaunchPairs<4, S>(p, units, stream);
  return LaunchPairs<8, S>(p, units, stream);
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_LAUNCH_CUH_
