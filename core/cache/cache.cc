// The calls on a cache: checks of what the caller gave, then the work on its layers.
#include "core/cache/cache.h"

#include <algorithm>
#include <atomic>
#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <list>
#include <optional>

#include "core/base/memory.h"
#include "core/cache/tensor.h"
#include "core/latent/attend.h"

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

// The items of a batch on the host, with the lists of pieces that they point to, in scratch memory.
class HostItems {
 public:
  HostItems(Memory& memory, size_t count)
      : entries_(memory, count * sizeof(Entry), Buffer::kScratch),
        items_(memory, count > 1 ? count * sizeof(ops::AttendItem) : 0, Buffer::kScratch),
        many_(count > 1) {}
  HostItems(const HostItems&) = delete;
  HostItems& operator=(const HostItems&) = delete;
  ~HostItems() { std::destroy_n(entries_.data<Entry>(), count_); }

  ops::AttendItem* data() { return many_ ? items_.data<ops::AttendItem>() : &only_; }
  ops::AttendItem& Add(PieceList k, PieceList v) {
    Entry& entry = *new (entries_.data<Entry>() + count_) Entry{std::move(k), std::move(v)};
    ops::AttendItem& item = data()[count_++];
    item = {};
    item.k = entry.k.sequence();
    item.v = entry.v.sequence();
    return item;
  }

 private:
  struct Entry {
    PieceList k, v;
  };
  const Buffer entries_, items_;
  const bool many_;
  ops::AttendItem only_{};
  size_t count_ = 0;
};

}  // namespace

Cache::Cache(std::shared_ptr<Runtime> runtime, std::shared_ptr<const Plan> plan)
    : runtime_(std::move(runtime)),
      plan_(std::move(plan)),
      layers_(plan_->shape().layers, &runtime_->resource()) {
  for (uint32_t layer = 0; layer < layers_.size(); ++layer) {
    const LatentLayer latent = {.k = plan_->latent(layer, ops::kSideK),
                                .v = plan_->latent(layer, ops::kSideV),
                                .rotary = plan_->has_latents(layer) ? &plan_->rotary() : nullptr};
    layers_[layer].Init(*runtime_, plan_->shape(), plan_->recipe(layer), layer, latent);
  }
  if (Device* const device = runtime_->device(); device != nullptr) {
    Device::Call call(*device);
    marks_ = Buffer(device->pinned(), layers_.size() * sizeof(uint64_t));
    std::memset(marks_.data(), 0, marks_.size());
    // An append to a cache that is gone may still be about to set what was its mark.
    for (uint32_t layer = 0; layer < layers_.size(); ++layer) {
      call.Check(call.plugin().unmark(call.context(), call.stream(), MarkOf(layer), 0));
    }
  }
}

absl::Status Cache::CheckReach(Turn& turn, const char* name, const void* pointer) const {
  Device::Call* const call = turn.executor().device();
  if (call == nullptr || call->plugin().reaches(call->context(), pointer)) return absl::OkStatus();
  return InvalidError(name, " lies in host memory that the device cannot reach; pass device memory");
}

absl::Status Cache::CheckMark(Turn& turn, uint32_t layer) const {
  Device::Call* const call = turn.executor().device();
  if (call == nullptr) return absl::OkStatus();
  const std::atomic_ref<uint64_t> mark(*MarkOf(layer));
  if (mark.load(std::memory_order_relaxed) == 0) return absl::OkStatus();
  // A truncation that takes the tokens away may be under way.
  if (!call->capturing()) call->Wait();
  KVG_RETURN_IF_ERROR(call->status());
  const uint64_t found = mark.load(std::memory_order_relaxed);
  if (found == 0) return absl::OkStatus();
  return NonFiniteError("layer ", layer, " was given keys or values that hold NaN, infinity or a magnitude beyond "
                        "65504, the largest of fp16, when it held ", found - 1,
                        " tokens; truncate it to that length or less, or clear the cache");
}

