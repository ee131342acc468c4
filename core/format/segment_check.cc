// The rules that a stored segment has to keep. See segment_check.h, and FORMAT.md for the words.
#include "core/format/segment_check.h"

#include <algorithm>

#include "core/codec/basis.h"
#include "kernels/tile.h"

namespace kvg {
namespace {

constexpr uint64_t kMostTokens = 8192;  // of a segment, as in recipes

absl::Status Wrong(const char* what) {
  return CorruptError("a segment of the saved cache is damaged: ", what,
                      "; nothing was loaded");
}

absl::Status WrongBasis(const char* what) {
  return CorruptError("a basis of the saved cache is damaged: ", what, "; nothing was loaded");
}

absl::Status CheckSparse(const ops::Piece& piece, uint64_t capacity) {
  const uint64_t blocks = piece.padded_tokens / ops::kBlockTokens;
  uint64_t end = 0;
  for (uint32_t head = 0; head < piece.kv_heads; ++head) {
    const uint32_t* const start = piece.sparse_start + head * (blocks + 1);
    const uint8_t* const count = piece.sparse_count + head * piece.padded_tokens;
    for (uint64_t block = 0; block < blocks; ++block) {
      // Entries may not be used twice, nor lie outside.
      if (start[block] < end || start[block + 1] < start[block] || start[block + 1] > capacity) {
        return Wrong("its outliers do not begin where they may");
      }
      uint64_t entry = start[block];
      for (uint64_t t = 0; t < ops::kBlockTokens; ++t) {
        const uint64_t of_token = count[block * ops::kBlockTokens + t];
        if (of_token > start[block + 1] - entry) return Wrong("it counts more outliers than it has");
        for (uint64_t i = 0; i < of_token; ++i) {
          const uint8_t direction = piece.sparse_dir[entry + i];
          if (direction >= piece.head_dim ||
              (i > 0 && direction <= piece.sparse_dir[entry + i - 1])) {
            return Wrong("an outlier lies where no channel is");
          }
        }
        entry += of_token;
      }
      if (entry != start[block + 1]) return Wrong("it counts fewer outliers than it has");
      end = start[block + 1];
    }
  }
  if (!AllFinite(piece.sparse_value, end)) return Wrong("an outlier is not a finite number");
  return absl::OkStatus();
}

}  // namespace

bool AllFinite(const uint16_t* x, uint64_t count) {
  constexpr uint16_t kExponent = 0x7C00;
  constexpr uint64_t kRun = 256;  // a fixed number, so that compilers use vectors
  uint64_t i = 0;
  for (; i + kRun <= count; i += kRun) {
    uint16_t most = 0;
    for (uint64_t j = 0; j < kRun; ++j) {
      most = std::max<uint16_t>(most, x[i + j] & kExponent);
    }
    if (most == kExponent) return false;
  }
  for (; i < count; ++i) {
    if ((x[i] & kExponent) == kExponent) return false;
  }
  return true;
}

absl::Status CheckForm(const SegmentForm& form, const Shape& shape, ops::Side side) {
  const ops::SealSpec& spec = form.spec;
  if (form.kv_heads != shape.kv_heads || form.head_dim != shape.head_dim || spec.side != side) {
    return Wrong("it is of another shape than the model");
  }
  if (form.tokens == 0 || form.tokens > kMostTokens || form.tokens % ops::kBlockTokens != 0) {
    return Wrong("it has room for no such number of tokens");
  }
  if (form.widths != nullptr && (form.kind == ops::kRows || spec.axis != ops::kAxisChannel)) {
    return Wrong("it has a basis, but not a scale for each direction of it");
  }
  if (form.kind == ops::kRows) {
    const bool plain = form.bits == 16 && spec.group == 0 && spec.rank == 0 && spec.outliers == 0 &&
                       !spec.heads_share_scale;
    return plain ? absl::OkStatus() : Wrong("rows of fp16 have no codes");
  }
  constexpr uint32_t kWidths[] = {1, 2, 3, 4, 6, 8};
  if (std::count(std::begin(kWidths), std::end(kWidths), form.bits) == 0) {
    return Wrong("its codes have a width that does not exist");
  }
  if (spec.rank > ops::kMaxRank) return Wrong("its rank is too large");
  if (spec.sweeps < 1 || spec.sweeps > 8) return Wrong("its sweeps are out of range");
  const uint64_t vector = side == ops::kSideK ? form.tokens : shape.kv_dim();
  if (spec.outliers > vector / 2) return Wrong("it has more outliers than entries");
  if (spec.axis == ops::kAxisChannel) {
    if (spec.heads_share_scale || spec.group == 0 || spec.group % ops::kBlockTokens != 0 ||
        form.tokens % spec.group != 0) {
      return Wrong("its groups do not divide its tokens");
    }
    return absl::OkStatus();
  }
  const uint32_t dirs = ops::PadDirs(shape.head_dim);
  const bool whole = spec.group == dirs;
  if (!whole && (spec.heads_share_scale || spec.group == 0 || spec.group > dirs ||
                 spec.group % ops::kTileDirs != 0)) {
    return Wrong("its groups do not divide its channels");
  }
  return absl::OkStatus();
}

absl::Status CheckBasis(const std::byte* content, const Shape& shape, ops::Side side) {
  const size_t matrices = Basis::WidthsAt(shape, side);
  const size_t dirs = ops::PadDirs(shape.head_dim);
  const auto* const numbers = reinterpret_cast<const uint16_t*>(content);
  for (size_t row = 0; row < matrices / sizeof(uint16_t); row += dirs) {
    if (!AllFinite(numbers + row, dirs)) return WrongBasis("it holds NaN or infinity");
    if (std::any_of(numbers + row + shape.head_dim, numbers + row + dirs,
                    [](uint16_t padding) { return padding != 0; })) {
      return WrongBasis("it has directions that there are not");
    }
  }
  const auto* const widths = reinterpret_cast<const uint8_t*>(content) + matrices;
  if (!std::all_of(widths, reinterpret_cast<const uint8_t*>(content) + Basis::ContentBytes(shape, side), ops::WidthIsValid)) {
    return WrongBasis("a tile has a width that does not exist");
  }
  return absl::OkStatus();
}

absl::Status CheckPayload(const Segment& segment) {
  const ops::Piece& piece = segment.piece();
  const SegmentForm& form = segment.form();
  const uint64_t heads = piece.kv_heads;
  if (piece.kind == ops::kRows) {
    return AllFinite(piece.rows, heads * piece.rows_head_stride)
               ? absl::OkStatus()
               : Wrong("it holds NaN or infinity");
  }
  const uint64_t tiles = piece.dirs / ops::kTileDirs;
  uint64_t codes = 0;
  for (uint64_t head = 0; head < heads; ++head) {
    uint64_t block_bytes = 0;
    for (uint64_t tile = head * tiles; tile < (head + 1) * tiles; ++tile) {
      const uint32_t width = form.widths != nullptr ? form.widths[tile] : form.bits;
      if (piece.widths[tile] != width) return Wrong("a tile has another width than it should");
      block_bytes += ops::TileBytes(width);
    }
    if (piece.codes_head[head] != codes || piece.codes_block[head] != block_bytes) {
      return Wrong("its codes do not lie where they should");
    }
    codes += piece.padded_tokens / ops::kBlockTokens * block_bytes;
  }
  const uint64_t groups = form.spec.axis == ops::kAxisChannel
                              ? piece.padded_tokens / form.spec.group
                              : (piece.head_dim + form.spec.group - 1) / form.spec.group;
  const uint64_t scales =
      (form.spec.heads_share_scale ? 1 : heads) * groups * piece.scale_group_stride;
  const uint64_t rank_rows = heads * form.spec.rank;
  if (!AllFinite(piece.scale, scales) || !AllFinite(piece.minimum, scales) ||
      !AllFinite(piece.a, rank_rows * piece.padded_tokens) ||
      !AllFinite(piece.b, rank_rows * piece.dirs)) {
    return Wrong("a scale or a factor is not a finite number");
  }
  if (piece.sparse_start == nullptr) return absl::OkStatus();
  const uint64_t vectors =
      form.spec.side == ops::kSideK ? heads * piece.head_dim : piece.padded_tokens;
  return CheckSparse(piece, 2 * form.spec.outliers * vectors);
}

}  // namespace kvg
