// Stores of prefixes beside a naive model that tries every stored cache at every length.
#include <algorithm>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "core/cache/prefix_store.h"
#include "gtest/gtest.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 2, .q_heads = 2, .kv_heads = 1, .head_dim = 32};
using Tokens = std::vector<uint32_t>;

// A cache that holds rows made of the tokens, so that equal beginnings are equal rows.
std::unique_ptr<Cache> CacheOf(const Tokens& tokens, const std::shared_ptr<Runtime>& runtime,
                               const std::shared_ptr<const Plan>& plan) {
  auto cache = Value(Cache::Create(runtime, plan));
  Tensor x(tokens.size(), 1, 32);
  for (size_t i = 0; i < x.data.size(); ++i) x.data[i] = tokens[i / 32] % 16 + 0.25 * static_cast<double>(i % 5);
  // In two calls, so that there are edges of segments inside.
  const size_t half = tokens.size() / 2;
  for (uint32_t layer = 0; layer < 2; ++layer) {
    if (half > 0) Append(*cache, layer, x.Tokens(0, half), x.Tokens(0, half));
    Append(*cache, layer, x.Tokens(half, tokens.size() - half), x.Tokens(half, tokens.size() - half));
  }
  return cache;
}

// Entries by last use, the newest first.
class Model {
 public:
  void Insert(const Tokens& tokens, const std::shared_ptr<const Plan>& plan, std::unique_ptr<Cache> cache) {
    entries_.remove_if([&](const Entry& entry) { return entry.tokens == tokens && entry.plan == plan; });
    entries_.push_front({tokens, plan, std::move(cache)});
  }
  void Evict(uint64_t count) {
    for (; count > 0; --count) entries_.pop_back();
  }
  // The longest match, and the entries that give it, of which the store chose one.
  uint64_t Find(const Tokens& tokens, const std::shared_ptr<const Plan>& plan) const {
    uint64_t best = 0;
    for (const Entry& entry : entries_) best = std::max(best, Cut(entry, tokens, plan));
    return best;
  }
  size_t size() const { return entries_.size(); }
  // With one entry of the best length: it was used. Otherwise no order can be told, and none is.
  bool Use(const Tokens& tokens, const std::shared_ptr<const Plan>& plan, uint64_t length) {
    std::vector<std::list<Entry>::iterator> best;
    for (auto it = entries_.begin(); it != entries_.end(); ++it) {
      if (Cut(*it, tokens, plan) >= length) best.push_back(it);
    }
    if (best.size() == 1) entries_.splice(entries_.begin(), entries_, best[0]);
    return best.size() == 1;
  }

 private:
  struct Entry {
    Tokens tokens;
    std::shared_ptr<const Plan> plan;
    std::unique_ptr<Cache> cache;
  };
  static uint64_t Cut(const Entry& entry, const Tokens& tokens, const std::shared_ptr<const Plan>& plan) {
    if (entry.plan != plan) return 0;
    const auto ends = std::mismatch(tokens.begin(), tokens.end(), entry.tokens.begin(), entry.tokens.end());
    for (auto length = static_cast<uint64_t>(ends.first - tokens.begin()); length > 0; --length) {
      if (Value(entry.cache->Fork())->Truncate(kAllLayers, length).ok()) return length;
    }
    return 0;
  }
  std::list<Entry> entries_;
};

class EveryPrefix : public testing::TestWithParam<std::string> {};

