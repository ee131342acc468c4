// Seal: maps the rows where a map is given, marks the outliers, quantises the backbone, fits the low-rank part to what is left and
// stores the outliers as what is left of them.
//
// Called through the operation tables alone. Gives the bits of kernels/reference/seal.cc; see there
// for what each part means. Work is shared out by head and by runs of tokens, and every sum over
// such units is added up in their order, so nothing depends on the number of workers.
#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/internal.h"
#include "kernels/half.h"
#include "kernels/reference/start.h"
#include "kernels/sealed_piece.h"
#include "kernels/tile.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/seal.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "kernels/cpu/decode.h"
#include "kernels/cpu/lowrank.h"
#include "kernels/cpu/map.h"
#include "kernels/cpu/pack_half.h"
#include "kernels/cpu/pack_scale.h"
#include "kernels/cpu/pack_tile.h"
#include "kernels/cpu/seal_codes.h"
#include "kernels/cpu/seal_fit.h"
#include "kernels/cpu/seal_range.h"
#include "kernels/cpu/select.h"

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
namespace kvg::cpu::HWY_NAMESPACE {
namespace seal {

using namespace codec;

using ops::kBlockTokens;

// Blocks of one unit of work, at least, where heads are split.
inline constexpr uint64_t kUnitBlocks = 4;
// Fewer elements than this are not worth waking a thread for.
inline constexpr uint64_t kSmall = 1 << 14;

inline uint64_t Aligned(uint64_t bytes) {
  return (bytes + ops::kAlign - 1) / ops::kAlign * ops::kAlign;
}

// How the work is cut, and where things lie in the scratch memory (byte offsets).
struct Plan {
  size_t tiles;
  uint64_t tokens;       // padded, of those to be sealed
  uint64_t first_block, end_block;
  uint64_t unit_blocks;  // of a unit of work; with a low-rank part a head is one unit
  uint64_t units;        // of a head
  uint64_t key_rows;     // of the vectors among which outliers are chosen

  uint64_t sums;         // double [kv_heads][units][2]
  uint64_t bits;         // uint16 [kv_heads][tiles][tokens]: outliers
  uint64_t worker;       // of worker 0
  uint64_t worker_bytes;
  // From the start of a worker's part: either two arrays of keys, or the low-rank work of a head.
  uint64_t chunk_keys;
  uint64_t a, b;

  Plan(const ops::SealArgs& args, const ops::SealOut& out) {
    const ops::SealSpec& spec = args.spec;
    const bool k_side = spec.side == ops::kSideK;
    tiles = out.dirs / ops::kTileDirs;
    tokens = ops::PadTokens(args.tokens);
    first_block = args.at / kBlockTokens;
    end_block = ops::PadTokens(args.at + args.tokens) / kBlockTokens;
    unit_blocks = kUnitBlocks;
    if (spec.axis == ops::kAxisChannel) {  // whole groups
      const uint64_t group = ops::PadTokens(std::min<uint64_t>(spec.group, tokens)) / kBlockTokens;
      if (group > 0) unit_blocks = group * std::max<uint64_t>(1, kUnitBlocks / group);
    }
    const uint64_t blocks = end_block - first_block;
    if (spec.rank > 0) unit_blocks = std::max<uint64_t>(blocks, 1);
    units = (blocks + unit_blocks - 1) / unit_blocks;
    key_rows = k_side ? args.tokens
                      : (uint64_t{out.kv_heads} * out.head_dim + kKeyLanes - 1) / kKeyLanes;

    sums = 0;
    bits = Aligned(out.kv_heads * units * 2 * sizeof(double));
    worker = bits;
    worker_bytes = chunk_keys = a = b = 0;
    if (spec.outliers > 0) {
      worker = bits + Aligned(out.kv_heads * tiles * tokens * sizeof(uint16_t));
      // One row more: the last tile of a head may reach beyond its keys.
      chunk_keys = Aligned((key_rows + 1) * kKeyLanes * sizeof(int16_t));
      const size_t chunks = SearchChunks(key_rows, spec.outliers, !k_side);
      worker_bytes = chunk_keys + Aligned(2 * chunks * kKeyLanes * sizeof(int16_t));
    }
    if (spec.rank > 0) {
      a = Aligned(tokens * out.dirs * sizeof(float));
      b = a + Aligned(spec.rank * tokens * sizeof(float));
      worker_bytes = std::max(worker_bytes, b + Aligned(spec.rank * out.dirs * sizeof(float)));
    }
  }
};

class Sealer {
 public:
  Sealer(const ops::SealArgs& args, ops::SealOut& out, const ops::Parallel& parallel)
      : args_(args),
        spec_(args.spec),
        out_(out),
        parallel_(parallel),
        plan_(args, out),
        scratch_(static_cast<uint8_t*>(args.scratch)),
        scale_head_stride_(spec_.heads_share_scale ? 0 : out.scale_head_stride),
        bits_(spec_.outliers > 0 ? Scratch<uint16_t>(plan_.bits) : nullptr),
        last_valid_(0xFFFFu >> (out.dirs - out.head_dim)) {}

