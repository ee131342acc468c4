// Attend on CUDA: finding the piece that holds a token, and bringing its blocks to shared memory.
//
// Included by attend_kernel.cuh. All functions are called by a whole warp with the same arguments.
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

// Of the pieces [low, low + n) the last that begins at or before `token`; there is one.
__device__ inline uint32_t FindPiece(const ops::Piece* pieces, uint32_t low, uint32_t n,
                                     uint64_t token, uint32_t lane) {
  while (n > 1) {
    const uint32_t step = (n + 31) / 32;
    const uint32_t mine = lane * step;
    const bool before = mine < n && pieces[low + mine].first_token <= token;
    const uint32_t last = 31 - __clz(__ballot_sync(kAllLanes, before) | 1u);
    low += last * step;
    n = min(step, n - last * step);
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

template <int kPairs, class S>
__device__ void LoadView(View* view, const ops::Piece* piece, uint32_t id, const SideOf& of,
                         uint32_t lane) {
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
  } else {
    const uint32_t tiles = dirs / ops::kTileDirs;
    out.map = piece->map;
    out.widths = piece->widths + uint64_t{head} * tiles;
    out.codes = piece->codes + piece->codes_head[head];
    out.block_bytes = piece->codes_block[head];
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
    const uint32_t width = lane < tiles ? out.widths[lane] : out.widths[0];
    out.width = __shfl_sync(kAllLanes, width, 0);
    const bool one_width = __all_sync(kAllLanes, width == out.width) && out.width > 0;
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
      fits = fits && (of.side == ops::kSideK ? out.groups + out.rank <= kMostExtras
                                             : out.rank == 0);
    }
    out.form = fits ? form : kDecoded;
  }
  __syncwarp();
  if (lane == 0) *view = out;
  __syncwarp();
}

// A copy of a piece in shared memory, by one round trip.
__device__ __forceinline__ void CopyPiece(ops::Piece* to, const ops::Piece* from, uint32_t lane) {
  static_assert(sizeof(ops::Piece) % 8 == 0 && sizeof(ops::Piece) <= 32 * 8);
  __syncwarp();
  if (lane < sizeof(ops::Piece) / 8) {
    reinterpret_cast<uint64_t*>(to)[lane] = reinterpret_cast<const uint64_t*>(from)[lane];
  }
  __syncwarp();
}

// Makes *view the piece that holds `token`. *copy is room for a piece.
template <int kPairs, class S>
__device__ __noinline__ void Seek(View* view, ops::Piece* copy, const SideOf& of, uint64_t token,
                                  uint32_t lane) {
  const uint32_t id = view->id;
  if (id != kNoId && token >= view->first && token < view->end) return;
  uint32_t found = 0;
  if (token >= of.window_first) {
    found = kWindowId;
    CopyPiece(copy, of.window, lane);
  } else if (token >= of.page_first) {
    found = kPageId;
    CopyPiece(copy, of.page, lane);
  } else {
    // Most sequences are sealed in segments of one length, and most steps lead to the next piece.
    found = id < of.count && token >= view->end
                ? id + 1
                : static_cast<uint32_t>(min(token / kUsualSegment, uint64_t{of.count - 1}));
    CopyPiece(copy, of.pieces + found, lane);
    if (token < copy->first_token || token >= copy->first_token + copy->tokens) {
      found = FindPiece(of.pieces, 0, of.count, token, lane);
      CopyPiece(copy, of.pieces + found, lane);
    }
  }
  LoadView<kPairs, S>(view, copy, found, of, lane);
}

// What a consumer needs to know of the pieces that a run of blocks comes from.
struct RunInfo {
  uint32_t k_id, k_width, k_form, k_groups, k_group_pairs, k_rank;
  uint32_t v_width, v_group_pairs;
  const uint16_t* k_b;
};

__device__ __forceinline__ RunInfo RunInfoOf(const View& k, const View& v) {
  return {k.id, k.width, k.form, k.groups, k.group_pairs, k.rank, v.width, v.group_pairs, k.b};
}

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
  ops::Piece piece;
  View k, v;
  RunInfo runs[kMostRuns];
  SparseInfo sparse[3][2];          // [slot][side]
  uint32_t slot_token[3], slot_run[3];  // tokens count from the chunk's first
  // Of the run that OpenRun found.
  uint32_t next, blocks, waiting;
};

