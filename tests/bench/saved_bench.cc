// Saving and loading beside plain sequential writing and reading of the same bytes, in one run; and
// loading by mapping at several lengths.
#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "core/format/load.h"
#include "core/format/save.h"
#include "tests/bench/bench_common.h"
#include "tests/support/cache_fixture.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 4, .q_heads = 32, .kv_heads = 8, .head_dim = 128};

std::string Path(const char* name) {
  return std::string("/tmp/kvgear-bench-") + std::to_string(getpid()) + "-" + name;
}

const Cache& Filled(const std::string& recipe, uint64_t tokens) {
  static std::vector<std::pair<std::string, std::unique_ptr<Cache>>> made;
  const std::string key = recipe + "/" + std::to_string(tokens);
  for (const auto& [name, cache] : made) {
    if (name == key) return *cache;
  }
  auto cache = MakeCache(kShape, recipe);
  const Tensor x = NoiseTensor(1, 4096, 8, 128);
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (uint64_t at = 0; at < tokens; at += 4096) Append(*cache, layer, x, x);
  }
  made.emplace_back(key, std::move(cache));
  return *made.back().second;
}

uint64_t SaveTo(const Cache& cache, const std::string& path) {
  const auto sink = Value(FileSink::Create(path));
  Must(SaveCache(cache, {}, *sink));
  Must(sink->Commit(false));
  return *Value(FileSource::Open(path))->remaining();
}

void Rate(benchmark::State& state, uint64_t bytes) {
  state.SetBytesProcessed(static_cast<int64_t>(bytes) * state.iterations());
}

// write() of so many bytes to a new file that then takes the name, as saving does.
void PlainWrite(benchmark::State& state, const std::string& recipe, uint64_t tokens) {
  const std::string path = Path("plain"), next = Path("plain-next");
  const std::vector<char> bytes(SaveTo(Filled(recipe, tokens), path), 'x');
  for (auto _ : state) {
    const int file = ::open(next.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
    for (size_t at = 0; at < bytes.size();) {
      const ssize_t some = ::write(file, bytes.data() + at, bytes.size() - at);
      if (some <= 0) return state.SkipWithError("write failed");
      at += static_cast<size_t>(some);
    }
    ::close(file);
    ::rename(next.c_str(), path.c_str());
  }
  ::unlink(path.c_str());
  Rate(state, bytes.size());
}

void Save(benchmark::State& state, const std::string& recipe, uint64_t tokens) {
  const Cache& cache = Filled(recipe, tokens);
  const std::string path = Path("saved");
  uint64_t bytes = 0;
  for (auto _ : state) bytes = SaveTo(cache, path);
  ::unlink(path.c_str());
  Rate(state, bytes);
}

// read() of the same file into memory fetched for it, as loading does.
void PlainRead(benchmark::State& state, const std::string& recipe, uint64_t tokens) {
  const std::string path = Path("read");
  const uint64_t bytes = SaveTo(Filled(recipe, tokens), path);
  Memory memory(SystemAllocator(), 0);
  for (auto _ : state) {
    const Buffer buffer(memory, bytes);
    const int file = ::open(path.c_str(), O_RDONLY);
    for (uint64_t at = 0; at < bytes;) {
      const ssize_t some = ::read(file, buffer.data() + at, bytes - at);
      if (some <= 0) return state.SkipWithError("read failed");
      at += static_cast<uint64_t>(some);
    }
    ::close(file);
  }
  ::unlink(path.c_str());
  Rate(state, bytes);
}

void Load(benchmark::State& state, const std::string& recipe, uint64_t tokens) {
  const Cache& cache = Filled(recipe, tokens);
  const std::string path = Path("load");
  const uint64_t bytes = SaveTo(cache, path);
  for (auto _ : state) {
    const auto source = Value(FileSource::Open(path));
    benchmark::DoNotOptimize(
        Value(LoadCache(cache.shared_runtime(), cache.shared_plan(), {.exact = true}, *source)));
  }
  ::unlink(path.c_str());
  Rate(state, bytes);
}

void Map(benchmark::State& state, const std::string& recipe, uint64_t tokens, bool trust) {
  const Cache& cache = Filled(recipe, tokens);
  const std::string path = Path("map");
  SaveTo(cache, path);
  for (auto _ : state) {
    const auto source = Value(FileSource::Map(path));
    benchmark::DoNotOptimize(
        Value(LoadCache(cache.shared_runtime(), cache.shared_plan(),
                        {.exact = true, .tables_only = trust}, *source)));
  }
  ::unlink(path.c_str());
}

void AddSavedBenchmarks(const bench::Options&) {
  for (const char* recipe : {"gear-2", "fp16"}) {
    const std::string name = std::string("saved/") + recipe + "/";
    constexpr uint64_t kTokens = 16384;
    const auto add = [&](const char* what, auto run) {
      benchmark::RegisterBenchmark((name + what).c_str(), run, std::string(recipe), kTokens)
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
    };
    add("plain_write", PlainWrite);
    add("save", Save);
    add("plain_read", PlainRead);
    add("load", Load);
  }
  for (const uint64_t tokens : {uint64_t{4096}, uint64_t{16384}, uint64_t{65536}}) {
    const std::string name = "saved/int4/" + std::to_string(tokens);
    for (const bool trust : {true, false}) {
      benchmark::RegisterBenchmark((name + (trust ? "/map_trust" : "/map")).c_str(), Map,
                                   std::string("int4"), tokens, trust)
          ->UseRealTime()
          ->Unit(benchmark::kMicrosecond);
    }
  }
}

KVG_BENCH(AddSavedBenchmarks, nullptr);

}  // namespace
}  // namespace kvg::test