  void Run() {
    out_.error_sq = 0;
    out_.norm_sq = 0;
    if (args_.at == 0) ClearTail();
    if (args_.tokens == 0) return;
    const uint64_t heads = out_.kv_heads;
    if (bits_ != nullptr) {
      if (spec_.side == ops::kSideK) {
        ForEach(heads * plan_.tiles, [this](uint64_t i, uint32_t worker) {
          MarkDirections(static_cast<uint32_t>(i / plan_.tiles), i % plan_.tiles, worker);
        });
      } else {
        ForEach(plan_.end_block, [this](uint64_t i, uint32_t worker) { MarkTokens(i, worker); });
      }
      ForEach(heads, [this](uint64_t i, uint32_t) { CountOutliers(static_cast<uint32_t>(i)); });
      PlaceOutliers();
    }
    if (spec_.heads_share_scale) {
      ForEach(plan_.end_block - plan_.first_block, [this](uint64_t i, uint32_t) {
        ScaleTokens(0, out_.kv_heads, plan_.first_block + i);
      });
    }
    ForEach(heads * plan_.units, [this](uint64_t i, uint32_t worker) {
      SealUnit(static_cast<uint32_t>(i / plan_.units), i % plan_.units, worker);
    });
    const double* const sums = Scratch<double>(plan_.sums);
    for (uint64_t i = 0; i < heads * plan_.units; ++i) {
      out_.norm_sq += sums[2 * i];
      out_.error_sq += sums[2 * i + 1];
    }
  }

 private:
  template <typename T>
  T* Scratch(uint64_t offset) const {
    return reinterpret_cast<T*>(scratch_ + offset);
  }
  template <typename T>
  T* WorkerScratch(uint32_t worker, uint64_t offset) const {
    return Scratch<T>(plan_.worker + worker * plan_.worker_bytes + offset);
  }

  template <typename Task>
  void ForEach(uint64_t n, const Task& task) const {
    if (n == 1 || args_.tokens * out_.kv_heads * out_.dirs < kSmall) {
      for (uint64_t i = 0; i < n; ++i) task(i, 0);
      return;
    }
    const auto call = [](void* ctx, uint64_t i, uint32_t worker) {
      (*static_cast<const Task*>(ctx))(i, worker);
    };
    parallel_.run(parallel_.self, n, call, const_cast<Task*>(&task));
  }

  const uint16_t* X(uint32_t head, uint64_t token) const {
    return args_.x + head * args_.x_head_stride + token * out_.head_dim;
  }
  const uint8_t* Widths(uint32_t head) const { return out_.widths + head * plan_.tiles; }
  uint8_t* Codes(uint32_t head, uint64_t block) const {
    return out_.codes + out_.codes_head[head] + block * out_.codes_block[head];
  }
  uint64_t Blocks() const { return out_.padded_tokens / kBlockTokens; }
  // Outliers of a tile, by token.
  uint16_t* Bits(uint32_t head, size_t tile) const {
    return bits_ + (head * plan_.tiles + tile) * plan_.tokens;
  }
  SkipBits BlockBits(uint32_t head, uint64_t block) const {
    if (bits_ == nullptr) return {nullptr, 0};
    return {Bits(head, 0) + block * kBlockTokens, plan_.tokens};
  }

  // The tokens of a block that are to be sealed. Rows whose directions are no whole number of tiles
  // are copied to `padded`.
  BlockRows RowsOf(uint32_t head, uint64_t block, uint16_t* padded) const {
    const uint64_t first = block * kBlockTokens;
    const uint64_t begin = std::max(first, args_.at);
    const uint64_t end = std::min(first + kBlockTokens, args_.at + args_.tokens);
    BlockRows rows{X(head, begin - args_.at), out_.head_dim, begin - first, end - first};
    if (out_.head_dim != out_.dirs) {
      for (size_t i = 0; i < rows.count(); ++i) {
        uint16_t* const to = padded + i * out_.dirs;
        std::copy_n(rows.row + i * rows.stride, out_.head_dim, to);
        std::fill(to + out_.head_dim, to + out_.dirs, uint16_t{0});
      }
      rows.row = padded;
      rows.stride = out_.dirs;
    }
    return rows;
  }

