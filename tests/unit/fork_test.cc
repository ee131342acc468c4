// What forks cost and share: nothing that grows with the length, on whatever path they came.
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 2, .q_heads = 2, .kv_heads = 1, .head_dim = 32};

Stats StatsOf(const Cache& cache) { return Value(cache.GetStats(kAllLayers, true, true)); }
uint64_t Own(const Cache& cache) {
  const Stats stats = StatsOf(cache);
  return stats.bytes_total() - stats.bytes_shared;
}

void AppendNoise(Cache& cache, uint64_t seed, size_t tokens) {
  const Tensor x = NoiseTensor(seed, tokens, 1, 32);
  for (uint32_t layer = 0; layer < 2; ++layer) Append(cache, layer, x, x);
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

// What a fork takes, and what it takes once it has gone on for a few tokens.
struct Cost {
  uint64_t allocations, bytes, own, grown;
  bool operator==(const Cost&) const = default;
};

Cost CostOfFork(const std::string& recipe, size_t blocks) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache(kShape, recipe, runtime);
  // As if decoded: many small segments, and the same tokens in the window whatever the length.
  AppendNoise(*cache, 1, 300);
  for (size_t i = 0; i < blocks; ++i) AppendNoise(*cache, i, 128);
  const uint64_t count = allocator.allocations(), live = allocator.live_bytes();
  const auto fork = Value(cache->Fork());
  Cost cost{allocator.allocations() - count, allocator.live_bytes() - live, Own(*fork), 0};
  AppendNoise(*fork, 2, 5);
  cost.grown = allocator.live_bytes() - live;
  EXPECT_EQ(StatsOf(*cache).bytes_total() + Own(*fork), runtime->memory().held());
  return cost;
}

TEST_P(EveryRecipe, AForkCostsTheSameAtAnyLength) {
  const Cost small = CostOfFork(GetParam(), 16), large = CostOfFork(GetParam(), 80);
  EXPECT_EQ(small, large);
  EXPECT_EQ(large.allocations, 1u);
  EXPECT_EQ(large.bytes, large.own);
}

TEST_P(EveryRecipe, AThousandForksCostTheirOwnTokens) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache(kShape, GetParam(), runtime);
  AppendNoise(*cache, 1, 32768);
  const uint64_t alone = runtime->memory().held();
  std::vector<std::unique_ptr<Cache>> forks;
  uint64_t own = 0;
  for (uint64_t i = 0; i < 1000; ++i) {
    forks.push_back(Value(cache->Fork()));
    if (i < 20) AppendNoise(*forks.back(), i, 1);
  }
  for (const auto& fork : forks) own += Own(*fork);
  EXPECT_EQ(runtime->memory().held(), alone + own);
  // Those that have not grown take the object alone.
  EXPECT_EQ(Own(*forks.back()), Own(*forks[500]));
  EXPECT_LE(Own(*forks.back()), Own(*MakeCache(kShape, GetParam(), runtime)));
  EXPECT_EQ(Content(*forks.back(), 1), Content(*cache, 1));
}

// A chain of forks, each of the one before, of which only the newest live; and cuts on the way. Each
// is as a cache that went the same way alone.
TEST_P(EveryRecipe, GenerationsAreAsIfAlone) {
  Random random(3);
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto lone = MakeCache(kShape, GetParam());
  std::deque<std::unique_ptr<Cache>> line;
  line.push_back(MakeCache(kShape, GetParam(), runtime));
  for (int generation = 0; generation < 120; ++generation) {
    line.push_back(Value(line.back()->Fork()));
    if (line.size() > 1 + random.Next() % 4) line.pop_front();
    const size_t tokens = 1 + random.Next() % 150;
    const uint64_t seed = random.Next();
    AppendNoise(*line.back(), seed, tokens);
    AppendNoise(*lone, seed, tokens);
    if (generation % 7 == 6) {
      uint64_t n = random.Next() % Length(*lone);
      while (!lone->Truncate(kAllLayers, n).ok()) --n;
      Must(line.back()->Truncate(kAllLayers, n));
    }
    ASSERT_EQ(Length(*line.back()), Length(*lone));
    if (generation % 10 == 9) {
      ASSERT_EQ(Content(*line.back()), Content(*lone)) << generation;
    }
  }
  const Stats got = StatsOf(*line.back()), want = StatsOf(*lone);
  EXPECT_EQ(got.segments, want.segments);
  EXPECT_EQ(got.rel_error_k_mean, want.rel_error_k_mean);
  while (line.size() > 1) line.pop_front();
  EXPECT_EQ(StatsOf(*line.back()).bytes_total(), runtime->memory().held());
  EXPECT_EQ(StatsOf(*line.back()).bytes_shared, 0u);
  Must(line.back()->Truncate(kAllLayers, 0));
  Must(line.back()->Clear());
  EXPECT_EQ(StatsOf(*line.back()).bytes_total(), runtime->memory().held());
  line.clear();
  EXPECT_EQ(allocator.live_bytes(), 0u);
}

// Bytes that a cut fork does not see but still keeps alive are still told.
TEST_P(EveryRecipe, WhatACutForkKeepsAliveIsCounted) {
  const auto runtime = MakeRuntime();
  auto cache = MakeCache(kShape, GetParam(), runtime);
  for (uint64_t i = 0; i < 30; ++i) AppendNoise(*cache, i, 128);
  const auto fork = Value(cache->Fork());
  Must(fork->Truncate(kAllLayers, 0));
  cache = MakeCache(kShape, GetParam(), runtime);
  EXPECT_EQ(runtime->memory().held(),
            StatsOf(*cache).bytes_total() + StatsOf(*fork).bytes_total());
  AppendNoise(*fork, 1, 400);
  EXPECT_EQ(runtime->memory().held(),
            StatsOf(*cache).bytes_total() + StatsOf(*fork).bytes_total());
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

// Tokens that were cut off an open page stay away when later ones only reach the window.
TEST(OpenPage, ACutIsNotForgotten) {
  for (const bool forked : {false, true}) {
    const auto cache = MakeCache({.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32},
                                 "kivi-4,k.bits=16,k.window=300");
    const Tensor x = NoiseTensor(1, 200, 1, 32), y = NoiseTensor(2, 40, 1, 32);
    for (size_t t = 0; t < 200; ++t) Append(*cache, 0, x.Tokens(t, 1), x.Tokens(t, 1));
    const Tensor before = Read(*cache, ops::kSideV);
    const auto fork = forked ? Value(cache->Fork()) : nullptr;
    Must(cache->Truncate(0, 50));  // of 72 in the page
    Append(*cache, 0, y.Tokens(0, 1), y.Tokens(0, 1));
    for (size_t t = 1; t < 40; ++t) Append(*cache, 0, y.Tokens(t, 1), y.Tokens(t, 1));
    const Tensor after = Read(*cache, ops::kSideV);
    ASSERT_EQ(after.tokens, 90u);
    EXPECT_EQ(after.Tokens(0, 50).data, before.Tokens(0, 50).data);
    EXPECT_EQ(after.Tokens(50, 40).data, Rounded(y).data);
    const Tensor q(1, 1, 32);  // zeros: the mean of the values
    EXPECT_LE(MaxDistance(Attend(*cache, 0, q),
                          oracle::Attend(q, Read(*cache, ops::kSideK), after, {})),
              0.002);
    if (forked) {
      EXPECT_EQ(Read(*fork, ops::kSideV).data, before.data);
    }
  }
}

}  // namespace
}  // namespace kvg::test
