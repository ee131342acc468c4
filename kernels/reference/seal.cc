// Seal: maps the rows where a map is given, quantises the backbone group by group, then fits the low-rank part to what is left, then
// stores the outliers as what is left of them, then measures the error of all three together.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/fit.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "kernels/reference/decode.h"
#include "kernels/reference/map.h"
#include "kernels/reference/reference.h"
#include "kernels/sealed_piece.h"
#include "kernels/tile.h"

namespace kvg::reference {
namespace {

using ops::kBlockTokens;
using ops::kTileDirs;

// Parts of the scratch memory, as byte offsets.
struct Layout {
  uint64_t residual;  // float  [tokens][head_dim], of one head
  uint64_t factors;   // float  [rank][tokens + head_dim]
  uint64_t order;     // uint32 [longest outlier vector]
  uint64_t outlier;   // uint8  [kv_heads][tokens][head_dim]
  uint64_t mapped;    // uint16 [kv_heads][tokens][head_dim], fp16
  uint64_t bytes;
};

Layout LayoutOf(const ops::SealArgs& args, const ops::SealOut& out) {
  const auto aligned = [](uint64_t n) { return (n + ops::kAlign - 1) / ops::kAlign * ops::kAlign; };
  const ops::SealSpec& spec = args.spec;
  Layout layout{};
  if (spec.rank > 0) {
    layout.factors = aligned(args.tokens * out.head_dim * sizeof(float));
    layout.order = aligned(layout.factors +
                           spec.rank * (args.tokens + out.head_dim) * sizeof(float));
  }
  layout.outlier = layout.order;
  layout.bytes = layout.order;
  if (spec.outliers > 0) {
    layout.outlier = aligned(layout.order + OutlierVector(args, out) * sizeof(uint32_t));
    layout.bytes = aligned(layout.outlier + uint64_t{out.kv_heads} * args.tokens * out.head_dim);
  }
  layout.mapped = layout.bytes;
  if (spec.map != nullptr) {
    layout.bytes += out.kv_heads * args.tokens * out.head_dim * sizeof(uint16_t);
  }
  return layout;
}

// Entries that share a scale: a box of heads, tokens (counted in x) and directions.
struct Group {
  uint32_t head, heads_end;
  uint64_t token, tokens_end;
  uint32_t direction, directions_end;
  uint64_t index;  // of its scale and minimum
};

class Sealer {
 public:
  // `args` holds what is sealed, which is the rows of `original` or what a map makes of them.
  Sealer(const ops::SealArgs& original, const ops::SealArgs& args, ops::SealOut& out)
      : original_(original), args_(args), spec_(args.spec), out_(out), piece_(ops::SealedPiece(args, out)) {
    const Layout layout = LayoutOf(args, out);
    auto* const scratch = static_cast<uint8_t*>(args.scratch);
    if (spec_.rank > 0) {
      residual_ = reinterpret_cast<float*>(scratch + layout.residual);
      factors_ = reinterpret_cast<float*>(scratch + layout.factors);
    }
    if (spec_.outliers > 0) {
      order_ = reinterpret_cast<uint32_t*>(scratch + layout.order);
      outlier_ = scratch + layout.outlier;
    }
  }

  void Run() {
    if (args_.at == 0) Clear();
    if (spec_.outliers > 0) MarkOutliers(args_, out_, outlier_, order_);
    ForEachGroup([this](const Group& group) { QuantiseGroup(group); });
    if (spec_.rank > 0) {
      for (uint32_t head = 0; head < out_.kv_heads; ++head) FitResidual(head);
    }
    if (spec_.outliers > 0) StoreOutliers();
    Measure();
  }

 private:
  float X(uint32_t head, uint64_t token, uint64_t direction) const {
    return F16ToF32(args_.x[head * args_.x_head_stride + token * out_.head_dim + direction]);
  }
  bool IsOutlier(uint32_t head, uint64_t token, uint64_t direction) const {
    return outlier_ != nullptr &&
           outlier_[(head * args_.tokens + token) * out_.head_dim + direction] != 0;
  }

