// When tokens are compressed: exactly which are, at every length, once and never again.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 32};

// Tokens from the first one on that do not come back as they went in; the rest must.
uint64_t SealedTokens(const Tensor& x, const Tensor& read) {
  uint64_t sealed = 0;
  while (sealed < x.tokens && !TokenEqual(x, read, sealed)) ++sealed;
  for (size_t t = sealed; t < x.tokens; ++t) {
    EXPECT_TRUE(TokenEqual(x, read, t)) << "token " << t << " behind the exact token " << sealed;
  }
  return sealed;
}

struct Sealed {
  uint64_t k, v;
};
Sealed SealedOf(const Cache& cache, const Tensor& k, const Tensor& v) {
  const uint64_t n = Length(cache);
  return {SealedTokens(k.Tokens(0, n), Read(cache, ops::kSideK)),
          SealedTokens(v.Tokens(0, n), Read(cache, ops::kSideV))};
}

class Kivi : public testing::TestWithParam<const char*> {};

TEST_P(Kivi, PromptOfEveryLength) {
  // K: blocks of 128, the rest exact. V: the newest 128 exact, all others compressed.
  const Tensor k = NoiseTensor(1, 700, 2, 32), v = NoiseTensor(2, 700, 2, 32);
  for (uint64_t n : {1u, 31u, 32u, 33u, 127u, 128u, 129u, 159u, 160u, 161u, 255u, 256u, 257u, 384u,
                     500u, 700u}) {
    const auto cache = MakeCache(kShape, GetParam());
    Append(*cache, 0, k.Tokens(0, n), v.Tokens(0, n));
    const Sealed sealed = SealedOf(*cache, k, v);
    EXPECT_EQ(sealed.k, n - n % 128) << n;
    EXPECT_EQ(sealed.v, n <= 128 ? 0 : n - 128) << n;
  }
}

TEST_P(Kivi, DecodeAfterPromptsAroundTheResidual) {
  // The published code never compresses V again after a prompt of just the residual's length.
  for (uint64_t prompt : {127u, 128u, 129u, 256u}) {
    const uint64_t last = prompt + 129;
    const Tensor k = NoiseTensor(3, last, 2, 32), v = NoiseTensor(4, last, 2, 32);
    const auto cache = MakeCache(kShape, GetParam());
    Append(*cache, 0, k.Tokens(0, prompt), v.Tokens(0, prompt));
    for (uint64_t n = prompt + 1; n <= last; ++n) {
      Append(*cache, 0, k.Tokens(n - 1, 1), v.Tokens(n - 1, 1));
      const Sealed sealed = SealedOf(*cache, k, v);
      ASSERT_EQ(sealed.k, n - n % 128) << n;
      ASSERT_EQ(sealed.v, n <= 128 ? 0 : n - 128) << n;
    }
  }
}

TEST_P(Kivi, TheSameBitsHoweverTheTokensArrive) {
  // No group crosses a block, and there is no residual part: only the tokens decide.
  const Tensor k = RealisticTensor(5, 600, 2, 32), v = RealisticTensor(6, 600, 2, 32);
  const auto whole = MakeCache(kShape, GetParam());
  Append(*whole, 0, k, v);
  const std::vector<double> want = Content(*whole);
  const auto single = MakeCache(kShape, GetParam());
  AppendParts(*single, 0, k, v, std::vector<uint64_t>(600, 1));
  EXPECT_EQ(Content(*single), want);
  const auto parts = MakeCache(kShape, GetParam());
  AppendParts(*parts, 0, k, v, {1, 130, 29, 7, 200, 1, 1, 31, 200});
  EXPECT_EQ(Content(*parts), want);
}

