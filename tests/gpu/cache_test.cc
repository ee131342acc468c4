// Caches on a CUDA device as callers see them: the same content as on the CPU, attention within a
// bound of it, alone and in batches, histories of forks and truncations, elements that are not
// finite, budgets, and what an error of the device does to a runtime.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/gpu/device_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 2, .q_heads = 8, .kv_heads = 2, .head_dim = 64};

struct Input {
  std::vector<uint16_t> k, v;
};
Input MakeInput(uint64_t seed, uint64_t tokens, const Shape& shape = kShape) {
  return {ToF16(RealisticTensor(2 * seed, tokens, shape.kv_heads, shape.head_dim)),
          ToF16(RealisticTensor(2 * seed + 1, tokens, shape.kv_heads, shape.head_dim))};
}

// Attends with fp32 queries of each cache, which lie one behind the other.
absl::StatusOr<std::vector<float>> TryAttendAll(const std::vector<const Cache*>& caches,
                                                uint32_t layer, const std::vector<float>& q,
                                                AttendOptions options) {
  options.q_dtype = options.out_dtype = ops::kF32;
  Runtime& runtime = caches[0]->runtime();
  std::vector<float> out(q.size(), -7.0f);
  const size_t bytes = q.size() * 4;
  if (runtime.device() == nullptr) {
    KVG_RETURN_IF_ERROR(
        Cache::AttendBatch(caches, layer, q.data(), bytes, out.data(), bytes, options));
    return out;
  }
  const OnDevice on_q(runtime, q.data(), bytes), on_out(runtime, out.data(), bytes);
  KVG_RETURN_IF_ERROR(
      Cache::AttendBatch(caches, layer, on_q.data(), bytes, on_out.data(), bytes, options));
  const std::vector<uint8_t> got = on_out.Get();
  std::memcpy(out.data(), got.data(), bytes);
  return out;
}

std::vector<float> AttendAll(const std::vector<const Cache*>& caches, uint32_t layer,
                             const std::vector<float>& q, const AttendOptions& options = {}) {
  return Value(TryAttendAll(caches, layer, q, options));
}

std::vector<float> Queries(uint64_t seed, uint64_t rows, const Shape& shape = kShape) {
  return ToF32(NoiseTensor(seed, rows, shape.q_heads, shape.head_dim));
}

// Codes meet queries and weights as halves on a device and as 16-bit integers on the CPU, which costs
// the more the larger the scores are: those of this input reach 40.
void ExpectClose(const std::vector<float>& want, const std::vector<float>& got, const std::string& what) {
  double most = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_TRUE(std::isfinite(got[i])) << what << " element " << i;
    most = std::max(most, std::fabs(double{want[i]} - double{got[i]}));
    size = std::max(size, std::fabs(double{want[i]}));
  }
  EXPECT_LE(most, 2e-2 * size) << what;
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, HoldsAndAnswersAsOnTheCpu) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  if (OnCpuOnly(GetParam())) return;
  for (const uint32_t dim : {64u, 80u, 128u}) {
    const Shape shape{.layers = 1, .q_heads = 6, .kv_heads = 2, .head_dim = dim};
    const auto cpu = MakeCache(shape, GetParam());
    const auto gpu = MakeCache(shape, GetParam(), runtime);
    const Input in = MakeInput(dim, 1600, shape);
    uint64_t at = 0;
    for (const uint64_t tokens : {uint64_t{1}, uint64_t{30}, uint64_t{1300}, uint64_t{1}, uint64_t{1}, uint64_t{67}}) {
      Must(AppendRows(*cpu, 0, in.k, in.v, at, tokens));
      Must(AppendRows(*gpu, 0, in.k, in.v, at, tokens));
      at += tokens;
      for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
        ASSERT_EQ(ReadAll(*cpu, 0, side), ReadAll(*gpu, 0, side)) << dim << " after " << at;
      }
      AttendOptions options;
      ExpectClose(AttendAll({cpu.get()}, 0, Queries(at, 1, shape), options),
                  AttendAll({gpu.get()}, 0, Queries(at, 1, shape), options), std::to_string(at));
      if (at < 5) continue;
      options.queries = 5;
      options.sliding_window = at % 2 == 0 ? 40 : 0;
      ExpectClose(AttendAll({cpu.get()}, 0, Queries(at, 5, shape), options),
                  AttendAll({gpu.get()}, 0, Queries(at, 5, shape), options), std::to_string(at) + ", five");
    }
  }
}