// The unit's context, the same for its warps.
struct UnitState {
  SideOf k, v;
  uint64_t first, length;  // of the chunk; of the sequence
  uint32_t tokens;         // of the chunk
  View k_view, v_view;     // of its first token
};

// Finds the warp's next blocks, from `next` on, that can be staged, as many as lie in the same two
// pieces. Blocks on the way that cannot are marked in `waiting`.
template <int kPairs, class S>
__device__ __noinline__ void OpenRun(WarpState* own, const UnitState* unit, uint32_t next,
                                     uint32_t warp, uint32_t run, uint32_t lane) {
  constexpr uint32_t step = kWarps * ops::kBlockTokens;
  uint32_t waiting = own->waiting, blocks = 0;
  while (next < unit->tokens) {
    const uint64_t token = unit->first + next;
    Seek<kPairs, S>(&own->k, &own->piece, unit->k, token, lane);
    Seek<kPairs, S>(&own->v, &own->piece, unit->v, token, lane);
    const uint64_t block_end = min(token + ops::kBlockTokens, unit->length);
    const uint64_t end = min(own->k.end, own->v.end);
    if (own->k.form != kDecoded && own->v.form != kDecoded && block_end <= end) {
      // Blocks end at a multiple of 32, or with the sequence.
      const uint64_t covered = end >= unit->length ? end + ops::kBlockTokens - 1 : end;
      const uint64_t most = (covered - token - ops::kBlockTokens) / step + 1;
      blocks = static_cast<uint32_t>(min(most, uint64_t{(unit->tokens - next - 1) / step + 1}));
      break;
    }
    waiting |= 1u << (next / step);
    next += step;
  }
  __syncwarp();
  if (lane == 0) {
    own->next = next;
    own->blocks = blocks;
    own->waiting = waiting;
    if (blocks > 0) {
      own->runs[run] = RunInfoOf(own->k, own->v);
    }
  }
  __syncwarp();
}

// Where a lane copies its share of the next block of one side from.
template <int kPairs, Form kForm, int kWidth, bool kKeys>
struct Source {
  const uint8_t* codes;
  const uint8_t* scale;
  const uint8_t* extra;  // minima by token, and below them on the K side the low-rank factors
  uint32_t scale_valid, extra_valid;
  uint32_t at;           // by channel: tokens from the piece's first

  __device__ __forceinline__ void Open(const View& view, uint64_t token, uint32_t head_dim,
                                       uint32_t lane) {
    const uint64_t from = token - view.first;
    if constexpr (kForm == kStagedRows) {
      codes = reinterpret_cast<const uint8_t*>(view.rows + from * head_dim);
      at = static_cast<uint32_t>(min(view.end - token, uint64_t{1} << 30));
    } else {
      const uint32_t row = lane / 4, part = lane % 4 * 8;
      codes = view.codes + from / ops::kBlockTokens * view.block_bytes + lane * 16;
      at = static_cast<uint32_t>(from);
      const bool by_channel = kForm == kByChannel || (kForm == kAnyForm && view.form == kByChannel);
      if (by_channel) {
        scale_valid = lane * 8 < PaddedDirs(head_dim) ? 16 : 0;
        scale = reinterpret_cast<const uint8_t*>(view.scale + (scale_valid > 0 ? lane * 8 : 0));
      } else {
        scale_valid = row < view.groups ? 16 : 0;
        scale = reinterpret_cast<const uint8_t*>(
            view.scale + (scale_valid > 0 ? row * view.group_stride : 0) + from + part);
      }
      const uint32_t minima = by_channel ? 0 : view.groups;
      extra_valid = 16;
      if (!by_channel && row < view.groups) {
        extra = reinterpret_cast<const uint8_t*>(view.minimum + row * view.group_stride + from +
                                                 part);
      } else if (kKeys && row < minima + view.rank) {
        extra = reinterpret_cast<const uint8_t*>(
            view.a + (row - minima) * view.padded_tokens + from + part);
      } else {
        extra = reinterpret_cast<const uint8_t*>(view.scale);
        extra_valid = 0;
      }
    }
  }

