// The calls on a cache: checks of what the caller gave, then the work on its layers.
#include "core/cache/cache.h"

#include <algorithm>
#include <cinttypes>
#include <cmath>
#include <cstdio>

#include "core/base/memory.h"
#include "core/cache/tensor.h"

namespace kvg {
namespace {

// Far beyond any memory, and small enough that no product of sizes overflows.
constexpr uint64_t kMaxTokens = uint64_t{1} << 40;

const char* NameOf(ops::Side side) { return side == ops::kSideK ? "k" : "v"; }

absl::StatusOr<ops::IngestArgs> IngestOf(ops::Side side, const TensorView& x, ops::DType dtype,
                                         uint64_t tokens, const Shape& shape) {
  const Extent extent = ExtentOf(tokens, shape.kv_heads, shape.head_dim, x.token_stride,
                                 x.head_stride, x.dim_stride);
  KVG_RETURN_IF_ERROR(CheckTensor(NameOf(side), x.data, x.bytes, dtype, extent));
  ops::IngestArgs args{};
  args.x = x.data;
  args.dtype = dtype;
  args.token_stride = extent.stride[0];
  args.head_stride = extent.stride[1];
  args.dim_stride = extent.stride[2];
  args.tokens = tokens;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  return args;
}

void Add(const SideStats& side, const Shape& shape, Stats& stats) {
  stats.elements += side.tokens * shape.kv_dim();
  stats.sealed_elements += side.sealed_tokens * shape.kv_dim();
  stats.segments += side.segments;
  stats.bytes_codes += side.bytes.codes;
  stats.bytes_scales += side.bytes.scales;
  stats.bytes_low_rank += side.bytes.low_rank;
  stats.bytes_sparse += side.bytes.sparse;
  stats.bytes_bookkeeping += side.bytes.bookkeeping;
  stats.bytes_window_used += side.window_used;
  stats.bytes_window_allocated += side.window_allocated;
  stats.bytes_state += side.state;
  stats.bytes_shared += side.shared;
  stats.bytes_mapped += side.mapped;
  stats.bytes_positions += side.positions;
}

// Formats and logs a line without allocating: nothing may fail once an append is done.
template <typename... Args>
void LogLine(Runtime& runtime, LogLevel level, const char* format, Args... args) {
  if (!runtime.has_log()) return;
  char line[200];
  std::snprintf(line, sizeof(line), format, args...);
  runtime.Log(level, line);
}

}  // namespace

Cache::Cache(std::shared_ptr<Runtime> runtime, std::shared_ptr<const Plan> plan)
    : runtime_(std::move(runtime)),
      plan_(std::move(plan)),
      layers_(plan_->shape().layers, &runtime_->resource()) {
  for (uint32_t layer = 0; layer < layers_.size(); ++layer) {
    layers_[layer].Init(*runtime_, plan_->shape(), plan_->recipe(layer), layer);
  }
}

absl::StatusOr<std::unique_ptr<Cache>> Cache::Create(std::shared_ptr<Runtime> runtime,
                                                     std::shared_ptr<const Plan> plan) {
  return std::unique_ptr<Cache>(new Cache(std::move(runtime), std::move(plan)));
}

absl::Status Cache::CheckLayer(uint32_t layer) const {
  if (layer < layers_.size()) return absl::OkStatus();
  return InvalidError("layer is ", layer, " but the plan has layers 0 to ", layers_.size() - 1);
}

absl::Status Cache::Append(uint32_t layer, const TensorView& k, const TensorView& v,
                           ops::DType dtype, uint64_t tokens, const uint64_t* positions) {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  if (tokens == 0) return absl::OkStatus();
  if (tokens > kMaxTokens || layers_[layer].length() > kMaxTokens - tokens) {
    return InvalidError("tokens is ", tokens, ", and layer ", layer, " holds ",
                        layers_[layer].length(), "; a layer holds at most ", kMaxTokens);
  }
  if (positions != nullptr && layers_[layer].selected() == nullptr) {
    return StateError("layer ", layer, " keeps all tokens and counts their positions itself; append"
                      " without positions, or choose a recipe that selects tokens");
  }
  const absl::StatusOr<ops::IngestArgs> k_args =
      IngestOf(ops::kSideK, k, dtype, tokens, plan_->shape());
  KVG_RETURN_IF_ERROR(k_args.status());
  const absl::StatusOr<ops::IngestArgs> v_args =
      IngestOf(ops::kSideV, v, dtype, tokens, plan_->shape());
  KVG_RETURN_IF_ERROR(v_args.status());
  LayerCache& cache = layers_[layer];
  const uint64_t k_sealed = cache.sealed(ops::kSideK);
  const uint64_t v_sealed = cache.sealed(ops::kSideV);
  try {
    KVG_RETURN_IF_ERROR(cache.Append(*runtime_, *k_args, *v_args, positions));
  } catch (const BudgetExceeded&) {
    LogLine(*runtime_, LogLevel::kWarn,
            "layer %" PRIu32 ": %" PRIu64 " tokens refused, the memory budget of %" PRIu64
            " bytes would be exceeded",
            layer, tokens, runtime_->memory().budget());
    throw;
  }
  const uint64_t k_now = cache.sealed(ops::kSideK) - k_sealed;
  const uint64_t v_now = cache.sealed(ops::kSideV) - v_sealed;
  if (k_now + v_now > 0) {
    LogLine(*runtime_, LogLevel::kDebug,
            "layer %" PRIu32 ": sealed %" PRIu64 " tokens of K and %" PRIu64 " of V", layer, k_now,
            v_now);
  }
  return absl::OkStatus();
}

absl::Status Cache::Attend(uint32_t layer, const void* q, size_t q_bytes, void* out,
                           size_t out_bytes, const AttendOptions& options) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const Shape& shape = plan_->shape();
  const LayerCache& cache = layers_[layer];
  if (options.queries == 0) return InvalidError("queries is 0; ask for at least one");
  if (options.queries > cache.held()) {
    return InvalidError("queries is ", options.queries, " but layer ", layer, " holds ",
                        cache.held(), " tokens; append the queries' keys and values first");
  }
  KVG_RETURN_IF_ERROR(CheckHoles(layer, options));
  if (!std::isfinite(options.scale)) return InvalidError("scale must be finite");
  if (!std::isfinite(options.softcap) || options.softcap < 0) {
    return InvalidError("logit_softcap must be finite and not negative");
  }
  const auto extent_of = [&](int64_t token_stride, int64_t head_stride) {
    const bool contiguous = token_stride == 0 && head_stride == 0;
    return ExtentOf(options.queries, shape.q_heads, shape.head_dim, token_stride, head_stride,
                    contiguous ? 0 : 1);
  };
  const Extent q_extent = extent_of(options.q_token_stride, options.q_head_stride);
  const Extent out_extent = extent_of(options.out_token_stride, options.out_head_stride);
  KVG_RETURN_IF_ERROR(CheckTensor("q", q, q_bytes, options.q_dtype, q_extent));
  KVG_RETURN_IF_ERROR(CheckTensor("out", out, out_bytes, options.out_dtype, out_extent));
  KVG_RETURN_IF_ERROR(CheckDistinctRows("out", out_extent));
  KVG_RETURN_IF_ERROR(
      CheckApart("q", q, options.q_dtype, q_extent, "out", out, options.out_dtype, out_extent));

