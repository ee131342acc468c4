// The command line of kvgear-demo. Used by main.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_OPTIONS_H_
#define KVGEAR_EXAMPLES_DEMO_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace demo {

struct Options {
  std::string model;
  std::string exams;
  std::string text;
  std::vector<std::string> recipes;  // empty = all named ones
  std::vector<std::string> also;     // beside those
  std::string json;
  std::string plot;                  // without .svg or .png
  std::string device = "cpu";        // or "cuda", "cuda:N"
  std::optional<std::string> prompt;
  std::optional<std::vector<uint32_t>> prompt_ids;
  uint32_t max_items = 0;    // 0 = all
  uint32_t max_tokens = 256;
  uint64_t seed = 0;
  uint32_t threads = 0;      // 0 = as many as the machine has
  double temperature = 0;
  bool help = false;
};

/// Reads the arguments behind the program's name, or refuses with the sentence to print.
Options ParseOptions(const std::vector<std::string>& arguments);

/// What --help prints.
std::string Usage();

/// Takes "a,b,c" apart. A piece that holds '=' belongs to the recipe before it, so that
/// "fp16,gear-2,k.rank=4,int4" is three recipes.
std::vector<std::string> SplitRecipes(const std::string& list);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_OPTIONS_H_
