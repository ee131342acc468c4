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
  uint32_t extra_for;      // RunInfo bits for which that is
  uint32_t v_group_pairs;  // for which x[0, 1] is

  __device__ explicit Lane(uint32_t l) : lane(l), g(l / 4), t(l % 4) {}
  __device__ __forceinline__ void Clear() {
    most[0] = most[1] = kNoLogit;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
      for (int k = 0; k < 4; ++k) o[i][0][k] = o[i][1][k] = 0;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) x[k] = 0;
  }
};

// Where a unit stands in the batch.
struct Unit {
  uint64_t item;
  uint32_t head, tile;  // KV head; tile of 8 columns
  uint32_t chunk, chunks, run;  // the first chunk; all that there are; those to do
  uint32_t chunk_tokens;
  uint64_t at, end;  // of all chunks of the launch: the first of the unit; behind the block's last
};

// The next run of chunks, up to the block's last or the last of the same columns; by one warp.
__device__ inline void FindUnit(Unit* unit, UnitState* state, const AttendParams& p,
                                uint32_t lane) {
  const uint64_t at = unit->at + unit->run, end = unit->end;
  uint64_t low = 0, first = 0;
  ItemPlan plan = p.plan;
  if (p.units_of_each != 0) {
    low = at / p.units_of_each;
    first = low * p.units_of_each;
  } else {
    for (uint64_t n = p.count; n > 1;) {
      const uint64_t step = (n + 31) / 32;
      const uint64_t mine = lane * step;
      const bool before = mine < n && p.items[low + mine].first_unit <= at;
      const uint32_t last = 31 - __clz(__ballot_sync(kAllLanes, before) | 1u);
      low += last * step;
      n = min(step, n - last * step);
    }
    first = p.items[low].first_unit;
    plan = PlanItem(p.shape, p.items[low].length);
  }
  __syncwarp();
  const DeviceItem& item = p.items[low];
  auto i = static_cast<uint32_t>(at - first);
  const uint32_t tiles = p.shape.column_tiles();
  const uint32_t chunk = i % plan.chunks;
  i /= plan.chunks;
  const uint32_t tile = i % tiles, head = i / tiles;
  const auto run = static_cast<uint32_t>(min(end - at, uint64_t{plan.chunks - chunk}));
  const uint64_t token = (plan.first_chunk + chunk) * plan.chunk_tokens;
  const uint64_t length = item.length;
  if (lane == 0) {
    *unit = {low, head, tile, chunk, plan.chunks, run, static_cast<uint32_t>(plan.chunk_tokens),
             at,  end};
    const auto first_of = [](const ops::Piece& piece) {
      const uint64_t first_token = piece.first_token;
      return piece.tokens > 0 ? first_token : ~uint64_t{0};
    };
    state->side[0] = {item.k,
                item.k_pieces,
                &item.k_page,
                &item.k_window,
                first_of(item.k_page),
                first_of(item.k_window),
                ops::kSideK,
                head};
    state->side[1] = {item.v,
                item.v_pieces,
                &item.v_page,
                &item.v_window,
                first_of(item.v_page),
                first_of(item.v_window),
                ops::kSideV,
                head};
    state->first = token;
    state->length = length;
    state->tokens = static_cast<uint32_t>(min(plan.chunk_tokens * run, length - token));
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

// Stores 4 elements of a column of the tile, divided by the sum of its weights.
__device__ inline void StoreOutput(const AttendParams& p, const DeviceItem& item, const Unit& unit,
                                   uint32_t column, uint32_t direction, const float4& x,
                                   float weight) {
  const uint32_t group = p.q_heads / p.kv_heads;
  const uint32_t of_all = unit.tile * kColumns + column;
  const int64_t at = static_cast<int64_t>(of_all / group) * p.out_token_stride +
                     static_cast<int64_t>(unit.head * group + of_all % group) * p.out_head_stride +
                     direction;
  const float inverse = 1.0f / weight;
  StoreElement(item.out, p.out_dtype, at, x.x * inverse);
  StoreElement(item.out, p.out_dtype, at + 1, x.y * inverse);
  StoreElement(item.out, p.out_dtype, at + 2, x.z * inverse);
  StoreElement(item.out, p.out_dtype, at + 3, x.w * inverse);
}

__device__ __forceinline__ uint32_t ColumnsOf(const AttendParams& p, const Unit& unit) {
  return min(kColumns, p.shape.columns - unit.tile * kColumns);
}

// The sums that 4 warps have of one chunk to one: to the record, or if there is no other chunk to the
// output. `shared`: Ring::kSums bytes of each warp.
template <int kPairs>
__device__ __forceinline__ void FinishChunk(const Lane<kPairs>& z, const AttendParams& p,
                                            const DeviceItem& item, const Unit& unit, uint32_t chunk,
                                            uint8_t* shared) {
  constexpr uint32_t pitch = kPairs * 32 + 4;
  float* const sums = reinterpret_cast<float*>(shared);             // [warp][column][pitch]
  float* const maxima = sums + kWarps * kColumns * pitch;           // [warp][column]
  float* const weights = maxima + kWarps * kColumns;                // [warp][column]
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t columns = ColumnsOf(p, unit);
  __syncthreads();  // of the chunk before, nothing is read any more
  float* const mine = sums + warp * kColumns * pitch;
#pragma unroll
  for (uint32_t k = 0; k < 2; ++k) {
    const uint32_t column = 2 * z.t + k;
    if (column < columns) {
#pragma unroll
      for (uint32_t i = 0; i < kPairs; ++i) {
        *reinterpret_cast<float4*>(mine + column * pitch + 32 * i + 4 * z.g) =
            float4{z.o[i][0][k], z.o[i][0][k + 2], z.o[i][1][k], z.o[i][1][k + 2]};
      }
    }
    if (z.g == 0) {
      maxima[warp * kColumns + column] = z.most[k];
      weights[warp * kColumns + column] = z.x[2 + k];
    }
  }
  __syncthreads();
  const uint32_t quads = p.head_dim / 4;
  float* const record = p.scratch + (unit.at + chunk) * p.shape.RecordFloats(p.head_dim);
  for (uint32_t i = threadIdx.x; i < columns * quads; i += kThreads) {
    const uint32_t column = i / quads, direction = i % quads * 4;
    float most = kNoLogit;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) most = fmaxf(most, maxima[w * kColumns + column]);
    float4 sum{0, 0, 0, 0};
    float weight = 0;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) {
      const float share = Exp2(maxima[w * kColumns + column] - most);
      const float4 x =
          *reinterpret_cast<const float4*>(sums + (w * kColumns + column) * pitch + direction);
      sum.x = fmaf(share, x.x, sum.x), sum.y = fmaf(share, x.y, sum.y);
      sum.z = fmaf(share, x.z, sum.z), sum.w = fmaf(share, x.w, sum.w);
      weight = fmaf(share, weights[w * kColumns + column], weight);
    }
    if (unit.chunks == 1) {
      StoreOutput(p, item, unit, column, direction, sum, weight);
    } else {
      *reinterpret_cast<float4*>(record + column * p.head_dim + direction) = sum;
      if (direction == 0) {
        float* const rest = record + p.shape.record_columns() * p.head_dim;
        rest[column] = most;
        rest[p.shape.record_columns() + column] = weight;
      }
    }
  }
}