  const PieceList k_pieces = cache.Pieces(ops::kSideK, runtime_->memory());
  const PieceList v_pieces = cache.Pieces(ops::kSideV, runtime_->memory());
  ops::AttendItem item{};
  item.k = k_pieces.sequence();
  item.v = v_pieces.sequence();
  item.length = cache.held();
  item.q = q;
  item.out = out;
  ops::AttendArgs args{};
  args.items = &item;
  args.count = 1;
  args.q_heads = shape.q_heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.queries = options.queries;
  args.q_dtype = options.q_dtype;
  args.out_dtype = options.out_dtype;
  args.q_token_stride = q_extent.stride[0];
  args.q_head_stride = q_extent.stride[1];
  args.out_token_stride = out_extent.stride[0];
  args.out_head_stride = out_extent.stride[1];
  args.scale = options.scale != 0 ? options.scale
                                  : 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  args.softcap = options.softcap;
  args.sliding_window = options.sliding_window;
  args.causal = options.causal;
  ThreadPool::Lease lease = runtime_->pool().Acquire();
  const ops::Parallel parallel = lease.parallel();
  const ops::Table& table = runtime_->table();
  const Buffer scratch(runtime_->memory(), table.attend_scratch(&args, parallel.workers),
                       Buffer::kScratch);
  args.scratch = scratch.data<void>();
  table.attend(&args, &parallel);
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    if (cache.side(side).learns()) cache.side(side).Observe(args, item);
  }
  return absl::OkStatus();
}

