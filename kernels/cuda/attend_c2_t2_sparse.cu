// Attend on CUDA for 2-bit codes, keys by channel, outliers.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_c2_t2_sparse(const AttendParams& p, cudaStream_t stream) {
  return LaunchSpec<Spec<kByChannel, 2, kByToken, 2, true>>(p, stream);
}

}  // namespace kvg::cuda
