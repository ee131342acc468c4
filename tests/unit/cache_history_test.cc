// Truncate, fork, clear, and appends after them: exact where allowed, refused elsewhere, shared
// where possible, independent always.
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 32};
constexpr Shape kThreeLayers{.layers = 3, .q_heads = 2, .kv_heads = 1, .head_dim = 32};

struct Inputs {
  explicit Inputs(uint64_t seed, size_t tokens, size_t heads = 2, size_t dim = 32)
      : k(RealisticTensor(2 * seed, tokens, heads, dim, 0)),
        v(RealisticTensor(2 * seed + 1, tokens, heads, dim, 0)) {}
  Tensor k, v;
};

void AppendRange(Cache& cache, const Inputs& x, size_t first, size_t tokens, uint32_t layer = 0) {
  Append(cache, layer, x.k.Tokens(first, tokens), x.v.Tokens(first, tokens));
}

Tensor Query() { return NoiseTensor(99, 2, 4, 32); }

Stats StatsOf(const Cache& cache, uint32_t layer = 0) {
  return Value(cache.GetStats(layer, true, true));
}

// Lengths to which one side can be cut, after these appends: every length in the window or in an
// open page, and every edge of a segment.
std::vector<bool> Cuts(const SideCache& side) {
  std::vector<bool> can(side.length() + 1);
  for (uint64_t n = 0; n <= side.length(); ++n) can[n] = side.CanTruncate(n);
  return can;
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, TruncateIsExactAtEdgesAndInTheWindowAndRefusedElsewhere) {
  const Inputs x(1, 1000);
  // A prompt and 200 decoded tokens.
  const auto grown = MakeCache(kShape, GetParam());
  AppendRange(*grown, x, 0, 800);
  for (size_t t = 800; t < 1000; ++t) AppendRange(*grown, x, t, 1);
  SingleLayer layer(kShape, GetParam());
  layer.Append(x.k.Tokens(0, 800), x.v.Tokens(0, 800));
  for (size_t t = 800; t < 1000; ++t) layer.Append(x.k.Tokens(t, 1), x.v.Tokens(t, 1));
  const std::vector<bool> k_cuts = Cuts(layer.side(ops::kSideK)),
                          v_cuts = Cuts(layer.side(ops::kSideV));

  // What the pieces say may be cut, independently of CanTruncate.
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const SideRecipe& recipe = layer.recipe(side);
    std::vector<bool> want(1001);
    const PieceList list = layer.pieces(side);
    const ops::Sequence pieces = list.sequence();
    want[0] = true;
    for (uint64_t i = 0; i < pieces.count; ++i) {
      const ops::Piece& piece = *pieces.pieces[i];
      const bool window = i + 1 == pieces.count && piece.kind == ops::kRows && recipe.block > 0 &&
                          piece.first_token + piece.tokens == 1000;
      const bool open_page = recipe.block == 1 && piece.tokens < piece.padded_tokens;
      for (uint64_t t = 0; t <= piece.tokens; ++t) {
        if (window || open_page || t == 0 || t == piece.tokens) want[piece.first_token + t] = true;
      }
    }
    EXPECT_EQ(side == ops::kSideK ? k_cuts : v_cuts, want) << "side " << side;
  }

  const std::vector<double> full = Content(*grown);
  const Tensor k = Read(*grown, ops::kSideK), v = Read(*grown, ops::kSideV);
  for (uint64_t n = 0; n <= 1000; n += n > 850 ? 1 : 16) {
    const bool allowed = k_cuts[n] && v_cuts[n];
    if (!allowed) {
      const absl::Status status = grown->Truncate(0, n);
      ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << n;
      uint64_t below = n, above = n;
      while (!(k_cuts[below] && v_cuts[below])) --below;
      while (!(k_cuts[above] && v_cuts[above])) ++above;
      ASSERT_THAT(std::string(status.message()),
                  HasSubstr("nearest lengths are " + std::to_string(below) + " and " +
                            std::to_string(above)));
      continue;
    }
    const auto fork = Value(grown->Fork());
    Must(fork->Truncate(0, n));
    ASSERT_EQ(Length(*fork), n);
    ASSERT_EQ(Read(*fork, ops::kSideK).data, k.Tokens(0, n).data) << n;
    ASSERT_EQ(Read(*fork, ops::kSideV).data, v.Tokens(0, n).data) << n;
  }
  EXPECT_EQ(Content(*grown), full);
}

