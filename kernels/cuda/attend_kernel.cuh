// Attend on CUDA: the kernel. A thread block of 4 warps takes a row of chunks, each up to 8 columns (a
// query and a query head that share a KV head) over some tokens of one sequence.
//
// Included by attend_*.cu, which instantiate it. See kernels/README.md for how it works.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_KERNEL_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/attend_block.cuh"
#include "kernels/cuda/attend_decode.cuh"
#include "kernels/cuda/attend_math.cuh"
#include "kernels/cuda/attend_pieces.cuh"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/attend_spec.h"
#include "kernels/cuda/attend_unit.cuh"
#include "kernels/ops.h"

namespace kvg::cuda {

// The blocks of a warp on their way to shared memory: every fourth of the unit's.
template <int kPairs, class S>
struct Stager {
  using R = Ring<kPairs, S>;
  static constexpr uint32_t kStep = kWarps * ops::kBlockTokens;
  WarpState& own;
  const UnitState& unit;
  uint8_t* ring;
  uint32_t ring_at;
  uint32_t head_dim, lane;
  Source<kPairs, S::kKForm, S::kKWidth, true> keys;
  Source<kPairs, S::kVForm, S::kVWidth, false> values;
  uint32_t next;    // block to stage, from the unit's first token
  uint32_t blocks;  // left of the run
  RunInfo info;              // of the run
  uint2 k_sparse, v_sparse;  // entries of the next block, read ahead
  // What the slots hold, oldest first: blocks, and the runs they are of.
  uint32_t token_of[R::kStages];
  RunInfo info_of[R::kStages];

  __device__ Stager(WarpState& w, const UnitState& u, uint8_t* r, uint32_t dim, uint32_t l)
      : own(w), unit(u), ring(r), ring_at(Keep(SharedAddress(r))), head_dim(dim), lane(l) {}

  __device__ __forceinline__ void StartAt(uint32_t block) {
    next = block;
    blocks = 0;
    __syncwarp();
    if (lane == 0) own.blocks = 0;
    __syncwarp();
  }

  __device__ __forceinline__ void Keys(uint32_t s) {
    if (__builtin_expect(blocks == 0, 0)) Open();
#pragma unroll
    for (uint32_t i = 1; i < R::kStages; ++i) {
      token_of[i - 1] = token_of[i];
      info_of[i - 1] = info_of[i];
    }
    token_of[R::kStages - 1] = next;
    info_of[R::kStages - 1] = info;
    if (blocks > 0) {
      keys.Stage(ring_at + s * R::kSlot, info, head_dim, lane);
      if constexpr (S::kSparse) {
        const View& view = own.view[0];
        const auto at = static_cast<uint32_t>(unit.first + next - view.first);
        StageSparse(ring_at + s * R::kSlot + R::kKBytes - kSparseArea, &own.sparse[s][0], view, at,
                    k_sparse, lane);
        if (blocks > 1 && view.sparse_start != nullptr) k_sparse = SparseRange(view, at + kStep);
      }
    }
    CommitCopies();
  }

  __device__ __forceinline__ void Values(uint32_t s) {
    if (blocks > 0) {
      values.Stage(ring_at + s * R::kSlot + R::kKBytes, info, head_dim, lane);
      if constexpr (S::kSparse) {
        const View& view = own.view[1];
        const auto at = static_cast<uint32_t>(unit.first + next - view.first);
        StageSparse(ring_at + s * R::kSlot + R::kKBytes + R::kVBytes - kSparseArea,
                    &own.sparse[s][1], view, at, v_sparse, lane);
        if (blocks > 1 && view.sparse_start != nullptr) v_sparse = SparseRange(view, at + kStep);
      }
      next += kStep;
      if (--blocks == 2 && own.blocks > 5) PrefetchAhead(&own, &unit, lane);
    } else {
      next = kNoToken;  // behind a block that is not staged nothing is, until it is done
    }
    CommitCopies();
  }

  __device__ __forceinline__ void Open() {
    info = RunInfo{0};
    if (next >= unit.tokens) {
      next = kNoToken;
      return;
    }
    // What ReadAhead queued is here: more than two groups ago, unless the last run was of one block.
    if (own.blocks > 1) {
      WaitCopies<2>();
    } else {
      WaitCopies<0>();
    }
    OpenRun<kPairs, S>(&own, &unit, next, lane);
    blocks = own.blocks;
    info = own.info;
    if (blocks == 0) return;
    ReadAhead(&own, &unit, lane);
    const uint64_t token = unit.first + next;
    keys.Open(own.view[0], token, head_dim, lane);
    values.Open(own.view[1], token, head_dim, lane);
    if constexpr (S::kSparse) {
      k_sparse = FirstSparse(own.view[0], token);
      v_sparse = FirstSparse(own.view[1], token);
    }
  }

