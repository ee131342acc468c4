// core/select/README.md and README.md against the table of policies: every policy has its row with its
// source, no row is of a policy that is gone, and the example is what the table has.
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "core/select/policy.h"
#include "gtest/gtest.h"

namespace kvg {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_GT(text.str().size(), 100u) << path << ": run from the root of the tree";
  return text.str();
}

TEST(SelectDocs, TheFolderHasARowForEveryPolicy) {
  const std::string readme = ReadFile("core/select/README.md");
  std::set<std::string> rows;
  std::istringstream lines(readme.substr(readme.find("## Policies")));
  for (std::string line; std::getline(lines, line) && line.rfind("## How to add", 0) != 0;) {
    if (line.rfind("| `", 0) == 0) rows.insert(line.substr(3, line.find('`', 3) - 3));
  }
  for (uint32_t i = 0; i < PolicyCount(); ++i) {
    const PolicyInfo& policy = *PolicyAt(i);
    const std::string row = std::string("| `") + policy.name + "` | " + policy.source + " |";
    EXPECT_NE(readme.find(row), std::string::npos) << "core/select/README.md lacks " << row;
    rows.erase(policy.name);
  }
  EXPECT_TRUE(rows.empty()) << *rows.begin() << " is no policy";
}

TEST(SelectDocs, TheExampleIsInTheTable) {
  const std::string readme = ReadFile("core/select/README.md");
  const size_t begin = readme.find("```c++\n") + 7;
  const std::string example = readme.substr(begin, readme.find("```", begin) - begin);
  EXPECT_NE(ReadFile("core/select/policy.cc").find(example), std::string::npos) << example;
}

TEST(SelectDocs, TheFrontPageNamesEveryPolicy) {
  const std::string readme = ReadFile("README.md");
  for (uint32_t i = 0; i < PolicyCount(); ++i) {
    EXPECT_NE(readme.find(std::string("`") + PolicyAt(i)->name + "`"), std::string::npos)
        << "README.md does not name " << PolicyAt(i)->name;
  }
}

}  // namespace
}  // namespace kvg