  struct alignas(ops::kAlign) PaddedRows {
    uint16_t x[kBlockTokens * ops::kMaxHeadDim];
  };

  // Zeroes what lies behind the new tokens.
  void ClearTail() const {
    const bool by_channel = spec_.axis == ops::kAxisChannel;
    const uint64_t length = by_channel ? out_.padded_tokens : out_.head_dim;
    const uint64_t members = by_channel ? out_.dirs : out_.padded_tokens;
    for (uint32_t head = 0; head < out_.kv_heads; ++head) {
      std::fill_n(Codes(head, plan_.end_block),
                  (Blocks() - plan_.end_block) * out_.codes_block[head], uint8_t{0});
      for (uint64_t begin = 0, group = 0; begin < length; begin += spec_.group, ++group) {
        if (by_channel && begin < args_.tokens) continue;
        const uint64_t written = by_channel ? 0 : args_.tokens;
        const uint64_t i = head * scale_head_stride_ + group * out_.scale_group_stride + written;
        std::fill_n(out_.scale + i, members - written, uint16_t{0});
        std::fill_n(out_.minimum + i, members - written, uint16_t{0});
      }
      for (uint64_t r = 0; r < spec_.rank; ++r) {
        uint16_t* const a = out_.a + (head * spec_.rank + r) * out_.padded_tokens;
        std::fill(a + plan_.tokens, a + out_.padded_tokens, uint16_t{0});
      }
    }
  }

  // ---------------------------------------------------------------------------------- outliers

  // K side: 16 directions, each a vector over the tokens.
  void MarkDirections(uint32_t head, size_t tile, uint32_t worker) const {
    auto* const keys = WorkerScratch<int16_t>(worker, 0);
    const uint16_t* const x = X(head, 0) + tile * ops::kTileDirs;
    const bool whole = (tile + 1) * ops::kTileDirs <= out_.head_dim;
    for (uint64_t token = 0; token < args_.tokens; ++token) {
      const uint16_t* row = x + token * out_.head_dim;
      uint16_t part[kKeyLanes] = {};
      if (!whole) {
        std::copy_n(row, out_.head_dim % ops::kTileDirs, part);
        row = part;
      }
      for (size_t lane = 0; lane < kKeyLanes; lane += kI16Lanes) {
        hn::Store(LoadKeys(row + lane), I16Tag(), keys + token * kKeyLanes + lane);
      }
    }
    const Ends ends =
        Search<false>().Run(keys, args_.tokens, 0, spec_.outliers,
                            WorkerScratch<int16_t>(worker, plan_.chunk_keys));
    uint16_t* const bits = Bits(head, tile);
    MarkLanes(keys, args_.tokens, ends, bits);
    if (!whole) {
      for (uint64_t i = 0; i < args_.tokens; ++i) {
        bits[i] = static_cast<uint16_t>(bits[i] & last_valid_);
      }
    }
  }

  // V side: the tokens of a block, each a vector over all heads.
  void MarkTokens(uint64_t block, uint32_t worker) const {
    auto* const keys = WorkerScratch<int16_t>(worker, 0);
    const size_t dim = out_.head_dim;
    const size_t pads = plan_.key_rows * kKeyLanes - out_.kv_heads * dim;
    const uint64_t end = std::min((block + 1) * kBlockTokens, args_.tokens);
    for (uint64_t token = block * kBlockTokens; token < end; ++token) {
      for (uint32_t head = 0; head < out_.kv_heads; ++head) {
        const uint16_t* const x = X(head, token);
        int16_t* const to = keys + head * dim;
        for (size_t d = 0; d + kI16Lanes <= dim; d += kI16Lanes) {
          hn::StoreU(LoadKeys(x + d), I16Tag(), to + d);
        }
        const size_t last = dim - kI16Lanes;  // overlaps where the lanes do not divide the row
        hn::StoreU(LoadKeys(x + last), I16Tag(), to + last);
      }
      const Ends ends =
          Search<true>().Run(keys, plan_.key_rows, pads, spec_.outliers,
                             WorkerScratch<int16_t>(worker, plan_.chunk_keys));
      AcrossMarker marker(ends);
      for (uint32_t head = 0; head < out_.kv_heads; ++head) {
        for (size_t tile = 0; tile < plan_.tiles; ++tile) {
          const uint32_t valid = tile + 1 == plan_.tiles ? last_valid_ : 0xFFFFu;
          Bits(head, tile)[token] = static_cast<uint16_t>(
              marker.Mark(keys + head * dim + tile * ops::kTileDirs, valid));
        }
      }
    }
  }

