// Sequences of host memory on a CUDA device: pieces with everything they point to, in one allocation.
//
// Called by the programs of tests/gpu.
#ifndef KVGEAR_TESTS_GPU_DEVICE_COPY_H_
#define KVGEAR_TESTS_GPU_DEVICE_COPY_H_

#include <cuda_runtime_api.h>

#include <cstdint>
#include <vector>

#include "kernels/ops.h"

namespace kvg::gpu_test {

// Prints the error and exits: a test or benchmark cannot go on without its device.
void Check(cudaError_t error, const char* what);

// One image of device memory, laid out on the host and then copied at once. Between the parts lie
// bytes of 0xFF, which are NaN in every type.
class Image {
 public:
  // Offset of a copy of `bytes` bytes, a multiple of ops::kAlign.
  uint64_t Add(const void* data, uint64_t bytes);

  // Allocates, which fixes addresses, and copies. Once.
  ~Image();
  Image() = default;
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  // Reserves room first, so that addresses are known while parts are added.
  void Reserve(uint64_t bytes);
  void Upload();  // what was added
  void* At(uint64_t offset) const { return device_ + offset; }
  uint64_t used() const { return host_.size(); }

 private:
  std::vector<uint8_t> host_;
  uint8_t* device_ = nullptr;
  uint64_t capacity_ = 0;
};

// Bytes that AddPiece takes, at most.
uint64_t SizeOfPiece(const ops::Piece& piece);

// A copy of the piece's buffers; the result points to the device.
ops::Piece AddPiece(Image& image, const ops::Piece& piece);

}  // namespace kvg::gpu_test

#endif  // KVGEAR_TESTS_GPU_DEVICE_COPY_H_
