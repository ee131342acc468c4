// The compressed object of one layer: its K and its V side, always of the same length; or, where the
// recipe selects tokens, a SelectedLayer in place of both.
//
// Called by core/cache/cache.
#ifndef KVGEAR_CORE_CACHE_LAYER_CACHE_H_
#define KVGEAR_CORE_CACHE_LAYER_CACHE_H_

#include <cstdint>
#include <memory>
#include <memory_resource>
#include <utility>

#include "core/base/status.h"
#include "core/cache/side_cache.h"
#include "core/latent/attend.h"
#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "core/runtime/runtime.h"
#include "core/select/selected_layer.h"
#include "kernels/ops.h"

namespace kvg {

class LayerCache {
 public:
  using allocator_type = std::pmr::polymorphic_allocator<>;

  explicit LayerCache(const allocator_type& allocator)
      : k_(allocator.resource()), v_(allocator.resource()) {}

  // Before first use. `recipe`, and the factors of latent sides, outlive the object. May throw
  // std::bad_alloc.
  void Init(Runtime& runtime, const Shape& shape, const Recipe& recipe, uint32_t layer,
            const LatentLayer& latent = {});

  // Append in its steps, for several layers at once that keep all tokens, and keep them whole: memory is taken, then work is
  // queued, then all becomes visible. What stops before the last has changed nothing.
  struct Appending {
    explicit Appending(std::pmr::memory_resource* resource) : k(resource), v(resource) {}
    SideCache::Appended k, v;
  };
  absl::Status Prepare(Executor& executor, const ops::IngestArgs& k, const ops::IngestArgs& v,
                       Appending& out);
  absl::Status Fill(Executor& executor, const ops::IngestArgs& k, const ops::IngestArgs& v,
                    Appending& out);
  void Commit(Appending& prepared) noexcept;

  // Both sides or neither. May throw std::bad_alloc; x have passed the checks of shape and size.
  // positions: of the tokens; nullptr = the next ones.
  absl::Status Append(Runtime& runtime, Turn& turn, const ops::IngestArgs& k,
                      const ops::IngestArgs& v, const uint64_t* positions = nullptr);

  // OK if Truncate(tokens) is exact, tokens <= length(); else a sentence with the nearest lengths.
  absl::Status CheckTruncate(uint32_t layer, uint64_t tokens) const;
  // The nearest lengths to which both sides can be cut, tokens <= length(): below or at, above or at.
  std::pair<uint64_t, uint64_t> NearestCuts(uint64_t tokens) const;
  void Truncate(uint64_t tokens) noexcept;
  void Clear() noexcept;
  // Throws std::bad_alloc, where tokens are selected, and is then still empty.
  void CopyFrom(const LayerCache& other, Runtime& runtime);

  uint64_t length() const { return selected_ ? selected_->length() : k_.length(); }
  // Tokens to attend to and to read: all but those evicted.
  uint64_t held() const { return selected_ ? selected_->held() : k_.length(); }
  uint64_t sealed(ops::Side one) const {
    return selected_ ? selected_->sealed() : side(one).sealed();
  }
  void SwapSelected(LayerCache& other) noexcept { selected_.swap(other.selected_); }
  SelectedLayer* selected() { return selected_.get(); }  // nullptr where all tokens are kept
  const SelectedLayer* selected() const { return selected_.get(); }
  PieceList Pieces(ops::Side one, Memory& memory) const {
    return selected_ ? selected_->Pieces(one, memory) : side(one).Pieces(memory);
  }
  SideStats Stats(ops::Side one) const {
    return selected_ ? selected_->Stats(one) : side(one).Stats();
  }
  // Of a layer that keeps all tokens.
  SideCache& side(ops::Side side) { return side == ops::kSideK ? k_ : v_; }
  const SideCache& side(ops::Side side) const { return side == ops::kSideK ? k_ : v_; }
  // Which sides hold latents, as rows of their own shape.
  const LatentLayer& latent() const { return latent_; }
  bool has_latents() const { return latent_.k != nullptr || latent_.v != nullptr; }

 private:
  struct Destroy {
    Memory* memory;
    void operator()(SelectedLayer* layer) const;
  };

  LatentLayer latent_;
  SideCache k_, v_;
  std::unique_ptr<SelectedLayer, Destroy> selected_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_LAYER_CACHE_H_
