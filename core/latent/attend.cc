// The tokens of a layer in chunks, a chunk in tiles; each chunk leaves a partial for each row (a query
// of a head): a maximum, a sum and a sum of values. Partials merge in the order of the chunks, so that
// results do not depend on the number of workers.
#include "core/latent/attend.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/half.h"
#include "kernels/product.h"

namespace kvg {
namespace {

constexpr uint64_t kTile = Rotary::kRun;
constexpr uint64_t kChunk = 256;
constexpr uint64_t kMostPartials = uint64_t{4} << 20;  // floats; what does not fit goes in passes
constexpr uint32_t kMostQueries = 32;                  // of a pass

float LoadElement(const void* data, ops::DType dtype, int64_t i) {
  if (dtype == ops::kF32) return static_cast<const float*>(data)[i];
  const uint16_t bits = static_cast<const uint16_t*>(data)[i];
  return dtype == ops::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
}

void StoreElement(void* data, ops::DType dtype, int64_t i, float value) {
  if (dtype == ops::kF32) {
    static_cast<float*>(data)[i] = value;
  } else {
    static_cast<uint16_t*>(data)[i] = dtype == ops::kF16 ? F32ToF16(value) : F32ToBF16(value);
  }
}

template <typename Body>
void Run(const ops::Parallel& parallel, uint64_t n, Body&& body) {
  parallel.run(
      parallel.self, n,
      [](void* ctx, uint64_t i, uint32_t worker) { (*static_cast<Body*>(ctx))(i, worker); }, &body);
}

// The cosines and sines of `tokens` tokens from `first` on, [tokens][frequencies].
void Angles(const Rotary& rotary, uint64_t first, uint64_t tokens, float* cosine, float* sine) {
  const size_t count = rotary.frequencies.size();
  for (size_t i = 0; i < count; ++i) {
    const double angle = static_cast<double>(first) * rotary.frequencies[i];
    const double c = std::cos(angle), s = std::sin(angle);
    for (uint64_t t = 0; t < tokens; ++t) {
      const double step_c = rotary.cosine[t * count + i], step_s = rotary.sine[t * count + i];
      cosine[t * count + i] = static_cast<float>(c * step_c - s * step_s);
      sine[t * count + i] = static_cast<float>(s * step_c + c * step_s);
    }
  }
}

void Rotate(const Rotary& rotary, const float* cosine, const float* sine, float* row) {
  const size_t count = rotary.frequencies.size();
  const size_t step = rotary.interleaved ? 2 : 1;
  const size_t other = rotary.interleaved ? 1 : count;
  for (size_t i = 0; i < count; ++i) {
    float& a = row[i * step];
    float& b = row[i * step + other];
    const float x = a, y = b;
    a = x * cosine[i] - y * sine[i];
    b = y * cosine[i] + x * sine[i];
  }
}

class Attention {
 public:
  Attention(const ops::Table& table, const LatentLayer& layer, const ops::AttendArgs& args,
            bool latent_out)
      : table_(table),
        layer_(layer),
        args_(args),
        item_(args.items[0]),
        latent_out_(latent_out && layer.v != nullptr),
        group_(args.q_heads / args.kv_heads),
        dim_(args.head_dim),
        value_dim_(layer.v != nullptr ? layer.v->rank : args.head_dim),
        rotated_(layer.k != nullptr ? layer.rotary->frequencies.size() : 0) {}

  void RunAll(const ops::Parallel& parallel, Memory& memory) {
    const uint64_t chunks = (item_.length + kChunk - 1) / kChunk;
    const uint64_t per_query = chunks * args_.q_heads * PartialSize();
    const auto fit = static_cast<uint32_t>(
        std::clamp<uint64_t>(kMostPartials / per_query, 1, kMostQueries));
    most_ = std::min(args_.queries, fit);
    const Buffer partials(memory, most_ * per_query * sizeof(float), Buffer::kScratch);
    const Buffer queries(memory, uint64_t{most_} * args_.q_heads * dim_ * sizeof(float),
                         Buffer::kScratch);
    const Buffer scratch(memory, parallel.workers * WorkerSize() * sizeof(float), Buffer::kScratch);
    partials_ = partials.data<float>();
    queries_ = queries.data<float>();
    for (first_ = 0; first_ < args_.queries; first_ += most_) {
      count_ = std::min(most_, args_.queries - first_);
      LoadQueries();
      Run(parallel, chunks, [&](uint64_t chunk, uint32_t worker) {
        Chunk(chunk, scratch.data<float>() + worker * WorkerSize());
      });
      Run(parallel, args_.q_heads, [&](uint64_t head, uint32_t worker) {
        Finish(static_cast<uint32_t>(head), chunks, scratch.data<float>() + worker * WorkerSize());
      });
    }
  }