TEST_P(EveryRecipe, ABatchGivesTheBitsOfItsCaches) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  if (OnCpuOnly(GetParam())) return;
  std::vector<std::unique_ptr<Cache>> caches;
  std::vector<const Cache*> list;
  for (const uint64_t tokens : {uint64_t{1}, uint64_t{3000}, uint64_t{200}, uint64_t{64}, uint64_t{1029}}) {
    caches.push_back(MakeCache(kShape, GetParam(), runtime));
    const Input in = MakeInput(tokens, tokens);
    Must(AppendRows(*caches.back(), 1, in.k, in.v, 0, tokens));
    list.push_back(caches.back().get());
  }
  const std::vector<float> q = Queries(3, list.size());
  const std::vector<float> all = AttendAll(list, 1, q);
  const size_t row = q.size() / list.size();
  for (size_t i = 0; i < list.size(); ++i) {
    const std::vector<float> mine(q.begin() + static_cast<ptrdiff_t>(i * row), q.begin() + static_cast<ptrdiff_t>((i + 1) * row));
    const std::vector<float> one = AttendAll({list[i]}, 1, mine);
    EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin() + static_cast<ptrdiff_t>(i * row))) << i;
  }
}

TEST_P(EveryRecipe, ABatchTakesInWhatItsCachesWould) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  if (OnCpuOnly(GetParam())) return;
  const Input in = MakeInput(6, 6000);
  std::vector<std::unique_ptr<Cache>> together, alone;
  for (const uint64_t tokens : {uint64_t{0}, uint64_t{1000}, uint64_t{333}, uint64_t{0}, uint64_t{64}}) {
    for (auto* caches : {&together, &alone}) {
      caches->push_back(MakeCache(kShape, GetParam(), runtime));
      if (tokens > 0) Must(AppendRows(*caches->back(), 0, in.k, in.v, 0, tokens));
    }
  }
  for (auto* caches : {&together, &alone}) caches->push_back(Value((*caches)[1]->Fork()));
  std::vector<Cache*> list;
  for (const auto& cache : together) list.push_back(cache.get());
  const uint64_t width = kShape.kv_dim();
  for (int step = 0; step < 140; ++step) {
    const uint64_t tokens = step == 3 ? 200 : step % 50 == 0 ? 40 : 1;
    const uint64_t first = static_cast<uint64_t>(step) * 7, bytes = list.size() * tokens * width * 2;
    const OnDevice k(*runtime, in.k.data() + first * width, bytes), v(*runtime, in.v.data() + first * width, bytes);
    Must(Cache::AppendBatch(list, 0, {k.data(), bytes}, {v.data(), bytes}, ops::kF16, tokens));
    for (size_t i = 0; i < alone.size(); ++i) {
      Must(AppendRows(*alone[i], 0, in.k, in.v, first + i * tokens, tokens));
    }
    {
      Device::Call call(*runtime->device());
      call.Wait();
    }
    if (step % 20 > 4) continue;
    for (size_t i = 0; i < alone.size(); ++i) {
      ASSERT_TRUE(ReadAll(*together[i], 0, ops::kSideK) == ReadAll(*alone[i], 0, ops::kSideK)) << step << " " << i;
      ASSERT_TRUE(ReadAll(*together[i], 0, ops::kSideV) == ReadAll(*alone[i], 0, ops::kSideV)) << step << " " << i;
    }
  }
  for (size_t i = 0; i < alone.size(); ++i) {
    const Stats a = Value(together[i]->GetStats(0, true, true)), b = Value(alone[i]->GetStats(0, true, true));
    EXPECT_EQ(a.rel_error_k_mean, b.rel_error_k_mean);
    EXPECT_EQ(a.rel_error_v_mean, b.rel_error_v_mean);
    // In a batch a cache and its fork leave what they share at the same time.
    if (i != 1 && i != 5) {
      EXPECT_EQ(a.bytes_total(), b.bytes_total());
    }
  }
}