  // Zeroes whatever the groups and parts below do not write: padding, mostly.
  void Clear() {
    const bool by_channel = spec_.axis == ops::kAxisChannel;
    const uint64_t length = by_channel ? out_.padded_tokens : out_.head_dim;
    const uint64_t members = by_channel ? out_.dirs : out_.padded_tokens;
    for (uint32_t head = 0; head < out_.kv_heads; ++head) {
      std::fill_n(out_.codes + out_.codes_head[head],
                  out_.padded_tokens / kBlockTokens * uint64_t{out_.codes_block[head]}, uint8_t{0});
      for (uint64_t begin = 0, group = 0; begin < length; begin += spec_.group, ++group) {
        const uint64_t i = head * piece_.scale_head_stride + group * piece_.scale_group_stride;
        std::fill_n(out_.scale + i, members, uint16_t{0});
        std::fill_n(out_.minimum + i, members, uint16_t{0});
      }
    }
    if (spec_.rank > 0) {
      const uint64_t columns = uint64_t{out_.kv_heads} * spec_.rank;
      std::fill_n(out_.a, columns * out_.padded_tokens, uint16_t{0});
      std::fill_n(out_.b, columns * out_.dirs, uint16_t{0});
    }
  }

  template <typename Visit>
  void ForEachGroup(const Visit& visit) const {
    const uint64_t group_size = spec_.group;
    if (spec_.axis == ops::kAxisChannel) {
      for (uint32_t head = 0; head < out_.kv_heads; ++head) {
        for (uint64_t token = 0; token < args_.tokens; token += group_size) {
          const uint64_t end = std::min(token + group_size, args_.tokens);
          const uint64_t first = head * piece_.scale_head_stride +
                                 token / group_size * piece_.scale_group_stride;
          for (uint32_t d = 0; d < out_.head_dim; ++d) {
            visit(Group{head, head + 1, token, end, d, d + 1, first + d});
          }
        }
      }
      return;
    }
    const uint32_t heads_step = spec_.heads_share_scale ? out_.kv_heads : 1;
    for (uint64_t token = 0; token < args_.tokens; ++token) {
      for (uint32_t head = 0; head < out_.kv_heads; head += heads_step) {
        for (uint64_t d = 0; d < out_.head_dim; d += group_size) {
          const auto end = static_cast<uint32_t>(std::min<uint64_t>(d + group_size, out_.head_dim));
          const uint64_t index = head * piece_.scale_head_stride +
                                 d / group_size * piece_.scale_group_stride + args_.at + token;
          visit(Group{head, head + heads_step, token, token + 1, static_cast<uint32_t>(d), end,
                      index});
        }
      }
    }
  }

  template <typename Visit>
  static void ForEachEntry(const Group& group, const Visit& visit) {
    for (uint32_t head = group.head; head < group.heads_end; ++head) {
      for (uint64_t token = group.token; token < group.tokens_end; ++token) {
        for (uint32_t d = group.direction; d < group.directions_end; ++d) visit(head, token, d);
      }
    }
  }

  uint32_t WidthOf(uint32_t head, uint32_t direction) const {
    return out_.widths[uint64_t{head} * (out_.dirs / kTileDirs) + direction / kTileDirs];
  }

  void QuantiseGroup(const Group& group) {
    const uint32_t width = WidthOf(group.head, group.direction);
    float low = std::numeric_limits<float>::infinity();
    float high = -low;
    double sum = 0;  // of fp16 values, so exact and free of order up to 2^13 of them at least
    uint64_t count = 0;
    ForEachEntry(group, [&](uint32_t head, uint64_t token, uint32_t d) {
      if (IsOutlier(head, token, d)) return;
      const float x = X(head, token, d);
      low = std::min(low, x);
      high = std::max(high, x);
      sum += static_cast<double>(x);
      ++count;
    });
    float minimum = 0;
    float scale = 0;
    const auto levels = static_cast<float>((1u << width) - 1);
    if (count > 0 && width > 0 && spec_.fit == ops::kFitLeast) {
      FitLeast(group, levels, width, low, high, &scale, &minimum);
    } else if (count > 0 && width > 0) {
      minimum = low;
      scale = F16ToF32(F32ToF16Saturate((high - low) / levels));
    } else if (count > 0) {
      minimum = F16ToF32(F32ToF16(static_cast<float>(sum / static_cast<double>(count))));
    }
    minimum += 0.0f;  // a minimum of -0 would make equal groups differ in their bits
    out_.scale[group.index] = F32ToF16(scale);
    out_.minimum[group.index] = F32ToF16(minimum);
    if (width == 0) return;
    const float inverse = scale > 0 ? 1.0f / scale : 0.0f;  // 0 gives code 0 everywhere
    ForEachEntry(group, [&](uint32_t head, uint64_t token, uint32_t d) {
      const float steps = std::nearbyint((X(head, token, d) - minimum) * inverse);
      PutCode(head, token, d, static_cast<uint32_t>(std::clamp(steps, 0.0f, levels)));
    });
  }

