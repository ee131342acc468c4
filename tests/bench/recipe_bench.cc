// What each named recipe costs and keeps: bytes by what they hold, and relative errors, on
// synthetic keys and values; a prompt and some decoded tokens. Nothing here is timed to be
// compared.
//
// Names: recipe/<recipe>. The table at the end gives bits per element of the whole cache, of which
// so many for each part, and |x - x~| / |x| of the compressed tokens.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

#include "core/model/recipe.h"
#include "tests/bench/bench_common.h"

namespace kvg::bench {
namespace {

constexpr Shape kShape = {.layers = 1, .q_heads = 8, .kv_heads = 8, .head_dim = 128};
constexpr uint64_t kPromptTokens = 4096;
constexpr uint64_t kDecodeTokens = 512;

struct Column {
  const char* name;
  double (*value)(const Stats& stats);
};

double Bits(const Stats& stats, uint64_t bytes) {
  return 8 * static_cast<double>(bytes) / static_cast<double>(stats.elements);
}

const Column kColumns[] = {
    {"bits", [](const Stats& s) { return Bits(s, s.bytes_total()); }},
    {"codes", [](const Stats& s) { return Bits(s, s.bytes_codes); }},
    {"scales", [](const Stats& s) { return Bits(s, s.bytes_scales); }},
    {"low_rank", [](const Stats& s) { return Bits(s, s.bytes_low_rank); }},
    {"sparse", [](const Stats& s) { return Bits(s, s.bytes_sparse); }},
    {"window", [](const Stats& s) { return Bits(s, s.bytes_window_allocated); }},
    {"other", [](const Stats& s) { return Bits(s, s.bytes_bookkeeping); }},
    {"k_mean", [](const Stats& s) { return s.rel_error_k_mean; }},
    {"k_worst", [](const Stats& s) { return s.rel_error_k_worst; }},
    {"v_mean", [](const Stats& s) { return s.rel_error_v_mean; }},
    {"v_worst", [](const Stats& s) { return s.rel_error_v_worst; }},
};

void FillAndReport(benchmark::State& state, const std::string& recipe) {
  const std::vector<uint16_t> k = MakeTensor(3, kDecodeTokens, kShape.kv_heads, kShape.head_dim);
  const std::vector<uint16_t> v = MakeTensor(4, kDecodeTokens, kShape.kv_heads, kShape.head_dim);
  const size_t width = kShape.kv_dim();
  for (auto _ : state) {
    const auto cache = MakeCache(MakeRuntime(0), kShape, recipe, kPromptTokens);
    for (uint64_t t = 0; t < kDecodeTokens; ++t) {
      Must(cache->Append(0, {.data = &k[t * width], .bytes = width * 2},
                         {.data = &v[t * width], .bytes = width * 2}, ops::kF16, 1));
    }
    const Stats stats = Value(cache->GetStats(0, true, true));
    for (const Column& column : kColumns) state.counters[column.name] = column.value(stats);
  }
}

void AddRecipes(const Options& options) {
  if (options.cuda) return;
  for (uint32_t i = 0; i < RecipeCount(); ++i) {
    const std::string recipe = RecipeName(i);
    benchmark::RegisterBenchmark(
        ("recipe/" + recipe).c_str(),
        [recipe](benchmark::State& state) { FillAndReport(state, recipe); })
        ->Iterations(1)
        ->Unit(benchmark::kMillisecond);
  }
}

void PrintRecipes(const Results& results) {
  bool title = false;
  for (uint32_t i = 0; i < RecipeCount(); ++i) {
    const std::string recipe = RecipeName(i);
    const auto found = results.find("recipe/" + recipe);
    if (found == results.end()) continue;
    if (!title) {
      std::printf(
          "\nbits per element and relative errors: %d tokens of prompt, %d decoded, %d heads "
          "of %d\n%-10s",
          static_cast<int>(kPromptTokens), static_cast<int>(kDecodeTokens),
          static_cast<int>(kShape.kv_heads), static_cast<int>(kShape.head_dim), "recipe");
      for (const Column& column : kColumns) std::printf(" %8s", column.name);
      std::printf("\n");
      title = true;
    }
    std::printf("%-10s", recipe.c_str());
    for (const Column& column : kColumns) {
      std::printf(" %8.3f", found->second.counters.at(column.name));
    }
    std::printf("\n");
  }
}

KVG_BENCH(AddRecipes, PrintRecipes);

}  // namespace
}  // namespace kvg::bench