  // Counts the outliers of each token of a head, and numbers those of its blocks from 0.
  void CountOutliers(uint32_t head) const {
    uint8_t* const count = out_.sparse_count + head * out_.padded_tokens;
    uint32_t* const start = out_.sparse_start + head * (Blocks() + 1);
    uint32_t entries = 0;
    for (uint64_t block = 0; block < Blocks(); ++block) {
      start[block] = entries;
      for (uint64_t token = block * kBlockTokens; token < (block + 1) * kBlockTokens; ++token) {
        int found = 0;
        if (token < args_.tokens) {
          for (size_t tile = 0; tile < plan_.tiles; ++tile) {
            found += __builtin_popcount(Bits(head, tile)[token]);
          }
        }
        // Only a full row of 256 directions is too long; its last entry gives way.
        static_assert(ops::kMaxHeadDim == ops::kMaxSparsePerToken + 1);
        if (found > static_cast<int>(ops::kMaxSparsePerToken)) {
          Bits(head, plan_.tiles - 1)[token] = 0x7FFF;
          --found;
        }
        count[token] = static_cast<uint8_t>(found);
        entries += static_cast<uint32_t>(found);
      }
    }
    start[Blocks()] = entries;
  }

  // The entries of a head follow those of the head before.
  void PlaceOutliers() const {
    uint32_t entries = 0;
    for (uint32_t head = 0; head < out_.kv_heads; ++head) {
      uint32_t* const start = out_.sparse_start + head * (Blocks() + 1);
      for (uint64_t block = 0; block <= Blocks(); ++block) start[block] += entries;
      entries = start[Blocks()];
    }
  }

  // What codes and low rank leave of the outliers of a block.
  void StoreOutliers(uint32_t head, uint64_t block, const BlockScales& scales,
                     const LowRankWork* low_rank, double* error_sq) const {
    uint32_t entry = out_.sparse_start[head * (Blocks() + 1) + block];
    const uint64_t end = std::min((block + 1) * kBlockTokens, args_.tokens);
    for (uint64_t token = block * kBlockTokens; token < end; ++token) {
      for (size_t tile = 0; tile < plan_.tiles; ++tile) {
        for (uint32_t bits = Bits(head, tile)[token]; bits != 0; bits &= bits - 1) {
          const size_t lane = static_cast<size_t>(__builtin_ctz(bits));
          const size_t direction = tile * ops::kTileDirs + lane;
          const float x = F16ToF32(X(head, token)[direction]);
          const size_t at =
              TileScales(spec_.axis, spec_.group, static_cast<uint32_t>(tile)) +
              (spec_.axis == ops::kAxisChannel ? lane : token % kBlockTokens);
          float decoded = BackboneAt(scales, at, Widths(head)[tile], x);
          if (low_rank != nullptr) decoded += LowRankAt(*low_rank, token, direction);
          const uint16_t value = F32ToF16Saturate(x - decoded);
          out_.sparse_dir[entry] = static_cast<uint8_t>(direction);
          out_.sparse_value[entry] = value;
          ++entry;
          decoded += F16ToF32(value);
          const double error = static_cast<double>(x) - static_cast<double>(decoded);
          *error_sq += error * error;
        }
      }
    }
  }

  // ---------------------------------------------------------------------------------- backbone

  // Mean of the entries that `visit` passes to its argument, as fp16; 0 without entries.
  template <typename Visit>
  static uint16_t MeanOf(const Visit& visit) {
    double sum = 0;
    uint64_t count = 0;
    visit([&](uint16_t x) {
      sum += static_cast<double>(F16ToF32(x));
      ++count;
    });
    if (count == 0) return 0;
    const uint16_t mean = F32ToF16(static_cast<float>(sum / static_cast<double>(count)));
    return F32ToF16(F16ToF32(mean) + 0.0f);  // -0 becomes 0
  }
  bool IsOutlier(uint32_t head, uint64_t token, size_t direction) const {
    if (bits_ == nullptr) return false;
    const uint32_t bits = Bits(head, direction / ops::kTileDirs)[token];
    return ((bits >> (direction % ops::kTileDirs)) & 1) != 0;
  }

