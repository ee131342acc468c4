// Attend on CUDA: the kernel. One thread block of 4 warps computes one unit of work: up to 8
// columns (a query and a query head that share a KV head) over a chunk of tokens.
//
// Included by attend_*.cu, which instantiate it. See kernels/README.md for how it works.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_KERNEL_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/attend_decode.cuh"
#include "kernels/cuda/attend_math.cuh"
#include "kernels/cuda/attend_pieces.cuh"
#include "kernels/cuda/attend_plan.h"
#include "kernels/cuda/attend_spec.h"
#include "kernels/cuda/attend_unit.cuh"
#include "kernels/ops.h"

namespace kvg::cuda {

// Low-rank factors a are at most 1, and the queries' products with b have no bound: halves hold
// 128 a and 1/128 of the products.
inline constexpr float kExtraUp = 128.0f;
inline constexpr uint32_t kOneAndOne = 0x3C003C00u, kUpAndUp = 0x58005800u;

// The products of the columns with the factors b, and with 1 over each group for the minima: parts
// in fp16, the larger and the rest. Not a member, so that no state has to be in memory for it.
template <int kPairs>
__device__ __noinline__ uint2 PrepareExtras(uint32_t q_at, const RunInfo* info, uint32_t minima,
                                            uint32_t head_dim, uint32_t lane) {
  const uint32_t g = lane / 4, t = lane % 4;
  const uint32_t dirs = PaddedDirs(head_dim);
  float c[4] = {};
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    uint4 a{0, 0, 0, 0};
    const uint32_t direction = 32 * i + 8 * t;
    if (g < minima) {
      if (i / info->k_group_pairs == g) a = uint4{kOneAndOne, kOneAndOne, kOneAndOne, kOneAndOne};
    } else if (g < minima + info->k_rank && direction < dirs) {
      a = *reinterpret_cast<const uint4*>(info->k_b + uint64_t{g - minima} * dirs + direction);
    }
    const uint4 q = Load16(q_at + i * 512);
    Mma(c, a.x, 0, a.y, 0, q.x, q.y);
    Mma(c, a.z, 0, a.w, 0, q.z, q.w);
  }
  const float down = g < minima ? 1.0f : 1.0f / kExtraUp;
  const uint32_t high = Pack(c[0] * down, c[1] * down);
  const float2 held = __half22float2(Halves(high));
  const uint32_t low = Pack(c[0] * down - held.x, c[1] * down - held.y);
  return uint2{Transpose(high), Transpose(low)};
}

template <int kPairs, class S>
struct Block {
  using R = Ring<kPairs, S>;
  // What a lane keeps of where its codes are; rows and other widths have no use for it.
  static constexpr int kKWidth = S::kKForm == kStagedRows ? 8 : S::kKWidth;
  static constexpr int kVWidth = S::kVForm == kStagedRows ? 8 : S::kVWidth;
  const AttendParams& args;
  const Columns<kPairs>& columns;
  uint32_t lane, g, t, quad;
  Lane<kPairs>& state;
  uint32_t q_at;           // of the lane's queries
  uint32_t by_dir, by_row;  // 16 t and 8 g: bytes into a row of directions, of tokens

  __device__ Block(const AttendParams& p, const Columns<kPairs>& c, Lane<kPairs>& s)
      : args(p), columns(c), lane(s.lane), g(s.g), t(s.t), quad(s.g % 4), state(s) {
    q_at = Keep(SharedAddress(c.q) + lane * 16);
    by_dir = Keep(t * 16);
    by_row = Keep(g * 8);
  }

  __device__ __forceinline__ uint4 Query(int i) const { return Load16(q_at + i * 512); }
  template <int kWidth>
  __device__ __forceinline__ CodeLane<kWidth> KeyLane() const {
    return CodeLane<kWidth>(t / 2 * (64 * kWidth), g / 4 * 8 + t % 2 * 4, quad);
  }
  template <int kWidth>
  __device__ __forceinline__ CodeLane<kWidth> ValueLane() const {
    return CodeLane<kWidth>(g / 4 * (64 * kWidth), 4 * t, quad);
  }

  // ------------------------------------------------------------------------------------ scores

