// Filling and reading back: sealing one segment, appending prompts and single tokens, reading.
//
// Names: seal/<side>/<recipe>, append_prompt/<recipe>, append_token/<recipe>, read/<recipe>, and
// memory/copy and memory/read for comparison. All rates are in bytes of fp16 keys and values per
// second of CPU time: all of this runs on one thread.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/codec/segment.h"
#include "core/model/recipe.h"
#include "tests/bench/bench_common.h"

namespace kvg::bench {
namespace {

constexpr Shape kShape = {.layers = 1, .q_heads = 32, .kv_heads = 8, .head_dim = 128};
constexpr uint64_t kSegmentTokens = 1024;
constexpr uint64_t kPromptTokens = 8192;
constexpr uint64_t kDecodeTokens = 1152;  // beyond all windows, and through many blocks

std::vector<std::string> Recipes() {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < RecipeCount(); ++i) names.emplace_back(RecipeName(i));
  return names;
}

void SetBytes(benchmark::State& state, uint64_t bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * static_cast<int64_t>(state.iterations()));
}

// One segment is sealed again and again: it never grows, so every call starts from its first slot.
void SealOne(benchmark::State& state, const std::string& recipe, ops::Side side) {
  const auto runtime = MakeRuntime(0);
  Turn turn(*runtime);
  const Recipe parsed = Value(ParseRecipe(recipe));
  const SideRecipe& of_side = side == ops::kSideK ? parsed.k : parsed.v;
  const SegmentForm form = SegmentForm::Of(of_side, kShape, side, kSegmentTokens, false);
  const SegmentRef segment = Segment::Create(turn.executor(), form, 0);
  // Head by head, as the window hands them over.
  const auto x = MakeTensor(1, kSegmentTokens * kShape.kv_heads, 1, kShape.head_dim);
  const RowsView rows{.rows = x.data(), .head_stride = kSegmentTokens * kShape.head_dim};
  double error_sq = 0;
  for (auto _ : state) {
    const SealedRun run = segment->Seal(turn.executor(), rows, kSegmentTokens, 1);
    error_sq = run.error_sq / run.norm_sq;
  }
  SetBytes(state, x.size() * 2);
  state.counters["rel_error_sq"] = error_sq;
}

void AppendPrompt(benchmark::State& state, const std::string& recipe) {
  const auto cache = MakeCache(MakeRuntime(0), kShape, recipe, 1);
  const auto k = MakeTensor(1, kPromptTokens, kShape.kv_heads, kShape.head_dim);
  const auto v = MakeTensor(2, kPromptTokens, kShape.kv_heads, kShape.head_dim);
  for (auto _ : state) {
    Must(cache->Clear());
    Must(cache->Append(0, {.data = k.data(), .bytes = k.size() * 2},
                       {.data = v.data(), .bytes = v.size() * 2}, ops::kF16, kPromptTokens));
  }
  SetBytes(state, (k.size() + v.size()) * 2);
}

void AppendTokens(benchmark::State& state, const std::string& recipe) {
  const auto cache = MakeCache(MakeRuntime(0), kShape, recipe, 1);
  const auto k = MakeTensor(1, kDecodeTokens, kShape.kv_heads, kShape.head_dim);
  const auto v = MakeTensor(2, kDecodeTokens, kShape.kv_heads, kShape.head_dim);
  const uint64_t width = kShape.kv_dim();
  for (auto _ : state) {
    Must(cache->Clear());
    for (uint64_t i = 0; i < kDecodeTokens; ++i) {
      Must(cache->Append(0, {.data = k.data() + i * width, .bytes = width * 2},
                         {.data = v.data() + i * width, .bytes = width * 2}, ops::kF16, 1));
    }
  }
  SetBytes(state, (k.size() + v.size()) * 2);
  state.SetItemsProcessed(static_cast<int64_t>(kDecodeTokens) *
                          static_cast<int64_t>(state.iterations()));
}

