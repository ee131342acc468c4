// Attend on CUDA: what a unit of work begins and ends with. Its place in the batch, its queries, and
// the merging of its sums with those of other units.
//
// Included by attend_kernel.cuh.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_UNIT_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_UNIT_CUH_

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/attend_math.cuh"
#include "kernels/cuda/attend_pieces.cuh"
#include "kernels/cuda/attend_plan.h"
#include "kernels/ops.h"

namespace kvg::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

// Below every logit, and finite, so that differences are.
inline constexpr float kNoLogit = -1e30f;

// The columns of a unit, the same for its warps.
template <int kPairs>
struct Columns {
  // [i][lane]: column g, directions 32 i + 8 t ..; scaled so that none exceeds 1.
  uint4 q[kPairs][32];
  float logit[kColumns];             // from a product to a logit, in powers of 2
  int32_t low[kColumns], high[kColumns];  // the tokens they see, from the chunk's first
  int32_t all_low, all_high;              // those that all columns see
};

// Registers of a lane that live through the whole unit. kPairs: 32 directions each.
template <int kPairs>
struct Lane {
  uint32_t lane, g, t;
  float most[2];           // of columns 2 t, 2 t + 1: largest logit so far; powers of 2
  float o[kPairs][2][4];   // sums: rows 32 i + 4 g + 2 m, + 1, columns 2 t, 2 t + 1
  float x[4];              // [0, 1]: sums of the minima of group g; [2, 3]: sums of the weights
  uint32_t extra[2];       // products of columns with what the extra rows stand for: high and low
  uint32_t extra_id;       // of the piece for which that is
  uint32_t v_group_pairs;  // for which x[0, 1] is
};

// Where a unit stands in the batch.
struct Unit {
  uint64_t item;
  uint32_t head, tile;  // KV head; tile of 8 columns
  uint32_t chunk, chunks;
};

// By one warp.
__device__ inline void FindUnit(Unit* unit, UnitState* state, const AttendParams& p,
                                uint32_t lane) {
  uint64_t low = 0, first = 0;
  ItemPlan plan = p.plan;
  if (p.units_of_each != 0) {
    low = blockIdx.x / p.units_of_each;
    first = low * p.units_of_each;
  } else {
    for (uint64_t n = p.count; n > 1;) {
      const uint64_t step = (n + 31) / 32;
      const uint64_t mine = lane * step;
      const bool before = mine < n && p.items[low + mine].first_unit <= blockIdx.x;
      const uint32_t last = 31 - __clz(__ballot_sync(kAllLanes, before) | 1u);
      low += last * step;
      n = min(step, n - last * step);
    }
    first = p.items[low].first_unit;
    plan = PlanItem(p.shape, p.items[low].length);
  }
  const DeviceItem& item = p.items[low];
  auto i = static_cast<uint32_t>(blockIdx.x - first);
  const uint32_t tiles = p.shape.column_tiles();
  const uint32_t tile = i % tiles;
  i /= tiles;
  const uint32_t chunk = i % plan.chunks, head = i / plan.chunks;
  const uint64_t token = (plan.first_chunk + chunk) * plan.chunk_tokens;
  const uint64_t length = item.length;
  if (lane == 0) {
    *unit = {low, head, tile, chunk, plan.chunks};
    const auto first_of = [](const ops::Piece& piece) {
      const uint64_t first_token = piece.first_token;
      return piece.tokens > 0 ? first_token : ~uint64_t{0};
    };
    state->k = {item.k,
                item.k_pieces,
                &item.k_page,
                &item.k_window,
                first_of(item.k_page),
                first_of(item.k_window),
                ops::kSideK,
                head};
    state->v = {item.v,
                item.v_pieces,
                &item.v_page,
                &item.v_window,
                first_of(item.v_page),
                first_of(item.v_window),
                ops::kSideV,
                head};
    state->first = token;
    state->length = length;
    state->tokens = static_cast<uint32_t>(min(plan.chunk_tokens, length - token));
    state->k_view.id = state->v_view.id = kNoId;
  }
}