  // A scale and a minimum, and how they do.
  struct Line {
    float scale = 0, minimum = 0;
    float error = 0;                        // sum of squares
    float codes = 0, squares = 0, products = 0;  // sums of c, c^2 and c x'
  };

  void Try(const Group& group, float levels, float mean, Line* line) const {
    line->scale = F16ToF32(F32ToF16Saturate(line->scale));
    line->minimum = F16ToF32(F32ToF16Saturate(line->minimum));
    const float inverse = line->scale > 0 ? 1.0f / line->scale : 0.0f;
    ForEachEntry(group, [&](uint32_t head, uint64_t token, uint32_t d) {
      if (IsOutlier(head, token, d)) return;
      const float x = X(head, token, d);
      const float code =
          std::nearbyint(std::clamp((x - line->minimum) * inverse, 0.0f, levels));
      const float left = x - (line->scale * code + line->minimum);
      line->error += left * left;
      line->codes += code;
      line->squares += code * code;
      line->products += code * (x - mean);
    });
  }

  // See kernels/fit.h.
  void FitLeast(const Group& group, float levels, uint32_t width, float low, float high,
                float* scale, float* minimum) const {
    float count = 0;
    float sum = 0;
    ForEachEntry(group, [&](uint32_t head, uint64_t token, uint32_t d) {
      if (IsOutlier(head, token, d)) return;
      count += 1;
      sum += X(head, token, d);
    });
    const float mean = sum / count;
    float around = 0;  // sum of x'
    float squares = 0;
    ForEachEntry(group, [&](uint32_t head, uint64_t token, uint32_t d) {
      if (IsOutlier(head, token, d)) return;
      const float x = X(head, token, d) - mean;
      around += x;
      squares += x * x;
    });
    const float unit = std::sqrt(squares / count) * ops::kGaussStep[width];
    Line best{.scale = (high - low) / levels, .minimum = low};
    Try(group, levels, mean, &best);
    for (const float share : ops::kFitSteps) {
      const float step = unit * share;
      Line line{.scale = step, .minimum = mean - step * (levels * 0.5f)};
      Try(group, levels, mean, &line);
      if (line.error < best.error) best = line;
    }
    for (uint32_t round = 0; round < ops::kFitRounds; ++round) {
      const float centre = best.codes / count;
      const float spread = best.squares - centre * best.codes;
      if (!(spread > 0)) break;
      const float slope = (best.products - centre * around) / spread;
      Line line{.scale = slope, .minimum = mean + (around / count - slope * centre)};
      if (!(slope > 0)) break;
      Try(group, levels, mean, &line);
      if (!(line.error < best.error)) break;
      best = line;
    }
    *scale = best.scale;
    *minimum = best.minimum;
  }

  void PutCode(uint32_t head, uint64_t token, uint32_t direction, uint32_t code) {
    const uint8_t* const widths = out_.widths + uint64_t{head} * (out_.dirs / kTileDirs);
    const uint64_t slot = args_.at + token;
    const uint32_t tile = direction / kTileDirs;
    uint8_t* const bytes = out_.codes + out_.codes_head[head] +
                           slot / kBlockTokens * uint64_t{out_.codes_block[head]} +
                           ops::TileOffset(widths, tile);
    const auto token_in_block = static_cast<uint32_t>(slot % kBlockTokens);
    ops::PutCode(bytes, widths[tile],
                 ops::PositionOf(spec_.side, token_in_block, direction % kTileDirs), code);
  }

