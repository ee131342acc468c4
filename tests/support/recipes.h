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

}  // namespace kvg::test

// Instantiates a suite whose parameter is the name of a recipe.
#define KVG_FOR_EVERY_RECIPE(suite)                                                       \
  INSTANTIATE_TEST_SUITE_P(Recipes, suite, testing::ValuesIn(::kvg::test::RecipeNames()), \
                           [](const auto& info) { return ::kvg::test::TestName(info.param); })

#endif  // KVGEAR_TESTS_SUPPORT_RECIPES_H_