absl::StatusOr<std::unique_ptr<Cache>> Cache::Create(std::shared_ptr<Runtime> runtime,
                                                     std::shared_ptr<const Plan> plan) {
  for (uint32_t layer = 0; runtime->device() != nullptr && layer < plan->shape().layers; ++layer) {
    const Recipe& recipe = plan->recipe(layer);
    const auto known = [](const SideRecipe& side) {
      return side.bits == 16 || (side.map != SideRecipe::kOnline && side.fit == ops::kFitRange);
    };
    if (plan->has_latents(layer)) {
      return UnsupportedError("the recipe of layer ", layer, " keeps latents, which CUDA devices do "
                              "not know yet; set latent=none, or use the device CPU");
    }
    if (known(recipe.k) && known(recipe.v) && recipe.select.none()) continue;
    return UnsupportedError("the recipe of layer ", layer,
                            " has a learnt map, a fit or a selection that CUDA devices do not know "
                            "yet; use a recipe without, or the device CPU");
  }
  return std::unique_ptr<Cache>(new Cache(std::move(runtime), std::move(plan)));
}

absl::Status Cache::CheckLayer(uint32_t layer) const {
  if (layer < layers_.size()) return absl::OkStatus();
  return InvalidError("layer is ", layer, " but the plan has layers 0 to ", layers_.size() - 1);
}

