// The calls on a cache that concern the selection of tokens.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/base/memory.h"
#include "core/cache/cache.h"
#include "core/cache/tensor.h"

namespace kvg {

absl::Status Cache::CheckHoles(uint32_t layer, const AttendOptions& options) const {
  const SelectedLayer* const selected = layers_[layer].selected();
  if (selected == nullptr) return absl::OkStatus();
  const bool whole = selected->held() == selected->length() && selected->ascending();
  if (options.sliding_window > 0 && options.sliding_window < selected->length() && !whole) {
    return UnsupportedError("sliding_window is ", options.sliding_window, " but layer ", layer,
                            " no longer holds all of its ", selected->length(),
                            " tokens in order; leave it 0, or keep all tokens of this layer");
  }
  if (options.causal && options.queries > 1 && options.queries > selected->intact()) {
    return InvalidError("queries is ", options.queries, " but of the newest tokens of layer ", layer,
                        " only ", selected->intact(), " are all held; ask for those, or for one");
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Cache::Held(uint32_t layer) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  return layers_[layer].held();
}

absl::Status Cache::CheckKvHead(uint32_t kv_head) const {
  if (kv_head < plan_->shape().kv_heads) return absl::OkStatus();
  return InvalidError("kv_head is ", kv_head, "; it may be 0 to ", plan_->shape().kv_heads - 1);
}

absl::Status Cache::CheckKeepsAll(const char* what) const {
  for (uint32_t layer = 0; layer < layers_.size(); ++layer) {
    if (layers_[layer].has_latents()) {
      return UnsupportedError("layer ", layer, " keeps latents of a plan file, which ", what,
                              " does not take yet; choose a recipe without latent=plan");
    }
    if (layers_[layer].selected() == nullptr) continue;
    return UnsupportedError("layer ", layer, " has the recipe ", PrintRecipe(plan_->recipe(layer)),
                            ", and ", what, " takes only layers that keep all tokens; choose a"
                            " recipe without select");
  }
  return absl::OkStatus();
}

absl::Status Cache::Select(uint32_t layer) {
  if (layer != kAllLayers) {
    KVG_RETURN_IF_ERROR(CheckLayer(layer));
    SelectedLayer* const selected = layers_[layer].selected();
    return selected == nullptr ? absl::OkStatus() : selected->Select(*runtime_);
  }
  // All or none: the layers act on copies, which then take their places.
  std::pmr::vector<LayerCache> copies(layers_.size(), &runtime_->resource());
  for (uint32_t i = 0; i < layers_.size(); ++i) {
    if (layers_[i].selected() == nullptr) continue;
    copies[i].Init(*runtime_, plan_->shape(), plan_->recipe(i), i);
    copies[i].CopyFrom(layers_[i], *runtime_);
    KVG_RETURN_IF_ERROR(copies[i].selected()->Select(*runtime_));
  }
  for (uint32_t i = 0; i < layers_.size(); ++i) layers_[i].SwapSelected(copies[i]);
  return absl::OkStatus();
}

absl::Status Cache::Positions(uint32_t layer, uint32_t kv_head, uint64_t* positions) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const LayerCache& cache = layers_[layer];
  KVG_RETURN_IF_ERROR(CheckKvHead(kv_head));
  if (cache.selected() != nullptr) {
    cache.selected()->CopyPositions(kv_head, positions);
  } else {
    std::iota(positions, positions + cache.length(), uint64_t{0});
  }
  return absl::OkStatus();
}

absl::Status Cache::Bits(uint32_t layer, ops::Side side, uint8_t* bits) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const LayerCache& cache = layers_[layer];
  if (cache.selected() != nullptr) {
    cache.selected()->CopyBits(side, bits);
  } else {
    const uint64_t sealed = cache.sealed(side);
    const Recipe& recipe = plan_->recipe(layer);
    std::fill_n(bits, sealed, static_cast<uint8_t>(side == ops::kSideK ? recipe.k.bits
                                                                       : recipe.v.bits));
    std::fill_n(bits + sealed, cache.length() - sealed, uint8_t{16});
  }
  return absl::OkStatus();
}

absl::Status Cache::Observe(uint32_t layer, const float* scores, size_t count, uint64_t rows) {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  SelectedLayer* const selected = layers_[layer].selected();
  if (selected == nullptr) {
    return StateError("layer ", layer, " keeps all tokens and has no use for scores; choose a recipe"
                      " that selects tokens, such as h2o");
  }
  return selected->Observe(*runtime_, scores, count, rows);
}