INSTANTIATE_TEST_SUITE_P(Recipes, Kivi, testing::Values("kivi-2", "kivi-4"),
                         [](const auto& info) { return std::string(info.param + 5); });

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, SealsWhatTheRuleSays) {
  const Recipe recipe = MakeRecipe(GetParam());
  const uint64_t step = uint64_t{recipe.k.window} + recipe.k.block;
  const Tensor k = NoiseTensor(7, 2 * step + 1500, 2, 32), v = NoiseTensor(8, k.tokens, 2, 32);
  std::vector<std::vector<uint64_t>> histories;
  for (uint64_t n : {uint64_t{1}, step - 1, step, step + 1, 2 * step, 2 * step + 1111}) {
    histories.push_back({n});
    histories.push_back({n, 1, 1, recipe.k.block, 3});
  }
  for (const auto& history : histories) {
    const oracle::Schedule of_k = oracle::ScheduleOf(recipe.k, history);
    const oracle::Schedule of_v = oracle::ScheduleOf(recipe.v, history);
    const auto cache = MakeCache(kShape, GetParam());
    AppendParts(*cache, 0, k.Tokens(0, of_k.length), v.Tokens(0, of_k.length), history);
    EXPECT_EQ(Length(*cache), of_k.length);
    const Sealed sealed = SealedOf(*cache, k, v);
    EXPECT_EQ(sealed.k, of_k.sealed) << "prompt of " << history[0];
    EXPECT_EQ(sealed.v, of_v.sealed) << "prompt of " << history[0];
    const Stats stats = Value(cache->GetStats(0, true, true));
    EXPECT_EQ(stats.sealed_elements, (of_k.sealed + of_v.sealed) * kShape.kv_dim());
  }
}

TEST_P(EveryRecipe, OneByOneSealsAsManyAsInOneGo) {
  const Tensor k = NoiseTensor(9, 777, 2, 32), v = NoiseTensor(10, 777, 2, 32);
  const auto whole = MakeCache(kShape, GetParam()), single = MakeCache(kShape, GetParam());
  Append(*whole, 0, k, v);
  AppendParts(*single, 0, k, v, std::vector<uint64_t>(777, 1));
  const Sealed a = SealedOf(*whole, k, v), b = SealedOf(*single, k, v);
  EXPECT_EQ(a.k, b.k);
  EXPECT_EQ(a.v, b.v);
}

TEST_P(EveryRecipe, ATokenIsCompressedOnceAndForGood) {
  const Recipe recipe = MakeRecipe(GetParam());
  const Tensor k = NoiseTensor(11, 900, 2, 32), v = NoiseTensor(12, 900, 2, 32);
  const auto cache = MakeCache(kShape, GetParam());
  std::vector<uint64_t> history;
  Tensor old_k, old_v;
  uint64_t at = 0;
  for (uint64_t n : {300u, 1u, 63u, 64u, 1u, 200u, 31u, 1u, 1u, 238u}) {
    Append(*cache, 0, k.Tokens(at, n), v.Tokens(at, n));
    at += n;
    const Tensor new_k = Read(*cache, ops::kSideK), new_v = Read(*cache, ops::kSideV);
    const uint64_t sealed_k = oracle::ScheduleOf(recipe.k, history).sealed;
    const uint64_t sealed_v = oracle::ScheduleOf(recipe.v, history).sealed;
    for (size_t t = 0; t < sealed_k; ++t) ASSERT_TRUE(TokenEqual(old_k, new_k, t)) << t;
    for (size_t t = 0; t < sealed_v; ++t) ASSERT_TRUE(TokenEqual(old_v, new_v, t)) << t;
    history.push_back(n);
    old_k = new_k;
    old_v = new_v;
  }
  ASSERT_EQ(at, 900u);
}

TEST_P(EveryRecipe, PromptsThatMeetTheSameSegmentsGiveTheSameBits) {
  // Cut where the schedule cuts: a prompt in one go, and the same in calls that end each segment.
  const Recipe recipe = MakeRecipe(GetParam());
  if (recipe.k.window != recipe.v.window || recipe.k.block != recipe.v.block ||
      recipe.k.segment != recipe.v.segment) {
    GTEST_SKIP() << "the sides of this recipe are cut at different tokens";
  }
  const uint64_t segment = recipe.k.segment, window = recipe.k.window;
  const uint64_t n = window + 2 * segment;
  const Tensor k = RealisticTensor(13, n, 2, 32), v = RealisticTensor(14, n, 2, 32);
  const auto whole = MakeCache(kShape, GetParam()), parts = MakeCache(kShape, GetParam());
  Append(*whole, 0, k, v);
  AppendParts(*parts, 0, k, v, {window + segment, segment});
  EXPECT_EQ(Content(*whole), Content(*parts));
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

}  // namespace
}  // namespace kvg::test
