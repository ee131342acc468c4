// Caches on a CUDA device, with --device cuda: sealing prompts, appending and attending token by
// token. The times are those of the wall clock from the first call to the end of the work on the
// device, over calls enough that the queue never runs dry.
//
// Names: device/append_prompt/<recipe>, device/append_token/<recipe>,
// device/attend/<caches>/<tokens>/<recipe>, and device/copy for comparison: bytes read and written.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "core/model/recipe.h"
#include "tests/bench/bench_common.h"

namespace kvg::bench {
namespace {

constexpr Shape kShape = {.layers = 1, .q_heads = 32, .kv_heads = 8, .head_dim = 128};
constexpr uint64_t kPromptTokens = 32768;
constexpr uint64_t kTokens = 256;  // appended one by one
constexpr uint64_t kCopied = uint64_t{1} << 30;

struct Batch {
  uint64_t caches, tokens;
};
constexpr Batch kBatches[] = {{1, 8192}, {1, 131072}, {8, 32768}, {64, 4096}, {64, 8192}};

std::shared_ptr<Runtime> DeviceRuntime() {
  static const std::shared_ptr<Runtime> runtime = [] {
    RuntimeOptions options;
    options.device = DeviceType::kCuda;
    return Value(Runtime::Create(options));
  }();
  return runtime;
}

// Memory on the device; lives as long as the program.
void* Take(uint64_t bytes) {
  const Device::Call call(*DeviceRuntime()->device());
  void* const data = call.plugin().allocate(call.context(), bytes);
  if (data == nullptr) Fail(BackendError("the device has no ", bytes, " bytes left"));
  return data;
}

void Wait() {
  Device::Call call(*DeviceRuntime()->device());
  call.Wait();
  Must(call.status());
}

// As MakeTensor, repeated to `tokens` tokens.
const void* Tensor(uint64_t seed, uint64_t tokens) {
  constexpr uint64_t kTokensAtOnce = 4096;
  const std::vector<uint16_t> some = MakeTensor(seed, kTokensAtOnce, kShape.kv_heads, kShape.head_dim);
  const uint64_t bytes = some.size() * 2;
  auto* const to = static_cast<uint8_t*>(Take(tokens * kShape.kv_dim() * 2));
  Device::Call call(*DeviceRuntime()->device());
  for (uint64_t at = 0; at < tokens * kShape.kv_dim() * 2; at += bytes) {
    call.Check(call.plugin().write(call.context(), call.stream(), to + at, some.data(),
                                   std::min(bytes, tokens * kShape.kv_dim() * 2 - at)));
  }
  call.Wait();
  return to;
}

void AppendTo(Cache& cache, uint64_t tokens, uint64_t first = 0) {
  static const void* const k = Tensor(1, kPromptTokens);
  static const void* const v = Tensor(2, kPromptTokens);
  const uint64_t row = kShape.kv_dim() * 2;
  Must(cache.Append(0, {static_cast<const uint8_t*>(k) + first * row, tokens * row},
                    {static_cast<const uint8_t*>(v) + first * row, tokens * row}, ops::kF16, tokens));
}

std::unique_ptr<Cache> Empty(const std::string& recipe) {
  return Value(Cache::Create(DeviceRuntime(), Value(Plan::Create(kShape, recipe))));
}

template <typename Work>
void Time(benchmark::State& state, uint64_t inner, const Work& work) {
  for (auto _ : state) {
    const auto begin = std::chrono::steady_clock::now();
    for (uint64_t i = 0; i < inner; ++i) work();
    Wait();
    const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
    state.SetIterationTime(time.count() / static_cast<double>(inner));
  }
}

void AppendPrompt(benchmark::State& state, const std::string& recipe) {
  const auto cache = Empty(recipe);
  AppendTo(*cache, kPromptTokens);
  Time(state, 10, [&] {
    Must(cache->Clear());
    AppendTo(*cache, kPromptTokens);
  });
  state.counters["fp16_GBps"] = benchmark::Counter(
      static_cast<double>(2 * kPromptTokens * kShape.kv_dim() * 2) * 1e-9,
      benchmark::Counter::kIsIterationInvariantRate);
}

void AppendTokens(benchmark::State& state, const std::string& recipe) {
  const auto cache = Empty(recipe);
  AppendTo(*cache, 4096);
  uint64_t at = 0;
  Time(state, kTokens, [&] { AppendTo(*cache, 1, at++ % kPromptTokens); });
}

void Attend(benchmark::State& state, const std::string& recipe, const Batch& batch) {
  std::vector<std::unique_ptr<Cache>> caches;
  std::vector<const Cache*> list;
  for (uint64_t i = 0; i < batch.caches; ++i) {
    caches.push_back(Empty(recipe));
    for (uint64_t at = 0; at < batch.tokens; at += kPromptTokens) {
      AppendTo(*caches.back(), std::min(kPromptTokens, batch.tokens - at));
    }
    list.push_back(caches.back().get());
  }
  const size_t bytes = batch.caches * kShape.q_heads * kShape.head_dim * 2;
  static const void* const q = Tensor(3, 8 * 64);  // 64 caches of 4096 numbers are 256 tokens of K
  static void* const out = Take(uint64_t{64} * kShape.q_heads * kShape.head_dim * 2);
  Time(state, 50, [&] { Must(Cache::AttendBatch(list, 0, q, bytes, out, bytes, {})); });
  uint64_t own = 0;
  for (const auto& cache : caches) own += Value(cache->GetStats(0, true, true)).bytes_total();
  state.counters["own_GBps"] = benchmark::Counter(static_cast<double>(own) * 1e-9,
                                                  benchmark::Counter::kIsIterationInvariantRate);
}

void Copy(benchmark::State& state) {
  static void* const from = Take(kCopied);
  static void* const to = Take(kCopied);
  Time(state, 10, [&] {
    Device::Call call(*DeviceRuntime()->device());
    const ops::DeviceCopy copy{to, from, kCopied, kCopied, kCopied, 1};
    call.Check(call.plugin().copy(call.context(), call.stream(), &copy));
  });
  state.counters["GBps"] = benchmark::Counter(static_cast<double>(2 * kCopied) * 1e-9,
                                              benchmark::Counter::kIsIterationInvariantRate);
}

void AddDevice(const Options& options) {
  if (!options.cuda) return;
  benchmark::AddCustomContext("device", DeviceRuntime()->Describe());
  const auto add = [](const std::string& name, auto run) {
    benchmark::RegisterBenchmark(name.c_str(), run)
        ->Unit(benchmark::kMicrosecond)->UseManualTime()->MinTime(0.02);
  };
  add("device/copy", Copy);
  for (uint32_t i = 0; i < RecipeCount(); ++i) {
    const std::string recipe = RecipeName(i);
    const Recipe parsed = Value(ParseRecipe(recipe));
    if (parsed.k.map != SideRecipe::kNoMap || parsed.v.map != SideRecipe::kNoMap ||
      parsed.k.fit != ops::kFitRange || parsed.v.fit != ops::kFitRange ||
      !parsed.select.none()) continue;
    add("device/append_prompt/" + recipe, [recipe](auto& state) { AppendPrompt(state, recipe); });
    add("device/append_token/" + recipe, [recipe](auto& state) { AppendTokens(state, recipe); });
    for (const Batch& batch : kBatches) {
      add("device/attend/" + std::to_string(batch.caches) + "/" + std::to_string(batch.tokens) + "/" + recipe,
          [recipe, batch](auto& state) { Attend(state, recipe, batch); });
    }
  }
}

void PrintDevice(const Results& results) {
  const auto value = [&](const std::string& name, const char* counter) {
    const auto found = results.find("device/" + name);
    if (found == results.end()) return 0.0;
    return counter == nullptr ? found->second.seconds * 1e6 : found->second.counters.at(counter);
  };
  bool title = false;
  for (uint32_t i = 0; i < RecipeCount(); ++i) {
    const std::string recipe = RecipeName(i);
    if (value("append_prompt/" + recipe, nullptr) == 0) continue;
    if (!title) {
      std::printf("\nOn the device, %u KV heads, head_dim %u: a prompt of %u tokens, GB/s of fp16 keys and values;"
                  " one token, us\n%-12s %8s %8s\n", kShape.kv_heads, kShape.head_dim,
                  static_cast<unsigned>(kPromptTokens), "recipe", "prompt", "token");
      title = true;
    }
    std::printf("%-12s %8.1f %8.1f\n", recipe.c_str(), value("append_prompt/" + recipe, "fp16_GBps"),
                value("append_token/" + recipe, nullptr));
  }
  if (title) std::printf("%-12s %8.1f\n", "copy", value("copy", "GBps"));
}

KVG_BENCH(AddDevice, PrintDevice);

}  // namespace
}  // namespace kvg::bench
