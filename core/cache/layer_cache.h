// The compressed object of one layer: its K and its V side, always of the same length.
//
// Called by core/cache/cache.
#ifndef KVGEAR_CORE_CACHE_LAYER_CACHE_H_
#define KVGEAR_CORE_CACHE_LAYER_CACHE_H_

#include <cstdint>
#include <memory_resource>
#include <utility>

#include "core/base/status.h"
#include "core/cache/side_cache.h"
#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "core/runtime/runtime.h"
#include "kernels/ops.h"

namespace kvg {

class LayerCache {
 public:
  using allocator_type = std::pmr::polymorphic_allocator<>;

  explicit LayerCache(const allocator_type& allocator)
      : k_(allocator.resource()), v_(allocator.resource()) {}

  // Before first use. `recipe` outlives the object.
  void Init(const Shape& shape, const Recipe& recipe, uint32_t layer);

  // Both sides or neither. May throw std::bad_alloc; x have passed the checks of shape and size.
  absl::Status Append(Runtime& runtime, const ops::IngestArgs& k, const ops::IngestArgs& v);

  // OK if Truncate(tokens) is exact, tokens <= length(); else a sentence with the nearest lengths.
  absl::Status CheckTruncate(uint32_t layer, uint64_t tokens) const;
  // The nearest lengths to which both sides can be cut, tokens <= length(): below or at, above or at.
  std::pair<uint64_t, uint64_t> NearestCuts(uint64_t tokens) const;
  void Truncate(uint64_t tokens) noexcept;
  void Clear() noexcept;
  void CopyFrom(const LayerCache& other) noexcept;

  uint64_t length() const { return k_.length(); }
  SideCache& side(ops::Side side) { return side == ops::kSideK ? k_ : v_; }
  const SideCache& side(ops::Side side) const { return side == ops::kSideK ? k_ : v_; }

 private:
  SideCache k_, v_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_LAYER_CACHE_H_