  // Channel axis: scales of the group that begins with `block`.
  void ScaleChannels(uint32_t head, uint64_t block) const {
    const uint64_t group = block * kBlockTokens / spec_.group;
    const uint64_t first = group * spec_.group;
    const uint64_t end = std::min<uint64_t>(first + spec_.group, args_.tokens);
    alignas(ops::kAlign) int16_t low[ops::kMaxHeadDim];
    alignas(ops::kAlign) int16_t high[ops::kMaxHeadDim];
    std::fill_n(low, out_.dirs, kNoLow);
    std::fill_n(high, out_.dirs, kNoHigh);
    PaddedRows padded;
    const bool ranges = spec_.fit == ops::kFitRange;
    for (uint64_t b = block; ranges && b * kBlockTokens < end; ++b) {
      FoldColumns(RowsOf(head, b, padded.x), BlockBits(head, b), plan_.tiles, low, high);
    }
    const uint64_t at = head * scale_head_stride_ + group * out_.scale_group_stride;
    for (size_t tile = 0; tile < plan_.tiles; ++tile) {
      const size_t d = tile * ops::kTileDirs;
      uint16_t* const scale = out_.scale + at + d;
      uint16_t* const minimum = out_.minimum + at + d;
      if (Widths(head)[tile] > 0 && spec_.fit == ops::kFitLeast) {
        FitTile(head, block, end, tile, scale, minimum);
        continue;
      }
      if (Widths(head)[tile] > 0) {
        FinishScales(low + d, high + d, Widths(head)[tile], scale, minimum);
        continue;
      }
      for (size_t lane = 0; lane < ops::kTileDirs; ++lane) {
        scale[lane] = 0;
        minimum[lane] = MeanOf([&](const auto& add) {
          if (d + lane >= out_.head_dim) return;
          for (uint64_t token = first; token < end; ++token) {
            if (!IsOutlier(head, token, d + lane)) add(X(head, token)[d + lane]);
          }
        });
      }
    }
  }

  // The scales of a tile for the group from `block` to token `end`.
  void FitTile(uint32_t head, uint64_t block, uint64_t end, size_t tile, uint16_t* scale,
               uint16_t* minimum) const {
    const F32Tag df;
    const size_t direction = tile * ops::kTileDirs;
    const bool whole = direction + ops::kTileDirs <= out_.head_dim;
    const uint32_t padding = whole ? 0 : ~last_valid_;
    for (size_t lane = 0; lane < ops::kTileDirs; lane += kF32Lanes) {
      const auto for_entries = [&](const auto& add) {
        const auto all = hn::Eq(hn::Zero(df), hn::Zero(df));
        for (uint64_t token = block * kBlockTokens; token < end; ++token) {
          const uint16_t* row = X(head, token) + direction;
          uint16_t part[ops::kTileDirs] = {};
          if (!whole) {
            std::copy_n(row, out_.head_dim - direction, part);
            row = part;
          }
          const F32 x = LoadHalf(row + lane);
          if (bits_ == nullptr && whole) {
            add(x, all);
          } else {
            const uint32_t skip = (bits_ == nullptr ? 0u : Bits(head, tile)[token]) | padding;
            add(x, MaskOfBits(df, ~skip & 0xFFFFu, lane));
          }
        }
      };
      FitLeast(for_entries, Widths(head)[tile], scale + lane, minimum + lane);
    }
  }

