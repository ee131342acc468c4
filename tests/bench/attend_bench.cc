// Decode attention: one query token on a filled cache, for all recipes, lengths and shapes.
//
// Names: attend/<q heads>/<kv heads>/<head_dim>/<tokens>/<threads>/<recipe>. The table at the end
// compares each recipe with fp16, and fp16 with the read bandwidth of one thread measured on as
// many bytes in the same run.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/model/recipe.h"
#include "tests/bench/bench_common.h"

namespace kvg::bench {
namespace {

struct Case {
  Shape shape;
  uint64_t tokens;
  uint32_t threads;  // beside the caller's
  std::string recipe;

  std::string Group() const {
    return "attend/" + std::to_string(shape.q_heads) + "/" + std::to_string(shape.kv_heads) + "/" +
           std::to_string(shape.head_dim) + "/" + std::to_string(tokens) + "/" +
           std::to_string(threads + 1);
  }
  std::string Name() const { return Group() + "/" + recipe; }
};

constexpr Shape kMainShape = {.layers = 1, .q_heads = 32, .kv_heads = 8, .head_dim = 128};
constexpr Shape kOtherShapes[] = {
    {.layers = 1, .q_heads = 32, .kv_heads = 32, .head_dim = 128},
    {.layers = 1, .q_heads = 64, .kv_heads = 8, .head_dim = 128},
    {.layers = 1, .q_heads = 32, .kv_heads = 8, .head_dim = 64},
    {.layers = 1, .q_heads = 32, .kv_heads = 8, .head_dim = 96},
};

std::vector<std::string> AllRecipes() {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < RecipeCount(); ++i) names.emplace_back(RecipeName(i));
  return names;
}

std::vector<Case> Cases(bool full) {
  const std::vector<std::string> all = AllRecipes();
  const std::vector<std::string> some = {"fp16", "int4", "kivi-2", "gear-4"};
  std::vector<Case> cases;
  const auto add = [&cases](const Shape& shape, const std::vector<uint64_t>& lengths,
                            const std::vector<std::string>& recipes, bool threads) {
    for (const uint64_t tokens : lengths) {
      for (uint32_t t = 0; t < (threads ? 2u : 1u); ++t) {
        for (const std::string& recipe : recipes) cases.push_back({shape, tokens, t, recipe});
      }
    }
  };
  if (full) {
    add(kMainShape, {1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072}, all, true);
    for (const Shape& shape : kOtherShapes) add(shape, {1024, 8192, 32768}, all, true);
  } else {
    add(kMainShape, {8192, 32768}, all, false);
    add(kMainShape, {1024, 8192}, some, true);
    for (const Shape& shape : kOtherShapes) add(shape, {8192}, some, false);
  }
  return cases;
}

// The cache of the case that runs; repetitions and calibration use it again.
struct Running {
  std::string name;
  std::unique_ptr<Cache> cache;
};

Cache& CacheOf(const Case& c) {
  static Running running;
  if (running.name != c.Name()) {
    running.cache.reset();
    running.cache = MakeCache(MakeRuntime(c.threads), c.shape, c.recipe, c.tokens);
    running.name = c.Name();
  }
  return *running.cache;
}

void Attend(benchmark::State& state, const Case& c) {
  const Cache& cache = CacheOf(c);
  const std::vector<uint16_t> q = MakeTensor(3, 1, c.shape.q_heads, c.shape.head_dim);
  std::vector<uint16_t> out(q.size());
  for (auto _ : state) {
    Must(cache.Attend(0, q.data(), q.size() * 2, out.data(), out.size() * 2, {}));
    benchmark::ClobberMemory();
  }
  const Stats stats = Value(cache.GetStats(0, true, true));
  const auto bytes = static_cast<double>(stats.bytes_total());
  state.counters["bytes"] = bytes;
  state.counters["bits_per_element"] = 8 * bytes / static_cast<double>(stats.elements);
  state.counters["bytes_per_second"] =
      benchmark::Counter(bytes, benchmark::Counter::kIsIterationInvariantRate);
  state.counters["read_GBps"] = ReadBandwidth(stats.elements * 2);
}

void Add(const Options& options) {
  if (options.cuda) return;
  std::set<std::string> seen;
  for (const Case& c : Cases(options.full)) {
    if (!seen.insert(c.Name()).second) continue;
    benchmark::RegisterBenchmark(c.Name().c_str(),
                                 [c](benchmark::State& state) { Attend(state, c); })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond)
        ->MinTime(0.25);
  }
}

void Print(const Results& results) {
  std::set<std::string> seen;
  std::string group;
  for (const Case& c : Cases(true)) {
    const auto found = results.find(c.Name());
    if (found == results.end() || !seen.insert(c.Name()).second) continue;
    if (group != c.Group()) {
      group = c.Group();
      std::printf(
          "\nDecode attention, %u query heads, %u KV heads, head_dim %u, %llu tokens, "
          "%u thread%s\n",
          c.shape.q_heads, c.shape.kv_heads, c.shape.head_dim,
          static_cast<unsigned long long>(c.tokens), c.threads + 1, c.threads == 0 ? "" : "s");
      std::printf("%-12s %9s %9s %7s %8s %9s %10s\n", "recipe", "ms", "MB", "bits", "GB/s",
                  "of read", "than fp16");
    }
    const Result& r = found->second;
    const double bytes = r.counters.at("bytes");
    const double rate = bytes / r.seconds * 1e-9;
    std::printf("%-12s %9.3f %9.2f %7.2f %8.2f %8.0f%%", c.recipe.c_str(), r.seconds * 1e3,
                bytes * 1e-6, r.counters.at("bits_per_element"), rate,
                100 * rate / r.counters.at("read_GBps"));
    Case fp16 = c;
    fp16.recipe = "fp16";
    const auto base = results.find(fp16.Name());
    if (base != results.end()) std::printf(" %8.2f x", base->second.seconds / r.seconds);
    std::printf("\n");
  }
}

KVG_BENCH(Add, Print);

}  // namespace
}  // namespace kvg::bench
