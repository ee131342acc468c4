// Attend: softmax(scale * q.k) V on the compressed form, for every SIMD target.
//
// Called through the operation tables alone. A unit of work goes through its tokens chunk by chunk:
// scores of all pieces of K, softmax with a running maximum, weighted values of all pieces of V.
#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attend_schedule.h"
#include "kernels/cpu/attend_state.h"
#include "kernels/cpu/internal.h"
#include "kernels/ops.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attend.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/attend_base-inl.h"
#include "kernels/cpu/attend_maps-inl.h"
#include "kernels/cpu/attend_pieces-inl.h"
#include "kernels/cpu/attend_softmax-inl.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE {
namespace attend {

// The piece that holds a token. The sequence covers all tokens up to the length of its item.
inline uint64_t PieceAt(const ops::Sequence& sequence, uint64_t token) {
  const ops::Piece* const* const end = sequence.pieces + sequence.count;
  const ops::Piece* const* const next =
      std::upper_bound(sequence.pieces, end, token,
                       [](uint64_t t, const ops::Piece* piece) { return t < piece->first_token; });
  return static_cast<uint64_t>(next - sequence.pieces) - 1;
}

// Calls f(piece, first token in the piece, tokens, place in the chunk) for the pieces of a chunk.
template <typename F>
HWY_INLINE void ForPieces(const ops::Sequence& sequence, uint64_t begin, uint64_t end, const F& f) {
  uint64_t token = begin;
  for (uint64_t i = PieceAt(sequence, begin); token < end; ++i) {
    const ops::Piece& piece = *sequence.pieces[i];
    const uint64_t stop = std::min(end, piece.first_token + piece.tokens);
    if (stop <= token) continue;  // an empty piece
    f(piece, token - piece.first_token, stop - token, token - begin);
    token = stop;
  }
}

inline Region RegionOf(const ops::Piece& piece, uint32_t head, uint64_t first, uint64_t tokens,
                       uint64_t place) {
  return {.piece = &piece,
          .head = head,
          .begin = first,
          .tokens = tokens,
          .blocks = (tokens + ops::kBlockTokens - 1) / ops::kBlockTokens,
          .in_chunk = place};
}

inline const uint16_t* RowAt(const ops::Piece& piece, uint32_t head, uint64_t token) {
  return piece.rows + head * piece.rows_head_stride + token * piece.head_dim;
}

// Where the codes of a head begin that belong to a token. (Or near them: it is for prefetching.)
inline const uint8_t* CodesAt(const ops::Sequence& sequence, uint32_t head, uint64_t token) {
  const ops::Piece& piece = *sequence.pieces[PieceAt(sequence, token)];
  const uint64_t first = token - piece.first_token;
  if (piece.kind == ops::kRows) return reinterpret_cast<const uint8_t*>(RowAt(piece, head, first));
  return piece.codes + piece.codes_head[head] + first / ops::kBlockTokens * piece.codes_block[head];
}

template <size_t kRows>
void AttendChunk(const ops::AttendArgs& args, const ops::AttendItem& item, uint32_t head,
                 uint64_t begin, uint64_t end, Tile& tile, Temporaries& temp) {
  temp.ahead = CodesAt(item.v, head, begin);
  ForPieces(item.k, begin, end,
            [&](const ops::Piece& piece, uint64_t first, uint64_t tokens, uint64_t place) {
              float* const scores = temp.scores[0] + place;
              if (piece.kind == ops::kRows) {
                ScoreRows<kRows>(RowAt(piece, head, first), tokens, piece.head_dim, tile.own.q,
                                 scores);
              } else {
                CodeScores<kRows>(RegionOf(piece, head, first, tokens, place),
                                  QueryBasis<kRows>(piece, head, tile), temp, scores);
              }
            });
  Softmax<kRows>(args.softcap, begin, end - begin, tile, temp);
  temp.ahead = CodesAt(item.k, head, std::min(end, item.length - 1));
  ForPieces(item.v, begin, end,
            [&](const ops::Piece& piece, uint64_t first, uint64_t tokens, uint64_t place) {
              const float* const weights = temp.scores[0] + place;
              if (piece.kind == ops::kRows) {
                AddRowValues<kRows>(RowAt(piece, head, first), tokens, piece.head_dim, weights,
                                    tile.own.acc[0]);
              } else {
                CodeValues<kRows>(RegionOf(piece, head, first, tokens, place), weights,
                                  ValueBasis<kRows>(piece, head, tile), temp);
              }
            });
}

// Calls f with the number of computed rows of a tile as a constant.
template <typename F>
HWY_INLINE void WithRows(const Tile& tile, const F& f) {
  if (tile.tile_rows == 1) return f(std::integral_constant<size_t, 1>{});
  if constexpr (ComputedRows(2) == 2) {
    if (tile.tile_rows == 2) return f(std::integral_constant<size_t, 2>{});
  }
  if constexpr (kMostRows == 8) {
    if (tile.tile_rows == 8) return f(std::integral_constant<size_t, 8>{});
  }
  return f(std::integral_constant<size_t, 4>{});
}

class Attention {
 public:
  Attention(const ops::AttendArgs& args, uint32_t workers)
      : args_(args), schedule_(args, workers) {}