TEST_P(EveryPrefix, FindsWhatANaiveSearchFinds) {
  const auto runtime = MakeRuntime();
  const auto plan = Value(Plan::Create(kShape, GetParam())), other = Value(Plan::Create(kShape, "int8,window=0"));
  PrefixStore store(runtime, 0);
  Model model;
  Random random(1);
  std::vector<Tokens> seen = {{1, 2, 3}};
  uint64_t hits = 0, misses = 0;
  for (int round = 0; round < 150; ++round) {
    // A beginning of what was seen, then something new: prompts share much.
    Tokens tokens = seen[random.Next() % seen.size()];
    tokens.resize(random.Next() % (tokens.size() + 1));
    for (uint64_t i = random.Next() % 200; i > 0; --i) tokens.push_back(static_cast<uint32_t>(random.Next() % 3));
    if (tokens.empty()) continue;
    const auto& of = random.Next() % 3 == 0 ? other : plan;
    if (random.Next() % 2 == 0) {
      const auto cache = CacheOf(tokens, runtime, of);
      Must(store.Insert(tokens, *cache));
      model.Insert(tokens, of, CacheOf(tokens, runtime, of));
      seen.push_back(tokens);
    } else {
      const auto match = Value(store.Find(tokens, of));
      ASSERT_EQ(match.tokens, model.Find(tokens, of)) << round;
      ++(match.tokens > 0 ? hits : misses);
      ASSERT_EQ(match.cache != nullptr, match.tokens > 0);
      if (match.tokens > 0) {
        ASSERT_EQ(Length(*match.cache, 1), match.tokens);
      }
    }
    const PrefixStats stats = store.GetStats();
    ASSERT_EQ(stats.entries, model.size());
    ASSERT_EQ(stats.hits, hits);
    ASSERT_EQ(stats.misses, misses);
  }
  EXPECT_GT(hits, 20u);
  store.Clear();
  EXPECT_EQ(store.GetStats().bytes, 0u);
  EXPECT_EQ(Value(store.Find(seen.back(), plan)).tokens, 0u);
}
INSTANTIATE_TEST_SUITE_P(Recipes, EveryPrefix, testing::Values("int4", "kivi-2,v.window=32", "gear-2,window=32", "tc-3"),
                         [](const auto& info) { return TestName(info.param); });

TEST(PrefixStore, WhatWasNotUsedForLongestMakesRoom) {
  const auto runtime = MakeRuntime();
  const auto plan = Value(Plan::Create(kShape, "int8"));
  const auto tokens_of = [](uint32_t i) { return Tokens(100, i); };  // nothing in common
  PrefixStore unlimited(runtime, 0);
  Must(unlimited.Insert(tokens_of(0), *CacheOf(tokens_of(0), runtime, plan)));
  const uint64_t one = unlimited.GetStats().bytes;
  PrefixStore store(runtime, 10 * one);
  Model model;
  Random random(2);
  uint64_t evictions = 0;
  for (int round = 0; round < 400; ++round) {
    const auto tokens = tokens_of(static_cast<uint32_t>(random.Next() % 20));
    if (random.Next() % 2 == 0) {
      Must(store.Insert(tokens, *CacheOf(tokens, runtime, plan)));
      model.Insert(tokens, plan, CacheOf(tokens, runtime, plan));
    } else {
      const auto match = Value(store.Find(tokens, plan));
      ASSERT_EQ(match.tokens, model.Find(tokens, plan)) << round;
      if (match.tokens > 0) {
        ASSERT_TRUE(model.Use(tokens, plan, match.tokens));
      }
    }
    const PrefixStats stats = store.GetStats();
    model.Evict(stats.evictions - evictions);
    evictions = stats.evictions;
    ASSERT_LE(stats.bytes, 10 * one);
    ASSERT_EQ(stats.entries, model.size());
  }
  EXPECT_GT(evictions, 20u);
  // One that does not fit by itself changes nothing.
  PrefixStore tiny(runtime, one - 1);
  EXPECT_EQ(tiny.Insert(tokens_of(0), *CacheOf(tokens_of(0), runtime, plan)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(tiny.GetStats().entries, 0u);
  EXPECT_EQ(tiny.GetStats().bytes, 0u);
}

// Thousands of caches with one beginning, which none can be cut to: a find does not look at each of them.
TEST(PrefixStore, ManyOfOneBeginning) {
  const auto runtime = MakeRuntime();
  const auto plan = Value(Plan::Create(kShape, "gear-2,window=0")), other = Value(Plan::Create(kShape, "gear-2"));
  PrefixStore store(runtime, 0);
  Tokens tokens(192, 7);
  const auto whole = CacheOf(tokens, runtime, plan), stranger = CacheOf(tokens, runtime, other);
  for (uint32_t i = 0; i < 3000; ++i) {
    tokens[190] = i;
    Must(store.Insert(tokens, i % 2 == 0 ? *whole : *stranger));
  }
  Tokens asked(400, 7);
  EXPECT_EQ(Value(store.Find(asked, plan)).tokens, whole->layer(0).NearestCuts(190).first);
  EXPECT_EQ(store.GetStats().entries, 3000u);
  asked = tokens;
  asked[0] = 9;
  EXPECT_EQ(Value(store.Find(asked, plan)).tokens, 0u);
}

}  // namespace
}  // namespace kvg::test
