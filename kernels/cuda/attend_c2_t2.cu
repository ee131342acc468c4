// Attend on CUDA for 2-bit codes, keys by channel.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_c2_t2(const AttendParams& p, uint32_t units, cudaStream_t stream) {
  return LaunchSpec<Spec<kByChannel, 2, kByToken, 2, false>>(p, units, stream);
}

}  // namespace kvg::cuda