absl::Status Cache::Append(uint32_t layer, const TensorView& k, const TensorView& v,
                           ops::DType dtype, uint64_t tokens, const uint64_t* positions,
                           void* stream) {
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
    Turn turn(*runtime_, stream);
    KVG_RETURN_IF_ERROR(turn.status());
    if (DeviceExecutor* const device = turn.device(); device != nullptr) {
      if (turn.executor().device()->capturing()) {
        return StateError("the stream is being captured into a graph; append outside of the capture");
      }
      KVG_RETURN_IF_ERROR(CheckReach(turn, "k", k.data));
      KVG_RETURN_IF_ERROR(CheckReach(turn, "v", v.data));
      KVG_RETURN_IF_ERROR(CheckMark(turn, layer));
      device->SetMark(MarkOf(layer), cache.length() + 1);
    }
    KVG_RETURN_IF_ERROR(cache.Append(*runtime_, turn, *k_args, *v_args, positions));
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

absl::Status Cache::AppendBatch(std::span<Cache* const> caches, uint32_t layer,
                                const TensorView& k, const TensorView& v, ops::DType dtype,
                                uint64_t tokens, void* stream) {
  if (caches.empty() || tokens == 0) return absl::OkStatus();
  Cache& first = *caches[0];
  Runtime& runtime = *first.runtime_;
  KVG_RETURN_IF_ERROR(first.CheckLayer(layer));
  const Shape& shape = first.plan_->shape();
  for (size_t i = 0; i < caches.size(); ++i) {
    const Cache& cache = *caches[i];
    if (cache.runtime_ != first.runtime_ || !(cache.plan_->shape() == shape)) {
      return InvalidError("cache ", i, " of the batch has another ",
                          cache.runtime_ != first.runtime_ ? "runtime" : "shape",
                          " than cache 0; append to it in a call of its own");
    }
    const LayerCache& of = cache.layers_[layer];
    if (tokens > kMaxTokens / caches.size() || of.length() > kMaxTokens - tokens) {
      return InvalidError("tokens is ", tokens, ", and layer ", layer, " of cache ", i, " holds ",
                          of.length(), "; a layer holds at most ", kMaxTokens);
    }
    if (of.selected() != nullptr || of.has_latents()) {
      return UnsupportedError("layer ", layer, " of cache ", i,
                              of.has_latents() ? " keeps latents" : " selects tokens",
                              "; append to it in a call of its own");
    }
  }
  std::pmr::vector<const Cache*> sorted(caches.begin(), caches.end(), &runtime.resource());
  std::sort(sorted.begin(), sorted.end(), std::less<>());
  if (std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end()) {
    return InvalidError("a cache comes twice in the batch; append all its tokens in one call");
  }
  const uint64_t rows = caches.size() * tokens;
  const absl::StatusOr<ops::IngestArgs> k_all = IngestOf(ops::kSideK, k, dtype, rows, shape);
  KVG_RETURN_IF_ERROR(k_all.status());
  const absl::StatusOr<ops::IngestArgs> v_all = IngestOf(ops::kSideV, v, dtype, rows, shape);
  KVG_RETURN_IF_ERROR(v_all.status());
  const auto of_cache = [&](const ops::IngestArgs& all, size_t i) {
    ops::IngestArgs args = all;
    args.tokens = tokens;
    args.x = static_cast<const std::byte*>(all.x) +
             static_cast<int64_t>(i * tokens) * all.token_stride * static_cast<int64_t>(SizeOf(dtype));
    return args;
  };

  Turn turn(runtime, stream);
  KVG_RETURN_IF_ERROR(turn.status());
  Executor& executor = turn.executor();
  DeviceExecutor* const device = turn.device();
  if (device != nullptr) {
    if (executor.device()->capturing()) {
      return StateError("the stream is being captured into a graph; append outside of the capture");
    }
    KVG_RETURN_IF_ERROR(first.CheckReach(turn, "k", k.data));
    KVG_RETURN_IF_ERROR(first.CheckReach(turn, "v", v.data));
    for (const Cache* cache : caches) KVG_RETURN_IF_ERROR(cache->CheckMark(turn, layer));
    device->Gather(&runtime.resource(), 2 * caches.size());
  }
  std::pmr::list<LayerCache::Appending> ready(&runtime.resource());
  for (size_t i = 0; i < caches.size(); ++i) {
    ready.emplace_back(&runtime.resource());
    KVG_RETURN_IF_ERROR(caches[i]->layers_[layer].Prepare(executor, of_cache(*k_all, i),
                                                          of_cache(*v_all, i), ready.back()));
  }
  auto one = ready.begin();
  for (size_t i = 0; i < caches.size(); ++i, ++one) {
    LayerCache& cache = caches[i]->layers_[layer];
    if (device != nullptr) device->SetMark(caches[i]->MarkOf(layer), cache.length() + 1);
    absl::Status status =
        cache.Fill(executor, of_cache(*k_all, i), of_cache(*v_all, i), *one);
    if (!status.ok()) {
      return absl::Status(status.code(), absl::StrCat("cache ", i, " of the batch: ", status.message()));
    }
  }
  executor.Flush();
  KVG_RETURN_IF_ERROR(turn.status());
  one = ready.begin();
  for (Cache* cache : caches) cache->layers_[layer].Commit(*one++);
  return absl::OkStatus();
}

absl::Status Cache::AttendBatch(std::span<const Cache* const> caches, uint32_t layer, const void* q,
                                size_t q_bytes, void* out, size_t out_bytes,
                                const AttendOptions& options) {
  if (caches.empty()) return absl::OkStatus();
  const Cache& first = *caches[0];
  KVG_RETURN_IF_ERROR(first.CheckLayer(layer));
  const Shape& shape = first.plan_->shape();
  if (options.queries == 0) return InvalidError("queries is 0; ask for at least one");
  for (size_t i = 0; i < caches.size(); ++i) {
    const Cache& cache = *caches[i];
    const auto which = [&] { return caches.size() == 1 ? "" : absl::StrCat(" of cache ", i); };
    if (cache.runtime_ != first.runtime_ || !(cache.plan_->shape() == shape)) {
      return InvalidError("cache ", i, " of the batch has another ",
                          cache.runtime_ != first.runtime_ ? "runtime" : "shape",
                          " than cache 0; attend to it in a call of its own");
    }
    const uint64_t length = cache.layers_[layer].held();
    if (options.queries > length) {
      return InvalidError("queries is ", options.queries, " but layer ", layer, which(), " holds ",
                          length, " tokens; append the queries' keys and values first");
    }
    KVG_RETURN_IF_ERROR(cache.CheckHoles(layer, options));
    const LatentSide* const values = cache.layers_[layer].latent().v;
    if (options.latent_out && (values == nullptr || values->rank != first.plan_->latent(layer, ops::kSideV)->rank)) {
      return InvalidError("latent_out is set but the values of layer ", layer, which(),
                          values == nullptr ? " are not latent; leave it 0"
                                            : " have another rank than those of cache 0; attend to it"
                                              " in a call of its own");
    }
  }
  if (!std::isfinite(options.scale)) return InvalidError("scale must be finite");
  if (!std::isfinite(options.softcap) || options.softcap < 0) {
    return InvalidError("logit_softcap must be finite and not negative");
  }
  const uint64_t rows = caches.size() * options.queries;
  const auto extent_of = [&](uint64_t dim, int64_t token_stride, int64_t head_stride) {
    const bool contiguous = token_stride == 0 && head_stride == 0;
    return ExtentOf(rows, shape.q_heads, dim, token_stride, head_stride, contiguous ? 0 : 1);
  };
  const uint32_t out_dim =
      OutputDim(first.layers_[layer].latent(), shape.head_dim, options.latent_out);
  const Extent q_extent =
      extent_of(shape.head_dim, options.q_token_stride, options.q_head_stride);
  const Extent out_extent =
      extent_of(out_dim, options.out_token_stride, options.out_head_stride);
  KVG_RETURN_IF_ERROR(CheckTensor("q", q, q_bytes, options.q_dtype, q_extent));
  KVG_RETURN_IF_ERROR(CheckTensor("out", out, out_bytes, options.out_dtype, out_extent));
  KVG_RETURN_IF_ERROR(CheckDistinctRows("out", out_extent));
  KVG_RETURN_IF_ERROR(
      CheckApart("q", q, options.q_dtype, q_extent, "out", out, options.out_dtype, out_extent));

  // Both kinds of arguments have the fields that say what is computed.
  const auto describe = [&](auto& args) {
    args.count = caches.size();
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
  };
  const auto place = [&](auto& item, size_t i) {
    const auto row = static_cast<int64_t>(i * options.queries);
    item.length = caches[i]->layers_[layer].held();
    item.q = static_cast<const std::byte*>(q) +
             row * q_extent.stride[0] * static_cast<int64_t>(SizeOf(options.q_dtype));
    item.out = static_cast<std::byte*>(out) +
               row * out_extent.stride[0] * static_cast<int64_t>(SizeOf(options.out_dtype));
  };
  Runtime& runtime = *first.runtime_;
  Turn turn(runtime, options.stream);
  KVG_RETURN_IF_ERROR(turn.status());
  if (HostExecutor* const host = turn.host(); host != nullptr) {
    HostItems items(runtime.memory(), caches.size());
    ops::AttendArgs args{};
    args.items = items.data();
    describe(args);
    for (size_t i = 0; i < caches.size(); ++i) {
      const LayerCache& cache = caches[i]->layers_[layer];
      place(items.Add(cache.Pieces(ops::kSideK, runtime.memory()),
                      cache.Pieces(ops::kSideV, runtime.memory())),
            i);
    }
    const bool latent = std::any_of(caches.begin(), caches.end(), [layer](const Cache* cache) {
      return cache->layers_[layer].has_latents();
    });
    // Where some of a batch keep latents each has a turn of its own: its bits are the same so.
    for (size_t i = 0; i < (latent ? caches.size() : 1); ++i) {
      ops::AttendArgs part = args;
      if (latent) {
        part.items = args.items + i;
        part.count = 1;
      }
      if (const LayerCache& one = caches[i]->layers_[layer]; one.has_latents()) {
        AttendLatent(host->table(), host->parallel(), runtime.memory(), one.latent(), part,
                     options.latent_out);
        continue;
      }
      const Buffer scratch(runtime.memory(),
                           host->table().attend_scratch(&part, host->parallel().workers),
                           Buffer::kScratch);
      part.scratch = scratch.data<void>();
      host->table().attend(&part, &host->parallel());
    }
    for (size_t i = 0; i < caches.size(); ++i) {
      for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
        const SideCache& cache = caches[i]->layers_[layer].side(side);
        if (cache.learns()) cache.Observe(args, args.items[i]);
      }
    }
    return absl::OkStatus();
  }
  Device::Call& call = *turn.executor().device();
  KVG_RETURN_IF_ERROR(first.CheckReach(turn, "q", q));
  KVG_RETURN_IF_ERROR(first.CheckReach(turn, "out", out));
  const Buffer items(runtime.memory(), caches.size() * sizeof(ops::DeviceItem), Buffer::kScratch);
  ops::DeviceAttendArgs args{};
  args.items = items.data<ops::DeviceItem>();
  describe(args);
  const Recipe& recipe = first.plan_->recipe(layer);
  const auto form_of = [](const SideRecipe& side) {
    return ops::DeviceForm{side.bits, side.outliers > 0, side.axis == ops::kAxisChannel};
  };
  args.k_form = form_of(recipe.k);
  args.v_form = form_of(recipe.v);
  for (size_t i = 0; i < caches.size(); ++i) {
    KVG_RETURN_IF_ERROR(caches[i]->CheckMark(turn, layer));
    auto& item = items.data<ops::DeviceItem>()[i];
    item.k = caches[i]->layers_[layer].side(ops::kSideK).device_pieces();
    item.v = caches[i]->layers_[layer].side(ops::kSideV).device_pieces();
    place(item, i);
  }
  args.scratch = call.StreamScratch(call.plugin().attend_scratch(call.context(), &args));
  call.Check(call.plugin().attend(call.context(), call.stream(), &args));
  return turn.status();
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
  const auto ask = [&](auto& args) {
    args.kv_heads = shape.kv_heads;
    args.head_dim = shape.head_dim;
    args.first_token = first_token;
    args.tokens = tokens;
    args.dtype = dtype;
    args.out = out;
  };
  if (runtime_->device() == nullptr) {
    const PieceList pieces = layers_[layer].Pieces(side, runtime_->memory());
    ops::ReadArgs args{};
    args.side = pieces.sequence();
    ask(args);
    if (const LatentSide* const latent = layers_[layer].latent().side(side); latent != nullptr) {
      ReadLatent(runtime_->table(), runtime_->memory(), *latent, args);
    } else {
      runtime_->table().read(&args);
    }
    return absl::OkStatus();
  }
  Turn turn(*runtime_);
  KVG_RETURN_IF_ERROR(turn.status());
  Device::Call& call = *turn.executor().device();
  KVG_RETURN_IF_ERROR(CheckReach(turn, "out", out));
  KVG_RETURN_IF_ERROR(CheckMark(turn, layer));
  ops::DeviceReadArgs args{};
  args.side = layers_[layer].side(side).device_pieces();
  ask(args);
  call.Check(call.plugin().read(call.context(), call.stream(), &args));
  call.Wait();
  return turn.status();
}