  void Run(const ops::Parallel& parallel) {
    parallel.run(
        parallel.self, schedule_.units(),
        [](void* self, uint64_t i, uint32_t worker) {
          static_cast<const Attention*>(self)->RunUnit(i, worker);
        },
        this);
  }

 private:
  void RunUnit(uint64_t index, uint32_t worker_index) const {
    const Unit unit = schedule_.At(index);
    const ops::AttendItem& item = args_.items[unit.item];
    Worker& worker = schedule_.worker(worker_index);
    uint64_t begin = unit.end;
    uint64_t end = unit.begin;
    const size_t tiles = (unit.rows + kMostRows - 1) / kMostRows;
    for (size_t i = 0; i < tiles; ++i) {
      Tile& tile = worker.tiles[i];
      const auto rows =
          static_cast<uint32_t>(std::min<uint64_t>(kMostRows, unit.rows - i * kMostRows));
      BeginTile(args_, item, unit.kv_head, unit.first_row + i * kMostRows, rows, tile);
      begin = std::min(begin, tile.any_begin);
      end = std::max(end, tile.any_end);
    }
    begin = std::max(begin / ops::kBlockTokens * ops::kBlockTokens, unit.begin);
    end = std::min(end, unit.end);
    while (begin < end) {
      const uint64_t next = std::min((begin / kChunk + 1) * kChunk, end);
      for (size_t i = 0; i < tiles; ++i) {
        Tile& tile = worker.tiles[i];
        if (tile.any_end <= begin || tile.any_begin >= next) continue;
        WithRows(tile, [&](auto rows) {
          AttendChunk<rows>(args_, item, unit.kv_head, begin, next, tile, worker.temp);
        });
      }
      begin = next;
    }
    for (size_t i = 0; i < tiles; ++i) {
      Tile& tile = worker.tiles[i];
      WithRows(tile, [&](auto rows) {
        FlushMappedValues<rows>(args_.head_dim, unit.kv_head, tile);
        FlushLowRankValues<rows>(unit.kv_head, tile.own);
      });
      FlushLanes(tile.rows, tile.own);
      for (uint64_t r = 0; r < tile.rows; ++r) Finish(unit, i * kMostRows + r, tile, r);
    }
    if (unit.splits > 1) Arrive(unit, worker);
  }

  // Row `row` of the unit is row r of the tile.
  void Finish(const Unit& unit, uint64_t row, const Tile& tile, uint64_t r) const {
    if (unit.splits == 1) {
      Output(unit, row, tile.own.acc[r], tile.row_sum[r]);
      return;
    }
    const uint64_t dirs = ops::PadDirs(args_.head_dim);
    float* const partial = Partial(unit, unit.split, row);
    std::copy_n(tile.own.acc[r], dirs, partial);
    partial[dirs] = tile.row_max[r];
    partial[dirs + 1] = tile.row_sum[r];
  }

  // The last unit of a team merges what all have left.
  void Arrive(const Unit& unit, Worker& worker) const {
    std::atomic_ref<uint32_t> arrived(schedule_.arrived(unit.team));
    if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 != unit.splits) return;
    for (uint64_t row = 0; row < unit.rows; ++row) Merge(unit, row, worker.tiles[0].own.acc[0]);
  }

  void Merge(const Unit& unit, uint64_t row, float* sums) const {
    const DF df;
    const uint64_t dirs = ops::PadDirs(args_.head_dim);
    float top = kLowestMax;
    for (uint64_t i = 0; i < unit.splits; ++i) top = std::max(top, Partial(unit, i, row)[dirs]);
    std::fill_n(sums, dirs, 0.0f);
    float weights = 0.0f;
    for (uint64_t i = 0; i < unit.splits; ++i) {
      const float* const partial = Partial(unit, i, row);
      const float shrink = Exp2(partial[dirs] - top);
      const VF factor = hn::Set(df, shrink);
      for (uint64_t d = 0; d < dirs; d += kN) {
        hn::Store(hn::MulAdd(hn::Load(df, partial + d), factor, hn::Load(df, sums + d)), df,
                  sums + d);
      }
      weights += shrink * partial[dirs + 1];
    }
    Output(unit, row, sums, weights);
  }

  float* Partial(const Unit& unit, uint64_t split, uint64_t row) const {
    return unit.partials + (split * unit.rows + row) * schedule_.partial_stride();
  }

  void Output(const Unit& unit, uint64_t row, const float* sums, float weights) const {
    const uint64_t group = args_.q_heads / args_.kv_heads;
    const uint64_t query = (unit.first_row + row) / group;
    const uint64_t head = unit.kv_head * group + (unit.first_row + row) % group;
    StoreOutput(sums, 1.0f / weights, args_.head_dim, args_.out_dtype, args_.items[unit.item].out,
                static_cast<int64_t>(query) * args_.out_token_stride +
                    static_cast<int64_t>(head) * args_.out_head_stride);
  }

  const ops::AttendArgs& args_;
  const Schedule schedule_;
};

}  // namespace attend

uint64_t AttendScratch(const ops::AttendArgs* args, uint32_t workers) {
  return attention::Schedule::ScratchBytes(*args, workers);
}

void Attend(const ops::AttendArgs* args, const ops::Parallel* parallel) {
  attend::Attention(*args, parallel->workers).Run(*parallel);
}

}  // namespace kvg::cpu::HWY_NAMESPACE
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET
