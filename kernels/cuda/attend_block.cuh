// Attend on CUDA: what a warp computes of one block of 32 tokens. Scores, weights, sums of values.
//
// Included by attend_kernel.cuh. See kernels/README.md for how it works.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_BLOCK_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_BLOCK_CUH_

#include <cstdint>

#include "kernels/cuda/attend.h"
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

// Out of the way of those who have none.
__device__ __noinline__ inline float SoftCap(float x) { return tanhf(x); }

// The products of the columns with the factors b, and with 1 over each group for the minima: parts
// in fp16, the larger and the rest. Not a member, so that no state has to be in memory for it.
template <int kPairs>
__device__ __noinline__ uint2 PrepareExtras(uint32_t q_at, RunInfo info, const uint16_t* k_b,
                                            uint32_t minima, uint32_t head_dim, uint32_t lane) {
  const uint32_t g = lane / 4, t = lane % 4;
  const uint32_t dirs = PaddedDirs(head_dim);
  float c[4] = {};
#pragma unroll
  for (uint32_t i = 0; i < kPairs; ++i) {
    uint4 a{0, 0, 0, 0};
    const uint32_t direction = 32 * i + 8 * t;
    if (g < minima) {
      if (i / info.k_group_pairs() == g) a = uint4{kOneAndOne, kOneAndOne, kOneAndOne, kOneAndOne};
    } else if (g < minima + info.k_rank() && direction < dirs) {
      a = *reinterpret_cast<const uint4*>(k_b + uint64_t{g - minima} * dirs + direction);
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
  uint32_t q_at, logit_at;  // of the lane's queries, and of its factors
  int32_t all_low, all_high;
  uint32_t by_dir, by_row;  // 16 t and 8 g: bytes into a row of directions, of tokens

  __device__ Block(const AttendParams& p, const Columns<kPairs>& c, Lane<kPairs>& s)
      : args(p), columns(c), lane(s.lane), g(s.g), t(s.t), quad(s.g % 4), state(s) {
    q_at = Keep(SharedAddress(c.q) + lane * 16);
    logit_at = Keep(SharedAddress(c.logit) + t * 8);
    by_dir = Keep(t * 16);
    by_row = Keep(g * 8);
  }

  // What the unit's columns have in common.
  __device__ __forceinline__ void ReadColumns() {
    all_low = columns.all_low;
    all_high = columns.all_high;
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

  template <int kGroup>
  __device__ static __forceinline__ bool EndOfGroup(int i, uint32_t& left) {
    if constexpr (kGroup > 0) return (i + 1) % kGroup == 0 || i == kPairs - 1;
    return --left == 0 || i == kPairs - 1;
  }

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

  // kGroup: directions of a group in pairs of tiles; 0 if that is known only now.
  template <int kWidth, int kGroup>
  __device__ __forceinline__ void ScoresByToken(uint32_t slot, const CodeLane<kWidth>& mine,
                                                uint32_t group_pairs, float (&s)[2][4]) const {
    CodeSums c;
    uint32_t left = group_pairs;
    uint32_t scale = slot + R::kKCodes + by_row;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      uint32_t a[4][4];
      LoadCodes<kWidth>(slot + i * (128 * kWidth), mine, a);
      const uint4 q = Query(i);
      MmaCodes<kWidth>(c, a, q.x, q.y, q.z, q.w);
      if (EndOfGroup<kGroup>(i, left)) {
        const uint2 four = Load8(scale);
        const float2 f01 = __half22float2(Halves(four.x)), f23 = __half22float2(Halves(four.y));
        const float f[4] = {f01.x * kCodeUnit, f01.y * kCodeUnit, f23.x * kCodeUnit,
                            f23.y * kCodeUnit};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            s[m][k] = fmaf(f[2 * m + k / 2], c.template Sum<kWidth>(m, k), s[m][k]);
          }
        }
        c = CodeSums();
        left = group_pairs;
        scale += 64;
      }
    }
  }

  template <int kWidth>
  __device__ __forceinline__ void ScoresByChannel(uint32_t slot, const CodeLane<kWidth>& mine,
                                                  float (&s)[2][4]) const {
    const uint32_t scales = slot + R::kKCodes + by_dir;
    float least[4] = {};  // the minima's share: all rows alike
    CodeSums c;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const uint4 m = Load16(scales + kPairs * 64 + 64 * i);
      const uint4 f = Load16(scales + 64 * i);
      const uint4 q = Query(i);
      Mma(least, m.x, m.x, m.y, m.y, q.x, q.y);
      Mma(least, m.z, m.z, m.w, m.w, q.z, q.w);
      uint32_t a[4][4];
      LoadCodes<kWidth>(slot + i * (128 * kWidth), mine, a);
      MmaCodes<kWidth>(c, a, Times(q.x, f.x), Times(q.y, f.y), Times(q.z, f.z), Times(q.w, f.w));
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        s[m][k] = fmaf(c.template Sum<kWidth>(m, k), kCodeUnit, s[m][k] + least[k]);
      }
    }
  }

  template <int kWidth>
  __device__ __forceinline__ void ScoresOfCodes(uint32_t slot, const CodeLane<kWidth>& mine,
                                                RunInfo info, float (&s)[2][4]) const {
    if (S::kKForm == kByToken || (S::kKForm == kAnyForm && !info.k_by_channel())) {
      if (S::kKForm == kByToken && info.k_group_pairs() == 2) {
        ScoresByToken<kWidth, 2>(slot, mine, 2, s);
      } else {
        ScoresByToken<kWidth, 0>(slot, mine, info.k_group_pairs(), s);
      }
    } else {
      ScoresByChannel<kWidth>(slot, mine, s);
    }
  }

  // Minima by token and low rank: a factor of each token, times what PrepareExtras left.
  __device__ __forceinline__ void ScoresOfExtras(uint32_t rows, RunInfo info, const WarpState& own,
                                                 float (&s)[2][4]) {
    const uint32_t minima = S::kKForm == kByToken || (S::kKForm == kAnyForm && !info.k_by_channel())
                                ? info.k_groups()
                                : 0;
    const uint32_t rank = S::kKForm == kByToken ? 0 : info.k_rank();
    if (minima + rank == 0) return;
    // Without low rank it depends on the groups alone.
    const uint32_t what = rank > 0 ? info.bits : info.bits & 0xF0Fu;
    if (__builtin_expect(state.extra_for != what, 0)) {
      const uint2 both = PrepareExtras<kPairs>(q_at, info, own.k_b[info.run()], minima,
                                               args.head_dim, lane);
      state.extra[0] = both.x;
      state.extra[1] = both.y;
      state.extra_for = what;
    }
    uint2 x{0, 0}, y{0, 0};
    if (S::kKForm != kByToken || 2 * t < kPairs) x = Load8(rows + 8 * by_dir + by_row);
    if (S::kKForm != kByToken || 2 * t + 1 < kPairs) y = Load8(rows + 8 * by_dir + by_row + 64);
    uint32_t a0 = __byte_perm(x.x, y.x, 0x5410), a1 = __byte_perm(x.x, y.x, 0x7632);
    uint32_t a2 = __byte_perm(x.y, y.y, 0x5410), a3 = __byte_perm(x.y, y.y, 0x7632);
    if (rank > 0) {
      const int first = static_cast<int>(2 * t), least = static_cast<int>(minima);
      const uint32_t up = __byte_perm(least > first ? kOneAndOne : kUpAndUp,
                                      least > first + 1 ? kOneAndOne : kUpAndUp, 0x5410);
      a0 = Times(a0, up), a1 = Times(a1, up), a2 = Times(a2, up), a3 = Times(a3, up);
    }
    Mma(s[0], a0, a1, a0, a1, state.extra[0], state.extra[1]);
    Mma(s[1], a2, a3, a2, a3, state.extra[0], state.extra[1]);
  }

  // ------------------------------------------------------------------------------------ weights

  // The weights of values of this width may rise to 2^this, so that times a scale of values that are
  // fp16 numbers they are numbers of fp16, too.
  static constexpr float kWeightRoom = S::kVForm == kStagedRows ? 8
                                       : S::kVForm == kAnyForm  ? 0
                                       : S::kVWidth == 8        ? 6
                                       : S::kVWidth == 4        ? 2
                                                                : 0;
  // A maximum is brought so far below that, so that most of those that rise further need nothing.
  static constexpr float kSlack = 2;

  // Brings the sums so far to a new maximum.
  __device__ __forceinline__ void Lower(float (&most)[2]) {
    Lane<kPairs>& z = state;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        most[k] = fmaxf(most[k], __shfl_xor_sync(kAllLanes, most[k], step));
      }
      if (most[k] > z.most[k] + kWeightRoom) {
        const float to = most[k] - (kWeightRoom - kSlack);
        const float shrink = Exp2(z.most[k] - to);
        z.most[k] = to;
#pragma unroll
        for (int i = 0; i < kPairs; ++i) {
          z.o[i][0][k] *= shrink, z.o[i][0][k + 2] *= shrink;
          z.o[i][1][k] *= shrink, z.o[i][1][k + 2] *= shrink;
        }
        z.x[k] *= shrink, z.x[k + 2] *= shrink;
      }
    }
  }

  // Products to weights. weights[]: column g, tokens
  // 8 t .. 8 t + 7 of the block in pairs. `at`: the block's first token from the chunk's first.
  __device__ void Weights(float (&s)[2][4], int32_t at, uint32_t (&weights)[4]) {
    Lane<kPairs>& z = state;
    const uint2 both = Load8(logit_at);
    const float logit[2] = {__uint_as_float(both.x), __uint_as_float(both.y)};
    if (__builtin_expect(args.softcap > 0, 0)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          s[m][k] = args.softcap * kLog2E * SoftCap(s[m][k] * logit[k % 2]);
        }
      }
    } else {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int k = 0; k < 4; ++k) s[m][k] *= logit[k % 2];
      }
    }
    if (__builtin_expect(at < all_low || at + 32 > all_high, 0)) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          const int32_t token = at + static_cast<int32_t>(4 * g) + 2 * m + k / 2;
          const uint32_t column = 2 * t + k % 2;
          if (token < columns.low[column] || token >= columns.high[column]) s[m][k] = -INFINITY;
        }
      }
    }
    float most[2];
    bool more = false;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      most[k] = fmaxf(fmaxf(s[0][k], s[0][k + 2]), fmaxf(s[1][k], s[1][k + 2]));
      more = more || most[k] > z.most[k] + kWeightRoom;
    }
    if (__any_sync(kAllLanes, more)) Lower(most);
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
                                                RunInfo info, const uint32_t (&w)[4]) {
    const uint32_t scales = slot + R::kVCodes + by_dir;
    const uint32_t group_pairs = info.v_group_pairs();
    if (__builtin_expect(state.v_group_pairs != group_pairs, 0)) {
      AddMinima();
      state.v_group_pairs = group_pairs;
    }
    uint4 m{0, 0, 0, 0};
    if (g < kPairs) m = Load16(scales + R::kVScales + 8 * by_row);
    SumWeights(m, w);
    if (S::kVForm == kByToken && group_pairs == 1) {
      AddValues<kWidth, 1>(slot, scales, mine, 1, w);
    } else if (S::kVForm == kByToken && group_pairs == 2) {
      AddValues<kWidth, 2>(slot, scales, mine, 2, w);
    } else {
      AddValues<kWidth, 0>(slot, scales, mine, group_pairs, w);
    }
  }

  template <int kWidth, int kGroup>
  __device__ __forceinline__ void AddValues(uint32_t slot, uint32_t scale,
                                            const CodeLane<kWidth>& mine, uint32_t group_pairs,
                                            const uint32_t (&w)[4]) {
    uint32_t left = group_pairs;
    uint32_t b[4];
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (i == 0 || EndOfGroup<kGroup>(i - 1, left)) {
        const uint4 f = Load16(scale);
        b[0] = Times(w[0], f.x), b[1] = Times(w[1], f.y);
        b[2] = Times(w[2], f.z), b[3] = Times(w[3], f.w);
        scale += 64;
        left = group_pairs;
      }
      uint32_t a[4][4];
      LoadCodes<kWidth>(slot + i * (128 * kWidth), mine, a);
      CodeSums c;
      MmaCodes<kWidth>(c, a, b[0], b[1], b[2], b[3]);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int k = 0; k < 4; ++k) c.template AddTo<kWidth>(state.o[i][m][k], m, k);
      }
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
    uint32_t next, count;
    uint32_t most;  // of any lane
    uint32_t dir, value;  // in shared memory, if they are there
  };
  __device__ __forceinline__ Entries EntriesOf(uint32_t area, const SparseInfo& info) const {
    Entries out;
    out.count = info.staged ? LoadByte(area + lane) : info.count[lane];
    uint32_t before = out.count;
#pragma unroll
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, before, step);
      if (lane >= step) before += other;
    }
    out.next = before - out.count;
    out.most = __reduce_max_sync(kAllLanes, out.count);
    out.dir = area + 32 + info.dir_skew + out.next;
    out.value = area + 32 + kSparseDirBytes + info.value_skew + 2 * out.next;
    return out;
  }

  // put(direction, value) for each entry of the lane's token whose direction is of this part.
  template <class Put>
  __device__ __forceinline__ void EachEntry(const Entries& e, const SparseInfo& info, uint32_t part,
                                            const Put& put) const {
    constexpr bool parts = kPairs > 4;
    if (info.staged) {
      for (uint32_t from = 0; from < e.most; from += 4) {
        uint32_t d[4], x[4];
#pragma unroll
        for (uint32_t n = 0; n < 4; ++n) {  // what is behind the last is read, too, and not put
          d[n] = LoadByte(e.dir + from + n);
          x[n] = LoadHalf(e.value + 2 * (from + n));
        }
#pragma unroll
        for (uint32_t n = 0; n < 4; ++n) {
          if (from + n < e.count && (!parts || d[n] / 128 == part)) {
            put(parts ? d[n] % 128 : d[n], x[n]);
          }
        }
      }
    } else {
      for (uint32_t n = e.next; n < e.next + e.count; ++n) {
        const uint32_t d = info.dir[n];
        if (!parts || d / 128 == part) put(parts ? d % 128 : d, info.value[n]);
      }
      __syncwarp();
    }
  }

  // The tile of the sparse part: 128 directions of 32 tokens. Chunks of 16 bytes, or rows of 64, are
  // swapped with those 4 rows further on, so that the reads below have no bank conflicts.
  __device__ static __forceinline__ uint32_t KeyAt(uint32_t token, uint32_t direction) {
    return token * 256 + (direction * 2 ^ (token & 4) * 16);
  }
  __device__ static __forceinline__ uint32_t ValueAt(uint32_t token, uint32_t direction) {
    return (direction ^ (direction >> 2 & 1)) * 64 + token * 2;
  }

  // Entries are spread over a tile of zeros, multiplied, and taken off again.
  __device__ __forceinline__ void SparseScores(uint32_t area, const SparseInfo& info, uint32_t tile,
                                               float (&s)[2][4]) const {
    if (info.entries == 0) return;
    const Entries e = EntriesOf(area, info);
    const uint32_t mine = KeyAt(4 * g, 8 * t);
#pragma unroll
    for (int part = 0; part < (kPairs + 3) / 4; ++part) {
      EachEntry(e, info, part, [&](uint32_t d, uint32_t x) { StoreHalf(tile + KeyAt(lane, d), x); });
      __syncwarp();
#pragma unroll
      for (int i = 4 * part; i < 4 * part + 4 && i < kPairs; ++i) {
        uint32_t a[4][4];
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const uint4 x = Load16(tile + (mine ^ i % 4 * 64) + j * 256);
          a[j][0] = x.x, a[j][1] = x.y, a[j][2] = x.z, a[j][3] = x.w;
        }
        const uint4 q = Query(i);
        MmaBlock(s[0], s[1], a, q.x, q.y, q.z, q.w);
      }
      __syncwarp();
      EachEntry(e, info, part, [&](uint32_t d, uint32_t) { StoreHalf(tile + KeyAt(lane, d), 0); });
    }
    __syncwarp();
  }

  __device__ __forceinline__ void SparseValues(uint32_t area, const SparseInfo& info, uint32_t tile,
                                               const uint32_t (&w)[4]) {
    if (info.entries == 0) return;
    const Entries e = EntriesOf(area, info);
#pragma unroll
    for (int part = 0; part < (kPairs + 3) / 4; ++part) {
      EachEntry(e, info, part,
                [&](uint32_t d, uint32_t x) { StoreHalf(tile + ValueAt(lane, d), x); });
      __syncwarp();
#pragma unroll
      for (int i = 4 * part; i < 4 * part + 4 && i < kPairs; ++i) {
        uint32_t a[4][4];
#pragma unroll
        for (uint32_t j = 0; j < 4; ++j) {
          const uint4 x = Load16(tile + i % 4 * 2048 + (4 * g + (j ^ (g & 1))) * 64 + t * 16);
          a[j][0] = x.x, a[j][1] = x.y, a[j][2] = x.z, a[j][3] = x.w;
        }
        MmaBlock(state.o[i][0], state.o[i][1], a, w[0], w[1], w[2], w[3]);
      }
      __syncwarp();
      EachEntry(e, info, part, [&](uint32_t d, uint32_t) { StoreHalf(tile + ValueAt(lane, d), 0); });
    }
    __syncwarp();
  }

  // ------------------------------------------------------------------------------ a whole block

  template <int kWidth>
  __device__ void AnyScores(uint32_t slot, RunInfo info, float (&s)[2][4]) const {
    ScoresOfCodes<kWidth>(slot, KeyLane<kWidth>(), info, s);
  }
  template <int kWidth>
  __device__ void AnyValues(uint32_t slot, RunInfo info, const uint32_t (&w)[4]) {
    ValuesOfCodes<kWidth>(slot, ValueLane<kWidth>(), info, w);
  }

  template <class Mine>
  __device__ __forceinline__ void Scores(uint8_t* slot, uint32_t at, const Mine& mine,
                                         RunInfo info, const WarpState& own,
                                         const SparseInfo& sparse, uint32_t sparse_tile,
                                         float (&s)[2][4]) {
    if constexpr (S::kKForm == kStagedRows) {
      ScoresOfRows(slot, s);
    } else {
      if constexpr (S::kKForm != kAnyForm) {
        ScoresOfCodes<S::kKWidth>(at, mine, info, s);
      } else {
        switch (info.k_width()) {
          case 1: AnyScores<1>(at, info, s); break;
          case 2: AnyScores<2>(at, info, s); break;
          case 3: AnyScores<3>(at, info, s); break;
          case 4: AnyScores<4>(at, info, s); break;
          case 6: AnyScores<6>(at, info, s); break;
          default: AnyScores<8>(at, info, s); break;
        }
      }
      ScoresOfExtras(at + R::kKCodes + R::kKScales, info, own, s);
      if constexpr (S::kSparse) {
        SparseScores(at + R::kKBytes - kSparseArea, sparse, sparse_tile, s);
      }
    }
  }

  template <class Mine>
  __device__ __forceinline__ void Values(uint8_t* slot, uint32_t at, const Mine& mine,
                                         RunInfo info, const SparseInfo& sparse,
                                         uint32_t sparse_tile,
                                         const uint32_t (&w)[4]) {
    if constexpr (S::kVForm == kStagedRows) {
      SumWeights(uint4{0, 0, 0, 0}, w);
      ValuesOfRows(slot, w);
    } else {
      if constexpr (S::kVForm != kAnyForm) {
        ValuesOfCodes<S::kVWidth>(at, mine, info, w);
      } else {
        switch (info.v_width()) {
          case 1: AnyValues<1>(at, info, w); break;
          case 2: AnyValues<2>(at, info, w); break;
          case 3: AnyValues<3>(at, info, w); break;
          case 4: AnyValues<4>(at, info, w); break;
          case 6: AnyValues<6>(at, info, w); break;
          default: AnyValues<8>(at, info, w); break;
        }
      }
      if constexpr (S::kSparse) {
        SparseValues(at + R::kVBytes - kSparseArea, sparse, sparse_tile, w);
      }
    }
  }
};

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_BLOCK_CUH_
