// A plan: the shape of a model's attention and one validated recipe per layer. Immutable, shared.
//
// Called by core/cache and capi.
#ifndef KVGEAR_CORE_MODEL_PLAN_H_
#define KVGEAR_CORE_MODEL_PLAN_H_

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/model/recipe.h"

namespace kvg {

struct Shape {
  uint32_t layers = 0;
  uint32_t q_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;

  uint32_t group() const { return q_heads / kv_heads; }
  uint64_t kv_dim() const { return uint64_t{kv_heads} * head_dim; }

  bool operator==(const Shape&) const = default;
};

class Plan {
 public:
  // `recipes` is "RECIPE[;LAYERS:RECIPE]..." with LAYERS = N or N-M. Checks everything that can be
  // checked before tokens arrive, so that sealing cannot fail for a reason of shape.
  static absl::StatusOr<std::shared_ptr<const Plan>> Create(const Shape& shape,
                                                            std::string_view recipes);

  const Shape& shape() const { return shape_; }
  const Recipe& recipe(uint32_t layer) const { return recipes_[layer_recipe_[layer]]; }

 private:
  Plan() = default;
  Shape shape_;
  std::vector<Recipe> recipes_;         // the distinct ones
  std::vector<uint32_t> layer_recipe_;  // [layers] index into recipes_
};

}  // namespace kvg

#endif  // KVGEAR_CORE_MODEL_PLAN_H_