absl::Status Cache::Read(uint32_t layer, ops::Side side, uint64_t first_token, uint64_t tokens,
                         ops::DType dtype, void* out, size_t out_bytes) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const uint64_t length = layers_[layer].held();
  if (first_token > length || tokens > length - first_token) {
    return InvalidError("tokens ", first_token, " to ", first_token, " + ", tokens,
                        " were asked for but layer ", layer, " holds ", length);
  }
  if (tokens == 0) return absl::OkStatus();
  const Shape& shape = plan_->shape();
  const Extent extent = ExtentOf(tokens, shape.kv_heads, shape.head_dim, 0, 0, 0);
  KVG_RETURN_IF_ERROR(CheckTensor("out", out, out_bytes, dtype, extent));
  const PieceList pieces = layers_[layer].Pieces(side, runtime_->memory());
  ops::ReadArgs args{};
  args.side = pieces.sequence();
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.first_token = first_token;
  args.tokens = tokens;
  args.dtype = dtype;
  args.out = out;
  runtime_->table().read(&args);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Cache::Length(uint32_t layer) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  return layers_[layer].length();
}

absl::Status Cache::Truncate(uint32_t layer, uint64_t tokens) {
  if (layer != kAllLayers) {
    KVG_RETURN_IF_ERROR(CheckLayer(layer));
    KVG_RETURN_IF_ERROR(layers_[layer].CheckTruncate(layer, tokens));
    layers_[layer].Truncate(tokens);
    return absl::OkStatus();
  }
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    if (tokens >= layers_[i].length()) continue;
    KVG_RETURN_IF_ERROR(layers_[i].CheckTruncate(i, tokens));
  }
  for (LayerCache& cache : layers_) cache.Truncate(tokens);
  return absl::OkStatus();
}

absl::Status Cache::Clear() {
  for (LayerCache& cache : layers_) cache.Clear();
  return absl::OkStatus();
}

void Cache::Swap(Cache& other) noexcept { layers_.swap(other.layers_); }

absl::StatusOr<std::unique_ptr<Cache>> Cache::Fork() const {
  std::unique_ptr<Cache> fork(new Cache(runtime_, plan_));
  for (size_t i = 0; i < layers_.size(); ++i) fork->layers_[i].CopyFrom(layers_[i], *runtime_);
  return fork;
}

absl::StatusOr<Stats> Cache::GetStats(uint32_t layer, bool want_k, bool want_v) const {
  if (layer != kAllLayers) KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const size_t first = layer == kAllLayers ? 0 : layer;
  const size_t last = layer == kAllLayers ? layers_.size() : first + 1;
  Stats stats;
  uint64_t compressed[2] = {0, 0};
  double error[2] = {0, 0};
  double worst[2] = {0, 0};
  for (size_t i = first; i < last; ++i) {
    stats.tokens += layers_[i].held();
    stats.appended += layers_[i].length();
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      if (!(side == ops::kSideK ? want_k : want_v)) continue;
      const SideStats one = layers_[i].Stats(side);
      Add(one, plan_->shape(), stats);
      // Each side answers for its half of the layer, so that the sides add up to the whole.
      constexpr uint64_t kBoth = sizeof(LayerCache);
      stats.bytes_bookkeeping += side == ops::kSideK ? kBoth - kBoth / 2 : kBoth / 2;
      compressed[side] += one.sealed_tokens;
      error[side] += one.error_tokens;
      worst[side] = std::max(worst[side], one.error_worst);
    }
  }
  const auto mean = [&](ops::Side side) {
    return compressed[side] == 0 ? 0.0 : error[side] / static_cast<double>(compressed[side]);
  };
  stats.rel_error_k_mean = mean(ops::kSideK);
  stats.rel_error_v_mean = mean(ops::kSideV);
  stats.rel_error_k_worst = worst[ops::kSideK];
  stats.rel_error_v_worst = worst[ops::kSideV];
  return stats;
}

}  // namespace kvg