TEST_P(EveryRecipe, TruncateBeyondTheLengthIsRefused) {
  const Inputs x(2, 100);
  const auto cache = MakeCache(kShape, GetParam());
  AppendRange(*cache, x, 0, 100);
  for (uint64_t n : {uint64_t{101}, UINT64_MAX}) {
    const absl::Status status = cache->Truncate(0, n);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("holds 100 tokens"));
  }
  EXPECT_FALSE(cache->Truncate(1, 0).ok());
  Must(cache->Truncate(0, 100));
  EXPECT_EQ(Length(*cache), 100u);
}

TEST_P(EveryRecipe, WhatIsAppendedAfterACutIsAsIfTheCutTokensHadNeverBeen) {
  // Two caches with the same appends; one of them went on and came back, without sealing anything
  // meanwhile. From there on they are the same, to the bit, in content and in answers.
  const Inputs x(3, 900), other(4, 900);
  for (const auto& [before, detour] :
       std::vector<std::pair<size_t, size_t>>{{700, 3}, {130, 1}, {20, 7}, {0, 400}}) {
    const auto straight = MakeCache(kShape, GetParam()), detoured = MakeCache(kShape, GetParam());
    for (Cache* cache : {straight.get(), detoured.get()}) {
      if (before > 0) AppendRange(*cache, x, 0, before);
    }
    const uint64_t sealed = StatsOf(*detoured).sealed_elements;
    AppendRange(*detoured, other, 0, detour);
    if (before > 0 && StatsOf(*detoured).sealed_elements != sealed) continue;
    Must(detoured->Truncate(0, before));
    size_t from = before;
    for (size_t tokens : {2u, 1u, 40u, 1u, 60u, 64u, 30u}) {
      if (from + tokens > 900) break;
      AppendRange(*straight, x, from, tokens);
      AppendRange(*detoured, x, from, tokens);
      from += tokens;
      ASSERT_EQ(Attend(*straight, 0, Query()).data, Attend(*detoured, 0, Query()).data) << from;
    }
    ASSERT_EQ(Content(*straight), Content(*detoured)) << "before " << before;
  }
}

TEST_P(EveryRecipe, HistoriesThatEndInTheSameTokensHoldTheSame) {
  // Appends and cuts at random; then enough tokens to fill window and block. The tokens that are
  // left are as if they had come in one go: to the bit, where no part of the codec looks at
  // segments.
  const Recipe recipe = MakeRecipe(GetParam());
  const size_t last = std::max(recipe.k.window + recipe.k.block, recipe.v.window + recipe.v.block);
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    Random random(seed);
    const auto cache = MakeCache(kShape, GetParam());
    Inputs held(seed, 0);
    const auto append = [&](size_t tokens) {
      const Inputs x(random.Next(), tokens);
      Append(*cache, 0, x.k, x.v);
      held.k = Joined(held.k, x.k);
      held.v = Joined(held.v, x.v);
    };
    size_t cuts = 0;
    for (int step = 0; step < 60; ++step) {
      if (random.Next() % 3 != 0) {
        const size_t most[] = {1, 1, 5, 40, 150, 400};
        append(1 + random.Next() % most[random.Next() % 6]);
        continue;
      }
      // The nearest length below some length that can be cut to.
      uint64_t n = held.k.tokens - random.Next() % (held.k.tokens / 3 + 1);
      while (!cache->Truncate(0, n).ok()) --n;
      if (n < held.k.tokens) ++cuts;
      held.k = held.k.Tokens(0, n);
      held.v = held.v.Tokens(0, n);
      ASSERT_EQ(Length(*cache), n);
    }
    EXPECT_GT(cuts, 3u);
    append(last);
    const auto straight = MakeCache(kShape, GetParam());
    Append(*straight, 0, held.k, held.v);
    EXPECT_EQ(StatsOf(*cache).sealed_elements, StatsOf(*straight).sealed_elements);
    for (ops::Side side : {ops::kSideK, ops::kSideV}) {
      const Tensor got = Read(*cache, side), want = Read(*straight, side);
      const Tensor& x = side == ops::kSideK ? held.k : held.v;
      if (LooksAtSegments(side == ops::kSideK ? recipe.k : recipe.v, side)) {
        EXPECT_LT(Distance(got, x), 0.6 * oracle::Norm(x.data));
      } else {
        EXPECT_EQ(got.data, want.data) << "seed " << seed << ", side " << side;
      }
    }
    const Tensor want =
        oracle::Attend(Query(), Read(*cache, ops::kSideK), Read(*cache, ops::kSideV), {});
    EXPECT_LE(MaxDistance(Attend(*cache, 0, Query()), want), 2e-3 * MaxAbs(held.v));
  }
}

