// kvgear-demo: compares recipes on exams and a text, or continues a prompt. All that it knows of
// kvgear is <kvgear/kvgear.h>.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "claims.h"
#include "compressed_store.h"
#include "device.h"
#include "evaluate.h"
#include "exams.h"
#include "files.h"
#include "generate.h"
#include "model.h"
#include "options.h"
#include "plot.h"
#include "png.h"
#include "refusal.h"
#include "report.h"
#include "threads.h"

namespace demo {
namespace {

void RequireBytes(const Model& model, const Options& options) {
  if (model.config().vocab == 256) return;
  Refuse(options.model, ": the model has a vocabulary of ", model.config().vocab,
         " tokens. This demo has no tokenizer, so exams, texts and prompts need a model whose ",
         "tokens are the 256 bytes; other models can continue token numbers with --prompt-ids.");
}

void RunPrompt(const Options& options, Model& model, ThreadPool& pool, const DevicePtr& device) {
  if (options.prompt) RequireBytes(model, options);
  Generation generation;
  generation.recipe = options.recipes.empty() ? "gear-4" : options.recipes.front();
  generation.prompt = options.prompt ? Tokens(*options.prompt) : *options.prompt_ids;
  generation.max_tokens = options.max_tokens;
  generation.temperature = options.temperature;
  generation.seed = options.seed;
  generation.device = device;
  if (options.prompt) std::fputs(options.prompt->c_str(), stdout);
  const std::string summary = Generate(model, pool, generation, [&](uint32_t token) {
    if (options.prompt) {
      std::putchar(static_cast<int>(token));
    } else {
      std::printf("%u ", token);
    }
    std::fflush(stdout);
  });
  std::putchar('\n');
  std::fprintf(stderr, "%s\n", summary.c_str());
}

/// The model's name and size, for the picture.
std::string ModelLine(const std::string& dir, const Model& model) {
  const ModelConfig& c = model.config();
  char size[96];
  std::snprintf(size, sizeof(size), "%.1f M parameters, %u layers, %u/%u heads of %u",
                static_cast<double>(model.parameters()) / 1e6, c.layers, c.q_heads, c.kv_heads,
                c.head_dim);
  return "model '" + std::filesystem::path(dir + "/").parent_path().filename().string() + "': " + size;
}

/// The recipes to compare: fp16 first, each once. Of all named ones, those that the device knows.
std::vector<std::string> WantedRecipes(const Options& options, const ModelConfig& config,
                                       const RuntimePtr& runtime) {
  std::vector<std::string> wanted = {"fp16"};
  std::string unknown;
  for (const std::string& recipe : options.recipes.empty() ? RecipeNames() : options.recipes) {
    if (std::find(wanted.begin(), wanted.end(), recipe) != wanted.end()) continue;
    if (options.recipes.empty() && !Knows(runtime, config, recipe)) {
      unknown += " " + recipe;
    } else {
      wanted.push_back(recipe);
    }
  }
  for (const std::string& recipe : options.also) {
    if (std::find(wanted.begin(), wanted.end(), recipe) == wanted.end()) wanted.push_back(recipe);
  }
  if (!unknown.empty()) {
    std::fprintf(stderr, "left out, for the device does not know them:%s\n", unknown.c_str());
  }
  return wanted;
}

void RunComparison(const Options& options, Model& model, ThreadPool& pool,
                   const RuntimePtr& runtime, const DevicePtr& device) {
  RequireBytes(model, options);
  if (!options.plot.empty()) RequireConverter();  // before the work, not after it
  Questions questions;
  if (!options.exams.empty()) {
    questions.exams = ChooseExams(ReadExams(options.exams), options.max_items, options.seed);
  }
  if (!options.text.empty()) {
    questions.windows = ChooseWindows(ReadWholeFile(options.text), kWindowPrompt + kWindowScored,
                                      options.max_items, options.seed);
  }
  const std::vector<Result> results =
      Evaluate(model, pool, WantedRecipes(options, model.config(), runtime), questions,
               Speed::kMeasured, device);
  std::fputs(TableText(results).c_str(), stdout);
  std::fputs(ClaimsText(results).c_str(), stdout);
  if (!options.json.empty()) WriteWholeFile(options.json, JsonText(results));
  if (!options.plot.empty()) {
    WriteWholeFile(options.plot + ".svg", PictureSvg(results, ModelLine(options.model, model)));
    ConvertToPng(options.plot + ".svg", options.plot + ".png");
  }
}

void Run(const std::vector<std::string>& arguments) {
  const Options options = ParseOptions(arguments);
  if (options.help) {
    std::fputs(Usage().c_str(), stdout);
    return;
  }
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  ThreadPool pool(options.threads > 0 ? options.threads : std::min(cores, 256u));
  Model model(options.model, pool);
  const ModelConfig& c = model.config();
  const DevicePtr device = OpenDevice(options.device);
  const RuntimePtr runtime = MakeRuntime(static_cast<uint32_t>(pool.threads() - 1), device);
  std::fprintf(stderr, "%s (%s)\nkvgear %s: %s; decoder: %s, %zu threads\n",
               ModelLine(options.model, model).c_str(), c.model_type.c_str(), kvg_version_string(),
               Describe(*runtime).c_str(), KernelName(), pool.threads());
  if (options.prompt || options.prompt_ids) {
    RunPrompt(options, model, pool, device);
  } else {
    RunComparison(options, model, pool, runtime, device);
  }
}

}  // namespace
}  // namespace demo

int main(int argc, char** argv) {
  try {
    demo::Run(std::vector<std::string>(argv + std::min(argc, 1), argv + argc));
    return 0;
  } catch (const std::bad_alloc&) {
    std::fputs("kvgear-demo: There is not enough memory for this model and these recipes.\n", stderr);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvgear-demo: %s\n", error.what());
  }
  return 1;
}
