// Attend on CUDA for 4-bit codes by token.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_t4_t4(const AttendParams& p, cudaStream_t stream) {
  return LaunchSpec<Spec<kByToken, 4, kByToken, 4, false>>(p, stream);
}

}  // namespace kvg::cuda