TEST_P(EveryRecipe, ACutToASegmentEdgeGoesOnFromThere) {
  const Inputs x(5, 1500);
  const auto cache = MakeCache(kShape, GetParam());
  AppendRange(*cache, x, 0, 1100);
  for (size_t t = 1100; t < 1300; ++t) AppendRange(*cache, x, t, 1);
  // The largest common edge of both sides below 1100.
  uint64_t n = 1099;
  const auto fork = Value(cache->Fork());
  while (!fork->Truncate(0, n).ok()) --n;
  const std::vector<double> old_k = Read(*fork, ops::kSideK).data;
  AppendRange(*fork, x, n, 1500 - n);
  ASSERT_EQ(Length(*fork), 1500u);
  const Tensor k = Read(*fork, ops::kSideK), v = Read(*fork, ops::kSideV);
  EXPECT_EQ(k.Tokens(0, n).data, old_k);
  const Recipe recipe = MakeRecipe(GetParam());
  // The newest tokens are exact on either side; the others are near what was appended.
  for (size_t t = 1500 - std::max(recipe.k.window, 1u) + 1; t < 1500; ++t) {
    EXPECT_TRUE(TokenEqual(k, x.k, t)) << t;
  }
  for (size_t t = 1500 - std::max(recipe.v.window, 1u) + 1; t < 1500; ++t) {
    EXPECT_TRUE(TokenEqual(v, x.v, t)) << t;
  }
  EXPECT_LT(Distance(k, x.k), 0.6 * oracle::Norm(x.k.data));
  EXPECT_LT(Distance(v, x.v), 0.6 * oracle::Norm(x.v.data));
}

// -------------------------------------------------------------------------------------- forks

TEST_P(EveryRecipe, ForksShareSegmentsAndAreIndependent) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache(kShape, GetParam(), runtime);
  const Inputs x(6, 3000), other(7, 3000);
  AppendRange(*cache, x, 0, 2000);
  const uint64_t one = runtime->memory().held();
  const std::vector<double> content = Content(*cache);
  EXPECT_EQ(StatsOf(*cache).bytes_shared, 0u);
  {
    const uint64_t allocations = allocator.allocations();
    const auto fork = Value(cache->Fork());
    // The layers; no window, page, list or segment.
    EXPECT_EQ(allocator.allocations() - allocations, 1u);
    EXPECT_EQ(Content(*fork), content);
    const Stats stats = StatsOf(*fork);
    EXPECT_EQ(stats.bytes_shared, StatsOf(*cache).bytes_shared);
    EXPECT_GT(stats.bytes_shared, stats.bytes_total() / 2);
    // Counted once: what both hold is what each says, less what they share.
    EXPECT_EQ(runtime->memory().held(),
              stats.bytes_total() + StatsOf(*cache).bytes_total() - stats.bytes_shared);

    // Each goes its own way, and is as a cache that went this way alone.
    for (size_t t = 2000; t < 2300; t += 30) {
      AppendRange(*fork, other, t, 30);
      AppendRange(*cache, x, t, 30);
    }
    const auto alone = MakeCache(kShape, GetParam()), other_alone = MakeCache(kShape, GetParam());
    AppendRange(*alone, x, 0, 2000);
    AppendRange(*other_alone, x, 0, 2000);
    for (size_t t = 2000; t < 2300; t += 30) {
      AppendRange(*alone, x, t, 30);
      AppendRange(*other_alone, other, t, 30);
    }
    EXPECT_EQ(Content(*cache), Content(*alone));
    EXPECT_EQ(Content(*fork), Content(*other_alone));
    EXPECT_EQ(Attend(*fork, 0, Query()).data, Attend(*other_alone, 0, Query()).data);

    // The parent may go first.
    Must(cache->Clear());
    EXPECT_EQ(Content(*fork), Content(*other_alone));
    EXPECT_EQ(StatsOf(*fork).bytes_shared, 0u);
  }
  EXPECT_LT(runtime->memory().held(), one / 10);
  EXPECT_EQ(runtime->memory().held(), StatsOf(*cache).bytes_total());
}

