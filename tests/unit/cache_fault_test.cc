// Memory that runs out: at every allocation of every call, and at every budget. A call that fails
// leaves the cache as it was and gives back all it took; the same call succeeds later.
#include <functional>
#include <new>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 32};

// What can be told of a cache from outside.
struct Snapshot {
  explicit Snapshot(const Cache& cache)
      : content(Content(cache)), stats(Value(cache.GetStats(kAllLayers, true, true))) {}
  bool operator==(const Snapshot&) const = default;

  std::vector<double> content;
  Stats stats;
};

// The calls of a life: each on the state that the ones before it left.
struct Step {
  std::string name;
  std::function<void(Cache&)> run;
};

std::vector<Step> Life() {
  const auto append = [](uint64_t seed, size_t tokens) {
    return [seed, k = NoiseTensor(seed, tokens, 2, 32),
            v = NoiseTensor(seed + 1, tokens, 2, 32)](Cache& cache) { Append(cache, 0, k, v); };
  };
  const auto attend = [](Cache& cache) { Attend(cache, 0, NoiseTensor(5, 2, 2, 32)); };
  const auto fork = [](Cache& cache) {
    const auto copy = Value(cache.Fork());
    ASSERT_EQ(Content(*copy), Content(cache));
  };
  std::vector<Step> life = {{"first token", append(10, 1)},
                            {"into the window", append(20, 50)},
                            {"a prompt", append(30, 600)},
                            {"attend", attend},
                            {"fork", fork}};
  // Decoded tokens until every block has been sealed, pages have been opened and filled.
  for (uint64_t i = 0; i < 150; ++i)
    life.push_back({"decode " + std::to_string(i), append(40 + 2 * i, 1)});
  life.push_back({"cut", [](Cache& cache) { Must(cache.Truncate(0, 800)); }});
  life.push_back({"after the cut", append(500, 3)});
  life.push_back({"another prompt", append(510, 300)});
  life.push_back({"fork again", fork});
  life.push_back({"attend again", attend});
  return life;
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, EveryAllocationOfEveryCallMayFail) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto untouched = MakeCache(kShape, GetParam());
  uint64_t failures = 0;
  {
    const auto cache = MakeCache(kShape, GetParam(), runtime);
    for (const Step& step : Life()) {
      SCOPED_TRACE(step.name);
      const Snapshot before(*cache);
      const uint64_t live = allocator.live_bytes(), held = runtime->memory().held();
      for (uint64_t n = 0;; ++n) {
        ASSERT_LT(n, 100u) << "never succeeds";
        allocator.FailFrom(allocator.allocations() + n);
        bool failed = false;
        try {
          step.run(*cache);
        } catch (const std::bad_alloc&) {
          failed = true;
        }
        allocator.FailFrom(UINT64_MAX);
        if (!failed) break;
        ++failures;
        ASSERT_EQ(allocator.live_bytes(), live) << "allocation " << n;
        ASSERT_EQ(runtime->memory().held(), held) << "allocation " << n;
        ASSERT_EQ(Snapshot(*cache), before) << "allocation " << n;
      }
      step.run(*untouched);
      ASSERT_EQ(Content(*cache), Content(*untouched));
    }
    EXPECT_EQ(runtime->memory().held(),
              Value(cache->GetStats(kAllLayers, true, true)).bytes_total());
  }
  EXPECT_EQ(allocator.live_bytes(), 0u);
  EXPECT_GT(failures, 40u);
}

TEST_P(EveryRecipe, CreateMayFail) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  allocator.FailFrom(0);
  EXPECT_THROW(MakeCache(kShape, GetParam(), runtime), std::bad_alloc);
  EXPECT_EQ(allocator.live_bytes(), 0u);
}

TEST_P(EveryRecipe, EveryBudget) {
  // What the life needs without a limit, then with ever less.
  const std::vector<Step> life = Life();
  uint64_t most = 0;
  {
    const auto cache = MakeCache(kShape, GetParam());
    for (const Step& step : life) {
      step.run(*cache);
      most = std::max(most, cache->runtime().memory().held());
    }
  }
  uint64_t refused = 0;
  for (uint64_t part = 1; part <= 12; ++part) {
    const uint64_t budget = most * part / 12;
    const auto runtime = MakeRuntime(0, budget);
    const auto cache = MakeCache(kShape, GetParam(), runtime);
    for (const Step& step : life) {
      const Snapshot before(*cache);
      try {
        step.run(*cache);
      } catch (const BudgetExceeded&) {
        ++refused;
        ASSERT_EQ(Snapshot(*cache), before) << step.name << ", budget " << budget;
      } catch (const std::runtime_error&) {
        // Refused for another reason, because tokens that would be there are missing.
        ASSERT_EQ(Snapshot(*cache), before) << step.name << ", budget " << budget;
      }
      ASSERT_LE(runtime->memory().held(), budget);
    }
    // What is held can still be used.
    if (Length(*cache) >= 2) {
      const Tensor q = NoiseTensor(7, 2, 2, 32);
      const Tensor want =
          oracle::Attend(q, Read(*cache, ops::kSideK), Read(*cache, ops::kSideV), {});
      EXPECT_LE(MaxDistance(Attend(*cache, 0, q), want), 0.01);
    }
  }
  EXPECT_GT(refused, 0u);
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);
INSTANTIATE_TEST_SUITE_P(Learning, EveryRecipe, testing::Values("tc-3", "tc-3,k.map=online,k.rate=3"),
                         [](const auto& info) { return TestName(info.param); });

TEST(CacheFault, OneLayerFailsTheOthersStay) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache({.layers = 4, .q_heads = 2, .kv_heads = 2, .head_dim = 32},
                               "gear-2;1:kivi-2", runtime);
  const Tensor x = NoiseTensor(1, 300, 2, 32);
  for (uint32_t layer = 0; layer < 4; ++layer) Append(*cache, layer, x, x);
  const Snapshot before(*cache);
  const uint64_t live = allocator.live_bytes();
  // A fork that fails leaves nothing behind.
  for (uint64_t n = 0;; ++n) {
    allocator.FailFrom(allocator.allocations() + n);
    bool failed = false;
    try {
      Value(cache->Fork());
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocator.FailFrom(UINT64_MAX);
    ASSERT_EQ(allocator.live_bytes(), live);
    ASSERT_EQ(Snapshot(*cache), before);
    if (!failed) {
      EXPECT_GT(n, 0u);
      break;
    }
  }
}

}  // namespace
}  // namespace kvg::test
