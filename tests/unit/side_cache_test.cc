// The pieces of a side against the oracle's schedule, and the layer's agreement of both sides on
// where it can be cut.
#include "core/cache/side_cache.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};

// Appends in these lengths, and after each of them a look at both sides.
template <typename Look>
void Walk(SingleLayer& layer, const std::vector<uint64_t>& appends, Look look) {
  uint64_t total = 0;
  for (uint64_t tokens : appends) total += tokens;
  const Tensor x = NoiseTensor(1, total, 1, 32);
  uint64_t at = 0;
  std::vector<uint64_t> history;
  for (uint64_t tokens : appends) {
    layer.Append(x.Tokens(at, tokens), x.Tokens(at, tokens));
    at += tokens;
    history.push_back(tokens);
    for (ops::Side side : {ops::kSideK, ops::kSideV}) look(side, history);
  }
}

std::vector<uint64_t> SomeLengths(uint64_t seed) {
  Random random(seed);
  std::vector<uint64_t> lengths;
  for (int i = 0; i < 60; ++i) {
    const uint64_t most[] = {1, 1, 30, 90, 300, 2500};
    lengths.push_back(1 + random.Next() % most[random.Next() % 6]);
  }
  return lengths;
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, PiecesFollowOneAnotherAndTheSchedule) {
  SingleLayer layer(kShape, GetParam());
  Walk(layer, SomeLengths(2), [&](ops::Side side, const std::vector<uint64_t>& history) {
    const SideCache& cache = layer.side(side);
    const SideRecipe& recipe = layer.recipe(side);
    const oracle::Schedule want = oracle::ScheduleOf(recipe, history);
    ASSERT_EQ(cache.length(), want.length);
    const PieceList list = layer.pieces(side);
    const ops::Sequence pieces = list.sequence();
    uint64_t end = 0, sealed = 0, segment = 0;
    for (uint64_t i = 0; i < pieces.count; ++i) {
      const ops::Piece& piece = *pieces.pieces[i];
      ASSERT_EQ(piece.first_token, end);
      ASSERT_GT(piece.tokens, 0u);
      ASSERT_LE(piece.tokens, piece.padded_tokens);
      ASSERT_EQ(piece.side, side);
      end += piece.tokens;
      if (piece.kind == ops::kRows) continue;
      ASSERT_EQ(piece.first_token % ops::kBlockTokens, 0u);
      sealed += piece.tokens;
      if (recipe.block == 1) continue;
      ASSERT_LT(segment, want.segments.size());
      ASSERT_EQ(piece.first_token, want.segments[segment].first);
      ASSERT_EQ(piece.tokens, want.segments[segment].tokens);
      ASSERT_EQ(piece.rank, oracle::RankOf(recipe, want.segments[segment], piece.head_dim));
      ++segment;
    }
    ASSERT_EQ(end, want.length);
    ASSERT_EQ(sealed, want.sealed);
    if (recipe.bits < 16 && recipe.block > 1) {
      ASSERT_EQ(segment, want.segments.size());
    }
  });
}

TEST_P(EveryRecipe, TheWindowStaysSmall) {
  // Whatever came before, what is not sealed takes no more than window and block, and a little
  // slack.
  SingleLayer layer(kShape, GetParam());
  Walk(layer, SomeLengths(3), [&](ops::Side side, const std::vector<uint64_t>&) {
    const SideRecipe& recipe = layer.recipe(side);
    const SideStats stats = layer.side(side).Stats();
    const uint64_t row = kShape.kv_dim() * 2;
    ASSERT_LE(stats.window_allocated, (recipe.window + std::max(recipe.block, 32u)) * row);
    ASSERT_LE(stats.window_used, stats.window_allocated);
  });
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

TEST(SideCache, PagesAreFilledBeforeNewOnesAreOpened) {
  SingleLayer layer(kShape, "kivi-2");
  const auto pages = [&] {
    std::vector<std::pair<uint64_t, uint64_t>> found;
    const PieceList list = layer.pieces(ops::kSideV);
    const ops::Sequence pieces = list.sequence();
    for (uint64_t i = 0; i < pieces.count; ++i) {
      const ops::Piece& piece = *pieces.pieces[i];
      if (piece.kind == ops::kCodes) found.emplace_back(piece.tokens, piece.padded_tokens);
    }
    return found;
  };
  using Pages = std::vector<std::pair<uint64_t, uint64_t>>;
  const auto append = [&](size_t tokens) {
    const Tensor x = NoiseTensor(4, tokens, 1, 32);
    layer.Append(x, x);
  };
  append(128);
  EXPECT_EQ(pages(), Pages{});
  append(1);
  EXPECT_EQ(pages(), (Pages{{1, 128}}));
  for (int i = 0; i < 126; ++i) append(1);
  EXPECT_EQ(pages(), (Pages{{127, 128}}));
  append(3);  // one fills the page, two open the next
  EXPECT_EQ(pages(), (Pages{{128, 128}, {2, 128}}));
  append(200);  // 126 fill it; 74 are 64 as a segment of their own and 10 in a page
  EXPECT_EQ(pages(), (Pages{{128, 128}, {128, 128}, {64, 64}, {10, 128}}));
  append(2000);  // 118, then 1024 and 832 (26 blocks of 32), then 26 in a page
  EXPECT_EQ(
      pages(),
      (Pages{{128, 128}, {128, 128}, {64, 64}, {128, 128}, {1024, 1024}, {832, 832}, {26, 128}}));
  layer.layer().Truncate(2304);  // an edge of keys and values: the page goes
  EXPECT_EQ(pages().back(), (std::pair<uint64_t, uint64_t>{832, 832}));
}

TEST(LayerCache, SidesAgreeOnTheNearestLengths) {
  // Keys have edges at multiples of 96 and values at multiples of 64 tokens: together at 192.
  SingleLayer layer(kShape, "int4,window=0,k.block=96,k.segment=96,v.block=64,v.segment=64");
  const Tensor x = NoiseTensor(5, 1000, 1, 32);
  layer.Append(x, x);
  for (uint64_t n = 0; n <= 1000; ++n) {
    const absl::Status status = layer.layer().CheckTruncate(3, n);
    // 960 tokens are sealed on both sides, and 40 lie in both windows.
    if (n % 192 == 0 || n >= 960) {
      EXPECT_TRUE(status.ok()) << n;
      continue;
    }
    ASSERT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << n;
    const uint64_t below = n / 192 * 192;
    EXPECT_THAT(std::string(status.message()), HasSubstr("layer 3"));
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("nearest lengths are " + std::to_string(below) + " and " +
                          std::to_string(below + 192)));
  }
  EXPECT_FALSE(layer.layer().CheckTruncate(3, 1001).ok());
}

}  // namespace
}  // namespace kvg::test