absl::StatusOr<uint64_t> Cache::Length(uint32_t layer) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  return layers_[layer].length();
}

absl::Status Cache::Truncate(uint32_t layer, uint64_t tokens) {
  Turn turn(*runtime_);
  KVG_RETURN_IF_ERROR(turn.status());
  const auto shorten = [&](uint32_t i) {
    layers_[i].Truncate(tokens);
    Device::Call* const call = turn.executor().device();
    if (call == nullptr) return;
    call->Check(call->plugin().unmark(call->context(), call->stream(), MarkOf(i), tokens));
  };
  if (layer != kAllLayers) {
    KVG_RETURN_IF_ERROR(CheckLayer(layer));
    KVG_RETURN_IF_ERROR(layers_[layer].CheckTruncate(layer, tokens));
    shorten(layer);
    return turn.status();
  }
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    if (tokens >= layers_[i].length()) continue;
    KVG_RETURN_IF_ERROR(layers_[i].CheckTruncate(i, tokens));
  }
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    if (tokens < layers_[i].length()) shorten(i);
  }
  return turn.status();
}

absl::Status Cache::Clear() {
  Turn turn(*runtime_);
  KVG_RETURN_IF_ERROR(turn.status());
  for (LayerCache& cache : layers_) cache.Clear();
  if (Device::Call* const call = turn.executor().device(); call != nullptr) {
    for (uint32_t i = 0; i < layers_.size(); ++i) {
      call->Check(call->plugin().unmark(call->context(), call->stream(), MarkOf(i), 0));
    }
  }
  return turn.status();
}

