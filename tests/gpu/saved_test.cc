// Saved caches between the CPU and a CUDA device: what one saved the other loads, holds and goes on
// with, whole and in ranges, and what is not to be had is refused.
#include <cstring>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "tests/gpu/device_fixture.h"
#include "tests/support/recipes.h"
#include "tests/support/saved.h"

namespace kvg::test {
namespace {

using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 2, .q_heads = 8, .kv_heads = 2, .head_dim = 80};
constexpr uint64_t kMost = 1800;

struct Input {
  std::vector<uint16_t> k = ToF16(RealisticTensor(1, kMost, kShape.kv_heads, kShape.head_dim));
  std::vector<uint16_t> v = ToF16(RealisticTensor(2, kMost, kShape.kv_heads, kShape.head_dim));
};

// What both sides of all layers hold.
std::vector<std::vector<float>> All(const Cache& cache) {
  std::vector<std::vector<float>> all;
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) all.push_back(ReadAll(cache, layer, side));
  }
  return all;
}

// A saved cache but for the measured errors of its segments, whose last bits are each backend's own.
bool SameButForErrors(const Bytes& a, const Bytes& b) {
  if (a.size() != b.size()) return false;
  size_t differ = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] != b[i]) ++differ;
  }
  return differ < a.size() / 20;
}

class EveryRecipeSaved : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipeSaved, GoesFromOneToTheOther) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  if (OnCpuOnly(GetParam())) return;
  const Input in;
  const auto cpu = MakeCache(kShape, GetParam());
  const auto gpu = MakeCache(kShape, GetParam(), runtime);
  for (Cache* cache : {cpu.get(), gpu.get()}) {
    Must(AppendRows(*cache, 0, in.k, in.v, 0, 1400));
    for (uint64_t at = 1400; at < 1411; ++at) Must(AppendRows(*cache, 0, in.k, in.v, at, 1));
    Must(AppendRows(*cache, 1, in.k, in.v, 7, 130));
  }
  const Bytes from_cpu = Saved(*cpu), from_gpu = Saved(*gpu);
  EXPECT_TRUE(Saved(*gpu) == from_gpu);
  EXPECT_TRUE(SameButForErrors(from_cpu, from_gpu));
  const auto on_gpu = Loaded(from_cpu, *gpu), on_cpu = Loaded(from_gpu, *cpu);
  EXPECT_TRUE(Saved(*on_gpu) == from_cpu);  // errors included
  EXPECT_TRUE(Saved(*on_cpu) == from_gpu);
  const auto before = All(*cpu);
  for (Cache* cache : {cpu.get(), gpu.get(), on_gpu.get(), on_cpu.get()}) {
    EXPECT_TRUE(All(*cache) == before);
    Must(AppendRows(*cache, 0, in.k, in.v, 1411, 1));
    Must(AppendRows(*cache, 0, in.k, in.v, 1412, 300));
    Must(AppendRows(*cache, 1, in.k, in.v, 137, 90));
    EXPECT_TRUE(All(*cache) == All(*cpu));
  }
  const Stats a = Value(gpu->GetStats(kAllLayers, true, true));
  const Stats b = Value(on_gpu->GetStats(kAllLayers, true, true));
  EXPECT_NEAR(a.rel_error_k_mean, b.rel_error_k_mean, 1e-4 * a.rel_error_k_mean);
  EXPECT_NEAR(a.rel_error_v_mean, b.rel_error_v_mean, 1e-4 * a.rel_error_v_mean);
  EXPECT_EQ(a.bytes_codes, b.bytes_codes);
}

KVG_FOR_EVERY_RECIPE(EveryRecipeSaved);

TEST(SavedOnADevice, RangesAreAddedOneBehindAnother) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  const Input in;
  const std::string recipe = "int4,segment=64,window=64";
  const auto gpu = MakeCache(kShape, recipe, runtime);
  for (uint32_t layer = 0; layer < 2; ++layer) Must(AppendRows(*gpu, layer, in.k, in.v, 0, 700));
  const Bytes first = Saved(*gpu, {.first_token = 0, .tokens = 256});
  const Bytes rest = Saved(*gpu, {.first_token = 256});
  const auto whole = Loaded(first, *gpu);
  const auto fork = Value(whole->Fork());
  const std::vector<std::vector<float>> before = All(*whole);
  BufferSource source(rest.data(), rest.size());
  Must(ExtendCache(*whole, {}, source));
  EXPECT_TRUE(All(*whole) == All(*gpu));
  EXPECT_TRUE(All(*fork) == before);
  Must(AppendRows(*fork, 0, in.k, in.v, 256, 200));  // its pieces are its own
  EXPECT_TRUE(All(*whole) == All(*gpu));
  BufferSource again(rest.data(), rest.size());
  EXPECT_FALSE(ExtendCache(*whole, {}, again).ok());
  EXPECT_TRUE(All(*whole) == All(*gpu));
}

TEST(SavedOnADevice, WhatIsNotFiniteOrDamagedIsRefused) {
  KVG_DEVICE_RUNTIME_OR_SKIP(runtime);
  Input in;
  const auto gpu = MakeCache(kShape, "gear-4", runtime);
  Must(AppendRows(*gpu, 0, in.k, in.v, 0, 600));
  Bytes saved = Saved(*gpu);
  in.k[600 * kShape.kv_dim() + 3] = 0x7E00;
  Must(AppendRows(*gpu, 0, in.k, in.v, 600, 4));
  BytesSink sink;
  EXPECT_EQ(SaveCache(*gpu, {}, sink).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(sink.out.empty());
  Must(gpu->Truncate(0, 600));
  EXPECT_TRUE(Saved(*gpu) == saved);
  const uint64_t held = runtime->memory().held();
  for (size_t at = 100; at < saved.size(); at += saved.size() / 37) {
    Bytes damaged = saved;
    damaged[at] ^= std::byte{0x10};
    const auto loaded = TryLoad(damaged, *gpu);
    EXPECT_TRUE(!loaded.ok() || Saved(**loaded) == saved) << at;  // bits between parts mean nothing
  }
  EXPECT_EQ(runtime->memory().held(), held);
}

TEST(SavedOnADevice, OverBudgetNothingChanges) {
  const auto cpu = MakeCache(kShape, "fp16");
  const Input in;
  Must(AppendRows(*cpu, 0, in.k, in.v, 0, kMost));
  const Bytes saved = Saved(*cpu);
  auto runtime = TryDeviceRuntime(uint64_t{1} << 19);
  if (!runtime.ok()) GTEST_SKIP() << "skipped: no CUDA device; " << runtime.status().message();
  const auto gpu = MakeCache(kShape, "fp16", *runtime);
  Must(AppendRows(*gpu, 0, in.k, in.v, 0, 100));
  const uint64_t held = (*runtime)->memory().held();
  EXPECT_THROW((void)TryLoad(saved, *gpu), BudgetExceeded);
  EXPECT_EQ((*runtime)->memory().held(), held);
}

}  // namespace
}  // namespace kvg::test
