// Attend on CUDA: any block of tokens, whatever pieces it is made of, as fp16 rows in shared memory.
//
// Included by attend_kernel.cuh. For forms that have no way of their own through the kernel, and
// for blocks in which one piece ends and another begins. A lane decodes one token.
#ifndef KVGEAR_KERNELS_CUDA_ATTEND_DECODE_CUH_
#define KVGEAR_KERNELS_CUDA_ATTEND_DECODE_CUH_

#include <cstdint>

#include "kernels/cuda/attend_math.cuh"
#include "kernels/cuda/attend_pieces.cuh"
#include "kernels/ops.h"

namespace kvg::cuda {

// One code; token < 32 counts inside the block, direction < 16 inside the tile.
__device__ inline uint32_t OneCode(const uint8_t* tile, uint32_t width, ops::Side side,
                                   uint32_t token, uint32_t direction) {
  const bool k = side == ops::kSideK;
  const uint32_t lane = k ? token % 16 : direction;
  const uint32_t pair = k ? token / 16 * 8 + direction / 2 : token / 2;
  const uint32_t hi = k ? direction % 2 : token % 2;
  const auto* words = reinterpret_cast<const uint32_t*>(tile);
  uint32_t code = 0;
  for (uint32_t done = 0; done < width;) {
    // The planes of a width: 3 is 2 + 1, 6 is 4 + 2, the others are one.
    const uint32_t bits = done > 0 ? width - done : width == 3 ? 2 : width == 6 ? 4 : width;
    const uint32_t per_half = 16 / bits;
    const uint32_t word = words[(done + pair / per_half) * 16 + lane];
    code |= (word >> (bits * (pair % per_half) + 16 * hi) & ((1u << bits) - 1)) << done;
    done += bits;
  }
  return code;
}

// Decoded elements may be larger than fp16 numbers: a tile of them holds a quarter of each.
inline constexpr float kDecodedShare = 0.25f;

__device__ __forceinline__ uint16_t ToTile(float x) {
  return __half_as_ushort(__float2half_rn(fminf(fmaxf(x * kDecodedShare, -65504.0f), 65504.0f)));
}

// row = M^-1 row, of the lane's own token.
__device__ inline void UnmapRow(const ops::Map& map, uint32_t head, uint32_t head_dim, float* row,
                                float* other) {
  if (map.kind == ops::kMapHadamard) {
    for (uint32_t distance = 1; distance < map.block; distance *= 2) {
      for (uint32_t i = 0; i < head_dim; ++i) {
        if ((i & distance) != 0) continue;
        const float u = row[i], v = row[i + distance];
        row[i] = u + v;
        row[i + distance] = u - v;
      }
    }
    return;
  }
  const uint32_t dirs = PaddedDirs(head_dim);
  const uint16_t* const back = map.back + uint64_t{head} * head_dim * dirs;
  for (uint32_t i = 0; i < head_dim; ++i) {
    float sum = 0;
    for (uint32_t j = 0; j < head_dim; ++j) sum = fmaf(FromHalf(back[i * dirs + j]), row[j], sum);
    other[i] = sum;
  }
  for (uint32_t i = 0; i < head_dim; ++i) row[i] = other[i];
}

// Tokens [from, to) of the block at `token`, all in the piece that *view is.
template <int kPairs>
__device__ void DecodePart(uint8_t* tile, const View& view, ops::Side side, uint64_t token,
                           uint64_t from, uint64_t to, uint32_t head, uint32_t head_dim,
                           uint32_t lane) {
  using Tile = RowTile<kPairs>;
  if (view.rows != nullptr) {
    const uint16_t* const rows = view.rows + (from - view.first) * head_dim;
    const auto count = static_cast<uint32_t>(to - from), skip = static_cast<uint32_t>(from - token);
    for (uint32_t i = lane; i < count * head_dim; i += 32) {
      const uint32_t row = i / head_dim, d = i % head_dim;
      *reinterpret_cast<uint16_t*>(tile + Tile::Offset(skip + row, d)) = rows[i];
    }
    return;
  }
  const uint64_t mine = token + lane;
  const bool active = mine >= from && mine < to;
  // Pieces of codes begin at a multiple of 32, so a lane is a token of one block of the piece.
  const uint64_t at = token - view.first + lane;
  const uint64_t block = (token - view.first) / ops::kBlockTokens;
  // Its sparse entries are ordered by direction.
  uint32_t entry = 0, entries_end = 0;
  if (view.sparse_start != nullptr) {
    const uint32_t count = view.sparse_count[at];
    uint32_t before = count;
    for (uint32_t step = 1; step < 32; step *= 2) {
      const uint32_t other = __shfl_up_sync(kAllLanes, before, step);
      if (lane >= step) before += other;
    }
    entries_end = view.sparse_start[block] + before;
    entry = entries_end - count;
  }
  if (!active) return;
  float mapped[kPairs * 32], other[kPairs * 32];  // only with a map
  const uint8_t* codes = view.codes + block * view.block_bytes;
  for (uint32_t first = 0; first < head_dim; first += ops::kTileDirs) {
    const uint32_t width = view.widths[first / ops::kTileDirs];
    for (uint32_t d = first; d < min(first + ops::kTileDirs, head_dim); ++d) {
      const uint64_t i = view.by_channel ? at / view.group * view.group_stride + d
                                         : d / view.group * view.group_stride + at;
      const auto code = static_cast<float>(OneCode(codes, width, side, lane, d - first));
      float x = fmaf(FromHalf(view.scale[i]), code, FromHalf(view.minimum[i]));
      for (uint32_t r = 0; r < view.rank; ++r) {
        x = fmaf(FromHalf(view.a[r * view.padded_tokens + at]),
                 FromHalf(view.b[r * PaddedDirs(head_dim) + d]), x);
      }
      if (entry < entries_end && view.sparse_dir[entry] == d) {
        x += FromHalf(view.sparse_value[entry++]);
      }
      if (view.map != nullptr) {
        mapped[d] = x;
      } else {
        *reinterpret_cast<uint16_t*>(tile + Tile::Offset(lane, d)) = ToTile(x);
      }
    }
    codes += 64 * width;
  }
  if (view.map == nullptr) return;
  UnmapRow(*view.map, head, head_dim, mapped, other);
  for (uint32_t d = 0; d < head_dim; ++d) {
    *reinterpret_cast<uint16_t*>(tile + Tile::Offset(lane, d)) = ToTile(mapped[d]);
  }
}

// Tokens [from, to) of the block at `token`, all of one piece; the other rows and padding directions
// become zero.
template <int kPairs>
__device__ __noinline__ void DecodeTile(uint8_t* tile, const View* view, ops::Side side,
                                        uint64_t token, uint64_t from, uint64_t to, uint32_t head,
                                        uint32_t head_dim, uint32_t lane) {
  __syncwarp();
  if (view->rows != nullptr && reinterpret_cast<uint64_t>(view->rows) % 16 == 0) {
    constexpr uint32_t parts = kPairs * 4;
    const auto skip = static_cast<int64_t>(token - view->first) * head_dim;  // may be below 0
#pragma unroll
    for (uint32_t i = 0; i < parts; ++i) {
      const uint32_t n = i * 32 + lane;
      const uint32_t row = n / parts, part = n % parts * 8;
      const bool valid = token + row >= from && token + row < to && part < head_dim;
      CopyAsync(SharedAddress(tile) + RowTile<kPairs>::Offset(row, part),
                view->rows + (valid ? skip + row * head_dim + part : 0), valid ? 16 : 0);
    }
    CommitCopies();
    WaitCopies<0>();
    __syncwarp();
    return;
  }
  for (uint32_t i = lane * 16; i < RowTile<kPairs>::kBytes; i += 512) {
    *reinterpret_cast<uint4*>(tile + i) = uint4{0, 0, 0, 0};
  }
  __syncwarp();
  DecodePart<kPairs>(tile, *view, side, token, from, to, head, head_dim, lane);
  __syncwarp();
}

}  // namespace kvg::cuda

#endif  // KVGEAR_KERNELS_CUDA_ATTEND_DECODE_CUH_