  void FitResidual(uint32_t head) {
    float row[ops::kMaxHeadDim];
    for (uint64_t token = 0; token < args_.tokens; ++token) {
      DecodeCodes(piece_, head, token, row);
      for (uint32_t d = 0; d < out_.head_dim; ++d) {
        residual_[token * out_.head_dim + d] =
            IsOutlier(head, token, d) ? 0.0f : X(head, token, d) - row[d];
      }
    }
    const uint64_t first = uint64_t{head} * spec_.rank;
    FitLowRank({.spec = spec_,
                .head = head,
                .residual = residual_,
                .tokens = args_.tokens,
                .head_dim = out_.head_dim,
                .work = factors_,
                .a = out_.a + first * out_.padded_tokens,
                .a_stride = out_.padded_tokens,
                .b = out_.b + first * out_.dirs,
                .b_stride = out_.dirs});
  }

  void StoreOutliers() {
    float row[ops::kMaxHeadDim];
    const uint64_t blocks = out_.padded_tokens / kBlockTokens;
    uint32_t entries = 0;
    for (uint32_t head = 0; head < out_.kv_heads; ++head) {
      uint32_t* const start = out_.sparse_start + head * (blocks + 1);
      for (uint64_t slot = 0; slot < out_.padded_tokens; ++slot) {
        if (slot % kBlockTokens == 0) start[slot / kBlockTokens] = entries;
        const uint32_t before = entries;
        if (slot < args_.tokens) {
          DecodeCodes(piece_, head, slot, row);
          if (spec_.rank > 0) AddLowRank(piece_, head, slot, row);
          for (uint32_t d = 0; d < out_.head_dim; ++d) {
            if (!IsOutlier(head, slot, d)) continue;
            out_.sparse_dir[entries] = static_cast<uint8_t>(d);
            out_.sparse_value[entries] = F32ToF16Saturate(X(head, slot, d) - row[d]);
            ++entries;
          }
        }
        out_.sparse_count[head * out_.padded_tokens + slot] =
            static_cast<uint8_t>(entries - before);
      }
      start[blocks] = entries;
    }
  }

  void Measure() {
    float row[ops::kMaxHeadDim];
    out_.error_sq = 0;
    out_.norm_sq = 0;
    for (uint32_t head = 0; head < out_.kv_heads; ++head) {
      for (uint64_t token = 0; token < args_.tokens; ++token) {
        DecodeRow(piece_, head, args_.at + token, row);
        for (uint32_t d = 0; d < out_.head_dim; ++d) {
          const uint64_t at = head * original_.x_head_stride + token * out_.head_dim + d;
          const double x = F16ToF32(original_.x[at]);
          const double error = x - static_cast<double>(row[d]);
          out_.error_sq += error * error;
          out_.norm_sq += x * x;
        }
      }
    }
  }

  const ops::SealArgs& original_;
  const ops::SealArgs& args_;
  const ops::SealSpec& spec_;
  ops::SealOut& out_;
  const ops::Piece piece_;
  float* residual_ = nullptr;
  float* factors_ = nullptr;
  uint32_t* order_ = nullptr;
  uint8_t* outlier_ = nullptr;
};

}  // namespace

uint64_t SealScratch(const ops::SealArgs* args, const ops::SealOut* out, uint32_t) {
  return LayoutOf(*args, *out).bytes;
}

void Seal(const ops::SealArgs* args, ops::SealOut* out, const ops::Parallel*) {
  ops::SealArgs mapped = *args;
  if (const ops::Map* const map = args->spec.map; map != nullptr) {
    auto* const y = reinterpret_cast<uint16_t*>(static_cast<uint8_t*>(args->scratch) +
                                                LayoutOf(*args, *out).mapped);
    const uint64_t dim = out->head_dim;
    mapped.x = y;
    mapped.x_head_stride = args->tokens * dim;
    for (uint32_t head = 0; head < out->kv_heads; ++head) {
      for (uint64_t token = 0; token < args->tokens; ++token) {
        MapRow(*map, head, out->head_dim, args->x + head * args->x_head_stride + token * dim,
               y + (head * args->tokens + token) * dim);
      }
    }
  }
  Sealer(*args, mapped, *out).Run();
}

}  // namespace kvg::reference