 private:
  // Of a row: maximum, sum, values.
  uint64_t PartialSize() const { return 2 + value_dim_; }
  // Rows of a KV head lie together: [q_heads][count] in the order of heads.
  float* Partial(uint64_t chunk, uint64_t head, uint64_t query) const {
    return partials_ + ((chunk * args_.q_heads + head) * most_ + query) * PartialSize();
  }

  uint64_t StoredWidth(ops::Side side) const {
    const LatentSide* const latent = layer_.side(side);
    return latent == nullptr ? uint64_t{args_.kv_heads} * dim_ : latent->width();
  }
  uint64_t WorkerSize() const {
    const uint64_t rows = uint64_t{most_} * group_;
    return kTile * (StoredWidth(ops::kSideK) + StoredWidth(ops::kSideV) + dim_ + 2 * rotated_) +
           rows * (kTile + value_dim_) + value_dim_ + dim_;
  }

  void LoadQueries() {
    for (uint32_t head = 0; head < args_.q_heads; ++head) {
      for (uint32_t i = 0; i < count_; ++i) {
        const int64_t at = int64_t{first_ + i} * args_.q_token_stride + int64_t{head} * args_.q_head_stride;
        float* const q = queries_ + (uint64_t{head} * most_ + i) * dim_;
        for (uint32_t d = 0; d < dim_; ++d) q[d] = LoadElement(item_.q, args_.q_dtype, at + d);
      }
    }
  }

  bool Sees(uint32_t query, uint64_t token) const {
    const uint64_t own = item_.length - args_.queries + query;
    if (args_.causal && token > own) return false;
    return args_.sliding_window == 0 || token > own || own - token < args_.sliding_window;
  }
  // Whether any query of the pass sees any of the tokens.
  bool Seen(uint64_t begin, uint64_t end) const {
    const uint64_t oldest = item_.length - args_.queries + first_;
    const uint64_t newest = oldest + count_ - 1;
    if (args_.causal && begin > newest) return false;
    return args_.sliding_window == 0 || end - 1 >= oldest || oldest - (end - 1) < args_.sliding_window;
  }

  void ReadTile(ops::Side side, uint64_t first, uint64_t tokens, float* out) const {
    const LatentSide* const latent = layer_.side(side);
    ops::ReadArgs read{};
    read.side = side == ops::kSideK ? item_.k : item_.v;
    read.kv_heads = latent == nullptr ? args_.kv_heads : latent->heads();
    read.head_dim = latent == nullptr ? dim_ : latent->head_dim();
    read.first_token = first;
    read.tokens = tokens;
    read.dtype = ops::kF32;
    read.out = out;
    table_.read(&read);
  }

  void Chunk(uint64_t chunk, float* scratch) const {
    const uint64_t begin = chunk * kChunk, end = std::min(item_.length, begin + kChunk);
    for (uint64_t head = 0; head < args_.q_heads; ++head) {
      for (uint32_t i = 0; i < count_; ++i) {
        float* const partial = Partial(chunk, head, i);
        std::fill_n(partial, PartialSize(), 0.0f);
        partial[0] = -std::numeric_limits<float>::infinity();
      }
    }
    float* const stored_k = scratch;
    float* const stored_v = stored_k + kTile * StoredWidth(ops::kSideK);
    float* const keys = stored_v + kTile * StoredWidth(ops::kSideV);
    float* const cosine = keys + kTile * dim_;
    float* const sine = cosine + kTile * rotated_;
    float* const rest = sine + kTile * rotated_;
    for (uint64_t first = begin; first < end; first += kTile) {
      const uint64_t tokens = std::min(kTile, end - first);
      if (!Seen(first, first + tokens)) continue;
      ReadTile(ops::kSideK, first, tokens, stored_k);
      ReadTile(ops::kSideV, first, tokens, stored_v);
      if (rotated_ > 0) Angles(*layer_.rotary, first, tokens, cosine, sine);
      for (uint32_t head = 0; head < args_.kv_heads; ++head) {
        const float* k = keys;
        uint64_t k_stride = dim_;
        if (layer_.k == nullptr) {
          k = stored_k + uint64_t{head} * dim_;
          k_stride = StoredWidth(ops::kSideK);
        } else {
          Rebuild(head, tokens, stored_k, cosine, sine, keys);
        }
        AttendTile(chunk, head, first, tokens, k, k_stride, stored_v, rest);
      }
    }
  }

