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

struct Factors;
struct LatentSide;
struct Rotary;

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
  // From a plan file, with the factors that its recipes need. shape: nullptr, or what the file's must
  // be; recipes: empty = the file's own; fingerprint: empty = whatever the file's is.
  static absl::StatusOr<std::shared_ptr<const Plan>> Load(const char* path, const Shape* shape,
                                                          std::string_view recipes,
                                                          std::string_view fingerprint);

  const Shape& shape() const { return shape_; }
  const Recipe& recipe(uint32_t layer) const { return recipes_[layer_recipe_[layer]]; }
  // The factors of a side that keeps latents, else nullptr; see core/model/factors.h.
  const LatentSide* latent(uint32_t layer, ops::Side side) const;
  bool has_latents(uint32_t layer) const {
    return recipe(layer).k.latent != 0 || recipe(layer).v.latent != 0;
  }
  // Of latent keys. Only where a layer has some.
  const Rotary& rotary() const;
  // Bytes of what came from the file for a side of a layer. What belongs to none counts with the keys
  // of layer 0.
  uint64_t file_bytes(uint32_t layer, ops::Side side) const;

 private:
  Plan() = default;
  static absl::StatusOr<std::shared_ptr<Plan>> Parse(const Shape& shape, std::string_view recipes);
  Shape shape_;
  std::vector<Recipe> recipes_;         // the distinct ones
  std::vector<uint32_t> layer_recipe_;  // [layers] index into recipes_
  std::shared_ptr<const Factors> factors_;  // nullptr without a file
};

}  // namespace kvg

#endif  // KVGEAR_CORE_MODEL_PLAN_H_
