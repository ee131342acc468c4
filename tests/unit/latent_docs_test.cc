// core/latent/README.md and README.md against the table of recipes that need a plan file.
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>

#include "core/model/recipe.h"

namespace kvg {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_GT(text.str().size(), 100u) << path << ": run from the root of the tree";
  return text.str();
}

TEST(LatentDocs, EveryRecipeIsNamed) {
  const std::string folder = ReadFile("core/latent/README.md"), front = ReadFile("README.md");
  const std::string table = folder.substr(folder.find("## Recipes"), folder.find("Any recipe takes") - folder.find("## Recipes"));
  size_t ticks = 0;
  for (const char c : table) ticks += c == '`';
  EXPECT_EQ(ticks, 2 * FileRecipeCount()) << "a row is of a recipe that is gone";
  for (uint32_t i = 0; i < FileRecipeCount(); ++i) {
    const std::string name = std::string("`") + FileRecipeName(i) + "`";
    EXPECT_NE(table.find(name), std::string::npos) << "core/latent/README.md lacks " << name;
    EXPECT_NE(front.find(name), std::string::npos) << "README.md lacks " << name;
    EXPECT_TRUE(ParseRecipe(FileRecipeName(i)).ok());
  }
  EXPECT_EQ(FileRecipeName(FileRecipeCount()), nullptr);
}

TEST(LatentDocs, TheExampleIsInTheTable) {
  const std::string readme = ReadFile("core/latent/README.md");
  const size_t begin = readme.find("```c++\n") + 7;
  const std::string example = readme.substr(begin, readme.find("```", begin) - begin);
  EXPECT_NE(ReadFile("core/model/recipe.cc").find(example), std::string::npos) << example;
}

}  // namespace
}  // namespace kvg