  // The keys of one head, rotated: [tokens][dim].
  void Rebuild(uint32_t head, uint64_t tokens, const float* stored, const float* cosine,
               const float* sine, float* keys) const {
    const LatentSide& k = *layer_.k;
    const float* const bias = k.bias.empty() ? nullptr : k.bias.data() + uint64_t{head} * dim_;
    for (uint64_t t = 0; bias != nullptr && t < tokens; ++t) std::copy_n(bias, dim_, keys + t * dim_);
    ops::Product(stored + head / k.head_group * uint64_t{k.rank}, k.width(), tokens, k.rank,
                 k.up.data() + uint64_t{head} * k.rank * dim_, dim_, dim_, keys, dim_, bias != nullptr);
    for (uint64_t t = 0; rotated_ > 0 && t < tokens; ++t) {
      Rotate(*layer_.rotary, cosine + t * rotated_, sine + t * rotated_, keys + t * dim_);
    }
  }

  void AttendTile(uint64_t chunk, uint32_t kv_head, uint64_t first, uint64_t tokens, const float* k,
                  uint64_t k_stride, const float* stored_v, float* scratch) const {
    const uint64_t column = layer_.v == nullptr
                                ? uint64_t{kv_head} * dim_
                                : kv_head / layer_.v->head_group * uint64_t{layer_.v->rank};
    float* const weights = scratch;  // [rows][kTile]
    for (uint32_t j = 0; j < group_; ++j) {
      const uint64_t head = uint64_t{kv_head} * group_ + j;
      ops::Dots(queries_ + head * most_ * dim_, dim_, count_, k, k_stride, tokens, dim_, weights,
                kTile, false);
      for (uint32_t i = 0; i < count_; ++i) {
        Weigh(first_ + i, first, tokens, weights + i * kTile, Partial(chunk, head, i));
      }
      ops::Product(weights, kTile, count_, tokens, stored_v + column, StoredWidth(ops::kSideV),
                   value_dim_, Partial(chunk, head, 0) + 2, PartialSize(), true);
    }
  }

  // Logits of a row and a tile become weights relative to the row's maximum, which may rise.
  void Weigh(uint32_t query, uint64_t first, uint64_t tokens, float* row, float* partial) const {
    float most = partial[0];
    for (uint64_t t = 0; t < tokens; ++t) {
      row[t] *= args_.scale;
      if (args_.softcap > 0) row[t] = args_.softcap * std::tanh(row[t] / args_.softcap);
      if (Sees(query, first + t)) most = std::max(most, row[t]);
    }
    if (most > partial[0]) {
      const float shrink = std::exp(partial[0] - most);
      for (uint64_t d = 1; d < PartialSize(); ++d) partial[d] *= shrink;
      partial[0] = most;
    }
    for (uint64_t t = 0; t < tokens; ++t) {
      row[t] = Sees(query, first + t) ? std::exp(row[t] - partial[0]) : 0.0f;
      partial[1] += row[t];
    }
  }

  void Finish(uint32_t head, uint64_t chunks, float* scratch) const {
    const uint32_t kv_head = head / group_;
    float* const expanded = scratch + value_dim_;
    for (uint32_t i = 0; i < count_; ++i) {
      float most = -std::numeric_limits<float>::infinity();
      for (uint64_t c = 0; c < chunks; ++c) most = std::max(most, Partial(c, head, i)[0]);
      double sum = 0;
      std::fill_n(scratch, value_dim_, 0.0f);
      for (uint64_t c = 0; c < chunks; ++c) {
        const float* const partial = Partial(c, head, i);
        if (partial[1] == 0) continue;
        const float weight = std::exp(partial[0] - most);
        sum += static_cast<double>(weight) * static_cast<double>(partial[1]);
        for (uint32_t d = 0; d < value_dim_; ++d) scratch[d] += weight * partial[2 + d];
      }
      for (uint32_t d = 0; d < value_dim_; ++d) {
        scratch[d] = static_cast<float>(static_cast<double>(scratch[d]) / sum);
      }
      const float* result = scratch;
      uint32_t size = value_dim_;
      if (layer_.v != nullptr && !latent_out_) {
        const LatentSide& v = *layer_.v;
        if (!v.bias.empty()) std::copy_n(v.bias.data() + uint64_t{kv_head} * dim_, dim_, expanded);
        ops::Product(scratch, value_dim_, 1, v.rank, v.up.data() + uint64_t{kv_head} * v.rank * dim_,
                     dim_, dim_, expanded, dim_, !v.bias.empty());
        result = expanded;
        size = dim_;
      }
      const int64_t at = int64_t{first_ + i} * args_.out_token_stride + int64_t{head} * args_.out_head_stride;
      for (uint32_t d = 0; d < size; ++d) StoreElement(item_.out, args_.out_dtype, at + d, result[d]);
    }
  }

