// Attend on CUDA for fp16 rows.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_rows(const AttendParams& p, cudaStream_t stream) {
  return LaunchSpec<Spec<kStagedRows, 16, kStagedRows, 16, false>>(p, stream);
}

}  // namespace kvg::cuda
