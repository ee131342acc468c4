// The operations that plugin.cu puts into its table, but for attention (attend.h).
//
// Called by plugin.cu. Arguments are those of kernels/plugin.h; each queues its work and returns the
// error of doing so.
#ifndef KVGEAR_KERNELS_CUDA_OPERATIONS_H_
#define KVGEAR_KERNELS_CUDA_OPERATIONS_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/plugin.h"

namespace kvg::cuda {

cudaError_t Ingest(const ops::DeviceIngestJob* jobs, uint32_t count, cudaStream_t stream);
cudaError_t Read(const ops::DeviceReadArgs& args, cudaStream_t stream);
uint64_t SealScratchBytes(const ops::DeviceSealJob* jobs, uint32_t count);
cudaError_t Seal(const ops::DeviceSealJob* jobs, uint32_t count, void* scratch,
                 cudaStream_t stream);
// Once for each device: raises limits of shared memory.
cudaError_t PrepareSeal();

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_OPERATIONS_H_
