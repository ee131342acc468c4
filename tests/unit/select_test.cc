// The promises of layers that select tokens, for every policy, alone and with codecs: nothing is lost
// but what is evicted, bytes are bytes allocated, failures leave no trace, refusals say why.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "core/cache/prefix_store.h"
#include "core/select/policy.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

using testing::HasSubstr;

constexpr Shape kShape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 32};

std::vector<uint64_t> PositionsOf(const Cache& cache, uint32_t head, uint32_t layer = 0) {
  std::vector<uint64_t> positions(Value(cache.Held(layer)));
  Must(cache.Positions(layer, head, positions.data()));
  return positions;
}

// Everything that can be told of a layer from outside.
struct Snapshot {
  explicit Snapshot(const Cache& cache)
      : content(Content(cache)), stats(Value(cache.GetStats(kAllLayers, true, true))),
        length(Length(cache)) {
    for (uint32_t head = 0; head < 2; ++head) positions.push_back(PositionsOf(cache, head));
  }
  bool operator==(const Snapshot&) const = default;
  std::vector<double> content;
  Stats stats;
  uint64_t length;
  std::vector<std::vector<uint64_t>> positions;
};

void Prompt(Cache& cache, uint64_t seed, size_t tokens) {
  Append(cache, 0, NoiseTensor(seed, tokens, 2, 32), NoiseTensor(seed + 1, tokens, 2, 32));
}

void AttendObserve(Cache& cache, uint64_t seed, uint32_t queries = 1) {
  const std::vector<float> q = ToF32(NoiseTensor(seed, queries, 4, 32));
  std::vector<float> out(q.size());
  AttendOptions options;
  options.q_dtype = options.out_dtype = ops::kF32;
  options.queries = queries;
  Must(cache.AttendObserve(0, q.data(), q.size() * 4, out.data(), out.size() * 4, options));
}

void Probe(Cache& cache, uint64_t seed) {
  std::vector<uint64_t> positions(Value(cache.ProbeRoom(0)));
  positions.resize(Value(cache.ProbePositions(0, positions.data())));
  if (positions.empty()) return;
  const std::vector<float> q = ToF32(NoiseTensor(seed, positions.size(), 4, 32));
  AttendOptions options;
  options.q_dtype = ops::kF32;
  options.queries = static_cast<uint32_t>(positions.size());
  Must(cache.Probe(0, q.data(), q.size() * 4, positions.data(), options));
}

// Every policy by itself, and what codecs and policies make together.
std::vector<std::string> Recipes() {
  std::vector<std::string> recipes = {
      "gear-4,window=32,select=streaming-llm,budget=200,sinks=4",
      "gear-2,select=h2o,budget=0.4",
      "kivi-2,select=snapkv,budget=180,recent=16",
      "int4-rot,select=tova,budget=190",
      "kcvt-4,select=pyramidinfer",
      "gear-4,select=h2o,budget=0.5,low=0.5,low_bits=2",
      "gear-4,select=zipcache,low=0.3",
      "fp16,k.bits=4,select=h2o,budget=220,recent=0.5",
  };
  for (uint32_t i = 0; i < PolicyCount(); ++i) {
    const std::string name = PolicyAt(i)->name;
    const bool tokens = PolicyAt(i)->defaults.budget >= 1;
    recipes.push_back(name + (tokens ? ",budget=90" : "") +
                      (PolicyAt(i)->defaults.recent >= 1 ? ",recent=20" : ""));
  }
  return recipes;
}

class EverySelection : public testing::TestWithParam<std::string> {};

TEST_P(EverySelection, WhatIsHeldIsWhatCameLessWhatWasEvicted) {
  const auto cache = MakeCache(kShape, GetParam());
  std::set<uint64_t> gone[2];
  Prompt(*cache, 1, 330);
  Probe(*cache, 9);
  for (uint64_t t = 330; t < 700; ++t) {
    Prompt(*cache, 100 + t, 1);
    AttendObserve(*cache, 7000 + t);
    const Stats stats = Value(cache->GetStats(0, true, true));
    ASSERT_EQ(stats.appended, t + 1);
    ASSERT_EQ(Length(*cache), t + 1);
    for (uint32_t head = 0; head < 2; ++head) {
      std::vector<uint64_t> positions = PositionsOf(*cache, head);
      ASSERT_EQ(positions.size(), stats.tokens);
      std::sort(positions.begin(), positions.end());
      ASSERT_TRUE(std::adjacent_find(positions.begin(), positions.end()) == positions.end());
      ASSERT_EQ(positions.back(), t);
      // The others are evicted, and an evicted token never returns.
      std::set<uint64_t> now;
      for (uint64_t p = 0, i = 0; p <= t; ++p) {
        if (i < positions.size() && positions[i] == p) {
          ++i;
          ASSERT_EQ(gone[head].count(p), 0u) << p << " is back";
        } else {
          now.insert(p);
        }
      }
      ASSERT_EQ(now.size() + positions.size(), stats.appended);
      gone[head] = now;
    }
  }
}

