// Caches on a CUDA device beside the caller's own CUDA: streams, graphs, threads, errors of the
// device, sequences beyond 2^31 elements. What needs no CUDA in the test is in cache_test.cc.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "tests/gpu/copy_kernel.h"
#include "tests/gpu/device_fixture.h"

namespace kvg::test {
namespace {

using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 2, .q_heads = 8, .kv_heads = 2, .head_dim = 128};

void Ok(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

class Stream {
 public:
  Stream() { Ok(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }
  void Wait() const { Ok(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
};

// Device memory of the test's own.
class Array {
 public:
  explicit Array(size_t elements) : bytes_(elements * 2) { Ok(cudaMalloc(&data_, bytes_)); }
  explicit Array(const std::vector<uint16_t>& x) : Array(x.size()) { Put(x); }
  Array(const Array&) = delete;
  Array& operator=(const Array&) = delete;
  ~Array() { cudaFree(data_); }
  void Put(const std::vector<uint16_t>& x) {
    Ok(cudaMemcpy(data_, x.data(), x.size() * 2, cudaMemcpyHostToDevice));
  }
  std::vector<uint16_t> Get() const {
    std::vector<uint16_t> x(bytes_ / 2);
    Ok(cudaMemcpy(x.data(), data_, bytes_, cudaMemcpyDeviceToHost));
    return x;
  }
  uint16_t* at(size_t element = 0) const { return static_cast<uint16_t*>(data_) + element; }
  size_t bytes() const { return bytes_; }

 private:
  const size_t bytes_;
  void* data_ = nullptr;
};

std::vector<uint16_t> Rows(uint64_t seed, uint64_t tokens, const Shape& shape = kShape) {
  return ToF16(RealisticTensor(seed, tokens, shape.kv_heads, shape.head_dim));
}
std::vector<uint16_t> Queries(uint64_t seed, uint64_t rows, const Shape& shape = kShape) {
  return ToF16(NoiseTensor(seed, rows, shape.q_heads, shape.head_dim, 0.3));
}

// Keys and values on the device, appended from there in any parts.
struct Input {
  explicit Input(uint64_t seed, uint64_t tokens) : k(Rows(2 * seed, tokens)), v(Rows(2 * seed + 1, tokens)) {}
  Array k, v;
  absl::Status Append(Cache& cache, uint32_t layer, uint64_t first, uint64_t tokens, void* stream) const {
    const size_t row = kShape.kv_dim(), bytes = tokens * row * 2;
    return cache.Append(layer, {k.at(first * row), bytes}, {v.at(first * row), bytes}, ops::kF16, tokens,
                        nullptr, stream);
  }
};

absl::Status Attend(const std::vector<const Cache*>& caches, uint32_t layer, const Array& q, const Array& out,
                    void* stream) {
  AttendOptions options;
  options.stream = stream;
  return Cache::AttendBatch(caches, layer, q.at(), q.bytes(), out.at(), out.bytes(), options);
}

#define SKIP_WITHOUT_DEVICE() \
  if (int n = 0; cudaGetDeviceCount(&n) != cudaSuccess || n == 0) GTEST_SKIP() << "skipped: no CUDA device"

// Work of each of several streams, queued without waiting, gives the bits of the same calls one by one.
TEST(Streams, DoNotMix) {
  SKIP_WITHOUT_DEVICE();
  const auto runtime = Value(TryDeviceRuntime());
  const Input in(1, 3000);
  const Array q(Queries(5, 1));
  for (const char* recipe : {"fp16", "kivi-2", "gear-4", "int4"}) {
    constexpr int kCaches = 6;
    std::vector<std::unique_ptr<Cache>> one_by_one, queued;
    std::vector<std::unique_ptr<Array>> want, got;
    std::vector<Stream> streams(3);
    for (int i = 0; i < kCaches; ++i) {
      for (auto* caches : {&one_by_one, &queued}) caches->push_back(MakeCache(kShape, recipe, runtime));
      want.push_back(std::make_unique<Array>(kShape.q_heads * kShape.head_dim));
      got.push_back(std::make_unique<Array>(kShape.q_heads * kShape.head_dim));
    }
    const auto work = [&](Cache& cache, int i, int step, const Array& out, void* stream) {
      const uint64_t length = Length(cache);
      Must(in.Append(cache, 0, (length * 7 + static_cast<uint64_t>(i)) % 1000, step % 4 == 0 ? 150 + 10u * static_cast<uint32_t>(i) : 1, stream));
      Must(Attend({&cache}, 0, q, out, stream));
    };
    for (int step = 0; step < 12; ++step) {
      for (int i = 0; i < kCaches; ++i) {
        const auto n = static_cast<size_t>(i);
        work(*one_by_one[n], i, step, *want[n], nullptr);
        Ok(cudaDeviceSynchronize());
      }
    }
    // A cache stays on its stream, except that its last steps are on another, ordered by an event.
    for (int step = 0; step < 12; ++step) {
      for (int i = 0; i < kCaches; ++i) {
        const auto n = static_cast<size_t>(i);
        if (step == 8) {
          cudaEvent_t event;
          Ok(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
          Ok(cudaEventRecord(event, streams[n % 3]));
          Ok(cudaStreamWaitEvent(streams[(n + 1) % 3], event, 0));
          Ok(cudaEventDestroy(event));
        }
        work(*queued[n], i, step, *got[n], streams[(n + (step >= 8 ? 1 : 0)) % 3]);
        if (step == 6) queued[n]->Fork().IgnoreError();  // comes and goes
      }
    }
    Ok(cudaDeviceSynchronize());
    for (size_t i = 0; i < kCaches; ++i) {
      EXPECT_TRUE(want[i]->Get() == got[i]->Get()) << recipe << " " << i;
      EXPECT_TRUE(ReadAll(*one_by_one[i], 0, ops::kSideK) == ReadAll(*queued[i], 0, ops::kSideK)) << recipe;
      EXPECT_TRUE(ReadAll(*one_by_one[i], 0, ops::kSideV) == ReadAll(*queued[i], 0, ops::kSideV)) << recipe;
    }
  }
}

// A batch of different sequences and recipes, captured once (the first call ever on that stream) and
// replayed with other queries.
TEST(Graphs, ReplayABatch) {
  SKIP_WITHOUT_DEVICE();
  const auto runtime = Value(TryDeviceRuntime());
  const Input in(3, 9000);
  for (const char* recipe : {"fp16", "kivi-4", "gear-2", "int8", "gear-l-4"}) {
    std::vector<std::unique_ptr<Cache>> caches;
    std::vector<const Cache*> list;
    for (const uint64_t tokens : {uint64_t{1}, uint64_t{9000}, uint64_t{129}, uint64_t{4100}, uint64_t{640}}) {
      caches.push_back(MakeCache(kShape, recipe, runtime));
      Must(in.Append(*caches.back(), 1, 0, tokens, nullptr));
      list.push_back(caches.back().get());
    }
    const Stream stream;
    Ok(cudaDeviceSynchronize());
    Array q(Queries(1, list.size()));
    const Array out(q.bytes() / 2), want(q.bytes() / 2);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    Ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    Must(Attend(list, 1, q, out, stream));
    Must(Attend({list[1]}, 1, q, out, stream));  // two in one graph share scratch, one behind the other
    Must(Attend(list, 1, q, out, stream));
    const absl::Status refused = in.Append(*caches[0], 1, 0, 1, stream);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << refused;
    Ok(cudaStreamEndCapture(stream, &graph));
    Ok(cudaGraphInstantiate(&executable, graph, 0));
    for (uint64_t seed = 1; seed < 5; ++seed) {
      q.Put(Queries(seed, list.size()));
      Ok(cudaGraphLaunch(executable, stream));
      if (seed == 3) {  // scratch of the stream may grow meanwhile; the graph keeps its own
        const Array many_q(Queries(9, 40)), many_out(many_q.bytes() / 2);
        std::vector<const Cache*> many(40, list[1]);
        Must(Attend(many, 1, many_q, many_out, stream));
        stream.Wait();
        Ok(cudaGraphLaunch(executable, stream));
      }
      stream.Wait();
      Must(Attend(list, 1, q, want, nullptr));
      Ok(cudaDeviceSynchronize());
      EXPECT_TRUE(out.Get() == want.Get()) << recipe << " " << seed;
    }
    Ok(cudaGraphExecDestroy(executable));
    Ok(cudaGraphDestroy(graph));
  }
}

// Two runtimes, and on each of them two threads with caches of their own.
TEST(Threads, TwoRuntimesInTwoThreadsEach) {
  SKIP_WITHOUT_DEVICE();
  const Input in(4, 4000);
  std::vector<std::vector<float>> k(4), v(4);
  std::vector<std::vector<uint16_t>> attended(4);
  std::vector<std::string> failure(4);
  const std::shared_ptr<Runtime> runtimes[2] = {Value(TryDeviceRuntime()), Value(TryDeviceRuntime())};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      try {
        const Stream stream;
        const Array q(Queries(7, 1)), out(kShape.q_heads * kShape.head_dim);
        auto cache = MakeCache(kShape, "gear-4", runtimes[t % 2]);
        for (uint64_t at = 0; at < 3000; at += at % 3 == 0 ? 301 : 1) {
          Must(in.Append(*cache, 0, at, at % 3 == 0 ? 301 : 1, stream));
          Must(Attend({cache.get()}, 0, q, out, stream));
          if (at % 5 == 0) cache = Value(cache->Fork());
          (void)Value(cache->GetStats(kAllLayers, true, true));
        }
        stream.Wait();
        attended[t] = out.Get();
        k[t] = ReadAll(*cache, 0, ops::kSideK);
        v[t] = ReadAll(*cache, 0, ops::kSideV);
      } catch (const std::exception& e) {
        failure[t] = e.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < 4; ++t) {
    EXPECT_EQ(failure[t], "");
    EXPECT_TRUE(attended[t] == attended[0] && k[t] == k[0] && v[t] == v[0]) << t;
  }
  EXPECT_FALSE(k[0].empty());
}

bool AllCallsGiveTheFirstError() {
  const auto runtime = Value(TryDeviceRuntime());
  const Input in(1, 400);
  const Array q(Queries(1, 1)), out(q.bytes() / 2);
  const auto cache = MakeCache(kShape, "gear-4", runtime);
  Must(in.Append(*cache, 0, 0, 300, nullptr));
  (void)gpu_test::LaunchFault(nullptr);
  cudaDeviceSynchronize();
  const absl::Status first = in.Append(*cache, 0, 300, 100, nullptr);
  bool good = first.code() == absl::StatusCode::kUnavailable &&
              first.message().find("CUDA failed") != std::string_view::npos;
  good = good && Length(*cache) == 300;
  good = good && in.Append(*cache, 0, 0, 1, nullptr) == first;
  good = good && Attend({cache.get()}, 0, q, out, nullptr) == first;
  good = good && cache->Fork().status() == first && cache->Clear() == first;
  good = good && cache->GetStats(0, true, true).status() == first;
  return good && Length(*cache) == 300;
}

// An error of the device that nothing can undo, in a process of its own: every later call gives it,
// nothing crashes, and handles can be destroyed.
TEST(PoisonedDeathTest, KeepsTheFirstError) {
  SKIP_WITHOUT_DEVICE();
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(std::exit(AllCallsGiveTheFirstError() ? 0 : 1), testing::ExitedWithCode(0), "");
}

// More than 2^31 elements a side. The same run of tokens again and again leaves attention as it is
// over one of them, whatever the position of the run.
TEST(Long, BeyondTwoToThe31Elements) {
  SKIP_WITHOUT_DEVICE();
  constexpr Shape shape{.layers = 1, .q_heads = 16, .kv_heads = 8, .head_dim = 128};
  constexpr uint64_t kRun = 65536, kRuns = 33;
  static_assert(kRun * kRuns * shape.kv_heads * shape.head_dim > uint64_t{1} << 31);
  size_t free = 0, total = 0;
  Ok(cudaMemGetInfo(&free, &total));
  if (free < (uint64_t{14} << 30)) GTEST_SKIP() << "needs 14 GiB of the device";
  const auto runtime = Value(TryDeviceRuntime());
  std::vector<uint16_t> some = ToF16(NoiseTensor(1, 1024, shape.kv_heads, shape.head_dim)), run;
  for (uint64_t i = 0; i < kRun / 1024; ++i) {
    std::rotate(some.begin(), some.begin() + 37, some.end());
    run.insert(run.end(), some.begin(), some.end());
  }
  const Array k(run);
  std::reverse(run.begin(), run.end());
  const Array v(run);
  const Array q(Queries(2, 1, shape)), out(q.bytes() / 2), want(q.bytes() / 2);
  for (const char* recipe : {"fp16", "int4,window=0"}) {
    const auto one = MakeCache(shape, recipe, runtime), all = MakeCache(shape, recipe, runtime);
    const auto append = [&](Cache& cache) {
      Must(cache.Append(0, {k.at(), k.bytes()}, {v.at(), v.bytes()}, ops::kF16, kRun));
    };
    append(*one);
    for (uint64_t i = 0; i < kRuns; ++i) append(*all);
    Must(Attend({one.get()}, 0, q, want, nullptr));
    Must(Attend({all.get()}, 0, q, out, nullptr));
    Ok(cudaDeviceSynchronize());
    const std::vector<uint16_t> a = want.Get(), b = out.Get();
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      _Float16 x, y;
      std::memcpy(&x, &a[i], 2);
      std::memcpy(&y, &b[i], 2);
      ASSERT_TRUE(std::isfinite(static_cast<float>(y)));
      most = std::max(most, std::fabs(static_cast<double>(x) - static_cast<double>(y)));
    }
    EXPECT_LT(most, 4e-3) << recipe;
    constexpr uint64_t kLook = 64;
    const Array first(kLook * shape.kv_dim()), last(kLook * shape.kv_dim());
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      Must(one->Read(0, side, kRun - kLook, kLook, ops::kF16, first.at(), first.bytes()));
      Must(all->Read(0, side, kRun * kRuns - kLook, kLook, ops::kF16, last.at(), last.bytes()));
      EXPECT_TRUE(first.Get() == last.Get()) << recipe;
    }
  }
}

}  // namespace
}  // namespace kvg::test
