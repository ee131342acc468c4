// What a token of a piece stands for: codes, low-rank part, sparse part and map of one row, in fp32.
//
// Called by the files of kernels/reference alone. `slot` counts tokens from the start of the piece.
#ifndef KVGEAR_KERNELS_REFERENCE_DECODE_H_
#define KVGEAR_KERNELS_REFERENCE_DECODE_H_

#include <cstdint>

#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/reference/map.h"
#include "kernels/tile.h"

namespace kvg::reference {

// row[d] = scale * code + minimum, the backbone alone.
inline void DecodeCodes(const ops::Piece& piece, uint32_t head, uint64_t slot, float* row) {
  const uint8_t* widths = piece.widths + uint64_t{head} * (piece.dirs / ops::kTileDirs);
  const uint8_t* tile = piece.codes + piece.codes_head[head] +
                        slot / ops::kBlockTokens * uint64_t{piece.codes_block[head]};
  const auto token = static_cast<uint32_t>(slot % ops::kBlockTokens);
  for (uint32_t d = 0; d < piece.head_dim; ++d) {
    const uint32_t width = widths[d / ops::kTileDirs];
    const uint32_t in_tile = d % ops::kTileDirs;
    const uint64_t group = piece.axis == ops::kAxisChannel ? slot / piece.group : d / piece.group;
    const uint64_t member = piece.axis == ops::kAxisChannel ? d : slot;
    const uint64_t i = head * piece.scale_head_stride + group * piece.scale_group_stride + member;
    const uint32_t code = ops::GetCode(tile, width, ops::PositionOf(piece.side, token, in_tile));
    row[d] = F16ToF32(piece.scale[i]) * static_cast<float>(code) + F16ToF32(piece.minimum[i]);
    if (in_tile == ops::kTileDirs - 1) tile += ops::TileBytes(width);
  }
}

// row[d] += sum over r of a[r][token] * b[r][d].
inline void AddLowRank(const ops::Piece& piece, uint32_t head, uint64_t slot, float* row) {
  const uint16_t* a = piece.a + uint64_t{head} * piece.rank * piece.padded_tokens + slot;
  const uint16_t* b = piece.b + uint64_t{head} * piece.rank * piece.dirs;
  for (uint32_t d = 0; d < piece.head_dim; ++d) {
    float sum = 0;
    for (uint32_t r = 0; r < piece.rank; ++r) {
      sum += F16ToF32(a[r * piece.padded_tokens]) * F16ToF32(b[uint64_t{r} * piece.dirs + d]);
    }
    row[d] += sum;
  }
}

// row[d] += value of every sparse entry of the token.
inline void AddSparse(const ops::Piece& piece, uint32_t head, uint64_t slot, float* row) {
  const uint64_t blocks = piece.padded_tokens / ops::kBlockTokens;
  const uint64_t block = slot / ops::kBlockTokens;
  const uint8_t* count = piece.sparse_count + head * piece.padded_tokens;
  uint64_t entry = piece.sparse_start[head * (blocks + 1) + block];
  for (uint64_t t = block * ops::kBlockTokens; t < slot; ++t) entry += count[t];
  for (const uint64_t end = entry + count[slot]; entry < end; ++entry) {
    row[piece.sparse_dir[entry]] += F16ToF32(piece.sparse_value[entry]);
  }
}

// row[0 .. head_dim) = the token as attention sees it, whatever the kind of the piece.
inline void DecodeRow(const ops::Piece& piece, uint32_t head, uint64_t slot, float* row) {
  if (piece.kind == ops::kRows) {
    const uint16_t* rows = piece.rows + head * piece.rows_head_stride + slot * piece.head_dim;
    for (uint32_t d = 0; d < piece.head_dim; ++d) row[d] = F16ToF32(rows[d]);
    return;
  }
  DecodeCodes(piece, head, slot, row);
  if (piece.rank > 0) AddLowRank(piece, head, slot, row);
  if (piece.sparse_start != nullptr) AddSparse(piece, head, slot, row);
  if (piece.map != nullptr) UnmapRow(*piece.map, head, piece.head_dim, row);
}

// Reads the tokens of a sequence; quick when they are asked for in ascending order.
class SequenceReader {
 public:
  explicit SequenceReader(const ops::Sequence& sequence) : sequence_(sequence) {}

  void Row(uint32_t head, uint64_t token, float* row) {
    if (token < sequence_.pieces[piece_]->first_token) piece_ = 0;
    while (token >= sequence_.pieces[piece_]->first_token + sequence_.pieces[piece_]->tokens) {
      ++piece_;
    }
    const ops::Piece& piece = *sequence_.pieces[piece_];
    DecodeRow(piece, head, token - piece.first_token, row);
  }

 private:
  ops::Sequence sequence_;
  uint64_t piece_ = 0;
};

}  // namespace kvg::reference

#endif  // KVGEAR_KERNELS_REFERENCE_DECODE_H_
