// What has to happen to both sides of a layer together.
#include "core/cache/layer_cache.h"

#include <algorithm>
#include <new>

namespace kvg {

void LayerCache::Destroy::operator()(SelectedLayer* layer) const {
  layer->~SelectedLayer();
  memory->Release(layer, sizeof(SelectedLayer));
}

namespace {

// The shape of a side: the caller's, or that of its latents.
Shape ShapeOf(const Shape& shape, const LatentSide* latent) {
  if (latent == nullptr) return shape;
  return {shape.layers, latent->heads(), latent->heads(), latent->head_dim()};
}

// The latents of some rows as rows of a side; `latents` is where they are.
ops::IngestArgs LatentRows(const ops::IngestArgs& x, const LatentSide& side, const Buffer& latents) {
  ops::IngestArgs args{};
  args.x = latents.data<float>();
  args.dtype = ops::kF32;
  args.token_stride = static_cast<int64_t>(side.width());
  args.head_stride = side.head_dim();
  args.dim_stride = 1;
  args.tokens = x.tokens;
  args.kv_heads = side.heads();
  args.head_dim = side.head_dim();
  return args;
}

}  // namespace

void LayerCache::Init(Runtime& runtime, const Shape& shape, const Recipe& recipe, uint32_t layer,
                      const LatentLayer& latent) {
  latent_ = latent;
  if (!recipe.select.none()) {
    void* const place = runtime.memory().Allocate(sizeof(SelectedLayer));
    selected_ = {new (place) SelectedLayer(runtime, shape, recipe, layer),
                 Destroy{&runtime.memory()}};
  }
  // Starts of the power iterations: any fixed values do, as long as they differ.
  constexpr uint64_t kOddStep = 0x9E3779B97F4A7C15u;
  const uint64_t sides = uint64_t{layer} * 2;
  k_.Init(ShapeOf(shape, latent.k), recipe.k, ops::kSideK, (sides + 1) * kOddStep);
  v_.Init(ShapeOf(shape, latent.v), recipe.v, ops::kSideV, (sides + 2) * kOddStep);
}

absl::Status LayerCache::Append(Runtime& runtime, Turn& turn, const ops::IngestArgs& k_rows,
                                const ops::IngestArgs& v_rows, const uint64_t* positions) {
  if (selected_) return selected_->Append(runtime, k_rows, v_rows, positions);
  Buffer latents[2];
  const auto stored = [&](ops::Side one, const ops::IngestArgs& rows) {
    const LatentSide* const latent = latent_.side(one);
    if (latent == nullptr) return rows;
    const Shape shape = {0, rows.kv_heads, rows.kv_heads, rows.head_dim};
    latents[one] = Project(turn.host()->parallel(), runtime.memory(), shape, *latent, rows);
    return LatentRows(rows, *latent, latents[one]);
  };
  const ops::IngestArgs k = stored(ops::kSideK, k_rows);
  const ops::IngestArgs v = stored(ops::kSideV, v_rows);
  Appending ready(&runtime.resource());
  KVG_RETURN_IF_ERROR(Prepare(turn.executor(), k, v, ready));
  KVG_RETURN_IF_ERROR(Fill(turn.executor(), k, v, ready));
  KVG_RETURN_IF_ERROR(turn.status());
  Commit(ready);
  return absl::OkStatus();
}

absl::Status LayerCache::Prepare(Executor& executor, const ops::IngestArgs& k,
                                 const ops::IngestArgs& v, Appending& out) {
  KVG_RETURN_IF_ERROR(k_.PrepareAppend(executor, k, out.k));
  return v_.PrepareAppend(executor, v, out.v);
}

absl::Status LayerCache::Fill(Executor& executor, const ops::IngestArgs& k,
                              const ops::IngestArgs& v, Appending& out) {
  KVG_RETURN_IF_ERROR(k_.FillAppend(executor, k, out.k));
  return v_.FillAppend(executor, v, out.v);
}

void LayerCache::Commit(Appending& prepared) noexcept {
  k_.CommitAppend(prepared.k);
  v_.CommitAppend(prepared.v);
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