TEST_P(EverySelection, WithoutCodesRowsAreTheOnesThatCame) {
  const auto cache = MakeCache(kShape, GetParam() + ",block=64,segment=1024,bits=16,low=0");
  const Tensor k = NoiseTensor(1, 400, 2, 32), v = NoiseTensor(2, 400, 2, 32);
  Append(*cache, 0, k.Tokens(0, 300), v.Tokens(0, 300));
  Probe(*cache, 9);
  for (uint64_t t = 300; t < 400; ++t) {
    Append(*cache, 0, k.Tokens(t, 1), v.Tokens(t, 1));
    AttendObserve(*cache, t);
  }
  const Tensor kept_k = Read(*cache, ops::kSideK), kept_v = Read(*cache, ops::kSideV);
  for (uint32_t head = 0; head < 2; ++head) {
    const std::vector<uint64_t> positions = PositionsOf(*cache, head);
    ASSERT_TRUE(std::is_sorted(positions.begin(), positions.end()));
    for (size_t i = 0; i < positions.size(); ++i) {
      for (size_t d = 0; d < 32; ++d) {
        ASSERT_EQ(kept_k(i, head, d), k(positions[i], head, d));
        ASSERT_EQ(kept_v(i, head, d), v(positions[i], head, d));
      }
    }
  }
}

TEST_P(EverySelection, EveryAllocationOfEveryCallMayFailAndBytesAreThoseAllocated) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  uint64_t failures = 0;
  {
    const auto cache = MakeCache(kShape, GetParam(), runtime);
    const auto same = MakeCache(kShape, GetParam());
    const auto step = [&](const std::string& name, const std::function<void(Cache&)>& run) {
      SCOPED_TRACE(name);
      const Snapshot before(*cache);
      const uint64_t live = allocator.live_bytes();
      for (uint64_t n = 0;; ++n) {
        ASSERT_LT(n, 200u) << "never succeeds";
        allocator.FailFrom(allocator.allocations() + n);
        bool failed = false;
        try {
          run(*cache);
        } catch (const std::bad_alloc&) {
          failed = true;
        }
        allocator.FailFrom(UINT64_MAX);
        if (!failed) break;
        ++failures;
        ASSERT_EQ(allocator.live_bytes(), live) << "allocation " << n;
        ASSERT_EQ(Snapshot(*cache), before) << "allocation " << n;
      }
      run(*same);
      ASSERT_EQ(Content(*cache), Content(*same));
      ASSERT_EQ(PositionsOf(*cache, 1), PositionsOf(*same, 1));
      ASSERT_EQ(runtime->memory().held(),
                Value(cache->GetStats(kAllLayers, true, true)).bytes_total());
    };
    step("prompt", [](Cache& c) { Prompt(c, 1, 320); });
    step("probe", [](Cache& c) { Probe(c, 5); });
    step("fork", [](Cache& c) { Value(c.Fork()); });
    step("all layers", [](Cache& c) { Must(c.Select(kAllLayers)); });
    for (uint64_t t = 0; t < 120; t += 4) {
      step("token", [t](Cache& c) { Prompt(c, 50 + t, 1); });
      step("attend", [t](Cache& c) { AttendObserve(c, 900 + t); });
      step("tokens", [t](Cache& c) { Prompt(c, 51 + t, 3); });
      step("attend", [t](Cache& c) { AttendObserve(c, 901 + t, 3); });
      if (HasFatalFailure()) return;
    }
    // The sides add up to the whole.
    Stats k = Value(cache->GetStats(0, true, false)), v = Value(cache->GetStats(0, false, true));
    EXPECT_EQ(k.bytes_total() + v.bytes_total(),
              Value(cache->GetStats(0, true, true)).bytes_total());
    EXPECT_GT(k.bytes_positions, 0u);
  }
  EXPECT_EQ(allocator.live_bytes(), 0u);
  EXPECT_GT(failures, 20u);
}

