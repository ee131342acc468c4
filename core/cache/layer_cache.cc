// What has to happen to both sides of a layer together.
#include "core/cache/layer_cache.h"

#include <algorithm>
#include <new>

namespace kvg {

void LayerCache::Destroy::operator()(SelectedLayer* layer) const {
  layer->~SelectedLayer();
  memory->Release(layer, sizeof(SelectedLayer));
}

void LayerCache::Init(Runtime& runtime, const Shape& shape, const Recipe& recipe, uint32_t layer) {
  if (!recipe.select.none()) {
    void* const place = runtime.memory().Allocate(sizeof(SelectedLayer));
    selected_ = {new (place) SelectedLayer(runtime, shape, recipe, layer),
                 Destroy{&runtime.memory()}};
  }
  // Starts of the power iterations: any fixed values do, as long as they differ.
  constexpr uint64_t kOddStep = 0x9E3779B97F4A7C15u;
  const uint64_t sides = uint64_t{layer} * 2;
  k_.Init(shape, recipe.k, ops::kSideK, (sides + 1) * kOddStep);
  v_.Init(shape, recipe.v, ops::kSideV, (sides + 2) * kOddStep);
}

absl::Status LayerCache::Append(Runtime& runtime, Turn& turn, const ops::IngestArgs& k,
                                const ops::IngestArgs& v, const uint64_t* positions) {
  if (selected_) return selected_->Append(runtime, k, v, positions);
  Executor& executor = turn.executor();
  SideCache::Appended k_ready(&runtime.resource());
  SideCache::Appended v_ready(&runtime.resource());
  KVG_RETURN_IF_ERROR(k_.PrepareAppend(executor, k, k_ready));
  KVG_RETURN_IF_ERROR(v_.PrepareAppend(executor, v, v_ready));
  KVG_RETURN_IF_ERROR(k_.FillAppend(executor, k, k_ready));
  KVG_RETURN_IF_ERROR(v_.FillAppend(executor, v, v_ready));
  KVG_RETURN_IF_ERROR(turn.status());
  k_.CommitAppend(k_ready);
  v_.CommitAppend(v_ready);
  return absl::OkStatus();
}

absl::Status LayerCache::CheckTruncate(uint32_t layer, uint64_t tokens) const {
  if (selected_) return selected_->CheckTruncate(tokens);
  if (tokens > length()) {
    return InvalidError("layer ", layer, " holds ", length(), " tokens and cannot be truncated to ",
                        tokens);
  }
  const auto [below, above] = NearestCuts(tokens);
  if (below == tokens) return absl::OkStatus();
  return InvalidError("layer ", layer, " cannot be truncated to ", tokens,
                      " tokens, which lies inside a compressed segment; the nearest lengths are ",
                      below, " and ", above);
}

std::pair<uint64_t, uint64_t> LayerCache::NearestCuts(uint64_t tokens) const {
  // Each side moves the candidate until both agree; 0 and the present length always do.
  uint64_t below = tokens;
  while (!(k_.CanTruncate(below) && v_.CanTruncate(below))) {
    below = std::min(k_.FloorLength(below), v_.FloorLength(below));
  }
  uint64_t above = tokens;
  while (!(k_.CanTruncate(above) && v_.CanTruncate(above))) {
    above = std::max(k_.CeilLength(above), v_.CeilLength(above));
  }
  return {below, above};
}

void LayerCache::Truncate(uint64_t tokens) noexcept {
  if (selected_) return selected_->Truncate(tokens);
  k_.Truncate(tokens);
  v_.Truncate(tokens);
}

void LayerCache::Clear() noexcept {
  if (selected_) return selected_->Clear();
  k_.Clear();
  v_.Clear();
}

void LayerCache::CopyFrom(const LayerCache& other, Runtime& runtime) {
  if (selected_) return selected_->CopyFrom(*other.selected_, runtime);
  k_.CopyFrom(other.k_);
  v_.CopyFrom(other.v_);
}

}  // namespace kvg