TEST_P(EveryRecipe, ForksOfForks) {
  const Inputs x(8, 700);
  auto cache = MakeCache(kShape, GetParam());
  AppendRange(*cache, x, 0, 500);
  std::vector<std::unique_ptr<Cache>> forks;
  for (size_t i = 0; i < 10; ++i) {
    forks.push_back(Value((i == 0 ? *cache : *forks.back()).Fork()));
    AppendRange(*forks.back(), x, 500 + i, 1);
  }
  const std::shared_ptr<Runtime> runtime(std::shared_ptr<Runtime>{}, &cache->runtime());
  cache.reset();
  for (size_t i = 0; i < 10; ++i) {
    const auto alone = MakeCache(kShape, GetParam());
    AppendRange(*alone, x, 0, 500);
    for (size_t t = 500; t <= 500 + i; ++t) AppendRange(*alone, x, t, 1);
    EXPECT_EQ(Content(*forks[i]), Content(*alone)) << i;
    if (i % 2 == 0) forks[i].reset();
  }
}

TEST_P(EveryRecipe, ACutForkLeavesItsParentWhole) {
  const Inputs x(9, 1300);
  const auto cache = MakeCache(kShape, GetParam());
  AppendRange(*cache, x, 0, 1000);
  for (size_t t = 1000; t < 1050; ++t) AppendRange(*cache, x, t, 1);
  const std::vector<double> content = Content(*cache);
  for (uint64_t n = 0; n<1050; n += n> 900 ? 1 : 32) {
    const auto fork = Value(cache->Fork());
    if (!fork->Truncate(0, n).ok()) continue;
    AppendRange(*fork, x, 1050, 130);
    ASSERT_EQ(Length(*fork), n + 130);
    ASSERT_EQ(Content(*cache), content) << n;
  }
  EXPECT_EQ(Content(*cache), content);
}

// -------------------------------------------------------------------------------------- clear

TEST_P(EveryRecipe, ClearGivesBackAllAndStartsAnew) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache(kShape, GetParam(), runtime);
  const uint64_t empty = allocator.live_bytes();
  const Inputs x(10, 800);
  const auto fresh = MakeCache(kShape, GetParam());
  AppendRange(*fresh, x, 0, 800);
  for (int round = 0; round < 2; ++round) {
    AppendRange(*cache, x, 0, 800);
    EXPECT_EQ(Content(*cache), Content(*fresh));
    Must(cache->Clear());
    EXPECT_EQ(Length(*cache), 0u);
    EXPECT_EQ(allocator.live_bytes(), empty);
    EXPECT_EQ(StatsOf(*cache).elements, 0u);
    EXPECT_EQ(StatsOf(*cache).segments, 0u);
    EXPECT_FALSE(TryAttend(*cache, 0, Query()).ok());
  }
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

// ----------------------------------------------------------------------------------- layers

TEST(CacheHistory, TruncateOfAllLayersIsAllOrNothing) {
  const auto cache = MakeCache(kThreeLayers, "int4;1:kivi-2;2:fp16");
  const Inputs x(11, 900, 1, 32);
  AppendRange(*cache, x, 0, 900, 0);
  AppendRange(*cache, x, 0, 700, 1);
  AppendRange(*cache, x, 0, 100, 2);
  // 880 lies in the window of layer 0; the others are shorter already.
  Must(cache->Truncate(kAllLayers, 880));
  EXPECT_EQ(Length(*cache, 0), 880u);
  EXPECT_EQ(Length(*cache, 1), 700u);
  EXPECT_EQ(Length(*cache, 2), 100u);
  // 690 lies in the window of layer 1 and inside a segment of layer 0.
  const std::vector<double> layers[] = {Content(*cache, 0), Content(*cache, 1), Content(*cache, 2)};
  const absl::Status status = cache->Truncate(kAllLayers, 690);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("layer 0"));
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(Content(*cache, i), layers[i]);
  Must(cache->Truncate(kAllLayers, 0));
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(Length(*cache, i), 0u);
  Must(cache->Truncate(kAllLayers, 5));
}

TEST(CacheHistory, ForkAndClearTakeAllLayers) {
  const auto cache = MakeCache(kThreeLayers, "gear-2;1:kivi-2;2:fp16");
  const Inputs x(12, 500, 1, 32);
  for (uint32_t i = 0; i < 3; ++i) AppendRange(*cache, x, 0, 200 + 100 * i, i);
  const auto fork = Value(cache->Fork());
  for (uint32_t i = 0; i < 3; ++i) EXPECT_EQ(Content(*fork, i), Content(*cache, i));
  Must(cache->Clear());
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(Length(*cache, i), 0u);
    EXPECT_EQ(Length(*fork, i), 200u + 100 * i);
  }
}

}  // namespace
}  // namespace kvg::test
