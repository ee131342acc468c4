// What one worker remembers while it attends: the state of its query rows, and temporaries.
//
// Used by attend.cc and the attend_*-inl.h files only. Plain data that lives in the caller's
// scratch; the same for every SIMD target.
#ifndef KVGEAR_KERNELS_CPU_ATTEND_STATE_H_
#define KVGEAR_KERNELS_CPU_ATTEND_STATE_H_

#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"

namespace kvg::cpu::attention {

// Rows are (query, query head) pairs that read the same KV head. A tile of them, at most kTileRows
// (the target decides), shares every load and every unpacked code; the tiles of a unit of work
// share the chunk of tokens in the first-level cache.
inline constexpr size_t kTileRows = 8;
inline constexpr size_t kUnitRows = 32;
inline constexpr size_t kUnitTiles = 8;  // enough for 4 rows in each

// Tokens whose scores are computed before their values are added. A multiple of kBlockTokens; at
// most 256, so that sums of 15-bit weights times 8-bit codes stay below 2^31, and so that a token's
// place in its chunk fits a byte.
inline constexpr size_t kChunk = 256;
static_assert(255ull * 32767 * kChunk < (1ull << 31));
static_assert(255ull * 32767 * ops::kMaxHeadDim < (1ull << 31));

// Tokens of one unit of work where the rows are few. A multiple of kChunk.
inline constexpr uint64_t kSplit = 2048;
static_assert(kSplit % kChunk == 0);

inline constexpr size_t kDims = ops::kMaxHeadDim;
inline constexpr size_t kTiles = kDims / ops::kTileDirs;
inline constexpr size_t kLanes = 4;  // rows beside one another in the transposed ("lanes") arrays
inline constexpr size_t kAccStride = kDims + ops::kMaxRank;
// A whole number of pairs of vectors may be read from any tile on.
inline constexpr size_t kQStride = kDims + ops::kTileDirs;
inline constexpr size_t kScoreStride = kChunk + 16;  // room for whole vectors behind a chunk

// Largest magnitude of the 16-bit integers that stand for queries and weights.
inline constexpr float kQuantMax = 32767.0f;
// What a product with a bound below this adds to a score or an output cannot be seen in fp32.
inline constexpr float kTinyBound = 1e-30f;
// Below every logit; finite, so that differences of two of them are not NaN.
inline constexpr float kLowestMax = -1e38f;

// The largest |q| scale of a row becomes kQuantMax: `step` undoes it.
struct Quant {
  float step, inverse;
};
inline Quant QuantFor(float bound) {
  if (!(bound > kTinyBound)) return {0.0f, 0.0f};
  return {bound / kQuantMax, kQuantMax / bound};
}

// The rows of a tile in one basis: that of the caller, or what a map makes of it. Queries and sums
// have a map each, since those of K and V differ.
struct alignas(64) Basis {
  float q[kTileRows][kQStride];           // times the softmax scale; zero beyond head_dim
  int32_t q_pairs[kTileRows][kDims / 2];  // q as pairs of int16, order of PairPos
  float q_lanes[kTileRows / kLanes][kDims][kLanes];
  float q_group_sum[kTileRows][kTiles];      // sums of q over groups of q_sum_group directions
  float q_factor[kTileRows][ops::kMaxRank];  // q times the factor b of q_factor_piece
  // Weighted sum of values; behind the directions, the weighted sum of the factor a of
  // acc_factor_piece that is yet to be multiplied by b.
  float acc[kTileRows][kAccStride];
  float acc_lanes[kTileRows / kLanes][kDims][kLanes];  // sparse part of acc, when acc_lanes_used
  float q_step[kTileRows];
  const ops::Map* q_map;    // nullptr: none, and in Tile::mapped, no queries yet
  const ops::Map* acc_map;  // nullptr: none, and in Tile::mapped, no sums yet
  const ops::Piece* q_factor_piece;
  const ops::Piece* acc_factor_piece;
  uint32_t q_sum_group;
  bool acc_lanes_used;
};

struct alignas(64) Tile {
  Basis own;     // of the caller
  Basis mapped;  // of the piece with a map that was read last
  float row_max[kTileRows];           // running maximum of the logits, in units of log2
  float row_sum[kTileRows];           // running sum of weights
  uint64_t visible_begin[kTileRows];  // tokens that the row may see
  uint64_t visible_end[kTileRows];
  uint64_t any_begin, any_end;  // union of those over the rows
  uint32_t rows;       // used ones
  uint32_t tile_rows;  // rows computed: 1, 2, 4 or 8; those beyond `rows` are copies of the last
};

// Entries of the sparse part handled at a time: any one block fits.
inline constexpr size_t kSparseBatch = ops::kBlockTokens * ops::kMaxSparsePerToken;

struct alignas(64) Temporaries {
  float scores[kTileRows][kScoreStride];  // logits, then weights
  float weights[kTileRows][kChunk];       // weights of one piece, scaled up to kQuantMax
  float scaled_q[kTileRows][kQStride];
  int32_t pairs[kTileRows][kDims / 2];
  float chunk_lanes[kTileRows / kLanes][kChunk][kLanes];
  float sparse_value[kSparseBatch + 16];
  uint8_t sparse_token[kSparseBatch + 16];
  float weight_max[kTileRows];  // largest weight of the chunk
  // What is read next, to be fetched while codes are worked on; advances.
  const uint8_t* ahead;
};
static_assert(kChunk <= kDims, "`pairs` holds a chunk as well as a head");

struct Worker {
  Tile tiles[kUnitTiles];
  Temporaries temp;
};

// Row states of one unit of work, kept until all units of the same rows are there: the accumulator,
// then maximum and sum.
inline constexpr size_t PartialStride(size_t dirs) { return dirs + ops::kTileDirs; }

}  // namespace kvg::cpu::attention

#endif  // KVGEAR_KERNELS_CPU_ATTEND_STATE_H_
