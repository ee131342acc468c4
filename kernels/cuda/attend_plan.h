// How attention on CUDA cuts its work into units: the same arithmetic on the host and the device.
//
// Included by attend.cu and attend_kernel.cuh.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_PLAN_H_
#define KVGEAR_KERNELS_CUDA_ATTEND_PLAN_H_

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/attend_spec.h"

namespace kvg::cuda {

inline constexpr uint64_t kMostChunkTokens = 1 << 20;

struct Span {
  uint64_t first, end;
};

struct AttendShape {
  uint32_t kv_heads, queries, columns;  // columns: of one KV head
  bool causal;
  uint64_t sliding_window;
  uint64_t chunk_tokens;  // 0 = from the length

  __host__ __device__ uint32_t column_tiles() const { return (columns + kColumns - 1) / kColumns; }

  // What a chunk leaves in scratch: sums[columns of a tile][head_dim], maxima[], weights[].
  __host__ __device__ uint32_t record_columns() const {
    return columns < kColumns ? columns : kColumns;
  }
  __host__ __device__ uint64_t RecordFloats(uint32_t head_dim) const {
    return (uint64_t{record_columns()} * (head_dim + 2) + 3) / 4 * 4;
  }

  // The tokens that a query sees.
  __host__ __device__ Span Sees(uint64_t length, uint32_t query) const {
    const uint64_t own = length - queries + query;
    Span out{0, causal ? own + 1 : length};
    if (sliding_window > 0 && own + 1 > sliding_window) out.first = own + 1 - sliding_window;
    return out;
  }
};

struct ItemPlan {
  uint64_t chunk_tokens, first_chunk;
  uint32_t chunks;
};

// Chunks that fill the multiprocessors of the largest devices (3 thread blocks to each of 132) once if
// the sequence is alone, but none so short that merging it costs more than it gains. How many of them
// a thread block takes in a row changes nothing in the result.
__host__ __device__ inline ItemPlan PlanItem(const AttendShape& shape, uint64_t length) {
  constexpr uint64_t unit = kWarps * ops::kBlockTokens;
  uint64_t tokens = shape.chunk_tokens;
  if (tokens == 0) {
    const uint64_t others = uint64_t{shape.kv_heads} * shape.column_tiles();
    const uint64_t chunks = others < 396 ? 396 / others : 1;
    tokens = (length + chunks - 1) / chunks;
    const uint64_t least = length >= 8192 ? 1024 : length >= 4096 ? 512 : length >= 2048 ? 256 : 128;
    tokens = tokens < least ? least : tokens;
  }
  tokens = (tokens + unit - 1) / unit * unit;
  if (tokens > kMostChunkTokens) tokens = kMostChunkTokens;
  ItemPlan out;
  out.chunk_tokens = tokens;
  out.first_chunk = shape.Sees(length, 0).first / tokens;
  out.chunks = static_cast<uint32_t>((length + tokens - 1) / tokens - out.first_chunk);
  return out;
}

// What the kernel takes.
struct AttendParams {
  const DeviceItem* items;
  uint64_t count;
  uint64_t units;          // chunks of all columns
  uint64_t units_of_block;  // of each thread block; one more of the first units_left
  uint32_t units_left;
  uint32_t units_of_each;  // 0 if items differ
  ItemPlan plan;           // of each item, unless they differ
  uint32_t q_heads, kv_heads, head_dim;
  AttendShape shape;
  ops::DType q_dtype, out_dtype;
  int64_t q_token_stride, q_head_stride;
  int64_t out_token_stride, out_head_stride;
  float scale, softcap;
  float* scratch;
  uint32_t* tickets;
};

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_PLAN_H_
