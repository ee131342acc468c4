// kvgear-bench: runs all benchmarks and prints the tables that compare them.
//
//   kvgear-bench [--full] [--device cpu|cuda] [--benchmark_filter=REGEX] [--benchmark_out=FILE] ...
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>

#include "tests/bench/bench_common.h"

namespace kvg::bench {
namespace {

// Prints as usual and remembers the fastest run of each benchmark.
class Collector : public benchmark::ConsoleReporter {
 public:
  void ReportRuns(const std::vector<Run>& runs) override {
    ConsoleReporter::ReportRuns(runs);
    for (const Run& run : runs) {
      if (run.error_occurred || run.run_type != Run::RT_Iteration) continue;
      const double seconds =
          run.GetAdjustedRealTime() / benchmark::GetTimeUnitMultiplier(run.time_unit);
      Result& result = results_[run.run_name.function_name];
      if (result.seconds > 0 && result.seconds <= seconds) continue;
      result.seconds = seconds;
      for (const auto& [name, counter] : run.counters) result.counters[name] = counter.value;
    }
  }
  const Results& results() const { return results_; }

 private:
  Results results_;
};

int Main(int argc, char** argv) {
  Options options;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--full") == 0) {
      options.full = true;
    } else if (std::strcmp(argv[i], "--device") == 0 && i + 1 < argc) {
      const std::string device = argv[++i];
      if (device != "cpu" && device != "cuda") {
        std::fprintf(stderr, "kvgear-bench: --device is %s; it may be cpu or cuda\n", device.c_str());
        return 1;
      }
      options.cuda = device == "cuda";
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::AddCustomContext("kernels", MakeRuntime(0)->table().name);
  for (const Part& part : Parts()) part.add(options);
  Collector collector;
  benchmark::RunSpecifiedBenchmarks(&collector);
  for (const Part& part : Parts()) {
    if (part.summarise != nullptr) part.summarise(collector.results());
  }
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace kvg::bench

int main(int argc, char** argv) {
  try {
    return kvg::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvgear-bench: %s\n", error.what());
    return 1;
  }
}