TEST_P(EverySelection, ForkClearAndTruncate) {
  const auto cache = MakeCache(kShape, GetParam());
  Prompt(*cache, 1, 300);
  Probe(*cache, 5);
  Prompt(*cache, 3, 1);
  AttendObserve(*cache, 6);
  const Snapshot before(*cache);
  const auto fork = Value(cache->Fork());
  EXPECT_EQ(Content(*fork), before.content);
  for (uint64_t t = 0; t < 80; ++t) {
    Prompt(*fork, 10 + t, 1);
    AttendObserve(*fork, 500 + t);
  }
  EXPECT_EQ(Snapshot(*cache).content, before.content);  // what the fork does is its own affair
  EXPECT_EQ(Snapshot(*cache).positions, before.positions);

  // Back to where the policy last acted, at the earliest; else a sentence and no change.
  Prompt(*cache, 20, 6);
  const Snapshot longer(*cache);
  const absl::Status refused = cache->Truncate(0, 100);
  if (!refused.ok()) {
    EXPECT_THAT(std::string(refused.message()), HasSubstr("the nearest lengths are 0 and "));
    EXPECT_EQ(Snapshot(*cache), longer);
  }
  Must(cache->Truncate(0, 303));
  EXPECT_EQ(Length(*cache), 303u);
  for (uint32_t head = 0; head < 2; ++head) {
    for (const uint64_t p : PositionsOf(*cache, head)) EXPECT_LT(p, 303u);
  }
  Must(cache->Clear());
  EXPECT_EQ(Length(*cache), 0u);
  EXPECT_EQ(Value(cache->Held(0)), 0u);
  Prompt(*cache, 1, 300);
  Probe(*cache, 5);
  Prompt(*cache, 3, 1);
  AttendObserve(*cache, 6);
  EXPECT_EQ(Snapshot(*cache).content, before.content);
}

TEST_P(EverySelection, TheTextFormReadsBack) {
  const Recipe recipe = MakeRecipe(GetParam());
  EXPECT_EQ(MakeRecipe(PrintRecipe(recipe)), recipe) << PrintRecipe(recipe);
}

INSTANTIATE_TEST_SUITE_P(Recipes, EverySelection, testing::ValuesIn(Recipes()),
                         [](const auto& info) {
                           return std::to_string(info.index) + "_" + TestName(info.param);
                         });

// ------------------------------------------------------------------------------------ refusals

TEST(SelectRefusals, APolicyThatNeedsScoresAndGetsNone) {
  for (const char* recipe : {"h2o,budget=40", "tova,budget=40", "snapkv,budget=40,recent=8",
                             "zipcache", "zipcache-requant"}) {
    const auto cache = MakeCache(kShape, recipe);
    Prompt(*cache, 1, 200);
    const Snapshot before(*cache);
    const Tensor one = NoiseTensor(9, 1, 2, 32);
    const absl::Status status = TryAppend(*cache, 0, one, one);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << recipe;
    EXPECT_THAT(std::string(status.message()), HasSubstr("needs scores")) << recipe;
    EXPECT_EQ(Snapshot(*cache), before) << recipe;
    EXPECT_FALSE(cache->Select(kAllLayers).ok());
    EXPECT_EQ(Snapshot(*cache), before) << recipe;
  }
}

