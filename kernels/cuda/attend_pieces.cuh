// Attend on CUDA: finding the piece that holds a token, and bringing its blocks to shared memory.
//
// Included by attend_kernel.cuh. Called by a whole warp with the same arguments, where nothing else is
// said.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_PIECES_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_PIECES_CUH_

#include <cstdint>

#include "kernels/cuda/attend_math.cuh"
#include "kernels/cuda/attend_spec.h"
#include "kernels/ops.h"

namespace kvg::cuda {

// A piece as one KV head sees it; pointers are of that head.
struct View {
  const ops::Map* map;
  const uint8_t* widths;
  const uint8_t* codes;
  const uint16_t* scale;
  const uint16_t* minimum;
  const uint16_t* a;
  const uint16_t* b;
  const uint16_t* rows;
  const uint32_t* sparse_start;
  const uint8_t* sparse_count;
  const uint8_t* sparse_dir;
  const uint16_t* sparse_value;
  uint64_t first, end;  // its tokens
  uint64_t group_stride, padded_tokens;
  uint32_t group;       // as in the piece
  uint32_t by_channel;
  uint32_t rank;
  uint32_t block_bytes;
  Form form;
  uint32_t width;        // of all tiles, if form is kByToken or kByChannel
  uint32_t groups;       // rows of scales: of the head_dim by token, 1 by channel
  uint32_t group_pairs;  // by token: 32 directions each, in a group
  uint32_t id;           // index of the piece, or one of the following
};

inline constexpr uint32_t kPageId = 0xFFFFFFFDu;
inline constexpr uint32_t kWindowId = 0xFFFFFFFEu;
inline constexpr uint32_t kNoId = 0xFFFFFFFFu;

// fp16 rows in shared memory.
template <int kPairs>
struct RowTile {
  static constexpr uint32_t kPitch = RowTilePitch(kPairs);
  static constexpr uint32_t kBytes = RowTileBytes(kPairs);
  __device__ static uint32_t Offset(uint32_t token, uint32_t direction) {
    return token * kPitch + token / 8 * 32 + direction * 2;
  }
};

// What is the same for all blocks of one side of a unit of work.
struct SideOf {
  const ops::Piece* pieces;
  uint32_t count;
  const ops::Piece* page;
  const ops::Piece* window;
  uint64_t page_first, window_first;  // their first tokens; ~0 if there are none
  ops::Side side;
  uint32_t head;
};

inline constexpr uint32_t kUsualSegment = 1024;  // tokens; only a guess

// The last of n pieces that begins at or before `token`; there is one.
__device__ inline uint32_t FindPiece(const ops::Piece* pieces, uint32_t n, uint64_t token) {
  uint32_t low = 0;
  while (n > 1) {
    const uint32_t half = n / 2;
    if (pieces[low + half].first_token <= token) {
      low += half;
      n -= half;
    } else {
      n = half;
    }
  }
  return low;
}

// Whether the kernel stages pieces of this form.
template <class S>
__device__ __forceinline__ bool Made(ops::Side side, Form form, uint32_t width) {
  const Form made = side == ops::kSideK ? S::kKForm : S::kVForm;
  if (made == kAnyForm) return form != kStagedRows;
  const uint32_t made_width = side == ops::kSideK ? S::kKWidth : S::kVWidth;
  return form == made && (form == kStagedRows || width == made_width);
}

// The view of a piece; by a single lane.
template <int kPairs, class S>
__device__ __forceinline__ void LoadView(View* view, const ops::Piece* piece, uint32_t id,
                                         const SideOf& of) {
  const uint32_t head = of.head;
  const uint32_t head_dim = piece->head_dim, dirs = piece->dirs;
  const uint64_t padded = piece->padded_tokens, first = piece->first_token;
  View out{};
  out.first = first;
  out.end = first + piece->tokens;
  out.id = id;
  out.padded_tokens = padded;
  if (piece->kind == ops::kRows) {
    out.rows = piece->rows + head * piece->rows_head_stride;
    const bool aligned = reinterpret_cast<uint64_t>(out.rows) % 16 == 0;
    out.form = aligned && Made<S>(of.side, kStagedRows, 16) ? kStagedRows : kDecoded;
    *view = out;
    return;
  }
  const uint32_t tiles = dirs / ops::kTileDirs;
  out.map = piece->map;
  out.widths = piece->widths + uint64_t{head} * tiles;
  out.block_bytes = piece->codes_block[head];
  out.codes = piece->codes + piece->codes_head[head];
  out.by_channel = piece->axis == ops::kAxisChannel;
  out.group = piece->group;
  out.group_stride = piece->scale_group_stride;
  out.scale = piece->scale + head * piece->scale_head_stride;
  out.minimum = piece->minimum + head * piece->scale_head_stride;
  out.rank = piece->rank;
  out.a = piece->a + uint64_t{head} * out.rank * padded;
  out.b = piece->b + uint64_t{head} * out.rank * dirs;
  if (piece->sparse_start != nullptr) {
    out.sparse_start = piece->sparse_start + head * (padded / ops::kBlockTokens + 1);
    out.sparse_count = piece->sparse_count + head * padded;
    out.sparse_dir = piece->sparse_dir;
    out.sparse_value = piece->sparse_value;
  }
  out.width = out.widths[0];
  bool one_width = out.width > 0;
#pragma unroll
  for (uint32_t i = 1; i < ops::kMaxHeadDim / ops::kTileDirs; ++i) {
    if (i < tiles) one_width = one_width & (out.widths[i] == out.width);
  }
  const Form form = out.by_channel ? kByChannel : kByToken;
  bool fits = one_width && out.map == nullptr && Made<S>(of.side, form, out.width) &&
              (S::kSparse || out.sparse_start == nullptr);
  if (out.by_channel) {
    out.groups = 1;
    fits = fits && of.side == ops::kSideK && out.rank <= kMostExtras;
  } else {
    const bool whole = out.group >= head_dim;
    out.groups = whole ? 1 : (head_dim + out.group - 1) / out.group;
    out.group_pairs = whole ? ops::kMaxHeadDim / 32 : out.group / 32;
    fits = fits && (whole || out.group % 32 == 0) && out.groups <= kPairs;
    fits = fits && (of.side == ops::kSideK && S::kKForm == kAnyForm
                        ? out.groups + out.rank <= kMostExtras
                        : out.rank == 0);
  }
  out.form = fits ? form : kDecoded;
  *view = out;
}

// What a consumer needs to know of the pieces that a block comes from, in one number.
struct RunInfo {
  uint32_t bits;