  // s += keys times queries. Rows of a lane: tokens 4 g + 2 m and + 1 of the block.
  __device__ void ScoresOfRows(const uint8_t* tile, float (&s)[2][4]) const {
    const uint32_t at = SharedAddress(tile) + RowTile<kPairs>::Offset(4 * g, 8 * t);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      uint32_t a[4][4];
#pragma unroll
      for (uint32_t j = 0; j < 4; ++j) {
        const uint4 x = Load16(at + j * RowTile<kPairs>::kPitch + 64 * i);
        a[j][0] = x.x, a[j][1] = x.y, a[j][2] = x.z, a[j][3] = x.w;
      }
      const uint4 q = Query(i);
      MmaBlock(s[0], s[1], a, q.x, q.y, q.z, q.w);
    }
  }

  template <int kWidth>
  __device__ __forceinline__ void ScoresByToken(uint32_t slot, const CodeLane<kWidth>& mine,
                                                uint32_t group_pairs, float (&s)[2][4]) const {
    float c[2][4] = {};
    uint32_t left = group_pairs;
    uint32_t scale = slot + R::kKCodes + by_row;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      uint32_t a[4][4];
      LoadCodes<kWidth>(slot + i * (128 * kWidth), mine, a);
      const uint4 q = Query(i);
      MmaBlock(c[0], c[1], a, q.x, q.y, q.z, q.w);
      if (--left == 0 || i == kPairs - 1) {
        const uint2 four = Load8(scale);
        const float2 f01 = __half22float2(Halves(four.x)), f23 = __half22float2(Halves(four.y));
        s[0][0] = fmaf(f01.x, c[0][0], s[0][0]), s[0][1] = fmaf(f01.x, c[0][1], s[0][1]);
        s[0][2] = fmaf(f01.y, c[0][2], s[0][2]), s[0][3] = fmaf(f01.y, c[0][3], s[0][3]);
        s[1][0] = fmaf(f23.x, c[1][0], s[1][0]), s[1][1] = fmaf(f23.x, c[1][1], s[1][1]);
        s[1][2] = fmaf(f23.y, c[1][2], s[1][2]), s[1][3] = fmaf(f23.y, c[1][3], s[1][3]);
#pragma unroll
        for (int k = 0; k < 4; ++k) c[0][k] = c[1][k] = 0;
        left = group_pairs;
        scale += 64;
      }
    }
  }

  template <int kWidth>
  __device__ __forceinline__ void ScoresByChannel(uint32_t slot, const CodeLane<kWidth>& mine,
                                                  float (&s)[2][4]) const {
    const uint32_t scales = slot + R::kKCodes + by_dir;
    float c[4] = {};  // the minima's share: all rows alike
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const uint4 m = Load16(scales + kPairs * 64 + 64 * i);
      const uint4 f = Load16(scales + 64 * i);
      const uint4 q = Query(i);
      Mma(c, m.x, m.x, m.y, m.y, q.x, q.y);
      Mma(c, m.z, m.z, m.w, m.w, q.z, q.w);
      uint32_t a[4][4];
      LoadCodes<kWidth>(slot + i * (128 * kWidth), mine, a);
      MmaBlock(s[0], s[1], a, Times(q.x, f.x), Times(q.y, f.y), Times(q.z, f.z), Times(q.w, f.w));
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) s[0][k] += c[k], s[1][k] += c[k];
  }

  template <int kWidth>
  __device__ __forceinline__ void ScoresOfCodes(uint32_t slot, const CodeLane<kWidth>& mine,
                                                const RunInfo& info, float (&s)[2][4]) const {
    if (S::kKForm == kByToken || (S::kKForm == kAnyForm && info.k_form == kByToken)) {
      ScoresByToken<kWidth>(slot, mine, info.k_group_pairs, s);
    } else {
      ScoresByChannel<kWidth>(slot, mine, s);
    }
  }

  // Minima by token and low rank: a factor of each token, times what PrepareExtras left.
  __device__ __forceinline__ void ScoresOfExtras(uint32_t rows, const RunInfo& info,
                                                 float (&s)[2][4]) {
    const uint32_t minima =
        S::kKForm == kByToken || info.k_form == kByToken ? info.k_groups : 0;
    const uint32_t rank = info.k_rank;
    if (minima + rank == 0) return;
    if (state.extra_id != info.k_id) {
      const uint2 both = PrepareExtras<kPairs>(q_at, &info, minima, args.head_dim, lane);
      state.extra[0] = both.x;
      state.extra[1] = both.y;
      state.extra_id = info.k_id;
    }
    const uint2 x = Load8(rows + 8 * by_dir + by_row);
    const uint2 y = Load8(rows + 8 * by_dir + by_row + 64);
    uint32_t a0 = __byte_perm(x.x, y.x, 0x5410), a1 = __byte_perm(x.x, y.x, 0x7632);
    uint32_t a2 = __byte_perm(x.y, y.y, 0x5410), a3 = __byte_perm(x.y, y.y, 0x7632);
    if (rank > 0) {
      const uint32_t up = __byte_perm(2 * t < minima ? kOneAndOne : kUpAndUp,
                                      2 * t + 1 < minima ? kOneAndOne : kUpAndUp, 0x5410);
      a0 = Times(a0, up), a1 = Times(a1, up), a2 = Times(a2, up), a3 = Times(a3, up);
    }
    Mma(s[0], a0, a1, a0, a1, state.extra[0], state.extra[1]);
    Mma(s[1], a2, a3, a2, a3, state.extra[0], state.extra[1]);
  }

  // ------------------------------------------------------------------------------------ weights

  // Products to weights, and the sums so far to the new maximum. weights[]: column g, tokens
  // 8 t .. 8 t + 7 of the block in pairs. `at`: the block's first token from the chunk's first.
  __device__ void Weights(float (&s)[2][4], int32_t at, uint32_t (&weights)[4]) {
    Lane<kPairs>& z = state;
    const float2 both = *reinterpret_cast<const float2*>(columns.logit + 2 * t);
    const float logit[2] = {both.x, both.y};
    if (args.softcap > 0) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          s[m][k] = args.softcap * kLog2E * tanhf(s[m][k] * logit[k % 2]);
        }
      }
    } else {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int k = 0; k < 4; ++k) s[m][k] *= logit[k % 2];
      }
    }
    if (at < columns.all_low || at + 32 > columns.all_high) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int32_t token = at + static_cast<int32_t>(4 * g) + 2 * m + k / 2;
          if (token < columns.low[2 * t + k % 2] || token >= columns.high[2 * t + k % 2]) s[m][k] = -INFINITY;
        }
      }
    }
    float most[2];
    bool more = false;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      most[k] = fmaxf(fmaxf(s[0][k], s[0][k + 2]), fmaxf(s[1][k], s[1][k + 2]));
      more = more || most[k] > z.most[k];
    }
    if (__any_sync(kAllLanes, more)) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
