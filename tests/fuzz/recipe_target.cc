// Fuzzing: any text as a recipe and as a plan. What is accepted has a canonical text that means the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "tests/fuzz/target.h"

namespace kvg::test {

void FuzzOne(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<Recipe> recipe = ParseRecipe(text);
  if (recipe.ok()) {
    const absl::StatusOr<Recipe> again = ParseRecipe(PrintRecipe(*recipe));
    if (!again.ok() || !(*again == *recipe)) std::abort();
  }
  const auto plan = Plan::Create({.layers = 4, .q_heads = 4, .kv_heads = 2, .head_dim = 40}, text);
  if (!plan.ok() && plan.status().message().empty()) std::abort();
}

}  // namespace kvg::test