  __device__ static RunInfo Of(const View& k, const View& v, uint32_t run) {
    return {0x80000000u | k.group_pairs | v.group_pairs << 4 | k.groups << 8 | k.rank << 12 |
            k.width << 17 | v.width << 21 | (k.form == kByChannel ? 1u : 0u) << 25 | run << 26};
  }
  __device__ bool staged() const { return bits >> 31 != 0; }
  __device__ uint32_t k_group_pairs() const { return bits & 15; }
  __device__ uint32_t v_group_pairs() const { return bits >> 4 & 15; }
  __device__ uint32_t k_groups() const { return bits >> 8 & 15; }
  __device__ uint32_t k_rank() const { return bits >> 12 & 31; }
  __device__ uint32_t k_width() const { return bits >> 17 & 15; }
  __device__ uint32_t v_width() const { return bits >> 21 & 15; }
  __device__ bool k_by_channel() const { return (bits >> 25 & 1) != 0; }
  __device__ uint32_t run() const { return bits >> 26 & 3; }
};

// What it needs to know of the sparse entries of one block of one side.
struct SparseInfo {
  uint32_t entries;
  uint32_t dir_skew, value_skew;  // bytes from the area's start to the first of them
  uint32_t staged;                // whether they are in the slot, or only
  const uint8_t* dir;             // here
  const uint16_t* value;
  const uint8_t* count;
};

inline constexpr uint32_t kMostRuns = 4;  // that blocks under way may come from
inline constexpr uint32_t kNoToken = 0xFFFFFFFFu;

struct WarpState {
  View view[2];          // of keys, of values
  ops::Piece piece[2];   // the pieces that the views are made of next
  uint32_t piece_id[2];  // which these are; kNoId: not read ahead
  const uint16_t* k_b[kMostRuns];
  SparseInfo sparse[3][2];  // [slot][side]
  // What OpenRun found.
  uint32_t blocks;
  RunInfo info;
};

// The unit's context, the same for its warps.
struct UnitState {
  SideOf side[2];
  uint64_t first, length;  // of the unit; of the sequence
  uint32_t tokens;         // of the unit
};

inline constexpr uint32_t kPieceWords = sizeof(ops::Piece) / 8;
static_assert(sizeof(ops::Piece) % 8 == 0 && kPieceWords <= 32);

__device__ __forceinline__ void CopyPiece(ops::Piece* to, const ops::Piece* from, uint32_t lane) {
  if (lane < kPieceWords) {
    reinterpret_cast<uint64_t*>(to)[lane] = reinterpret_cast<const uint64_t*>(from)[lane];
  }
}

// Makes own->view the pieces that hold these tokens, both sides at a time, each by a lane, since what
// it takes is the time of reads that depend on one another.
template <int kPairs, class S>
__device__ __noinline__ void Seek(WarpState* own, const UnitState* unit, uint64_t k_token,
                                  uint64_t v_token, uint32_t lane) {
  __syncwarp();
  bool needed[2];
  uint32_t found[2];
#pragma unroll
  for (uint32_t s = 0; s < 2; ++s) {
    const SideOf& of = unit->side[s];
    const uint64_t token = s == 0 ? k_token : v_token;
    const uint32_t id = own->view[s].id;
    needed[s] = id == kNoId || token < own->view[s].first || token >= own->view[s].end;
    found[s] = kWindowId;
    if (!needed[s]) continue;
    const ops::Piece* piece = of.window;
    if (token < of.window_first) {
      if (token >= of.page_first) {
        found[s] = kPageId;
        piece = of.page;
      } else {
        // Most sequences are sealed in segments of one length, and most steps lead to the next.
        found[s] = id < of.count && token >= own->view[s].end
                       ? id + 1
                       : static_cast<uint32_t>(min(token / kUsualSegment, uint64_t{of.count - 1}));
        piece = of.pieces + found[s];
      }
    }
    if (found[s] != own->piece_id[s]) CopyPiece(&own->piece[s], piece, lane);
  }
  __syncwarp();
#pragma unroll
  for (uint32_t s = 0; s < 2; ++s) {
    const uint64_t token = s == 0 ? k_token : v_token;
    const uint64_t first = own->piece[s].first_token;
    if (!needed[s] || (token >= first && token < first + own->piece[s].tokens)) continue;
    found[s] = FindPiece(unit->side[s].pieces, unit->side[s].count, token);
    __syncwarp();
    CopyPiece(&own->piece[s], unit->side[s].pieces + found[s], lane);
    __syncwarp();
  }
  if (lane < 2 && needed[lane & 1]) {
    LoadView<kPairs, S>(&own->view[lane], &own->piece[lane], found[lane & 1], unit->side[lane]);
    own->piece_id[lane] = kNoId;
  }
  __syncwarp();
}

// Queues a copy of the pieces that follow the views.
__device__ __forceinline__ void ReadAhead(WarpState* own, const UnitState* unit, uint32_t lane) {
#pragma unroll
  for (uint32_t s = 0; s < 2; ++s) {
    const uint32_t next = own->view[s].id + 1;
    if (own->view[s].id >= unit->side[s].count || next >= unit->side[s].count ||
        own->piece_id[s] == next) {
      continue;
    }
    if (lane < kPieceWords) {
      CopyAsync8(SharedAddress(&own->piece[s]) + lane * 8,
                 reinterpret_cast<const uint64_t*>(unit->side[s].pieces + next) + lane);
    }
    __syncwarp();
    if (lane == 0) own->piece_id[s] = next;
  }
  __syncwarp();
}

// Has what LoadView will read of them brought near.
__device__ __forceinline__ void PrefetchAhead(const WarpState* own, const UnitState* unit,
                                              uint32_t lane) {
  const uint32_t s = lane & 1;
  const ops::Piece& piece = own->piece[s];
  if (lane >= 6 || own->piece_id[s] == kNoId || piece.kind != ops::kCodes) return;
  const uint32_t head = unit->side[s].head;
  const void* at = piece.codes_head + head;
  if (lane / 2 == 1) at = piece.codes_block + head;
  if (lane / 2 == 2) at = piece.widths + head * (piece.dirs / ops::kTileDirs);
  asm volatile("prefetch.global.L2 [%0];" ::"l"(at));
}

// Counts the warp's blocks from `next` on that can be staged and lie in the same two pieces. None: the
// one at `next` cannot.
template <int kPairs, class S>
__device__ __forceinline__ void OpenRun(WarpState* own, const UnitState* unit, uint32_t next,
                                        uint32_t lane) {
  constexpr uint32_t step = kWarps * ops::kBlockTokens;
  const uint64_t token = unit->first + next;
  Seek<kPairs, S>(own, unit, token, token, lane);
  const View &k = own->view[0], &v = own->view[1];
  const uint64_t block_end = min(token + ops::kBlockTokens, unit->length);
  const uint64_t end = min(k.end, v.end);
  uint32_t blocks = 0;
  if (k.form != kDecoded && v.form != kDecoded && block_end <= end) {
    // Blocks end at a multiple of 32, or with the sequence.
    const uint64_t covered = end >= unit->length ? end + ops::kBlockTokens - 1 : end;
    const uint64_t most = (covered - token - ops::kBlockTokens) / step + 1;
    blocks = static_cast<uint32_t>(min(most, uint64_t{(unit->tokens - next - 1) / step + 1}));
  }
  const uint32_t run = (own->info.run() + 1) % kMostRuns;
  __syncwarp();
  if (lane == 0) {
    own->blocks = blocks;
    own->info = blocks > 0 ? RunInfo::Of(k, v, run) : RunInfo{run << 26};
    if (blocks > 0) own->k_b[run] = k.b;
  }
  __syncwarp();
}

// Where a lane copies its share of the next block of one side from.
template <int kPairs, Form kForm, int kWidth, bool kKeys>
struct Source {
  static constexpr uint32_t kStep = kWarps * ops::kBlockTokens;  // tokens to the warp's next block
  static constexpr uint32_t kRoom = kPairs * 128 * (kForm == kAnyForm ? 8 : kWidth);  // for codes
  // Behind the codes lie kPairs * 64 bytes of scales and as many of minima: by token a row of 32 for
  // each group, by channel one of all directions. 16 bytes to a lane, kParts times.
  static constexpr uint32_t kLanes = kPairs * 4;
  static constexpr uint32_t kParts = (2 * kLanes + 31) / 32;
  // Keys: behind these come rows of low rank, and of minima by token if the form is known only now.
  static constexpr bool kExtra = kKeys && kForm != kByToken && kForm != kStagedRows;
  static constexpr uint32_t kExtraAt = kRoom + kPairs * 128;