inline constexpr uint32_t kAtOnce = 8;  // chunks whose records are under way

// Behind a run: if no chunk of these columns is left to do, merges them all, in their order.
__device__ __noinline__ inline void FinishRun(const AttendParams& p, const DeviceItem& item,
                                                     const Unit& unit) {
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) {
    __threadfence();  // of what the barrier has ordered before
    uint32_t* const ticket =
        p.tickets + (unit.item * p.kv_heads + unit.head) * p.shape.column_tiles() + unit.tile;
    last = atomicAdd(ticket, unit.run) + unit.run == unit.chunks;
    if (last) *ticket = 0;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  const uint64_t step = p.shape.RecordFloats(p.head_dim);  // from a chunk to the next
  const uint32_t columns = ColumnsOf(p, unit), all = p.shape.record_columns();
  const float* const first = p.scratch + (unit.at - unit.chunk) * step;
  const float* const rest = first + all * p.head_dim;  // maxima, then weights
  const uint32_t quads = p.head_dim / 4;
  for (uint32_t i = threadIdx.x; i < columns * quads; i += kThreads) {
    const uint32_t column = i / quads, direction = i % quads * 4;
    const float* const from = first + column * p.head_dim + direction;
    // A running maximum, so that one pass over what others left is enough.
    float most = kNoLogit, weight = 0;
    float4 sum{0, 0, 0, 0};
    for (uint32_t c = 0; c < unit.chunks; c += kAtOnce) {
      float m[kAtOnce], w[kAtOnce];
      float4 x[kAtOnce];
#pragma unroll
      for (uint32_t n = 0; n < kAtOnce; ++n) {
        const uint64_t chunk = min(c + n, unit.chunks - 1) * step;
        m[n] = __ldcg(rest + chunk + column);
        w[n] = __ldcg(rest + chunk + all + column);
        x[n] = __ldcg(reinterpret_cast<const float4*>(from + chunk));
      }
#pragma unroll
      for (uint32_t n = 0; n < kAtOnce; ++n) {
        if (c + n >= unit.chunks) break;
        const float now = fmaxf(most, m[n]);
        const float old_share = Exp2(most - now), share = Exp2(m[n] - now);
        most = now;
        sum.x = fmaf(share, x[n].x, sum.x * old_share), sum.y = fmaf(share, x[n].y, sum.y * old_share);
        sum.z = fmaf(share, x[n].z, sum.z * old_share), sum.w = fmaf(share, x[n].w, sum.w * old_share);
        weight = fmaf(share, w[n], weight * old_share);
      }
    }
    StoreOutput(p, item, unit, column, direction, sum, weight);
  }
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_UNIT_CUH_