  // Queues the copies of one block and moves on to the warp's next.
  __device__ __forceinline__ void Stage(uint8_t* slot, const View& view, uint32_t head_dim,
                                        uint32_t lane) {
    if constexpr (kForm == kStagedRows) {
      constexpr uint32_t parts = kPairs * 4;
      const uint32_t pitch = 2 * head_dim;
#pragma unroll
      for (uint32_t i = 0; i < parts; ++i) {
        const uint32_t n = i * 32 + lane;
        const uint32_t row = n / parts, part = n % parts * 8;
        const bool valid = row < at && part < head_dim;
        CopyAsync(slot + RowTile<kPairs>::Offset(row, part),
                  codes + (valid ? row * pitch + part * 2 : 0), valid ? 16 : 0);
      }
      codes += uint64_t{kWarps * ops::kBlockTokens} * pitch;
      at -= min(at, kWarps * ops::kBlockTokens);
    } else {
      constexpr uint32_t room = kPairs * 128 * (kForm == kAnyForm ? 8 : kWidth);
      const uint32_t bytes = view.block_bytes;
      uint8_t* const to = slot + lane * 16;
#pragma unroll
      for (uint32_t i = 0; i < room; i += 512) {
        if (i + lane * 16 < bytes) CopyAsync(to + i, codes + i);
      }
      codes += kWarps * bytes;
      constexpr uint32_t rows = kPairs;
      constexpr uint32_t scales = kKeys && kForm != kByToken ? kPairs * 128 : rows * kRowBytes;
      if (kForm == kByChannel || (kForm == kAnyForm && view.form == kByChannel)) {
        const uint64_t from = at / view.group * view.group_stride * 2;
        if (lane < kPairs * 4) {
          CopyAsync(to + room, scale + (scale_valid > 0 ? from : 0), scale_valid);
          const auto apart = reinterpret_cast<const uint8_t*>(view.minimum) -
                             reinterpret_cast<const uint8_t*>(view.scale);
          CopyAsync(to + room + kPairs * 64, scale + apart + (scale_valid > 0 ? from : 0),
                    scale_valid);
        }
        at += kWarps * ops::kBlockTokens;
        if (view.rank == 0) return;
      } else {
        if (lane < rows * 4) CopyAsync(to + room, scale, scale_valid);
        scale += kWarps * ops::kBlockTokens * 2;
      }
      if (kKeys || lane < rows * 4) CopyAsync(to + room + scales, extra, extra_valid);
      extra += kWarps * ops::kBlockTokens * 2;
    }
  }
};

// The entries of the block at `at` in the piece: [x, y).
__device__ __forceinline__ uint2 SparseRange(const View& view, uint32_t at) {
  const uint32_t* const start = view.sparse_start + at / ops::kBlockTokens;
  return uint2{start[0], start[1]};
}

// Queues the copies of a block's sparse entries.
__device__ inline void StageSparse(uint8_t* area, SparseInfo* info, const View& view, uint32_t at,
                                   uint2 range, uint32_t lane) {
  if (view.sparse_start == nullptr) {
    if (lane == 0) info->entries = 0;
    return;
  }
  const uint32_t entries = range.y - range.x;
  const uint8_t* const dir = view.sparse_dir + range.x;
  const uint16_t* const value = view.sparse_value + range.x;
  const auto dir_skew = static_cast<uint32_t>(reinterpret_cast<uint64_t>(dir) % 16);
  const auto value_skew = static_cast<uint32_t>(reinterpret_cast<uint64_t>(value) % 16);
  const uint32_t dir_bytes = dir_skew + entries, value_bytes = value_skew + 2 * entries;
  const bool staged = dir_bytes <= kSparseDirBytes && value_bytes <= kSparseValueBytes;
  if (lane == 0) {
    *info = {entries, dir_skew, value_skew, staged, dir, value, view.sparse_count + at};
  }
  if (!staged || entries == 0) return;
  const uint32_t i = lane * 16;
  if (lane < 2) CopyAsync(area + i, view.sparse_count + at + i);
  if (i < dir_bytes) CopyAsync(area + 32 + i, dir - dir_skew + i, min(16u, dir_bytes - i));
  if (i < value_bytes) {
    CopyAsync(area + 32 + kSparseDirBytes + i,
              reinterpret_cast<const uint8_t*>(value) - value_skew + i, min(16u, value_bytes - i));
  }
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_PIECES_CUH_