TEST_P(EveryRecipe, HistoriesOfForksAndTruncations) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  if (OnCpuOnly(GetParam())) return;
  const Input in = MakeInput(9, 4000);
  Random random(4);
  std::vector<std::unique_ptr<Cache>> cpu, gpu;
  cpu.push_back(MakeCache(kShape, GetParam()));
  gpu.push_back(MakeCache(kShape, GetParam(), runtime));
  for (int step = 0; step < 60; ++step) {
    const size_t i = random.Next() % cpu.size();
    const uint64_t length = Length(*cpu[i]);
    switch (random.Next() % 6) {
      case 0:
        if (cpu.size() < 4) {
          cpu.push_back(Value(cpu[i]->Fork()));
          gpu.push_back(Value(gpu[i]->Fork()));
        } else {
          cpu.erase(cpu.begin() + static_cast<ptrdiff_t>(i));
          gpu.erase(gpu.begin() + static_cast<ptrdiff_t>(i));
        }
        break;
      case 1: {
        const uint64_t to = length == 0 ? 0 : length - random.Next() % std::min<uint64_t>(length, 90);
        const absl::Status status = cpu[i]->Truncate(0, to);
        ASSERT_EQ(gpu[i]->Truncate(0, to), status);
        break;
      }
      case 2:
        if (step % 5 == 0) {
          Must(cpu[i]->Clear());
          Must(gpu[i]->Clear());
        }
        break;
      default: {
        const uint64_t tokens = 1 + random.Next() % (step % 3 == 0 ? 400 : 3);
        if (length + tokens > 4000) break;
        Must(AppendRows(*cpu[i], 0, in.k, in.v, length, tokens));
        Must(AppendRows(*gpu[i], 0, in.k, in.v, length, tokens));
      }
    }
    for (size_t j = 0; j < cpu.size(); ++j) {
      ASSERT_EQ(ReadAll(*cpu[j], 0, ops::kSideK), ReadAll(*gpu[j], 0, ops::kSideK)) << step;
      ASSERT_EQ(ReadAll(*cpu[j], 0, ops::kSideV), ReadAll(*gpu[j], 0, ops::kSideV)) << step;
    }
  }
}

TEST_P(EveryRecipe, BytesAddUp) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  if (OnCpuOnly(GetParam())) return;
  const uint64_t before = runtime->memory().held();
  {
    const auto cache = MakeCache(kShape, GetParam(), runtime);
    const Input in = MakeInput(5, 3000);
    for (uint32_t layer = 0; layer < 2; ++layer) Must(AppendRows(*cache, layer, in.k, in.v, 0, 3000 - layer));
    const Stats stats = Value(cache->GetStats(kAllLayers, true, true));
    EXPECT_EQ(stats.bytes_total(), runtime->memory().held() - before);
    if (GetParam() != "fp16") {
      EXPECT_GT(stats.rel_error_k_mean, 0);
      EXPECT_GT(stats.rel_error_v_mean, 0);
    }
  }
  EXPECT_EQ(runtime->memory().held(), before);
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

TEST(Device, ElementsThatAreNotFiniteAreFoundLater) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  const auto cache = MakeCache(kShape, "kivi-2", runtime);
  Input in = MakeInput(1, 100);
  Must(AppendRows(*cache, 0, in.k, in.v, 0, 40));
  Input bad = in;
  bad.v[41 * kShape.kv_dim() + 5] = 0x7C00;
  Must(AppendRows(*cache, 0, bad.k, bad.v, 40, 10));  // queued; and waited for, in this test
  for (int i = 0; i < 2; ++i) {
    const absl::Status status = TryAttendAll({cache.get()}, 0, Queries(1, 1), {}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kOutOfRange);
    EXPECT_THAT(std::string(status.message()), HasSubstr("when it held 40 tokens"));
    EXPECT_EQ(AppendRows(*cache, 0, in.k, in.v, 50, 1).code(), absl::StatusCode::kOutOfRange);
  }
  Must(AppendRows(*cache, 1, in.k, in.v, 0, 10));  // other layers go on
  const auto fork = Value(cache->Fork());
  EXPECT_FALSE(TryAttendAll({fork.get()}, 0, Queries(1, 1), {}).ok());
  Must(cache->Truncate(0, 45));  // not short enough
  EXPECT_FALSE(TryAttendAll({cache.get()}, 0, Queries(1, 1), {}).ok());
  Must(cache->Truncate(0, 40));
  Must(AppendRows(*cache, 0, in.k, in.v, 40, 10));
  EXPECT_TRUE(TryAttendAll({cache.get()}, 0, Queries(1, 1), {}).ok());
  Must(fork->Clear());
  Must(AppendRows(*fork, 0, in.k, in.v, 0, 10));
  EXPECT_TRUE(TryAttendAll({fork.get()}, 0, Queries(1, 1), {}).ok());
}

