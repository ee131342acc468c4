// Read: a range of tokens of one side, decompressed block by block.
//
// Called through the operation tables alone. Sums in the order of the reference and without fused
// operations, so the results are the same bits.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/internal.h"
#include "kernels/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/read.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "kernels/cpu/decode.h"
#include "kernels/cpu/pack_half.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE {
namespace read {

using namespace codec;

HWY_INLINE void StoreElements(F32 v, float* to) { hn::StoreU(v, F32Tag(), to); }

HWY_INLINE void StoreElements(F32 v, uint16_t* to) { StoreHalfSaturated(v, to); }

struct BF16 {
  uint16_t bits;
};
HWY_INLINE void StoreElements(F32 v, BF16* to) {
  StoreBF16(v, reinterpret_cast<uint16_t*>(to));
}

// Writes `dim` elements; `row` may be read up to the next multiple of kTileDirs.
template <typename T>
HWY_INLINE void StoreRow(const float* row, size_t dim, T* out) {
  size_t d = 0;
  for (; d + kF32Lanes <= dim; d += kF32Lanes) StoreElements(hn::LoadU(F32Tag(), row + d), out + d);
  if (d < dim) {
    T rest[kF32Lanes];
    StoreElements(hn::LoadU(F32Tag(), row + d), rest);
    std::copy_n(rest, dim - d, out + d);
  }
}

template <typename T>
class Reader {
 public:
  explicit Reader(const ops::ReadArgs& args) : args_(args) {}

  void Run() {
    const uint64_t begin = args_.first_token;
    const uint64_t end = begin + args_.tokens;
    for (uint64_t i = 0; i < args_.side.count; ++i) {
      const ops::Piece& piece = *args_.side.pieces[i];
      const uint64_t from = std::max(begin, piece.first_token);
      const uint64_t to = std::min(end, piece.first_token + piece.tokens);
      if (from >= to) continue;
      // Slots, counted from the start of the piece.
      if (piece.kind == ops::kRows) {
        ReadRows(piece, from - piece.first_token, to - piece.first_token);
      } else {
        ReadCodes(piece, from - piece.first_token, to - piece.first_token);
      }
    }
  }

 private:
  T* OutRow(const ops::Piece& piece, uint32_t head, uint64_t slot) const {
    const uint64_t token = piece.first_token + slot - args_.first_token;
    return static_cast<T*>(args_.out) + (token * args_.kv_heads + head) * args_.head_dim;
  }

  void ReadRows(const ops::Piece& piece, uint64_t from, uint64_t to) const {
    alignas(ops::kAlign) float row[ops::kMaxHeadDim] = {};
    const size_t dim = args_.head_dim;
    for (uint64_t slot = from; slot < to; ++slot) {
      for (uint32_t head = 0; head < args_.kv_heads; ++head) {
        const uint16_t* const x = piece.rows + head * piece.rows_head_stride + slot * dim;
        size_t d = 0;
        for (; d + kF32Lanes <= dim; d += kF32Lanes) hn::Store(LoadHalf(x + d), F32Tag(), row + d);
        for (; d < dim; ++d) row[d] = F16ToF32(x[d]);
        StoreRow(row, dim, OutRow(piece, head, slot));
      }
    }
  }

  void ReadCodes(const ops::Piece& piece, uint64_t from, uint64_t to) const {
    Rows rows;
    for (uint64_t slot = from; slot < to;) {
      const uint64_t first = slot / ops::kBlockTokens * ops::kBlockTokens;
      const uint64_t next = std::min<uint64_t>(to, first + ops::kBlockTokens);
      for (uint32_t head = 0; head < args_.kv_heads; ++head) {
        const Slice slice{head, slot / ops::kBlockTokens, static_cast<uint32_t>(slot - first),
                          static_cast<uint32_t>(next - first)};
        DecodeSlice(piece, slice, &rows);
        for (uint32_t token = slice.begin; token < slice.end; ++token) {
          StoreRow(rows.value + token * piece.dirs, args_.head_dim,
                   OutRow(piece, head, first + token));
        }
      }
      slot = next;
    }
  }

  const ops::ReadArgs& args_;
};

}  // namespace read

void Read(const ops::ReadArgs* args) {
  switch (args->dtype) {
    case ops::kF16:
      read::Reader<uint16_t>(*args).Run();
      return;
    case ops::kBF16:
      read::Reader<read::BF16>(*args).Run();
      return;
    case ops::kF32:
      break;
  }
  read::Reader<float>(*args).Run();
}

}  // namespace kvg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET
