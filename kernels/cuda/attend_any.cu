// Attend on CUDA for codes of any width by any axis, outliers.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_any(const AttendParams& p, cudaStream_t stream) {
  return LaunchSpec<Spec<kAnyForm, 8, kAnyForm, 8, true>>(p, stream);
}

}  // namespace kvg::cuda
