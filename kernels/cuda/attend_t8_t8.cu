// Attend on CUDA for 8-bit codes by token.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_t8_t8(const AttendParams& p, cudaStream_t stream) {
  return LaunchSpec<Spec<kByToken, 8, kByToken, 8, false>>(p, stream);
}

}  // namespace kvg::cuda