  const ops::Table& table_;
  const LatentLayer& layer_;
  const ops::AttendArgs& args_;
  const ops::AttendItem& item_;
  const bool latent_out_;
  const uint32_t group_, dim_, value_dim_;
  const size_t rotated_;  // pairs
  uint32_t most_ = 0;     // queries of a pass
  uint32_t first_ = 0, count_ = 0;
  float* partials_ = nullptr;
  float* queries_ = nullptr;  // [q_heads][most_][dim]
};

}  // namespace

void AttendLatent(const ops::Table& table, const ops::Parallel& parallel, Memory& memory,
                  const LatentLayer& layer, const ops::AttendArgs& args, bool latent_out) {
  Attention(table, layer, args, latent_out).RunAll(parallel, memory);
}

Buffer Project(const ops::Parallel& parallel, Memory& memory, const Shape& shape,
               const LatentSide& side, const ops::IngestArgs& x) {
  Buffer out(memory, x.tokens * side.width() * sizeof(float), Buffer::kScratch);
  const Buffer rows(memory, parallel.workers * shape.kv_dim() * sizeof(float), Buffer::kScratch);
  const uint64_t tasks = (x.tokens + kTile - 1) / kTile;
  Run(parallel, tasks, [&](uint64_t task, uint32_t worker) {
    float* const row = rows.data<float>() + worker * shape.kv_dim();
    const uint64_t end = std::min(x.tokens, (task + 1) * kTile);
    for (uint64_t t = task * kTile; t < end; ++t) {
      for (uint32_t h = 0; h < shape.kv_heads; ++h) {
        for (uint32_t d = 0; d < shape.head_dim; ++d) {
          const int64_t at = static_cast<int64_t>(t) * x.token_stride + int64_t{h} * x.head_stride +
                             int64_t{d} * x.dim_stride;
          const uint64_t i = uint64_t{h} * shape.head_dim + d;
          row[i] = LoadElement(x.x, x.dtype, at) - (side.bias.empty() ? 0.0f : side.bias[i]);
        }
      }
      float* const latent = out.data<float>() + t * side.width();
      for (uint32_t h = 0; h < shape.kv_heads; ++h) {
        ops::Dots(row + uint64_t{h} * shape.head_dim, shape.head_dim, 1,
                  side.up.data() + uint64_t{h} * side.rank * shape.head_dim, shape.head_dim, side.rank,
                  shape.head_dim, latent + h / side.head_group * uint64_t{side.rank}, side.rank,
                  h % side.head_group != 0);
      }
    }
  });
  return out;
}

void ReadLatent(const ops::Table& table, Memory& memory, const LatentSide& side,
                const ops::ReadArgs& args) {
  const uint64_t dim = args.head_dim;
  const Buffer scratch(memory, kTile * (side.width() + dim) * sizeof(float), Buffer::kScratch);
  float* const latents = scratch.data<float>();
  float* const rows = latents + kTile * side.width();
  for (uint64_t at = 0; at < args.tokens; at += kTile) {
    const uint64_t tokens = std::min(kTile, args.tokens - at);
    ops::ReadArgs tile = args;
    tile.kv_heads = side.heads();
    tile.head_dim = side.head_dim();
    tile.first_token = args.first_token + at;
    tile.tokens = tokens;
    tile.dtype = ops::kF32;
    tile.out = latents;
    table.read(&tile);
    for (uint64_t head = 0; head < args.kv_heads; ++head) {
      const float* const bias = side.bias.empty() ? nullptr : side.bias.data() + head * dim;
      for (uint64_t t = 0; bias != nullptr && t < tokens; ++t) std::copy_n(bias, dim, rows + t * dim);
      ops::Product(latents + head / side.head_group * side.rank, side.width(), tokens, side.rank,
                   side.up.data() + head * side.rank * dim, dim, dim, rows, dim, bias != nullptr);
      for (uint64_t t = 0; t < tokens; ++t) {
        for (uint64_t d = 0; d < dim; ++d) {
          StoreElement(args.out, args.dtype,
                       static_cast<int64_t>(((at + t) * args.kv_heads + head) * dim + d),
                       rows[t * dim + d]);
        }
      }
    }
  }
}

}  // namespace kvg