  const uint8_t* codes;
  const uint8_t* scale[kParts];
  const uint8_t* extra;
  uint32_t scale_valid[kParts], extra_valid;
  uint32_t left;            // rows: tokens to the piece's end. Codes: bytes of a block, from the lane's
  uint32_t block_bytes;     // of all warps' blocks
  uint32_t advance;         // of scales, bytes
  uint32_t in_group, more_in_group, group, group_bytes;  // by channel

  __device__ __forceinline__ void Open(const View& view, uint64_t token, uint32_t head_dim,
                                       uint32_t lane) {
    const uint64_t from = token - view.first;
    if constexpr (kForm == kStagedRows) {
      codes = reinterpret_cast<const uint8_t*>(view.rows + from * head_dim);
      left = static_cast<uint32_t>(min(view.end - token, uint64_t{1} << 30));
    } else {
      codes = view.codes + from / ops::kBlockTokens * view.block_bytes + lane * 16;
      left = view.block_bytes > lane * 16 ? view.block_bytes - lane * 16 : 0;
      block_bytes = kWarps * view.block_bytes;
      const bool by_channel = kForm == kByChannel || (kForm == kAnyForm && view.form == kByChannel);
#pragma unroll
      for (uint32_t i = 0; i < kParts; ++i) {
        const uint32_t n = i * 32 + lane, part = n % kLanes;
        const uint16_t* const base = n < kLanes ? view.scale : view.minimum;
        bool valid = n < 2 * kLanes;
        uint64_t at;
        if (by_channel) {
          valid = valid && part * 8 < PaddedDirs(head_dim);
          at = from / view.group * view.group_stride + part * 8;
        } else {
          valid = valid && part / 4 < view.groups && (n < kLanes || !kExtra);
          at = part / 4 * view.group_stride + from + part % 4 * 8;
        }
        scale[i] = reinterpret_cast<const uint8_t*>(base + (valid ? at : 0));
        scale_valid[i] = valid ? 16 : 0;
      }
      advance = kStep * 2;
      if (by_channel) {
        group = view.group;
        in_group = static_cast<uint32_t>(from % group);
        more_in_group = kStep % group;
        group_bytes = static_cast<uint32_t>(view.group_stride * 2);
        advance = kStep / group * group_bytes;
      }
      if constexpr (kExtra) {
        const uint32_t row = lane / 4, part = lane % 4 * 8;
        const uint32_t minima = by_channel ? 0 : view.groups;
        const bool least = !by_channel && row < minima;
        const bool low_rank = !least && row < minima + view.rank;
        extra = reinterpret_cast<const uint8_t*>(
            least      ? view.minimum + row * view.group_stride + from + part
            : low_rank ? view.a + (row - minima) * view.padded_tokens + from + part
                       : view.scale);
        extra_valid = least || low_rank ? 16 : 0;
      }
    }
  }