  // Token axis: scales of the tokens of a block, over heads [head, heads_end).
  void ScaleTokens(uint32_t head, uint32_t heads_end, uint64_t block) const {
    const uint32_t groups = TokenGroups(out_.head_dim, spec_.group);
    const size_t group_tiles = std::min<size_t>(spec_.group / ops::kTileDirs, plan_.tiles);
    PaddedRows padded;
    BlockRows rows = RowsOf(head, block, padded.x);
    TokenRanges ranges;
    for (uint32_t g = 0; g < groups; ++g) {
      const size_t tile = g * group_tiles;
      const size_t tiles_end = g + 1 == groups ? plan_.tiles : tile + group_tiles;
      ranges.Clear(rows.begin, rows.end);
      for (uint32_t h = head; h < heads_end; ++h) {
        if (heads_end > head + 1) rows = RowsOf(h, block, padded.x);
        FoldHead(h, block, rows, tile, tiles_end, &ranges);
      }
      const uint64_t at = head * scale_head_stride_ + g * out_.scale_group_stride +
                          block * kBlockTokens;
      alignas(ops::kAlign) int16_t low[kBlockTokens] = {};
      alignas(ops::kAlign) int16_t high[kBlockTokens] = {};
      alignas(ops::kAlign) uint16_t scale[kBlockTokens];
      alignas(ops::kAlign) uint16_t minimum[kBlockTokens];
      const uint32_t width = Widths(head)[tile];
      if (width > 0) {
        ReduceTokens(ranges, low, high);
        for (size_t i = rows.begin / kTileLanes * kTileLanes; i < rows.end; i += kTileLanes) {
          FinishScales(low + i, high + i, width, scale + i, minimum + i);
        }
      } else {
        for (size_t i = rows.begin; i < rows.end; ++i) {
          scale[i] = 0;
          minimum[i] = MeanOf([&](const auto& add) {
            const uint64_t token = block * kBlockTokens + i - args_.at;
            const size_t end = std::min<size_t>(tiles_end * ops::kTileDirs, out_.head_dim);
            for (uint32_t h = head; h < heads_end; ++h) {
              for (size_t d = tile * ops::kTileDirs; d < end; ++d) {
                if (!IsOutlier(h, token, d)) add(X(h, token)[d]);
              }
            }
          });
        }
      }
      std::copy(scale + rows.begin, scale + rows.end, out_.scale + at + rows.begin);
      std::copy(minimum + rows.begin, minimum + rows.end, out_.minimum + at + rows.begin);
    }
  }

  // Padded directions of the last tile are left out as outliers are.
  void FoldHead(uint32_t head, uint64_t block, const BlockRows& rows, size_t tile, size_t tiles_end,
                TokenRanges* ranges) const {
    const SkipBits skip = BlockBits(head, block);
    if (tiles_end < plan_.tiles || last_valid_ == 0xFFFFu) {
      FoldTokens(rows, skip, tile, tiles_end, ranges);
      return;
    }
    FoldTokens(rows, skip, tile, tiles_end - 1, ranges);
    uint16_t last[kBlockTokens];
    for (size_t i = 0; i < rows.count(); ++i) {
      last[i] = static_cast<uint16_t>(~last_valid_);
      if (skip.bits != nullptr) last[i] |= skip.bits[(tiles_end - 1) * skip.stride + i];
    }
    const BlockRows last_rows{rows.row + (tiles_end - 1) * ops::kTileDirs, rows.stride, rows.begin,
                              rows.end};
    FoldTokens(last_rows, {last, 0}, 0, 1, ranges);
  }

  void LoadScales(uint32_t head, uint64_t block, BlockScales* scales) const {
    const uint64_t at = head * scale_head_stride_;
    LoadBlockScales(spec_.axis, spec_.group, out_.head_dim, out_.dirs, out_.scale + at,
                    out_.minimum + at, out_.scale_group_stride, block, scales);
  }

  // -------------------------------------------------------------------------------------- units

  void SealUnit(uint32_t head, uint64_t unit, uint32_t worker) const {
    const uint64_t first = plan_.first_block + unit * plan_.unit_blocks;
    const uint64_t end = std::min(first + plan_.unit_blocks, plan_.end_block);
    float* residual = nullptr;
    if (spec_.rank > 0) residual = WorkerScratch<float>(worker, 0);
    Squares squares;
    double error_sq = 0;
    PaddedRows padded;
    BlockScales scales;
    for (uint64_t block = first; block < end; ++block) {
      if (spec_.axis == ops::kAxisChannel) {
        if (block * kBlockTokens % spec_.group == 0) ScaleChannels(head, block);
      } else if (!spec_.heads_share_scale) {
        ScaleTokens(head, head + 1, block);
      }
      LoadScales(head, block, &scales);
      const BlockJob job{.side = spec_.side,
                         .axis = spec_.axis,
                         .group = spec_.group,
                         .rows = RowsOf(head, block, padded.x),
                         .skip = BlockBits(head, block),
                         .last_valid = last_valid_,
                         .widths = Widths(head),
                         .tiles = plan_.tiles,
                         .scales = &scales,
                         .codes = Codes(head, block),
                         .keep_other_tokens = args_.at > 0,
                         .residual = residual};
      QuantiseBlock(job, &squares);
      if (residual != nullptr) {
        residual += job.rows.count() * out_.dirs;
      } else if (bits_ != nullptr) {
        StoreOutliers(head, block, scales, nullptr, &error_sq);
      }
    }
    if (spec_.rank > 0) FitResidual(head, worker, &squares, &error_sq);
    double* const sums = Scratch<double>(plan_.sums) + (head * plan_.units + unit) * 2;
    sums[0] = squares.norm.Total();
    sums[1] = squares.error.Total() + error_sq;
  }