// Reads the columns; by one warp.
template <int kPairs>
__device__ void ReadColumns(Columns<kPairs>& out, const AttendParams& p, const DeviceItem& item,
                            const Unit& unit, uint64_t first, uint32_t lane) {
  const uint32_t g = lane / 4, t = lane % 4;
  const uint32_t group = p.q_heads / p.kv_heads;
  const uint32_t columns = group * p.shape.queries;
  const uint32_t column = unit.tile * kColumns + g;
  float most = 0;
  const bool real = column < columns;
  const int64_t at = real ? static_cast<int64_t>(column / group) * p.q_token_stride +
                                static_cast<int64_t>(unit.head * group + column % group) *
                                    p.q_head_stride
                          : 0;
  float q[kPairs][8];
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    const uint32_t direction = 32 * i + 8 * t;
    const bool inside = real && direction < p.head_dim;  // head_dim is a multiple of 8
#pragma unroll
    for (uint32_t d = 0; d < 8; ++d) {
      q[i][d] = inside ? LoadElement(item.q, p.q_dtype, at + direction + d) : 0.0f;
      most = fmaxf(most, fabsf(q[i][d]));
    }
  }
  most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 1));
  most = fmaxf(most, __shfl_xor_sync(kAllLanes, most, 2));
  // A power of 2 that brings the largest to [0.5, 1).
  int exponent = 0;
  if (most > 0) frexpf(most, &exponent);
  exponent = max(-100, min(100, exponent));
  const float down = ldexpf(1.0f, -exponent);
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    out.q[i][lane] = uint4{Pack(q[i][0] * down, q[i][1] * down), Pack(q[i][2] * down, q[i][3] * down),
                           Pack(q[i][4] * down, q[i][5] * down), Pack(q[i][6] * down, q[i][7] * down)};
  }
  const Span seen = p.shape.Sees(item.length, min(column, columns - 1) / group);
  const auto from_first = [first](uint64_t token) {
    return token <= first ? 0 : static_cast<int32_t>(min(token - first, uint64_t{1} << 30));
  };
  const int32_t low = from_first(seen.first), high = from_first(seen.end);
  const int32_t all_low = __reduce_max_sync(kAllLanes, low);
  const int32_t all_high = __reduce_min_sync(kAllLanes, high);
  if (t == 0) {
    out.logit[g] = ldexpf(p.softcap > 0 ? p.scale / p.softcap : p.scale * kLog2E, exponent);
    out.low[g] = low;
    out.high[g] = high;
  }
  if (lane == 0) {
    out.all_low = all_low;
    out.all_high = all_high;
  }
}

// What a unit leaves in scratch: sums[8 columns][head_dim], maxima[8], weights[8].
__device__ __forceinline__ uint64_t RecordFloats(uint32_t head_dim) {
  return uint64_t{kColumns} * head_dim + 2 * kColumns;
}