TEST(Device, OverBudgetNothingChanges) {
  auto runtime_or = TryDeviceRuntime(uint64_t{1} << 20);
  if (!runtime_or.ok()) GTEST_SKIP() << "skipped: no CUDA device; " << runtime_or.status().message();
  const std::shared_ptr<Runtime> runtime = *runtime_or;
  const auto cache = MakeCache(kShape, "gear-4", runtime);
  const Input in = MakeInput(1, 20000);
  Must(AppendRows(*cache, 0, in.k, in.v, 0, 500));
  const uint64_t held = runtime->memory().held();
  const std::vector<float> before = ReadAll(*cache, 0, ops::kSideV);
  EXPECT_THROW((void)AppendRows(*cache, 0, in.k, in.v, 500, 19000), BudgetExceeded);
  EXPECT_EQ(runtime->memory().held(), held);
  EXPECT_EQ(ReadAll(*cache, 0, ops::kSideV), before);
  Must(AppendRows(*cache, 0, in.k, in.v, 500, 500));
}

// Appends to some of many caches until the budget is spent: those that it refuses stay as they were,
// and so do all others, forks included.
TEST(Device, ABudgetThatManyCachesShare) {
  auto runtime_or = TryDeviceRuntime(uint64_t{3} << 20);
  if (!runtime_or.ok()) GTEST_SKIP() << "skipped: no CUDA device; " << runtime_or.status().message();
  const std::shared_ptr<Runtime> runtime = *runtime_or;
  const Input in = MakeInput(1, 4000);
  std::vector<std::unique_ptr<Cache>> caches;
  for (const char* recipe : {"fp16", "gear-2", "kivi-4", "int8"}) {
    caches.push_back(MakeCache(kShape, recipe, runtime));
    Must(AppendRows(*caches.back(), 0, in.k, in.v, 0, 300));
    caches.push_back(Value(caches.back()->Fork()));
  }
  Random random(8);
  int refused = 0;
  for (int step = 0; step < 40; ++step) {
    Cache& cache = *caches[random.Next() % caches.size()];
    const uint64_t length = Length(cache), tokens = 1 + random.Next() % 900;
    if (length + tokens > 4000) continue;
    const uint64_t held = runtime->memory().held();
    EXPECT_LE(held, runtime->memory().budget());
    std::vector<std::vector<float>> before;
    for (const auto& each : caches) before.push_back(ReadAll(*each, 0, ops::kSideK));
    try {
      Must(AppendRows(cache, 0, in.k, in.v, length, tokens));
      continue;
    } catch (const BudgetExceeded&) {
      ++refused;
    }
    EXPECT_EQ(runtime->memory().held(), held);
    EXPECT_EQ(Length(cache), length);
    for (size_t i = 0; i < caches.size(); ++i) {
      EXPECT_TRUE(ReadAll(*caches[i], 0, ops::kSideK) == before[i]) << i;
    }
  }
  EXPECT_GT(refused, 5);
  Must(caches[0]->Clear());
  Must(AppendRows(*caches[0], 0, in.k, in.v, 0, 300));
}

// Slabs by way of another runtime's device, counted.
struct CountedSlabs {
  Runtime* runtime;
  bool pinned;
  size_t bytes = 0, most = SIZE_MAX, calls = 0;
  AllocatorTable table() {
    return {this,
            [](void* self, size_t size, size_t) -> void* {
              auto& slabs = *static_cast<CountedSlabs*>(self);
              if (slabs.bytes + size > slabs.most) return nullptr;
              slabs.bytes += size;
              ++slabs.calls;
              const Device::Call call(*slabs.runtime->device());
              return slabs.pinned ? call.plugin().allocate_host(call.context(), size)
                                  : call.plugin().allocate(call.context(), size);
            },
            [](void* self, void* slab, size_t size, size_t) {
              auto& slabs = *static_cast<CountedSlabs*>(self);
              slabs.bytes -= size;
              const Device::Call call(*slabs.runtime->device());
              slabs.pinned ? call.plugin().release_host(call.context(), slab)
                           : call.plugin().release(call.context(), slab);
            }};
  }
};