  void FitResidual(uint32_t head, uint32_t worker, Squares* squares, double* error_sq) const {
    float* const residual = WorkerScratch<float>(worker, 0);
    std::fill(residual + args_.tokens * out_.dirs, residual + plan_.tokens * out_.dirs, 0.0f);
    const LowRankWork work{.residual = residual,
                           .a = WorkerScratch<float>(worker, plan_.a),
                           .b = WorkerScratch<float>(worker, plan_.b),
                           .tokens = plan_.tokens,
                           .dirs = out_.dirs,
                           .rank = spec_.rank};
    const uint64_t first = uint64_t{head} * spec_.rank;
    FitLowRank(work, spec_, head, out_.head_dim, out_.a + first * out_.padded_tokens,
               out_.padded_tokens, out_.b + first * out_.dirs, out_.dirs);
    PaddedRows padded;
    BlockScales scales;
    for (uint64_t block = 0; block < plan_.end_block; ++block) {
      MeasureLowRank(work, block * kBlockTokens, RowsOf(head, block, padded.x),
                     BlockBits(head, block), &squares->error);
      if (bits_ == nullptr) continue;
      LoadScales(head, block, &scales);
      StoreOutliers(head, block, scales, &work, error_sq);
    }
  }

  const ops::SealArgs& args_;
  const ops::SealSpec& spec_;
  ops::SealOut& out_;
  const ops::Parallel& parallel_;
  const Plan plan_;
  uint8_t* const scratch_;
  const uint64_t scale_head_stride_;
  uint16_t* const bits_;
  const uint32_t last_valid_;
};

// What a map adds to sealing: rows are mapped before. Where the map keeps lengths, what is lost among
// the mapped rows is what is lost, but for their rounding; otherwise, and where mapped rows come near an
// end of fp16, what was stored is measured against the rows as they came. Its scratch memory lies behind
// that of Sealer.
class Mapper {
 public:
  Mapper(const ops::SealArgs& args, const ops::SealOut& out, const ops::Parallel& parallel,
         uint64_t scratch)
      : args_(args),
        out_(out),
        parallel_(parallel),
        blocks_((args.tokens + kBlockTokens - 1) / kBlockTokens),
        sums_(reinterpret_cast<double*>(static_cast<uint8_t*>(args.scratch) + scratch)),
        rows_(reinterpret_cast<uint16_t*>(sums_ + 2 * out.kv_heads * blocks_)) {}

  static uint64_t ScratchBytes(const ops::SealArgs& args, const ops::SealOut& out) {
    const uint64_t blocks = (args.tokens + kBlockTokens - 1) / kBlockTokens;
    return out.kv_heads * (blocks * 2 * sizeof(double) +
                           args.tokens * out.head_dim * sizeof(uint16_t));
  }

  ops::SealArgs Mapped() const {
    ForEach([this](uint32_t head, uint64_t first, uint64_t count, uint64_t unit) {
      uint16_t* const rows = rows_ + (head * args_.tokens + first) * out_.head_dim;
      MapRows(*args_.spec.map, head, out_.head_dim, X(head, first), count, rows);
      uint32_t most = 0;
      for (uint64_t i = 0; i < count * out_.head_dim; ++i) most = std::max(most, rows[i] & 0x7FFFu);
      sums_[2 * unit] = most;
    });
    ops::SealArgs mapped = args_;
    mapped.x = rows_;
    mapped.x_head_stride = args_.tokens * out_.head_dim;
    return mapped;
  }

  void Measure(ops::SealOut& out) const {
    const ops::Map& map = *args_.spec.map;
    const bool keeps_lengths = map.kind == ops::kMapHadamard || map.forward == map.back;
    if (keeps_lengths && RoundedFinely()) {
      // Of H / block, the square is 1 / block.
      const double factor = map.kind == ops::kMapHadamard ? map.block : 1;
      out.error_sq *= factor;
      out.norm_sq *= factor;
      return;
    }
    const ops::Piece piece = ops::SealedPiece(args_, out_);
    ForEach([this, &piece](uint32_t head, uint64_t first, uint64_t count, uint64_t unit) {
      MeasureRows(piece, head, first, count, sums_ + 2 * unit);
    });
    out.error_sq = 0;
    out.norm_sq = 0;
    for (uint64_t unit = 0; unit < out_.kv_heads * blocks_; ++unit) {
      out.norm_sq += sums_[2 * unit];
      out.error_sq += sums_[2 * unit + 1];
    }
  }

