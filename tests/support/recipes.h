// Tests that run once for every named recipe.
//
// Called by tests only.
#ifndef KVGEAR_TESTS_SUPPORT_RECIPES_H_
#define KVGEAR_TESTS_SUPPORT_RECIPES_H_

#include <algorithm>
#include <string>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"

namespace kvg::test {

// "gear-l-2" as part of a test's name.
inline std::string TestName(std::string recipe) {
  std::replace_if(
      recipe.begin(), recipe.end(), [](char c) { return std::isalnum(c) == 0; }, '_');
  return recipe;
}

// Whether the way in which tokens arrive, cut into calls or in one, can change the bits that are
// kept of them. It cannot change which tokens are sealed, which follows from the length alone. Nor
// can it change the bits, unless a part of the codec looks at the segment as a whole: low rank, the
// outliers of keys, and a channel's single scale.
inline bool LooksAtSegments(const SideRecipe& recipe, ops::Side side) {
  if (recipe.bits == 16) return false;
  return recipe.rank > 0 || recipe.decode_rank > 0 ||
         (side == ops::kSideK && recipe.outliers > 0) ||
         (recipe.axis == ops::kAxisChannel && recipe.group == SideRecipe::kWhole);
}

}  // namespace kvg::test

// Instantiates a suite whose parameter is the name of a recipe.
#define KVG_FOR_EVERY_RECIPE(suite)                                                       \
  INSTANTIATE_TEST_SUITE_P(Recipes, suite, testing::ValuesIn(::kvg::test::RecipeNames()), \
                           [](const auto& info) { return ::kvg::test::TestName(info.param); })

#endif  // KVGEAR_TESTS_SUPPORT_RECIPES_H_