void ReadBack(benchmark::State& state, const std::string& recipe) {
  const auto cache = MakeCache(MakeRuntime(0), kShape, recipe, kPromptTokens);
  std::vector<uint16_t> out(kPromptTokens * kShape.kv_dim());
  for (auto _ : state) {
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      Must(cache->Read(0, side, 0, kPromptTokens, ops::kF16, out.data(), out.size() * 2));
    }
    benchmark::ClobberMemory();
  }
  SetBytes(state, out.size() * 2 * 2);
}

void Copy(benchmark::State& state) {
  const std::vector<uint16_t> from = MakeTensor(1, kPromptTokens, kShape.kv_heads, kShape.head_dim);
  std::vector<uint16_t> to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size() * 2);
    benchmark::ClobberMemory();
  }
  SetBytes(state, from.size() * 2);
}

void ReadMemory(benchmark::State& state) {
  const uint64_t bytes = kPromptTokens * kShape.kv_dim() * 2;
  for (auto _ : state) state.counters["read_GBps"] = ReadBandwidth(bytes);
}

template <typename Run>
void AddOne(const std::string& name, const Run& run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->Unit(benchmark::kMicrosecond)->MinTime(0.25);
}

void AddSeal(const Options& options) {
  if (options.cuda) return;
  for (const std::string& recipe : Recipes()) {
    const auto add = [&recipe](const std::string& what, auto run) {
      AddOne(what + "/" + recipe, [run, recipe](benchmark::State& state) { run(state, recipe); });
    };
    if (recipe != "fp16") {
      add("seal/k", [](auto& state, const auto& r) { SealOne(state, r, ops::kSideK); });
      add("seal/v", [](auto& state, const auto& r) { SealOne(state, r, ops::kSideV); });
    }
    add("append_prompt", AppendPrompt);
    add("append_token", AppendTokens);
    add("read", ReadBack);
  }
  AddOne("memory/copy", Copy);
  benchmark::RegisterBenchmark("memory/read", ReadMemory)->Iterations(1);
}

void PrintSeal(const Results& results) {
  const auto rate = [&results](const std::string& name) {
    const auto found = results.find(name);
    return found == results.end() ? 0.0 : found->second.counters.at("bytes_per_second") * 1e-9;
  };
  bool title = false;
  for (const std::string& recipe : Recipes()) {
    const auto token = results.find("append_token/" + recipe);
    const double rates[] = {rate("seal/k/" + recipe), rate("seal/v/" + recipe),
                            rate("append_prompt/" + recipe), rate("read/" + recipe)};
    if (token == results.end() && rates[0] + rates[1] + rates[2] + rates[3] == 0) continue;
    if (!title) {
      std::printf("\nFilling and reading, %u KV heads, head_dim %u, GB/s of fp16\n",
                  kShape.kv_heads, kShape.head_dim);
      std::printf("%-12s %8s %8s %8s %8s %14s\n", "recipe", "seal K", "seal V", "prompt", "read",
                  "us per token");
      title = true;
    }
    std::printf("%-12s", recipe.c_str());
    for (const double r : rates) {
      if (r > 0) {
        std::printf(" %8.2f", r);
      } else {
        std::printf(" %8s", "-");  // not run, or nothing to seal
      }
    }
    if (token != results.end()) {
      std::printf(" %14.2f", 1e6 / token->second.counters.at("items_per_second"));
    }
    std::printf("\n");
  }
  const double copy = rate("memory/copy");
  if (copy > 0) std::printf("%-12s %8.2f\n", "memcpy", copy);
  const auto read = results.find("memory/read");
  if (read != results.end()) {
    std::printf("%-12s %8.2f\n", "plain read", read->second.counters.at("read_GBps"));
  }
}

KVG_BENCH(AddSeal, PrintSeal);

}  // namespace
}  // namespace kvg::bench