 private:
  // Whether fp16 has room above and digits below the largest magnitude of every run; after Mapped(),
  // which leaves these, as halves.
  bool RoundedFinely() const {
    for (uint64_t unit = 0; unit < out_.kv_heads * blocks_; ++unit) {
      const auto most = static_cast<uint32_t>(sums_[2 * unit]);
      if (most != 0 && (most < kFineHalf || most >= kLargestHalf)) return false;
    }
    return true;
  }

  // Calls task(head, first token, tokens, number) for runs of up to kBlockTokens tokens.
  template <typename Task>
  void ForEach(const Task& task) const {
    struct Context {
      const Mapper& mapper;
      const Task& task;
    };
    const Context context{*this, task};
    const auto call = [](void* ctx, uint64_t i, uint32_t) {
      const auto& [mapper, body] = *static_cast<const Context*>(ctx);
      const uint64_t first = i % mapper.blocks_ * kBlockTokens;
      body(static_cast<uint32_t>(i / mapper.blocks_), first,
           std::min<uint64_t>(kBlockTokens, mapper.args_.tokens - first), i);
    };
    const uint64_t n = out_.kv_heads * blocks_;
    if (args_.tokens * out_.kv_heads * out_.dirs < kSmall) {
      for (uint64_t i = 0; i < n; ++i) call(const_cast<Context*>(&context), i, 0);
      return;
    }
    parallel_.run(parallel_.self, n, call, const_cast<Context*>(&context));
  }

  const uint16_t* X(uint32_t head, uint64_t token) const {
    return args_.x + head * args_.x_head_stride + token * out_.head_dim;
  }

  // Runs of x need not begin where blocks of the piece do.
  void MeasureRows(const ops::Piece& piece, uint32_t head, uint64_t first, uint64_t count,
                   double* sums) const {
    Rows rows;
    double norm = 0;
    double error = 0;
    for (uint64_t slot = args_.at + first, end = slot + count; slot < end;) {
      const uint64_t block = slot / kBlockTokens;
      const uint64_t stop = std::min(end, (block + 1) * kBlockTokens);
      const Slice slice{head, block, static_cast<uint32_t>(slot % kBlockTokens),
                        static_cast<uint32_t>(stop - block * kBlockTokens)};
      DecodeSlice(piece, slice, &rows);
      for (uint32_t token = slice.begin; token < slice.end; ++token, ++slot) {
        const uint16_t* const x = X(head, slot - args_.at);
        const float* const decoded = rows.value + size_t{token} * out_.dirs;
        for (size_t d = 0; d < out_.head_dim; ++d) {
          const double exact = F16ToF32(x[d]);
          const double left = exact - static_cast<double>(decoded[d]);
          norm += exact * exact;
          error += left * left;
        }
      }
    }
    sums[0] = norm;
    sums[1] = error;
  }

  static constexpr uint32_t kFineHalf = 0x1C00;     // 2^-8
  static constexpr uint32_t kLargestHalf = 0x7BFF;  // 65504

  const ops::SealArgs& args_;
  const ops::SealOut& out_;
  const ops::Parallel& parallel_;
  const uint64_t blocks_;
  double* const sums_;
  uint16_t* const rows_;
};

}  // namespace seal

uint64_t SealScratch(const ops::SealArgs* args, const ops::SealOut* out, uint32_t workers) {
  const seal::Plan plan(*args, *out);
  const uint64_t bytes = plan.worker + workers * plan.worker_bytes;
  if (args->spec.map == nullptr) return bytes;
  return seal::Aligned(bytes) + seal::Mapper::ScratchBytes(*args, *out);
}

void Seal(const ops::SealArgs* args, ops::SealOut* out, const ops::Parallel* parallel) {
  if (args->spec.map == nullptr) {
    seal::Sealer(*args, *out, *parallel).Run();
    return;
  }
  const seal::Plan plan(*args, *out);
  const uint64_t scratch = seal::Aligned(plan.worker + parallel->workers * plan.worker_bytes);
  const seal::Mapper mapper(*args, *out, *parallel, scratch);
  const ops::SealArgs mapped = mapper.Mapped();
  seal::Sealer(mapped, *out, *parallel).Run();
  mapper.Measure(*out);
}

}  // namespace kvg::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET
