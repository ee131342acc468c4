// One row of a piece, decompressed into shared memory by a warp, and the piece that holds a token.
//
// Called by read.cu. With the bits of kernels/reference where the file is compiled
// without fused multiply-add.
#ifndef KVGEAR_KERNELS_CUDA_DECODE_CUH_
#define KVGEAR_KERNELS_CUDA_DECODE_CUH_

#include "kernels/cuda/common.cuh"
#include "kernels/plugin.h"

namespace kvg::cuda {

// The piece that holds `token`.
__device__ inline ops::Piece PieceAt(const ops::DevicePieces& side, uint64_t token) {
  if (side.window.tokens > 0 && token >= side.window.first_token) return side.window;
  if (side.page.tokens > 0 && token >= side.page.first_token) return side.page;
  uint32_t low = 0, high = side.count;  // first_token of low <= token < that of high
  while (high - low > 1) {
    const uint32_t middle = (low + high) / 2;
    if (side.sealed[middle].first_token <= token) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return side.sealed[low];
}

// row = H row in each run of `block` directions: the stages of kernels/reference, each shared out among
// the lanes of a warp.
__device__ inline void HadamardRow(uint32_t block, uint32_t dim, float* row) {
  for (uint32_t distance = 1; distance < block; distance *= 2) {
    for (uint32_t i = threadIdx.x % 32; i < dim / 2; i += 32) {
      float* const pair = row + i / distance * 2 * distance + i % distance;
      const float u = pair[0], v = pair[distance];
      pair[0] = u + v;
      pair[distance] = u - v;
    }
    __syncwarp();
  }
}

// row[0 .. head_dim) for token `slot` of the piece, in the basis of its map. All lanes of the warp, and nobody else, use `row`.
__device__ inline void DecodeRow(const ops::Piece& piece, uint32_t head, uint64_t slot, float* row) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t dim = piece.head_dim;
  if (piece.kind == ops::kRows) {
    const uint16_t* const from = piece.rows + head * piece.rows_head_stride + slot * dim;
    for (uint32_t d = lane; d < dim; d += 32) row[d] = HalfToFloat(from[d]);
  } else {
    const uint8_t* const widths = piece.widths + head * (piece.dirs / kTileDirs);
    const uint8_t* const block = piece.codes + piece.codes_head[head] +
                                 slot / kBlockTokens * uint64_t{piece.codes_block[head]};
    for (uint32_t d = lane; d < dim; d += 32) {
      uint32_t offset = 0;
      for (uint32_t tile = 0; tile < d / kTileDirs; ++tile) offset += 64u * widths[tile];
      const uint32_t code =
          CodeOf(reinterpret_cast<const uint32_t*>(block + offset), widths[d / kTileDirs],
                 piece.side, static_cast<uint32_t>(slot % kBlockTokens), d % kTileDirs);
      const bool channel = piece.axis == ops::kAxisChannel;
      const uint64_t at = head * piece.scale_head_stride +
                          (channel ? slot / piece.group : d / piece.group) * piece.scale_group_stride +
                          (channel ? d : slot);
      float x = HalfToFloat(piece.scale[at]) * static_cast<float>(code) + HalfToFloat(piece.minimum[at]);
      if (piece.rank > 0) {
        const uint64_t first = uint64_t{head} * piece.rank;
        float sum = 0;
        for (uint32_t r = 0; r < piece.rank; ++r) {
          sum += HalfToFloat(piece.a[(first + r) * piece.padded_tokens + slot]) *
                 HalfToFloat(piece.b[(first + r) * piece.dirs + d]);
        }
        x += sum;
      }
      row[d] = x;
    }
    if (piece.sparse_start != nullptr) {
      __syncwarp();
      const uint64_t blocks = piece.padded_tokens / kBlockTokens;
      const uint8_t* const count = piece.sparse_count + head * piece.padded_tokens +
                                   slot / kBlockTokens * kBlockTokens;
      const uint32_t in_block = static_cast<uint32_t>(slot % kBlockTokens);
      uint32_t before = lane < in_block ? count[lane] : 0;
      for (uint32_t step = 16; step > 0; step /= 2) before += __shfl_xor_sync(~0u, before, step);
      const uint32_t entry =
          piece.sparse_start[head * (blocks + 1) + slot / kBlockTokens] + before;
      // The directions of a token's entries differ.
      for (uint32_t e = lane; e < count[in_block]; e += 32) {
        row[piece.sparse_dir[entry + e]] += HalfToFloat(piece.sparse_value[entry + e]);
      }
    }
  }
  __syncwarp();
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_DECODE_CUH_
