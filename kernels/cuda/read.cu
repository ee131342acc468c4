// Read: a range of tokens of one side, decompressed, with the bits of kernels/reference.
//
// Compiled without fused multiply-add: product, then sum, as ops.h says.
#include "kernels/cuda/operations.h"

#include "kernels/cuda/decode.cuh"

namespace kvg::cuda {
namespace {

constexpr uint32_t kWarps = 4;

__device__ inline void Store(void* out, ops::DType dtype, uint64_t i, float value) {
  switch (dtype) {
    case ops::kF16:
      static_cast<uint16_t*>(out)[i] = FloatToHalfSaturate(value);
      return;
    case ops::kBF16:
      static_cast<__nv_bfloat16*>(out)[i] = __float2bfloat16_rn(value);
      return;
    default:
      static_cast<float*>(out)[i] = value;
  }
}

// A warp for each row of one token and head.
__global__ void ReadKernel(const __grid_constant__ ops::DeviceReadArgs args) {
  __shared__ float rows[kWarps][ops::kMaxHeadDim];
  const uint32_t lane = threadIdx.x % 32;
  float* const row = rows[threadIdx.x / 32];
  const uint64_t total = args.tokens * args.kv_heads;
  for (uint64_t i = blockIdx.x * uint64_t{kWarps} + threadIdx.x / 32; i < total;
       i += uint64_t{gridDim.x} * kWarps) {
    const uint32_t head = static_cast<uint32_t>(i % args.kv_heads);
    const uint64_t token = args.first_token + i / args.kv_heads;
    const ops::Piece piece = PieceAt(args.side, token);
    const uint64_t slot = token - piece.first_token;
    const uint32_t dim = args.head_dim;
    DecodeRow(piece, head, slot, row);
    if (piece.kind == ops::kCodes && piece.map != nullptr) HadamardRow(piece.map->block, dim, row);
    for (uint32_t d = lane; d < dim; d += 32) Store(args.out, args.dtype, i * dim + d, row[d]);
    __syncwarp();
  }
}

}  // namespace

cudaError_t Read(const ops::DeviceReadArgs& args, cudaStream_t stream) {
  const uint64_t rows = args.tokens * args.kv_heads;
  if (rows == 0) return cudaSuccess;
  const uint64_t blocks = (rows + kWarps - 1) / kWarps;
  ReadKernel<<<static_cast<uint32_t>(blocks < 65536 ? blocks : 65536), kWarps * 32, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace kvg::cuda