void Cache::Swap(Cache& other) noexcept {
  layers_.swap(other.layers_);
  marks_.swap(other.marks_);
}

absl::StatusOr<std::unique_ptr<Cache>> Cache::Fork() const {
  Turn turn(*runtime_);
  KVG_RETURN_IF_ERROR(turn.status());
  std::unique_ptr<Cache> fork(new Cache(runtime_, plan_));
  if (turn.device() != nullptr) {
    const size_t bytes = layers_.size() * sizeof(uint64_t);
    turn.executor().Copy({fork->marks_.data(), marks_.data(), bytes, bytes, bytes, 1});
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    fork->layers_[i].CopyFrom(layers_[i], *runtime_);
  }
  KVG_RETURN_IF_ERROR(turn.status());
  return fork;
}

absl::StatusOr<Stats> Cache::GetStats(uint32_t layer, bool want_k, bool want_v) const {
  if (layer != kAllLayers) KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const size_t first = layer == kAllLayers ? 0 : layer;
  const size_t last = layer == kAllLayers ? layers_.size() : first + 1;
  std::optional<Turn> turn;  // held while the errors that it fetches are looked at
  if (runtime_->device() != nullptr) {
    turn.emplace(*runtime_);
    for (size_t i = first; i < last; ++i) {
      for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
        layers_[i].side(side).FetchErrors(turn->executor());
      }
    }
    KVG_RETURN_IF_ERROR(turn->status());
  }
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
      stats.bytes_plan += plan_->file_bytes(static_cast<uint32_t>(i), side);
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
  if (layer == kAllLayers && want_k && want_v) stats.bytes_bookkeeping += marks_.size();
  stats.rel_error_k_worst = worst[ops::kSideK];
  stats.rel_error_v_worst = worst[ops::kSideV];
  return stats;
}

}  // namespace kvg
