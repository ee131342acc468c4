// The one table of operations that every backend fills, and the layout of every sealed buffer.
//
// Called by core/; implemented by kernels/reference (scalar truth), kernels/cpu (Highway) and
// kernels/cuda (a plugin). Plain structs and function pointers only: no allocation, no exceptions
// and no C++ library type crosses this header. All pointers are borrowed for the call.
//
// NAMES
//   direction  one of the head_dim coordinates of a key or value (a channel, or after a map a basis
//              vector). Directions are padded with zeros to a multiple of kTileDirs: `dirs`.
//   block      kBlockTokens consecutive tokens of one side, aligned to kBlockTokens in the sequence.
//   tile       kTileDirs directions of one block. Each tile of a head has its own code width.
//
// CODES. A tile of width w takes 64 * w bytes: little-endian uint32 words, 16 lanes wide. A code is
// found by (lane, pair, hi): lane 0..15, pair 0..15, hi 0..1. Within a tile
//     K side: lane = token % 16, pair = (token / 16) * 8 + direction / 2, hi = direction % 2
//     V side: lane = direction,  pair = token / 2,                        hi = token % 2
// so that a 32-bit lane unpacks to two 16-bit codes to be multiplied and added in pairs: over
// directions for scores (lanes are tokens), over tokens for values (lanes are directions).
// A width is stored as planes of 1, 2, 4 or 8 bits, lowest bits first:
//     0: none   1: 1   2: 2   3: 2 + 1   4: 4   6: 4 + 2   8: 8
// A plane of b bits has b rows of 16 words. With P = 16 / b the code bits of (lane, pair, hi) are
//     (word[(pair / P) * 16 + lane] >> (b * (pair % P) + 16 * hi)) & (2^b - 1).
// The tiles of a block follow one another; the blocks of a head follow one another.
//
// SCALES are fp16, code c of a group stands for scale * c + minimum (fp32: product, then sum).
//   kAxisChannel: a group is `group` tokens (a multiple of kBlockTokens) of one direction.
//                 scale[head * scale_head_stride + g * scale_group_stride + direction],
//                 g = token / group, direction < dirs (padding holds 0).
//   kAxisToken:   a group is `group` directions (a multiple of kTileDirs, or >= head_dim) of one
//                 token. scale[head * scale_head_stride + g * scale_group_stride + token],
//                 g = direction / group, token < padded_tokens (padding holds 0).
//                 scale_head_stride is 0 when all heads of a token share one group.
//                 All tiles of a group have the same width.
//
// LOW RANK. Per head, x gains sum over r of a[r][token] * b[r][direction] (fp32, r ascending).
//   a[(head * rank + r) * padded_tokens + token], b[(head * rank + r) * dirs + direction], fp16.
//
// MAP. The codes, factors and sparse entries of a piece with a map are those of y = M x, rounded to
// fp16 (beyond its range to the largest), in place of x: one basis for all parts of a piece, so that
// a query is folded once, and so that low rank and outliers are chosen in the norm that the map
// stands for. (M^-1 of a low-rank matrix is of the same rank.) Scores are (M^-T q) . y; sums of
// values are mapped back once. A mean needs no place of its own: minima are sums over y too, and
// each group has one. All in fp32, products and sums not fused:
//   kMapHadamard: y = H x / block in each run of `block` directions, and x = H y. H[i][j] is 1 or,
//                 if i & j has an odd number of bits, -1. In stages of distance 1, 2, 4 ..:
//                 (u, v) becomes (u + v, u - v). Division by a power of two: nothing overflows.
//   kMapDense:    y[j] = sum over i of x[i] * forward[i][j], in ascending order, and
//                 x[i] = sum over j of back[i][j] * y[j], as 16 sums of those j that are equal
//                 modulo 16, in ascending order, of which the upper half is added to the lower
//                 until one is left.
//
// SPARSE. Per head and block, entries sorted by token then direction. Entry e adds value[e] to
// (token, direction[e]). For head h, block k the entries are [start[h * (blocks + 1) + k],
// start[h * (blocks + 1) + k + 1]); count[h * padded_tokens + token] says how many belong to a token.
#ifndef KVGEAR_KERNELS_OPS_H_
#define KVGEAR_KERNELS_OPS_H_

#include <cstddef>
#include <cstdint>