#pragma unroll
        for (int step = 4; step < 32; step *= 2) {
          most[k] = fmaxf(most[k], __shfl_xor_sync(kAllLanes, most[k], step));
        }
        if (most[k] > z.most[k]) {
          const float shrink = Exp2(z.most[k] - most[k]);
          z.most[k] = most[k];
#pragma unroll
          for (int i = 0; i < kPairs; ++i) {
            z.o[i][0][k] *= shrink, z.o[i][0][k + 2] *= shrink;
            z.o[i][1][k] *= shrink, z.o[i][1][k + 2] *= shrink;
          }
          z.x[k] *= shrink, z.x[k + 2] *= shrink;
        }
      }
    }
    uint32_t w[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float* const pair = &s[j / 2][j % 2 * 2];
      w[j] = Transpose(Pack(Exp2(pair[0] - z.most[0]), Exp2(pair[1] - z.most[1])));
    }
    // w[j] holds tokens 8 t + j and 8 t + 4 + j.
    weights[0] = __byte_perm(w[0], w[1], 0x5410);
    weights[1] = __byte_perm(w[2], w[3], 0x5410);
    weights[2] = __byte_perm(w[0], w[1], 0x7632);
    weights[3] = __byte_perm(w[2], w[3], 0x7632);
  }

  // ------------------------------------------------------------------------------------- values

  // Sums of the weights, and of the weights times minima: row g of m, column 8 t ...
  __device__ void SumWeights(const uint4& m, const uint32_t (&w)[4]) {
    Mma(state.x, m.x, kOneAndOne, m.y, kOneAndOne, w[0], w[1]);
    Mma(state.x, m.z, kOneAndOne, m.w, kOneAndOne, w[2], w[3]);
  }

  __device__ void ValuesOfRows(const uint8_t* tile, const uint32_t (&w)[4]) {
    const uint32_t at = SharedAddress(tile) + RowTile<kPairs>::Offset(8 * t, 4 * g);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      uint32_t a[4][4];
#pragma unroll
      for (uint32_t p = 0; p < 4; ++p) {
        const uint2 x = Load8(at + 2 * p * RowTile<kPairs>::kPitch + 64 * i);
        const uint2 y = Load8(at + (2 * p + 1) * RowTile<kPairs>::kPitch + 64 * i);
        a[0][p] = __byte_perm(x.x, y.x, 0x5410);
        a[1][p] = __byte_perm(x.x, y.x, 0x7632);
        a[2][p] = __byte_perm(x.y, y.y, 0x5410);
        a[3][p] = __byte_perm(x.y, y.y, 0x7632);
      }
      MmaBlock(state.o[i][0], state.o[i][1], a, w[0], w[1], w[2], w[3]);
    }
  }

  template <int kWidth>
  __device__ __forceinline__ void ValuesOfCodes(uint32_t slot, const CodeLane<kWidth>& mine,
                                                const RunInfo& info, const uint32_t (&w)[4]) {
    const uint32_t scales = slot + R::kVCodes + by_dir;
    const uint32_t group_pairs = info.v_group_pairs;
    if (state.v_group_pairs != group_pairs) {
      AddMinima();
      state.v_group_pairs = group_pairs;
    }
    uint4 m{0, 0, 0, 0};
    if (g < kPairs) m = Load16(scales + R::kVScales + 8 * by_row);
    SumWeights(m, w);
    uint32_t left = 1;
    uint32_t scale = scales;
    uint32_t b[4];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (--left == 0) {
        const uint4 f = Load16(scale);
        b[0] = Times(w[0], f.x), b[1] = Times(w[1], f.y);
        b[2] = Times(w[2], f.z), b[3] = Times(w[3], f.w);
        scale += 64;
        left = group_pairs;
      }
      uint32_t a[4][4];
      LoadCodes<kWidth>(slot + i * (128 * kWidth), mine, a);
      MmaBlock(state.o[i][0], state.o[i][1], a, b[0], b[1], b[2], b[3]);
    }
  }

  // Moves the sums of minima to the directions of their groups.
  __device__ void AddMinima() {
    Lane<kPairs>& z = state;
#pragma unroll
    for (uint32_t i = 0; i < kPairs; ++i) {
      const uint32_t from = 4 * min(i / z.v_group_pairs, 7u) + t;
      const float x0 = __shfl_sync(kAllLanes, z.x[0], from);
      const float x1 = __shfl_sync(kAllLanes, z.x[1], from);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        z.o[i][m][0] += x0, z.o[i][m][2] += x0;
        z.o[i][m][1] += x1, z.o[i][m][3] += x1;
      }
    }
    z.x[0] = z.x[1] = 0;
  }

  // -------------------------------------------------------------------------------- sparse part

  // Entries of the lane's token, from a slot or from where the piece has them.
  struct Entries {
    uint32_t next, end;
    const uint8_t* dir;
    const uint16_t* value;
  };
  __device__ Entries EntriesOf(const uint8_t* area, const SparseInfo& info) const {
    Entries out;
    const uint32_t count = info.staged ? area[lane] : info.count[lane];
    uint32_t before = count;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, before, step);
      if (lane >= step) before += other;
    }
    out.next = before - count;
    out.end = before;
    out.dir = info.staged ? area + 32 + info.dir_skew : info.dir;
    out.value = info.staged ? reinterpret_cast<const uint16_t*>(area + 32 + kSparseDirBytes +
                                                                info.value_skew)
                            : info.value;
    return out;
  }

  // Entries are spread over a tile of zeros of 64 directions, multiplied, and taken off again.
  __device__ void SparseScores(const uint8_t* area, const SparseInfo& info, uint8_t* tile,
                               float (&s)[2][4]) const {
    if (info.entries == 0) return;
    Entries e = EntriesOf(area, info);
#pragma unroll
    for (int part = 0; part < (kPairs + 1) / 2; ++part) {
      const uint32_t first = e.next;
      const uint32_t base = 64 * static_cast<uint32_t>(part);
      for (; e.next < e.end && e.dir[e.next] < base + 64; ++e.next) {
        *reinterpret_cast<uint16_t*>(tile + RowTile<2>::Offset(lane, e.dir[e.next] - base)) =
            e.value[e.next];
      }
      __syncwarp();
#pragma unroll
      for (int i = 2 * part; i < 2 * part + 2 && i < kPairs; ++i) {
        uint32_t a[4][4];
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const uint4 x = *reinterpret_cast<const uint4*>(
              tile + RowTile<2>::Offset(4 * g + j, static_cast<uint32_t>(i % 2 * 32) + 8 * t));
          a[j][0] = x.x, a[j][1] = x.y, a[j][2] = x.z, a[j][3] = x.w;
        }
        const uint4 q = Query(i);
        MmaBlock(s[0], s[1], a, q.x, q.y, q.z, q.w);
      }
      __syncwarp();
      for (uint32_t n = first; n < e.next; ++n) {
        *reinterpret_cast<uint16_t*>(tile + RowTile<2>::Offset(lane, e.dir[n] - base)) = 0;
      }
    }
    __syncwarp();
  }

  __device__ void SparseValues(const uint8_t* area, const SparseInfo& info, uint8_t* tile,
                               const uint32_t (&w)[4]) {
    if (info.entries == 0) return;
    Entries e = EntriesOf(area, info);
#pragma unroll
    for (int part = 0; part < (kPairs + 1) / 2; ++part) {
      const uint32_t first = e.next;
      const uint32_t base = 64 * static_cast<uint32_t>(part);
      // [direction][token], so that pairs of tokens lie side by side.
      for (; e.next < e.end && e.dir[e.next] < base + 64; ++e.next) {
        reinterpret_cast<uint16_t*>(tile + (e.dir[e.next] - base) * kTokenPitch)[lane] =
            e.value[e.next];
      }
      __syncwarp();
#pragma unroll
      for (int i = 2 * part; i < 2 * part + 2 && i < kPairs; ++i) {
        uint32_t a[4][4];
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const uint4 x = *reinterpret_cast<const uint4*>(
              tile + (static_cast<uint32_t>(i % 2 * 32) + 4 * g + j) * kTokenPitch + t * 16);
          a[j][0] = x.x, a[j][1] = x.y, a[j][2] = x.z, a[j][3] = x.w;
        }
        MmaBlock(state.o[i][0], state.o[i][1], a, w[0], w[1], w[2], w[3]);
      }
      __syncwarp();
      for (uint32_t n = first; n < e.next; ++n) {
        reinterpret_cast<uint16_t*>(tile + (e.dir[n] - base) * kTokenPitch)[lane] = 0;
      }
    }
    __syncwarp();
  }

  // ------------------------------------------------------------------------------ a whole block

  template <int kWidth>
  __device__ void AnyScores(uint32_t slot, const RunInfo& info, float (&s)[2][4]) const {
    ScoresOfCodes<kWidth>(slot, KeyLane<kWidth>(), info, s);
  }
  template <int kWidth>
  __device__ void AnyValues(uint32_t slot, const RunInfo& info, const uint32_t (&w)[4]) {
    ValuesOfCodes<kWidth>(slot, ValueLane<kWidth>(), info, w);
  }

  template <class Mine>
  __device__ __forceinline__ void Scores(uint8_t* slot, const Mine& mine, const RunInfo& info,
                                         const SparseInfo& sparse, uint8_t* sparse_tile,
                                         float (&s)[2][4]) {
    if constexpr (S::kKForm == kStagedRows) {
      ScoresOfRows(slot, s);
    } else {
      const uint32_t at = SharedAddress(slot);
      if constexpr (S::kKForm != kAnyForm) {
        ScoresOfCodes<S::kKWidth>(at, mine, info, s);
      } else {
        switch (info.k_width) {
          case 1: AnyScores<1>(at, info, s); break;
          case 2: AnyScores<2>(at, info, s); break;
          case 3: AnyScores<3>(at, info, s); break;
          case 4: AnyScores<4>(at, info, s); break;
          case 6: AnyScores<6>(at, info, s); break;
          default: AnyScores<8>(at, info, s); break;
        }
      }
      ScoresOfExtras(at + R::kKCodes + R::kKScales, info, s);
      if constexpr (S::kSparse) {
        SparseScores(slot + R::kKBytes - kSparseArea, sparse, sparse_tile, s);
      }
    }
  }

  template <class Mine>
  __device__ __forceinline__ void Values(uint8_t* slot, const Mine& mine, const RunInfo& info,
                                         const SparseInfo& sparse, uint8_t* sparse_tile,
                                         const uint32_t (&w)[4]) {
    if constexpr (S::kVForm == kStagedRows) {
      SumWeights(uint4{0, 0, 0, 0}, w);
      ValuesOfRows(slot, w);
    } else {
      const uint32_t at = SharedAddress(slot);
      if constexpr (S::kVForm != kAnyForm) {
        ValuesOfCodes<S::kVWidth>(at, mine, info, w);
      } else {
        switch (info.v_width) {
          case 1: AnyValues<1>(at, info, w); break;
          case 2: AnyValues<2>(at, info, w); break;
          case 3: AnyValues<3>(at, info, w); break;
          case 4: AnyValues<4>(at, info, w); break;
          case 6: AnyValues<6>(at, info, w); break;
          default: AnyValues<8>(at, info, w); break;
        }
      }
      if constexpr (S::kSparse) {
        SparseValues(slot + R::kVBytes - kSparseArea, sparse, sparse_tile, w);
      }
    }
  }
};