  // Queues the copies of one block and moves on to the warp's next.
  __device__ __forceinline__ void Stage(uint32_t slot, RunInfo info, uint32_t head_dim,
                                        uint32_t lane) {
    if constexpr (kForm == kStagedRows) {
      constexpr uint32_t parts = kPairs * 4;
      const uint32_t pitch = 2 * head_dim;
#pragma unroll
      for (uint32_t i = 0; i < parts; ++i) {
        const uint32_t n = i * 32 + lane;
        const uint32_t row = n / parts, part = n % parts * 8;
        const bool valid = row < left && part < head_dim;
        CopyAsync(slot + RowTile<kPairs>::Offset(row, part),
                  codes + (valid ? row * pitch + part * 2 : 0), valid ? 16 : 0);
      }
      codes += uint64_t{kStep} * pitch;
      left -= min(left, kStep);
    } else {
      const uint32_t to = slot + lane * 16;
      if (kRoom % 512 == 0 && left > kRoom - 512) {
#pragma unroll
        for (uint32_t i = 0; i < kRoom; i += 512) CopyAsync(to + i, codes + i);
      } else {
#pragma unroll 1
        for (uint32_t i = 0; i < left; i += 512) CopyAsync(to + i, codes + i);
      }
      codes += block_bytes;
#pragma unroll
      for (uint32_t i = 0; i < kParts; ++i) {
        if (i * 32 + lane < 2 * kLanes) CopyAsync(to + kRoom + i * 512, scale[i], scale_valid[i]);
      }
      if constexpr (kForm == kByToken) {
#pragma unroll
        for (uint32_t i = 0; i < kParts; ++i) scale[i] += kStep * 2;
      } else {
        uint32_t on = advance;
        if (kForm == kByChannel || (kKeys && info.k_by_channel())) {
          in_group += more_in_group;
          if (in_group >= group) {
            in_group -= group;
            on += group_bytes;
          }
        }
#pragma unroll
        for (uint32_t i = 0; i < kParts; ++i) scale[i] += scale_valid[i] != 0 ? on : 0;
      }
      if constexpr (kExtra) {
        if (kForm == kByChannel && info.k_rank() == 0) return;
        CopyAsync(to + kExtraAt, extra, extra_valid);
        extra += kStep * 2;
      }
    }
  }
};

// The entries of the block at `at` in the piece: [x, y).
__device__ __forceinline__ uint2 SparseRange(const View& view, uint32_t at) {
  const uint32_t* const start = view.sparse_start + at / ops::kBlockTokens;
  return uint2{start[0], start[1]};
}

// Queues the copy of a block's sparse entries: 16 bytes to each lane, of counts, directions or values.
__device__ __forceinline__ void StageSparse(uint32_t area, SparseInfo* info, const View& view,
                                            uint32_t at, uint2 range, uint32_t lane) {
  static_assert(kSparseArea == 512 && kSparseDirBytes == 160);
  if (view.sparse_start == nullptr) {
    if (lane == 0) info->entries = 0;
    return;
  }
  const uint32_t entries = range.y - range.x;
  const bool values = lane >= 12, counts = lane < 2;
  const uint8_t* const from = counts   ? view.sparse_count + at
                              : values ? reinterpret_cast<const uint8_t*>(view.sparse_value + range.x)
                                       : view.sparse_dir + range.x;
  const auto skew = static_cast<uint32_t>(reinterpret_cast<uint64_t>(from) % 16);
  const uint32_t bytes = counts ? 32 : values ? skew + 2 * entries : skew + entries;
  const uint32_t mine = (counts ? lane : values ? lane - 12 : lane - 2) * 16;
  const bool staged = __all_sync(kAllLanes, bytes <= (values ? kSparseValueBytes : kSparseDirBytes));
  if (lane == 2) {
    info->entries = entries;
    info->dir_skew = skew;
    info->staged = staged;
  }
  if (lane == 12) info->value_skew = skew;
  if (staged) {
    if (mine < bytes) CopyAsync(area + lane * 16, from - skew + mine, min(16u, bytes - mine));
  } else if (lane == 0) {
    info->dir = view.sparse_dir + range.x;
    info->value = view.sparse_value + range.x;
    info->count = view.sparse_count + at;
  }
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_PIECES_CUH_