namespace kvg::ops {

inline constexpr uint32_t kBlockTokens = 32;
inline constexpr uint32_t kTileDirs = 16;
inline constexpr uint32_t kMaxHeadDim = 256;
inline constexpr uint32_t kMaxRank = 16;
inline constexpr uint32_t kMaxSparsePerToken = 255;  // of one head; further outliers stay codes
inline constexpr uint64_t kAlign = 64;               // of every buffer below

inline constexpr uint32_t PadDirs(uint32_t head_dim) {
  return (head_dim + kTileDirs - 1) / kTileDirs * kTileDirs;
}
inline constexpr uint64_t PadTokens(uint64_t tokens) {
  return (tokens + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
}

enum Side : uint32_t { kSideK = 0, kSideV = 1 };
enum Axis : uint32_t { kAxisToken = 0, kAxisChannel = 1 };
enum Kind : uint32_t { kRows = 0, kCodes = 1 };
enum DType : uint32_t { kF32 = 0, kF16 = 1, kBF16 = 2 };  // as kvg_dtype

enum MapKind : uint32_t { kMapHadamard = 0, kMapDense = 1 };

// See MAP. Owned by whoever owns the pieces; outlives them and never changes.
struct Map {
  MapKind kind;
  uint32_t block;           // kMapHadamard: a power of two that divides head_dim
  const uint16_t* forward;  // kMapDense: fp16 [kv_heads][head_dim][dirs], padding holds 0. nullptr
                            // once nothing more is to be sealed with it
  const uint16_t* back;     // of the same shape
};

// A piece of one side of one layer, all KV heads: either fp16 rows or codes. Sealed pieces are
// immutable. `first_token` is a multiple of kBlockTokens when kind is kCodes.
struct Piece {
  Kind kind;
  Side side;
  uint64_t first_token;
  uint64_t tokens;         // valid ones; a code piece that is still open may end inside a block
  uint64_t padded_tokens;  // stride of per-token arrays: capacity, a multiple of kBlockTokens
  uint32_t kv_heads;
  uint32_t head_dim;
  uint32_t dirs;  // PadDirs(head_dim)
  uint32_t rank;  // 0 = no low-rank part
  const Map* map;  // kCodes: nullptr = none, y = x

  // kRows: rows[head * rows_head_stride + (token - first_token) * head_dim + direction], fp16.
  const uint16_t* rows;
  uint64_t rows_head_stride;

  // kCodes
  const uint8_t* widths;          // [kv_heads][dirs / kTileDirs]
  const uint8_t* codes;           //
  const uint64_t* codes_head;     // [kv_heads] byte offset of the head's first block
  const uint32_t* codes_block;    // [kv_heads] bytes of one block of the head
  Axis axis;
  uint32_t group;
  const uint16_t* scale;
  const uint16_t* minimum;
  uint64_t scale_head_stride;
  uint64_t scale_group_stride;
  const uint16_t* a;
  const uint16_t* b;
  const uint32_t* sparse_start;  // nullptr = no sparse part; [kv_heads][padded_tokens / 32 + 1]
  const uint8_t* sparse_count;   // [kv_heads][padded_tokens]
  const uint8_t* sparse_dir;     // [entries]
  const uint16_t* sparse_value;  // [entries] fp16
};

// One side of one layer of one sequence: pieces in order of their tokens, together [0, length).
struct Sequence {
  const Piece* const* pieces;
  uint64_t count;
};

// Runs task(ctx, i, worker) for every i in [0, n), in any order, on workers 0 .. workers - 1.
struct Parallel {
  void* self;
  uint32_t workers;  // at least 1
  void (*run)(void* self, uint64_t n, void (*task)(void* ctx, uint64_t i, uint32_t worker), void* ctx);
};

struct AttendItem {
  Sequence k, v;
  uint64_t length;  // tokens, >= 1 and the same on both sides
  const void* q;    // [queries][q_heads][head_dim]
  void* out;        // [queries][q_heads][head_dim]
};

struct AttendArgs {
  const AttendItem* items;
  uint64_t count;
  uint32_t q_heads, kv_heads, head_dim;
  uint32_t queries;  // query i belongs to token length - queries + i; 1 <= queries <= length
  DType q_dtype, out_dtype;
  int64_t q_token_stride, q_head_stride;  // in elements; innermost is 1
  int64_t out_token_stride, out_head_stride;
  float scale;
  float softcap;            // 0 = none: logit = softcap * tanh(scale * q.k / softcap)
  uint64_t sliding_window;  // 0 = none
  bool causal;
  void* scratch;  // attend_scratch(args, workers) bytes, kAlign aligned
};

// How a group of a width above 0 gets its scale and minimum.
enum Fit : uint32_t {
  kFitRange = 0,  // from its lowest to its highest value
  kFitLeast = 1,  // for least squared error; channel axis only. See kernels/fit.h
};

// What sealing does to one side: which scalar quantiser, which residual parts.
struct SealSpec {
  Side side;
  Axis axis;
  uint32_t group;          // tokens (channel axis) or directions (token axis); see SCALES
  bool heads_share_scale;  // token axis: one group spans all heads of the token
  uint32_t rank;
  uint32_t sweeps;         // of the power iteration, >= 1
  uint64_t seed;           // of its start
  uint64_t outliers;       // k at each end: per direction over the piece (K side), per token over all
                           // heads (V side); 2k <= vector length
  const Map* map = nullptr;
  Fit fit = kFitRange;
};

struct SealArgs {
  SealSpec spec;
  const uint16_t* x;       // fp16, x[head * x_head_stride + token * head_dim + direction], finite
  uint64_t x_head_stride;
  uint64_t tokens;         // to seal
  uint64_t at;             // first token slot of `out` to write: 0, but for an open page that grows
                           // (at > 0 needs token axis, rank 0, no outliers)
  void* scratch;           // seal_scratch(args, workers) bytes, kAlign aligned
};

// Buffers to fill, shaped as in Piece. Those of parts that the spec leaves out are nullptr.
// Everything is written, padding included, when at == 0; else only the slots of the new tokens.
struct SealOut {
  uint32_t kv_heads, head_dim, dirs;
  uint64_t padded_tokens;
  const uint8_t* widths;
  uint8_t* codes;
  const uint64_t* codes_head;
  const uint32_t* codes_block;
  uint16_t* scale;
  uint16_t* minimum;
  uint64_t scale_head_stride;
  uint64_t scale_group_stride;
  uint16_t* a;
  uint16_t* b;
  uint32_t* sparse_start;
  uint8_t* sparse_count;
  uint8_t* sparse_dir;     // room for sparse_capacity entries
  uint16_t* sparse_value;
  uint64_t sparse_capacity;  // K: 2k * head_dim * kv_heads; V: 2k * tokens
  double error_sq;           // sum over elements of (x - decoded)^2, map undone
  double norm_sq;            // sum of x^2
};

struct ReadArgs {
  Sequence side;
  uint32_t kv_heads, head_dim;
  uint64_t first_token, tokens;
  DType dtype;
  void* out;  // [tokens][kv_heads][head_dim]
};

// The attention that tokens get from some queries, without a matrix of all of it.
// sums[h][t] += mean over the query heads of KV head h of the sum over queries i of
// weight[i] * softmax over the first sees[h][i] tokens (scale * q[i] . k)[t]; nothing for others.
struct ScoreArgs {
  Sequence k;
  uint64_t length;  // tokens of k, >= 1
  uint32_t q_heads, kv_heads, head_dim;
  uint32_t queries;
  const void* q;  // [queries][q_heads][head_dim]
  DType q_dtype;
  int64_t q_token_stride, q_head_stride;  // in elements; innermost is 1
  float scale;
  float softcap;         // as in AttendArgs
  const uint64_t* sees;  // [kv_heads][queries], 1 to length
  const float* weight;   // [queries]
  float* sums;           // [kv_heads][length]
  void* scratch;         // score_scratch(args, workers) bytes, kAlign aligned
};

// fp16 rows <- caller's tensor, with a check of every element.
struct IngestArgs {
  const void* x;  // element [0][0][0]
  DType dtype;
  int64_t token_stride, head_stride, dim_stride;  // in elements
  uint64_t tokens;
  uint32_t kv_heads, head_dim;
  uint16_t* rows;  // rows[head * rows_head_stride + token * head_dim + direction]
  uint64_t rows_head_stride;
};

inline constexpr uint32_t kOpsMagic = 0x4B56474Fu;  // "OGVK" little-endian
inline constexpr uint32_t kOpsVersion = 2;

// Functions return nothing: arguments were validated by core, and a host backend cannot fail.
// Results do not depend on parallel.workers.
struct Table {
  uint32_t magic;
  uint32_t version;
  uint32_t struct_size;
  const char* name;  // such as "AVX3_ZEN4" or "reference"
  uint64_t (*attend_scratch)(const AttendArgs* args, uint32_t workers);
  void (*attend)(const AttendArgs* args, const Parallel* parallel);
  uint64_t (*seal_scratch)(const SealArgs* args, const SealOut* out, uint32_t workers);
  void (*seal)(const SealArgs* args, SealOut* out, const Parallel* parallel);
  void (*read)(const ReadArgs* args);
  // Returns false, with rows in any state, if an element is NaN, infinite or rounds beyond 65504.
  bool (*ingest)(const IngestArgs* args);
  uint64_t (*score_scratch)(const ScoreArgs* args, uint32_t workers);
  void (*score)(const ScoreArgs* args, const Parallel* parallel);
};

// The scalar truth.
const Table& ReferenceTable();

// Tables of the SIMD targets that this processor runs, best first; at least one.
// *count receives their number. The first is the one the runtime uses.
const Table* const* CpuTables(size_t* count);

}  // namespace kvg::ops

#endif  // KVGEAR_KERNELS_OPS_H_
