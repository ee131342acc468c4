// The buffers that a call of seal fills, as the piece that they will be.
//
// Called by the Seal operations of every backend that measures what it stored.
#ifndef KVGEAR_KERNELS_SEALED_PIECE_H_
#define KVGEAR_KERNELS_SEALED_PIECE_H_

#include "kernels/ops.h"

namespace kvg::ops {

inline Piece SealedPiece(const SealArgs& args, const SealOut& out) {
  Piece piece{};
  piece.kind = kCodes;
  piece.side = args.spec.side;
  piece.tokens = args.at + args.tokens;
  piece.padded_tokens = out.padded_tokens;
  piece.kv_heads = out.kv_heads;
  piece.head_dim = out.head_dim;
  piece.dirs = out.dirs;
  piece.rank = args.spec.rank;
  piece.map = args.spec.map;
  piece.widths = out.widths;
  piece.codes = out.codes;
  piece.codes_head = out.codes_head;
  piece.codes_block = out.codes_block;
  piece.axis = args.spec.axis;
  piece.group = args.spec.group;
  piece.scale = out.scale;
  piece.minimum = out.minimum;
  piece.scale_head_stride = args.spec.heads_share_scale ? 0 : out.scale_head_stride;
  piece.scale_group_stride = out.scale_group_stride;
  piece.a = out.a;
  piece.b = out.b;
  if (args.spec.outliers > 0) {
    piece.sparse_start = out.sparse_start;
    piece.sparse_count = out.sparse_count;
    piece.sparse_dir = out.sparse_dir;
    piece.sparse_value = out.sparse_value;
  }
  return piece;
}

}  // namespace kvg::ops

#endif  // KVGEAR_KERNELS_SEALED_PIECE_H_