template <int kPairs, class S>
__global__ void __launch_bounds__(kThreads, Ring<kPairs, S>::kBlocks)
    AttendKernel(const __grid_constant__ AttendParams p) {
  using R = Ring<kPairs, S>;
  constexpr uint32_t step = kWarps * ops::kBlockTokens;
  extern __shared__ __align__(128) uint8_t shared[];
  __shared__ WarpState states[kWarps];
  __shared__ UnitState unit_state;
  __shared__ Unit unit;
  const uint32_t warp = threadIdx.x / 32;
  __shared__ Columns<kPairs> columns;
  Lane<kPairs> z{};
  z.lane = threadIdx.x % 32;
  z.g = z.lane / 4;
  z.t = z.lane % 4;
  z.most[0] = z.most[1] = kNoLogit;
  z.extra_id = kNoId;
  z.v_group_pairs = ops::kMaxHeadDim / 32;
  const uint32_t lane = z.lane;
  WarpState& own = states[warp];
  if (warp == 0) FindUnit(&unit, &unit_state, p, lane);
  uint8_t* const ring = shared + warp * R::kBytes;
  uint8_t* const sparse_tile = ring + R::kStaged;
  if constexpr (S::kSparse) {
    for (uint32_t i = lane * 16; i < R::kSparseTile; i += 512) {
      *reinterpret_cast<uint4*>(sparse_tile + i) = uint4{0, 0, 0, 0};
    }
  }
  if (lane == 0) own.waiting = 0;
  __syncthreads();
  const DeviceItem& item = p.items[unit.item];
  // What all warps need, each found by one of them.
  if (warp == 0) Seek<kPairs, S>(&unit_state.k_view, &own.piece, unit_state.k, unit_state.first, lane);
  if (warp == 1) Seek<kPairs, S>(&unit_state.v_view, &own.piece, unit_state.v, unit_state.first, lane);
  if (warp == 2) ReadColumns(columns, p, item, unit, unit_state.first, lane);
  __syncthreads();
  for (uint32_t i = lane; i < sizeof(View) / 4; i += 32) {
    reinterpret_cast<uint32_t*>(&own.k)[i] = reinterpret_cast<const uint32_t*>(&unit_state.k_view)[i];
    reinterpret_cast<uint32_t*>(&own.v)[i] = reinterpret_cast<const uint32_t*>(&unit_state.v_view)[i];
  }
  __syncwarp();

  Source<kPairs, S::kKForm, S::kKWidth, true> keys;
  Source<kPairs, S::kVForm, S::kVWidth, false> values;
  uint32_t next = warp * ops::kBlockTokens;  // to look at
  uint32_t blocks = 0;                       // left of the run
  uint32_t run = kMostRuns - 1;
  uint2 k_sparse{0, 0}, v_sparse{0, 0};      // entries of the next block, read ahead
  bool staged = false;                       // whether a block's keys are, and its values not yet

  const auto stage_keys = [&](uint32_t s) {
    if (blocks == 0) {
      run = (run + 1) % kMostRuns;
      OpenRun<kPairs, S>(&own, &unit_state, next, warp, run, lane);
      next = own.next;
      blocks = own.blocks;
      if (blocks > 0) {
        const uint64_t token = unit_state.first + next;
        keys.Open(own.k, token, p.head_dim, lane);
        values.Open(own.v, token, p.head_dim, lane);
        if constexpr (S::kSparse) {
          if (own.k.sparse_start != nullptr) {
            k_sparse = SparseRange(own.k, static_cast<uint32_t>(token - own.k.first));
          }
          if (own.v.sparse_start != nullptr) {
            v_sparse = SparseRange(own.v, static_cast<uint32_t>(token - own.v.first));
          }
        }
      }
    }
    staged = blocks > 0;
    own.slot_token[s] = staged ? next : kNoToken;  // by all lanes alike
    own.slot_run[s] = run;
    if (staged) {
      uint8_t* const slot = ring + s * R::kSlot;
      keys.Stage(slot, own.k, p.head_dim, lane);
      if constexpr (S::kSparse) {
        const auto at = static_cast<uint32_t>(unit_state.first + next - own.k.first);
        StageSparse(slot + R::kKBytes - kSparseArea, &own.sparse[s][0], own.k, at, k_sparse, lane);
        if (blocks > 1 && own.k.sparse_start != nullptr) k_sparse = SparseRange(own.k, at + step);
      }
    }
    CommitCopies();
  };
  const auto stage_values = [&](uint32_t s) {
    if (staged) {
      uint8_t* const slot = ring + s * R::kSlot + R::kKBytes;
      values.Stage(slot, own.v, p.head_dim, lane);
      if constexpr (S::kSparse) {
        const auto at = static_cast<uint32_t>(unit_state.first + next - own.v.first);
        StageSparse(slot + R::kVBytes - kSparseArea, &own.sparse[s][1], own.v, at, v_sparse, lane);
        if (blocks > 1 && own.v.sparse_start != nullptr) v_sparse = SparseRange(own.v, at + step);
      }
      next += step;
      --blocks;
    }
    CommitCopies();
  };

  Block<kPairs, S> block(p, columns, z);
  const auto k_lane = block.template KeyLane<Block<kPairs, S>::kKWidth>();
  const auto v_lane = block.template ValueLane<Block<kPairs, S>::kVWidth>();
  for (uint32_t n = 0, s = 0;; ++n, s = s + 1 == R::kStages ? 0 : s + 1) {
    const bool filled = n >= R::kStages;
    uint8_t* const slot = ring + s * R::kSlot;
    uint32_t token = kNoToken;
    float scores[2][4] = {};
    uint32_t weights[4];
    const RunInfo* info = nullptr;
    if (filled) {
      WaitCopies<2 * R::kStages - 1>();
      __syncwarp();
      token = own.slot_token[s];
      if (token == kNoToken) break;
      info = &own.runs[own.slot_run[s]];
      block.Scores(slot, k_lane, *info, own.sparse[s][0], sparse_tile, scores);
      __syncwarp();
    }
    stage_keys(s);
    if (filled) {
      block.Weights(scores, static_cast<int32_t>(token), weights);
      WaitCopies<2 * R::kStages - 1>();
      __syncwarp();
      block.Values(slot + R::kKBytes, v_lane, *info, own.sparse[s][1], sparse_tile, weights);
      __syncwarp();
    }
    stage_values(s);
  }
  WaitCopies<0>();
  __syncwarp();
  for (uint32_t waiting = own.waiting; waiting != 0; waiting &= waiting - 1) {
    const uint32_t at = (__ffs(static_cast<int>(waiting)) - 1) * step + warp * ops::kBlockTokens;
    const uint64_t token = unit_state.first + at;
    const uint64_t end = min(token + ops::kBlockTokens, unit_state.length);
    float scores[2][4] = {};
    for (uint64_t from = token; from < end; from = own.k.end) {
      Seek<kPairs, S>(&own.k, &own.piece, unit_state.k, from, lane);
      const uint64_t to = min(end, own.k.end);
      float part[2][4] = {};
      if (own.k.form != kDecoded && token >= own.k.first) {
        keys.Open(own.k, token, p.head_dim, lane);
        keys.Stage(ring, own.k, p.head_dim, lane);
        if (lane == 0) own.runs[0] = RunInfoOf(own.k, own.v);
        if constexpr (S::kSparse) {
          const auto first = static_cast<uint32_t>(token - own.k.first);
          uint2 range{0, 0};
          if (own.k.sparse_start != nullptr) range = SparseRange(own.k, first);
          StageSparse(ring + R::kKBytes - kSparseArea, &own.sparse[0][0], own.k, first, range, lane);
        }
        CommitCopies();
        WaitCopies<0>();
        __syncwarp();
        block.Scores(ring, k_lane, own.runs[0], own.sparse[0][0], sparse_tile, part);
      } else {
        DecodeTile<kPairs>(ring, &own.k, ops::kSideK, token, from, to, unit.head, p.head_dim, lane);
        block.ScoresOfRows(ring, part);
        const float factor = own.k.rows != nullptr ? 1.0f : 1.0f / kDecodedShare;
#pragma unroll
        for (int k = 0; k < 4; ++k) part[0][k] *= factor, part[1][k] *= factor;
      }
      __syncwarp();
#pragma unroll
      for (uint32_t k = 0; k < 8; ++k) {
        const uint64_t mine = token + 4 * z.g + k / 4 * 2 + k % 4 / 2;
        if (mine >= from && mine < to) scores[k / 4][k % 4] = part[k / 4][k % 4];
      }
    }
    uint32_t weights[4];
    block.Weights(scores, static_cast<int32_t>(at), weights);
    for (uint64_t from = token; from < end; from = own.v.end) {
      Seek<kPairs, S>(&own.v, &own.piece, unit_state.v, from, lane);
      const uint64_t to = min(end, own.v.end);
      uint32_t w[4];
#pragma unroll
      for (uint32_t k = 0; k < 4; ++k) {
        const uint64_t mine = token + 8 * z.t + 2 * k;
        w[k] = (mine >= from && mine < to ? weights[k] & 0xFFFFu : 0) |
               (mine + 1 >= from && mine + 1 < to ? weights[k] & 0xFFFF0000u : 0);
      }
      if (own.v.form != kDecoded && token >= own.v.first) {
        values.Open(own.v, token, p.head_dim, lane);
        values.Stage(ring, own.v, p.head_dim, lane);
        if (lane == 0) own.runs[0] = RunInfoOf(own.k, own.v);
        if constexpr (S::kSparse) {
          const auto first = static_cast<uint32_t>(token - own.v.first);
          uint2 range{0, 0};
          if (own.v.sparse_start != nullptr) range = SparseRange(own.v, first);
          StageSparse(ring + R::kVBytes - kSparseArea, &own.sparse[0][1], own.v, first, range, lane);
        }
        CommitCopies();
        WaitCopies<0>();
        __syncwarp();
        block.Values(ring, v_lane, own.runs[0], own.sparse[0][1], sparse_tile, w);
      } else {
        DecodeTile<kPairs>(ring, &own.v, ops::kSideV, token, from, to, unit.head, p.head_dim, lane);
        block.SumWeights(uint4{0, 0, 0, 0}, w);
        const uint32_t factor = own.v.rows != nullptr ? kOneAndOne : 0x44004400u;  // 4, 4
#pragma unroll
        for (int k = 0; k < 4; ++k) w[k] = Times(w[k], factor);
        block.ValuesOfRows(ring, w);
      }
      __syncwarp();
    }
  }
  block.AddMinima();
  Finish(z, p, item, unit, shared);
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_KERNEL_CUH_
