// The CUDA attend kernels as a table of operations on host memory, so that tests/parity can run on it.
//
// Called by the programs of tests/gpu.
#ifndef KVGEAR_TESTS_GPU_DEVICE_TABLE_H_
#define KVGEAR_TESTS_GPU_DEVICE_TABLE_H_

#include "kernels/ops.h"

namespace kvg::gpu_test {

bool HasDevice();

// Named "cuda". Only attend is of the device: it copies everything there, runs and copies back.
// Sizes of chunks and of shared memory vary from call to call with the shape, so that blocks go all
// the ways there are through the kernel.
const ops::Table& DeviceTable();

// Off: chunks, forms and windows are those of a runtime.
void VaryForms(bool on);

}  // namespace kvg::gpu_test

#endif  // KVGEAR_TESTS_GPU_DEVICE_TABLE_H_