// The sums of 4 warps to one; then to the output, or to scratch and, by the last unit of the same
// columns, from there to the output. Chunks are merged in their order.
template <int kPairs>
__device__ void Finish(Lane<kPairs>& z, const AttendParams& p, const DeviceItem& item,
                       const Unit& unit, uint8_t* shared) {
  constexpr uint32_t pitch = kPairs * 32 + 4;
  float* const sums = reinterpret_cast<float*>(shared);             // [warp][column][pitch]
  float* const maxima = sums + kWarps * kColumns * pitch;           // [warp][column]
  float* const weights = maxima + kWarps * kColumns;                // [warp][column]
  __shared__ bool last;
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t group = p.q_heads / p.kv_heads;
  const uint32_t all = group * p.shape.queries;
  const uint32_t columns = min(kColumns, all - unit.tile * kColumns);
  __syncthreads();  // the rings are done with
  float* const mine = sums + warp * kColumns * pitch;
#pragma unroll
  for (uint32_t k = 0; k < 2; ++k) {
    const uint32_t column = 2 * z.t + k;
#pragma unroll
    for (uint32_t i = 0; i < kPairs; ++i) {
#pragma unroll
      for (uint32_t m = 0; m < 2; ++m) {
        const uint32_t direction = 32 * i + 4 * z.g + 2 * m;
        *reinterpret_cast<float2*>(mine + column * pitch + direction) =
            float2{z.o[i][m][k], z.o[i][m][k + 2]};
      }
    }
    if (z.g == 0) {
      maxima[warp * kColumns + column] = z.most[k];
      weights[warp * kColumns + column] = z.x[2 + k];
    }
  }
  __syncthreads();
  const uint64_t record = RecordFloats(p.head_dim);
  float* const own = p.scratch + blockIdx.x * record;
  const uint32_t quads = p.head_dim / 4;
  const auto store = [&](uint32_t column, uint32_t direction, const float4& x, float weight) {
    const uint32_t mine_too = unit.tile * kColumns + column;
    const int64_t at = static_cast<int64_t>(mine_too / group) * p.out_token_stride +
                       static_cast<int64_t>(unit.head * group + mine_too % group) *
                           p.out_head_stride +
                       direction;
    const float inverse = 1.0f / weight;
    StoreElement(item.out, p.out_dtype, at, x.x * inverse);
    StoreElement(item.out, p.out_dtype, at + 1, x.y * inverse);
    StoreElement(item.out, p.out_dtype, at + 2, x.z * inverse);
    StoreElement(item.out, p.out_dtype, at + 3, x.w * inverse);
  };
  for (uint32_t i = threadIdx.x; i < columns * quads; i += kThreads) {
    const uint32_t column = i / quads, direction = i % quads * 4;
    float most = kNoLogit;
    for (uint32_t w = 0; w < kWarps; ++w) most = fmaxf(most, maxima[w * kColumns + column]);
    float4 sum{0, 0, 0, 0};
    float weight = 0;
    for (uint32_t w = 0; w < kWarps; ++w) {
      const float share = Exp2(maxima[w * kColumns + column] - most);
      const float4 x =
          *reinterpret_cast<const float4*>(sums + (w * kColumns + column) * pitch + direction);
      sum.x = fmaf(share, x.x, sum.x), sum.y = fmaf(share, x.y, sum.y);
      sum.z = fmaf(share, x.z, sum.z), sum.w = fmaf(share, x.w, sum.w);
      weight = fmaf(share, weights[w * kColumns + column], weight);
    }
    if (unit.chunks == 1) {
      store(column, direction, sum, weight);
    } else {
      *reinterpret_cast<float4*>(own + column * p.head_dim + direction) = sum;
      if (direction == 0) {
        own[kColumns * p.head_dim + column] = most;
        own[kColumns * p.head_dim + kColumns + column] = weight;
      }
    }
  }
  if (unit.chunks == 1) return;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // of what the barrier has ordered before
    uint32_t* const ticket =
        p.tickets + (unit.item * p.kv_heads + unit.head) * p.shape.column_tiles() + unit.tile;
    last = atomicAdd(ticket, 1u) == unit.chunks - 1;
    if (last) *ticket = 0;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  const uint64_t step = p.shape.column_tiles() * record;  // from a chunk to the next
  const float* const first = own - unit.chunk * step;
  for (uint32_t i = threadIdx.x; i < columns * quads; i += kThreads) {
    const uint32_t column = i / quads, direction = i % quads * 4;
    const float* const at = first + column * p.head_dim + direction;
    const float* const most_at = first + kColumns * p.head_dim + column;
    float most = kNoLogit;
#pragma unroll 8
    for (uint32_t c = 0; c < unit.chunks; ++c) most = fmaxf(most, __ldcg(most_at + c * step));
    float4 sum{0, 0, 0, 0};
    float weight = 0;
#pragma unroll 4
    for (uint32_t c = 0; c < unit.chunks; ++c) {
      const float share = Exp2(__ldcg(most_at + c * step) - most);
      const float4 x = __ldcg(reinterpret_cast<const float4*>(at + c * step));
      sum.x = fmaf(share, x.x, sum.x), sum.y = fmaf(share, x.y, sum.y);
      sum.z = fmaf(share, x.z, sum.z), sum.w = fmaf(share, x.w, sum.w);
      weight = fmaf(share, __ldcg(most_at + kColumns + c * step), weight);
    }
    store(column, direction, sum, weight);
  }
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_UNIT_CUH_
