// Attend on CUDA for 4-bit codes, keys by channel, outliers.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_c4_t4_sparse(const AttendParams& p, cudaStream_t stream) {
  return LaunchSpec<Spec<kByChannel, 4, kByToken, 4, true>>(p, stream);
}

}  // namespace kvg::cuda