// Works out the scores of some queries, without adding them.
absl::Status Cache::Score(uint32_t layer, const void* q, size_t q_bytes, const uint64_t* positions,
                          const AttendOptions& options, SelectedLayer::Observation& out) const {
  const Shape& shape = plan_->shape();
  if (!std::isfinite(options.scale)) return InvalidError("scale must be finite");
  if (!std::isfinite(options.softcap) || options.softcap < 0) {
    return InvalidError("logit_softcap must be finite and not negative");
  }
  if (options.sliding_window > 0) {
    return UnsupportedError("sliding_window is ", options.sliding_window,
                            "; scores are of queries that see all older tokens, leave it 0");
  }
  const bool contiguous = options.q_token_stride == 0 && options.q_head_stride == 0;
  const Extent extent =
      ExtentOf(options.queries, shape.q_heads, shape.head_dim, options.q_token_stride,
               options.q_head_stride, contiguous ? 0 : 1);
  KVG_RETURN_IF_ERROR(CheckTensor("q", q, q_bytes, options.q_dtype, extent));
  ops::ScoreArgs args{};
  args.q_heads = shape.q_heads;
  args.kv_heads = shape.kv_heads;
  args.head_dim = shape.head_dim;
  args.queries = options.queries;
  args.q = q;
  args.q_dtype = options.q_dtype;
  args.q_token_stride = extent.stride[0];
  args.q_head_stride = extent.stride[1];
  args.scale = options.scale != 0 ? options.scale
                                  : 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  args.softcap = options.softcap;
  return layers_[layer].selected()->Probe(*runtime_, args, positions, out);
}

absl::Status Cache::Probe(uint32_t layer, const void* q, size_t q_bytes, const uint64_t* positions,
                          const AttendOptions& options) {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  if (options.queries == 0) return absl::OkStatus();
  SelectedLayer* const selected = layers_[layer].selected();
  if (selected == nullptr) {
    return StateError("layer ", layer, " keeps all tokens and has no use for probes; choose a recipe"
                      " that selects tokens, such as snapkv");
  }
  SelectedLayer::Observation observation;
  KVG_RETURN_IF_ERROR(Score(layer, q, q_bytes, positions, options, observation));
  selected->Add(observation);
  return absl::OkStatus();
}

absl::Status Cache::AttendObserve(uint32_t layer, const void* q, size_t q_bytes, void* out,
                                  size_t out_bytes, const AttendOptions& options) {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  SelectedLayer* const selected = layers_[layer].selected();
  const bool scores = selected != nullptr && selected->wants_scores() && options.queries > 0 &&
                      options.queries <= selected->held();
  SelectedLayer::Observation observation;
  if (scores) {
    KVG_RETURN_IF_ERROR(CheckHoles(layer, options));
    const Buffer positions(runtime_->memory(), options.queries * sizeof(uint64_t),
                           Buffer::kScratch);
    for (uint32_t i = 0; i < options.queries; ++i) {
      positions.data<uint64_t>()[i] = selected->NewestPosition(options.queries - 1 - i);
    }
    KVG_RETURN_IF_ERROR(
        Score(layer, q, q_bytes, positions.data<uint64_t>(), options, observation));
  }
  KVG_RETURN_IF_ERROR(Attend(layer, q, q_bytes, out, out_bytes, options));
  if (scores) selected->Add(observation);
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> Cache::ProbeRoom(uint32_t layer) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const SelectedLayer* const selected = layers_[layer].selected();
  return selected == nullptr ? 0 : selected->ProbeRoom();
}

absl::StatusOr<uint64_t> Cache::ProbePositions(uint32_t layer, uint64_t* positions) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const SelectedLayer* const selected = layers_[layer].selected();
  return selected == nullptr ? 0 : selected->ProbePositions(positions);
}

absl::StatusOr<uint64_t> Cache::NextTokens(uint32_t layer, uint64_t* slots) const {
  KVG_RETURN_IF_ERROR(CheckLayer(layer));
  const LayerCache& cache = layers_[layer];
  if (cache.selected() == nullptr) {
    if (slots != nullptr) std::iota(slots, slots + cache.length(), uint64_t{0});
    return cache.length();
  }
  uint64_t count = 0;
  KVG_RETURN_IF_ERROR(cache.selected()->NextTokens(*runtime_, slots, &count));
  return count;
}

}  // namespace kvg
