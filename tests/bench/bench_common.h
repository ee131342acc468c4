// What the benchmarks share: registration, filled caches, measured read bandwidth, summary tables.
//
// Each *_bench.cc registers itself with KVG_BENCH; bench_main.cc calls what was registered, runs
// Google Benchmark and then prints the summaries. Benchmarks fail by exception.
#ifndef KVGEAR_TESTS_BENCH_BENCH_COMMON_H_
#define KVGEAR_TESTS_BENCH_BENCH_COMMON_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/cache/cache.h"
#include "core/model/plan.h"
#include "core/runtime/runtime.h"

namespace kvg::bench {

struct Options {
  bool full = false;  // --full: every length, shape and recipe, which takes long
  bool cuda = false;  // --device cuda: what runs on a CUDA device, and nothing else
};

// One finished benchmark; of several repetitions the fastest.
struct Result {
  double seconds = 0;  // of one iteration, wall clock
  std::map<std::string, double> counters;
};
using Results = std::map<std::string, Result>;  // by name

// `add` calls benchmark::RegisterBenchmark; `summarise` (or nullptr) prints a table at the end.
struct Part {
  void (*add)(const Options& options);
  void (*summarise)(const Results& results);
};
bool Register(const Part& part);
const std::vector<Part>& Parts();

// At namespace scope: KVG_BENCH(AddSealBenchmarks, PrintSealTable);
#define KVG_BENCH(add, summarise) \
  [[maybe_unused]] const bool kvg_bench_##add = ::kvg::bench::Register({add, summarise})

// The value, or an exception that carries the sentence.
template <typename T>
T Value(absl::StatusOr<T> result);
void Must(const absl::Status& status);

std::shared_ptr<Runtime> MakeRuntime(uint32_t threads);

// fp16 numbers like those of a model: normal, with an offset for each channel that is large for
// some, and one entry in 100 far out. [tokens][kv_heads][head_dim]; after some thousand tokens they
// repeat, which no codec notices.
std::vector<uint16_t> MakeTensor(uint64_t seed, uint64_t tokens, uint32_t kv_heads,
                                 uint32_t head_dim);

// A cache of one layer that took `tokens` tokens as a prompt.
std::unique_ptr<Cache> MakeCache(std::shared_ptr<Runtime> runtime, const Shape& shape,
                                 const std::string& recipe, uint64_t tokens);

// Best GB/s of one thread that reads `bytes` of memory again and again; measured once for a size.
double ReadBandwidth(uint64_t bytes);

// --------------------------------------------------------------------------------------- inline

[[noreturn]] void Fail(const absl::Status& status);

template <typename T>
T Value(absl::StatusOr<T> result) {
  if (!result.ok()) Fail(result.status());
  return *std::move(result);
}

}  // namespace kvg::bench

#endif  // KVGEAR_TESTS_BENCH_BENCH_COMMON_H_