  __device__ static __forceinline__ uint2 FirstSparse(const View& view, uint64_t token) {
    if (view.sparse_start == nullptr) return uint2{0, 0};
    return SparseRange(view, static_cast<uint32_t>(token - view.first));
  }

  // Brings one side of one block to the first slot, for a block that is made of several pieces.
  template <bool kKeys>
  __device__ __forceinline__ void Alone(uint64_t token) {
    const View& view = own.view[kKeys ? 0 : 1];
    __syncwarp();
    if (lane == 0) {
      own.info = RunInfo::Of(own.view[0], own.view[1], 0);
      own.k_b[0] = own.view[0].b;
    }
    __syncwarp();
    info = own.info;
    if constexpr (kKeys) {
      keys.Open(view, token, head_dim, lane);
      keys.Stage(ring_at, info, head_dim, lane);
    } else {
      values.Open(view, token, head_dim, lane);
      values.Stage(ring_at, info, head_dim, lane);
    }
    if constexpr (S::kSparse) {
      StageSparse(ring_at + (kKeys ? R::kKBytes : R::kVBytes) - kSparseArea,
                  &own.sparse[0][kKeys ? 0 : 1], view, static_cast<uint32_t>(token - view.first),
                  FirstSparse(view, token), lane);
    }
    CommitCopies();
    WaitCopies<0>();
    __syncwarp();
  }
};

// A block that is not staged as a whole: what its pieces hold of it, one piece after the other.
template <int kPairs, class S, class KLane, class VLane>
__device__ __forceinline__ void SlowBlock(Block<kPairs, S>& block, Stager<kPairs, S>& stager,
                                          const KLane& k_lane, const VLane& v_lane,
                                          uint32_t sparse_tile, uint32_t at) {
  WarpState& own = stager.own;
  const UnitState& unit = stager.unit;
  uint8_t* const ring = stager.ring;
  const uint32_t lane = stager.lane, head_dim = stager.head_dim, head = unit.side[0].head;
  const uint64_t token = unit.first + at;
  const uint64_t end = min(token + ops::kBlockTokens, unit.length);
  float scores[2][4] = {};
  block.state.extra_for = kNoId;
  for (uint64_t from = token; from < end; from = own.view[0].end) {
    Seek<kPairs, S>(&own, &unit, from, own.view[1].first, lane);
    const uint64_t to = min(end, own.view[0].end);
    float part[2][4] = {};
    if (own.view[0].form != kDecoded && token >= own.view[0].first) {
      block.state.extra_for = kNoId;
      stager.template Alone<true>(token);
      block.Scores(ring, stager.ring_at, k_lane, stager.info, own, own.sparse[0][0], sparse_tile, part);
    } else {
      DecodeTile<kPairs>(ring, &own.view[0], ops::kSideK, token, from, to, head, head_dim, lane);
      block.ScoresOfRows(ring, part);
      const float factor = own.view[0].rows != nullptr ? 1.0f : 1.0f / kDecodedShare;
#pragma unroll
      for (int k = 0; k < 4; ++k) part[0][k] *= factor, part[1][k] *= factor;
    }
    __syncwarp();
#pragma unroll
    for (uint32_t k = 0; k < 8; ++k) {
      const uint64_t mine = token + 4 * block.g + k / 4 * 2 + k % 4 / 2;
      if (mine >= from && mine < to) scores[k / 4][k % 4] = part[k / 4][k % 4];
    }
  }
  block.state.extra_for = kNoId;  // of a piece that may not be the next
  uint32_t weights[4];
  block.Weights(scores, static_cast<int32_t>(at), weights);
  for (uint64_t from = token; from < end; from = own.view[1].end) {
    Seek<kPairs, S>(&own, &unit, own.view[0].first, from, lane);
    const uint64_t to = min(end, own.view[1].end);
    uint32_t w[4];
#pragma unroll
    for (uint32_t k = 0; k < 4; ++k) {
      const uint64_t mine = token + 8 * block.t + 2 * k;
      w[k] = (mine >= from && mine < to ? weights[k] & 0xFFFFu : 0) |
             (mine + 1 >= from && mine + 1 < to ? weights[k] & 0xFFFF0000u : 0);
    }
    if (own.view[1].form != kDecoded && token >= own.view[1].first) {
      stager.template Alone<false>(token);
      block.Values(ring, stager.ring_at, v_lane, stager.info, own.sparse[0][1], sparse_tile, w);
    } else {
      DecodeTile<kPairs>(ring, &own.view[1], ops::kSideV, token, from, to, head, head_dim, lane);
      block.SumWeights(uint4{0, 0, 0, 0}, w);
      const uint32_t factor = own.view[1].rows != nullptr ? kOneAndOne : 0x44004400u;  // 4, 4
#pragma unroll
      for (int k = 0; k < 4; ++k) w[k] = Times(w[k], factor);
      block.ValuesOfRows(ring, w);
    }
    __syncwarp();
  }
}

template <int kPairs, class S>
__global__ void __launch_bounds__(kThreads, Ring<kPairs, S>::kBlocks)
    AttendKernel(const __grid_constant__ AttendParams p) {
  using R = Ring<kPairs, S>;
  constexpr uint32_t step = kWarps * ops::kBlockTokens;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ WarpState states[kWarps];
  __shared__ UnitState unit_state;
  __shared__ Unit unit;
  __shared__ Columns<kPairs> columns;
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  WarpState& own = states[warp];
  uint8_t* const ring = shared + warp * R::kBytes;
  uint8_t* const sums = shared + kWarps * R::kBytes;
  const uint32_t sparse_tile = Keep(SharedAddress(ring + R::kStaged));
  if constexpr (S::kSparse) {
    for (uint32_t i = lane * 16; i < R::kSparseTile; i += 512) {
      *reinterpret_cast<uint4*>(ring + R::kStaged + i) = uint4{0, 0, 0, 0};
    }
  }
  Lane<kPairs> z(lane);
  Block<kPairs, S> block(p, columns, z);
  const auto k_lane = block.template KeyLane<Block<kPairs, S>::kKWidth>();
  const auto v_lane = block.template ValueLane<Block<kPairs, S>::kVWidth>();
  Stager<kPairs, S> stager(own, unit_state, ring, p.head_dim, lane);

  // A share of all chunks, as equal as can be, in runs of chunks of the same columns.
  if (threadIdx.x == 0) {
    unit.at = p.units_of_block * blockIdx.x + min(blockIdx.x, p.units_left);
    unit.end = unit.at + p.units_of_block + (blockIdx.x < p.units_left ? 1 : 0);
    unit.run = 0;
  }
  for (;;) {
    __syncthreads();  // the unit before is done with
    if (unit.at + unit.run >= unit.end) break;
    __syncthreads();
    if (warp == 0) FindUnit(&unit, &unit_state, p, lane);
    if (lane < 2) own.view[lane].id = own.piece_id[lane] = kNoId;
    if (lane == 0) own.info = RunInfo{0};
    __syncthreads();
    const DeviceItem& item = p.items[unit.item];
    if (warp == kWarps - 1) ReadColumns(columns, p, item, unit, unit_state.first, lane);
    z.Clear();
    z.extra_for = kNoId;
    z.v_group_pairs = ops::kMaxHeadDim / 32;
    stager.StartAt(warp * ops::kBlockTokens);
    for (uint32_t s = 0; s < R::kStages; ++s) {
      stager.Keys(s);
      stager.Values(s);
    }
    __syncthreads();  // the columns are there
    block.ReadColumns();
    uint32_t chunk_end = unit.chunk_tokens;
    for (uint32_t s = 0;; s = s + 1 == R::kStages ? 0 : s + 1) {
      uint32_t token = stager.token_of[0];
      while (__builtin_expect(token >= chunk_end || !stager.info_of[0].staged(), 0)) {
        if (token < chunk_end) {
          WaitCopies<0>();
          __syncwarp();
          SlowBlock(block, stager, k_lane, v_lane, sparse_tile, token);
          stager.StartAt(token + step);
          for (s = 0; s < R::kStages; ++s) {
            stager.Keys(s);
            stager.Values(s);
          }
          s = 0;
        } else {
          block.AddMinima();
          FinishChunk(z, p, item, unit, chunk_end / unit.chunk_tokens - 1, sums);
          if (chunk_end >= unit_state.tokens) break;
          z.Clear();
          chunk_end += unit.chunk_tokens;
        }
        token = stager.token_of[0];
      }
      if (token >= chunk_end) break;
      uint8_t* const slot = ring + s * R::kSlot;
      const uint32_t slot_at = stager.ring_at + s * R::kSlot;
      const RunInfo info = stager.info_of[0];
      float scores[2][4] = {};
      WaitCopies<2 * R::kStages - 1>();
      __syncwarp();
      block.Scores(slot, slot_at, k_lane, info, own, own.sparse[s][0], sparse_tile, scores);
      __syncwarp();
      stager.Keys(s);
      uint32_t weights[4];
      block.Weights(scores, static_cast<int32_t>(token), weights);
      WaitCopies<2 * R::kStages - 1>();
      __syncwarp();
      block.Values(slot + R::kKBytes, slot_at + R::kKBytes, v_lane, info, own.sparse[s][1],
                   sparse_tile, weights);
      __syncwarp();
      stager.Values(s);
    }
    WaitCopies<0>();
    if (unit.chunks > 1) FinishRun(p, item, unit);
  }
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_KERNEL_CUH_
