// kvgear-plan: makes plans for a model ahead of time. One command a file; flags are Abseil's.
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/match.h"
#include "latent.h"
#include "refusal.h"
#include "tune.h"

namespace kvgplan {
namespace {

struct Command {
  const char* name;
  const char* summary;
  void (*run)();
};

constexpr Command kCommands[] = {
    {"latent", "finds the subspaces that latent caches keep, and writes a plan file", RunLatent},
    {"tune", "gives every layer and side the width that its answers need", RunTune},
};

std::string Usage() {
  std::string text = "makes plans for a model.\n\n  kvgear-plan COMMAND --model=DIR ...\n\ncommands:\n";
  for (const Command& command : kCommands) {
    text += std::string("  ") + command.name + ": " + command.summary + "\n";
  }
  return text + "\n--helpshort lists the flags.";
}

void Run(const std::vector<char*>& words) {
  for (const Command& command : kCommands) {
    if (words.size() == 2 && std::string(words[1]) == command.name) return command.run();
  }
  demo::Refuse("Say one command, such as 'kvgear-plan tune --model=DIR'; --help lists them.");
}

}  // namespace
}  // namespace kvgplan

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage(kvgplan::Usage());
  absl::FlagsUsageConfig config;  // else the flags of this file alone, which has none
  config.contains_helpshort_flags = [](absl::string_view file) {
    return absl::StrContains(file, "tools/plan/");
  };
  absl::SetFlagsUsageConfig(config);
  try {
    kvgplan::Run(absl::ParseCommandLine(argc, argv));
    return 0;
  } catch (const std::bad_alloc&) {
    std::fputs("kvgear-plan: There is not enough memory for this model and these plans.\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvgear-plan: %s\n", error.what());
  }
  return 1;
}
