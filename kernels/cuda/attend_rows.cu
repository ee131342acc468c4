// Attend on CUDA for fp16 rows.
#include "kernels/cuda/attend_launch.cuh"

namespace kvg::cuda {

cudaError_t Launch_rows(const AttendParams& p, uint32_t units, cudaStream_t stream) {
  return LaunchSpec<Spec<kStagedRows, 16, kStagedRows, 16, false>>(p, units, stream);
}

}  // namespace kvg::cuda