TEST(SelectRefusals, Scores) {
  const auto cache = MakeCache(kShape, "h2o");
  Prompt(*cache, 1, 20);
  const Snapshot before(*cache);
  std::vector<float> scores(40, 0.5f);
  EXPECT_THAT(std::string(cache->Observe(0, scores.data(), 39, 20).message()),
              HasSubstr("scores_len is 39"));
  EXPECT_THAT(std::string(cache->Observe(0, scores.data(), 40, 0).message()), HasSubstr("rows"));
  EXPECT_THAT(std::string(cache->Observe(0, scores.data(), 40, 21).message()), HasSubstr("rows"));
  for (const float bad : {-1.0f, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    scores[7] = bad;
    EXPECT_EQ(cache->Observe(0, scores.data(), 40, 20).code(), absl::StatusCode::kOutOfRange);
  }
  scores[7] = 1;
  EXPECT_EQ(Snapshot(*cache), before);
  Must(cache->Observe(0, scores.data(), 40, 20));
  const auto plain = MakeCache(kShape, "int8");
  EXPECT_EQ(plain->Observe(0, scores.data(), 0, 1).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(SelectRefusals, Probes) {
  const auto cache = MakeCache(kShape, "h2o");
  Prompt(*cache, 1, 20);
  std::vector<float> q(2 * 4 * 32, 0.1f);
  AttendOptions options;
  options.q_dtype = ops::kF32;
  options.queries = 2;
  const auto probe = [&](std::vector<uint64_t> positions) {
    return cache->Probe(0, q.data(), q.size() * 4, positions.data(), options);
  };
  EXPECT_THAT(std::string(probe({5, 4}).message()), HasSubstr("positions[1] is 4"));
  EXPECT_THAT(std::string(probe({5, 20}).message()), HasSubstr("positions[1] is 20"));
  q[3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(probe({5, 6}).code(), absl::StatusCode::kOutOfRange);
  q[3] = 0;
  Must(probe({5, 6}));
  options.sliding_window = 4;
  EXPECT_EQ(probe({5, 6}).code(), absl::StatusCode::kUnimplemented);
}

TEST(SelectRefusals, PositionsOutOfOrder) {
  const auto cache = MakeCache(kShape, "pyramidinfer");
  const std::vector<uint16_t> rows(3 * 64, 0);
  const TensorView view{rows.data(), rows.size() * 2, 0, 0, 0};
  const auto append = [&](std::vector<uint64_t> positions) {
    return cache->Append(0, view, view, ops::kF16, 3, positions.data());
  };
  EXPECT_THAT(std::string(append({4, 4, 5}).message()), HasSubstr("positions[1] is 4"));
  EXPECT_THAT(std::string(append({4, 5, 0xFFFFFFFF}).message()), HasSubstr("below 4294967295"));
  EXPECT_EQ(Length(*cache), 0u);
  Must(append({4, 6, 9}));
  EXPECT_EQ(Length(*cache), 10u);
  EXPECT_THAT(std::string(append({9, 10, 11}).message()), HasSubstr("must be at least 10"));
  EXPECT_EQ(PositionsOf(*cache, 1), (std::vector<uint64_t>{4, 6, 9}));
  const auto plain = MakeCache(kShape, "int8");
  const std::vector<uint64_t> some{0, 1, 2};
  EXPECT_EQ(plain->Append(0, view, view, ops::kF16, 3, some.data()).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(SelectRefusals, MasksOverTokensThatAreGone) {
  const auto cache = MakeCache(kShape, "streaming-llm,budget=40");
  Prompt(*cache, 1, 100);
  const Tensor q = NoiseTensor(5, 60, 4, 32);
  AttendOptions options;
  options.sliding_window = 10;
  EXPECT_TRUE(TryAttend(*cache, 0, q, options).ok());  // all are there
  Prompt(*cache, 3, 1);
  EXPECT_EQ(TryAttend(*cache, 0, q.Tokens(0, 1), options).status().code(),
            absl::StatusCode::kUnimplemented);
  options.sliding_window = 0;
  EXPECT_THAT(std::string(TryAttend(*cache, 0, q.Tokens(0, 2), options).status().message()),
              HasSubstr("only 1 are all held"));
  EXPECT_TRUE(TryAttend(*cache, 0, q.Tokens(0, 1), options).ok());
  options.causal = false;
  EXPECT_TRUE(TryAttend(*cache, 0, q.Tokens(0, 2), options).ok());
}

TEST(SelectRefusals, Recipes) {
  const auto refusal = [](const std::string& text) {
    return std::string(ParseRecipe(text).status().message());
  };
  EXPECT_THAT(refusal("int8,budget=4"), HasSubstr("select=POLICY"));
  EXPECT_THAT(refusal("int8,select=x"), HasSubstr("streaming-llm, h2o"));
  EXPECT_THAT(refusal("h2o,budget=0"), HasSubstr("would keep nothing"));
  EXPECT_THAT(refusal("h2o,budget=1.5"), HasSubstr("a share of them"));
  EXPECT_THAT(refusal("h2o,recent=30"), HasSubstr("must be a share too"));
  EXPECT_THAT(refusal("streaming-llm,budget=3"), HasSubstr("sinks"));
  EXPECT_THAT(refusal("h2o,low=0.5"), HasSubstr("nothing is compressed"));
  EXPECT_THAT(refusal("int8,select=streaming-llm,low=0.5"), HasSubstr("no scores"));
  EXPECT_THAT(refusal("h2o,beta=20"), HasSubstr("same budget"));
  EXPECT_THAT(refusal("h2o,seal=again"), HasSubstr("only tiers"));
  EXPECT_THAT(refusal("snapkv,pool=4"), HasSubstr("odd"));
}

TEST(SelectRefusals, PrefixStores) {
  const auto runtime = MakeRuntime();
  const auto cache = MakeCache(kShape, "h2o", runtime);
  Prompt(*cache, 1, 3);
  PrefixStore store(runtime, 0);
  const std::vector<uint32_t> tokens{1, 2, 3};
  const absl::Status status = store.Insert(tokens, *cache);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("keep all tokens"));
}

TEST(SelectRefusals, NextTokens) {
  const auto h2o = MakeCache(kShape, "h2o");
  Prompt(*h2o, 1, 20);
  EXPECT_THAT(std::string(h2o->NextTokens(0, nullptr).status().message()),
              HasSubstr("only pyramidinfer"));
  const auto plain = MakeCache(kShape, "int8");
  Prompt(*plain, 1, 20);
  EXPECT_EQ(Value(plain->NextTokens(0, nullptr)), 20u);
}

}  // namespace
}  // namespace kvg::test