TEST(Device, MemoryOfTheCallers) {
  KVG_DEVICE_RUNTIME_OR_SKIP(other);
  CountedSlabs device{other.get(), false}, pinned{other.get(), true};
  device.most = size_t{65} << 20;  // one slab, and little more
  {
    const auto runtime = Value(TryDeviceRuntime(0, {device.table(), pinned.table()}));
    const auto cache = MakeCache(kShape, "fp16", runtime);
    const Input in = MakeInput(1, 20000);
    Must(AppendRows(*cache, 0, in.k, in.v, 0, 5000));
    EXPECT_GT(device.calls, 0u);
    EXPECT_GT(pinned.calls, 0u);
    const auto cpu = MakeCache(kShape, "fp16");
    Must(AppendRows(*cpu, 0, in.k, in.v, 0, 5000));
    const std::vector<float> before = ReadAll(*cache, 0, ops::kSideV);
    EXPECT_TRUE(before == ReadAll(*cpu, 0, ops::kSideV));
    std::vector<std::unique_ptr<Cache>> others;
    const auto fill = [&] {
      for (int i = 0; i < 40; ++i) {
        others.push_back(MakeCache(kShape, "fp16", runtime));
        Must(AppendRows(*others.back(), 0, in.k, in.v, 0, 20000));
      }
    };
    EXPECT_THROW(fill(), std::bad_alloc);
    EXPECT_LE(device.bytes, device.most);
    EXPECT_TRUE(ReadAll(*cache, 0, ops::kSideV) == before);
    others.clear();
    Must(AppendRows(*cache, 0, in.k, in.v, 5000, 100));
  }
  EXPECT_EQ(device.bytes, 0u);
  EXPECT_EQ(pinned.bytes, 0u);
}

TEST(Device, RefusesRecipesThatLearnAMap) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  const auto status = Cache::Create(runtime, Value(Plan::Create(kShape, "int4-rot;1:tc-4"))).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1"));
}

TEST(Device, HostMemoryIsRefused) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  if (std::string(runtime->Describe()).find("stand-in") != std::string::npos) {
    GTEST_SKIP() << "the memory of the stand-in is host memory";
  }
  const auto cache = MakeCache(kShape, "int4", runtime);
  const Input in = MakeInput(1, 10);
  const size_t bytes = in.k.size() * 2;
  const absl::Status status = cache->Append(0, {in.k.data(), bytes}, {in.v.data(), bytes}, ops::kF16, 10);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("host memory"));
}

// Every operation of the stand-in in turn is the first that fails.
TEST(Device, TheFirstErrorIsKeptAndNothingIsHalfDone) {
  KVG_DEVICE_RUNTIME_OR_SKIP(probe);
  if (std::string(probe->Describe()).find("stand-in") == std::string::npos) {
    GTEST_SKIP() << "only the stand-in fails on demand";
  }
  const Input in = MakeInput(1, 400);
  int failed = 0;
  for (int n = 1; n < 200; ++n) {
    setenv("KVGEAR_STAND_IN_FAIL", std::to_string(n).c_str(), 1);
    const auto runtime = Value(TryDeviceRuntime());
    unsetenv("KVGEAR_STAND_IN_FAIL");
    const auto cache_or = Cache::Create(runtime, Value(Plan::Create(kShape, "gear-2")));
    const size_t bytes = in.k.size() * 2;
    std::vector<float> q = Queries(1, 1), out(q.size());
    absl::Status status;
    uint64_t length = 0;
    const auto call = [&](const absl::Status& s) {
      if (status.ok()) {
        status = s;
      } else {
        EXPECT_EQ(s, status);  // every later call gives the first error
      }
    };
    const std::unique_ptr<Cache>& cache = *cache_or;
    for (int step = 0; step < 3; ++step) {
      call(cache->Append(0, {in.k.data(), bytes}, {in.v.data(), bytes}, ops::kF16, 400));
      if (status.ok()) length += 400;
      EXPECT_EQ(Length(*cache), length);
      AttendOptions options;
      options.q_dtype = options.out_dtype = ops::kF32;
      if (length > 0) call(cache->Attend(0, q.data(), q.size() * 4, out.data(), q.size() * 4, options));
      call(cache->Fork().status());
      if (length > 0) call(cache->Read(0, ops::kSideK, 0, 1, ops::kF32, out.data(), kShape.kv_dim() * 4));
      call(cache->GetStats(kAllLayers, true, true).status());
    }
    if (status.ok()) break;
    ++failed;
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr("told to fail"));
  }
  EXPECT_GT(failed, 20);
  EXPECT_LT(failed, 199);
}

}  // namespace
}  // namespace kvg::test
