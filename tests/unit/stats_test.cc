// Statistics: bytes are bytes allocated, itemised as the formulas say, and the price of a part
// shows.
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

Stats StatsOf(const Cache& cache, uint32_t layer = kAllLayers, bool k = true, bool v = true) {
  return Value(cache.GetStats(layer, k, v));
}

// What the sealed part of one side takes, from the formulas of the codecs and the oracle's
// schedule.
struct Bytes {
  uint64_t codes = 0, scales = 0, low_rank = 0, sparse = 0;
};

Bytes Expected(const SideRecipe& recipe, ops::Side side, const Shape& shape,
               const oracle::Schedule& schedule) {
  Bytes bytes;
  const uint64_t heads = shape.kv_heads, dim = shape.head_dim;
  const uint64_t dirs = (dim + 15) / 16 * 16;
  for (const oracle::Segment& s : schedule.segments) {
    bytes.codes += heads * s.tokens * dirs * recipe.bits / 8;
    if (recipe.axis == ops::kAxisChannel) {
      const uint64_t group = recipe.group == SideRecipe::kWhole ? s.tokens : recipe.group;
      bytes.scales += 4 * heads * dirs * (s.tokens / group);
    } else if (recipe.group == SideRecipe::kAllHeads) {
      bytes.scales += 4 * s.tokens;
    } else {
      const uint64_t group =
          recipe.group == SideRecipe::kWhole ? dim : std::min<uint64_t>(recipe.group, dim);
      bytes.scales += 4 * heads * s.tokens * ((dim + group - 1) / group);
    }
    bytes.low_rank += 2 * heads * oracle::RankOf(recipe, s, dim) * (s.tokens + dirs);
    const uint64_t vectors = side == ops::kSideK ? heads * dim : s.tokens;
    const uint64_t length = side == ops::kSideK ? s.tokens : heads * dim;
    const uint64_t entries = 2 * oracle::OutlierCount(recipe.outliers, length) * vectors;
    if (entries > 0) {
      // A value of 2 bytes and a direction of 1; a count per row; a start per block of 32.
      bytes.sparse += 3 * entries + heads * s.tokens + 4 * heads * (s.tokens / 32 + 1);
    }
  }
  return bytes;
}

// Noise that repeats: cheap to make long.
Tensor Repeated(uint64_t seed, size_t tokens, size_t heads, size_t dim) {
  Tensor x = NoiseTensor(seed, 64, heads, dim);
  while (x.tokens < tokens) x = Joined(x, x);
  return x.Tokens(0, tokens);
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, BytesAreWhatTheAllocatorGave) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache({.layers = 3, .q_heads = 2, .kv_heads = 2, .head_dim = 72},
                               GetParam() + ";1:int4", runtime);
  Random random(1);
  const auto check = [&] {
    const Stats all = StatsOf(*cache);
    EXPECT_EQ(all.bytes_total(), allocator.live_bytes());
    EXPECT_EQ(all.bytes_total(), runtime->memory().held());
    uint64_t layers = 0, sides = 0, elements = 0;
    for (uint32_t layer = 0; layer < 3; ++layer) {
      const Stats both = StatsOf(*cache, layer);
      layers += both.bytes_total();
      elements += both.elements;
      sides += StatsOf(*cache, layer, true, false).bytes_total();
      sides += StatsOf(*cache, layer, false, true).bytes_total();
      EXPECT_LE(both.bytes_window_used, both.bytes_window_allocated);
      EXPECT_EQ(both.tokens, Length(*cache, layer));
      EXPECT_EQ(both.elements, 2 * both.tokens * 2 * 72);
      EXPECT_LE(both.sealed_elements, both.elements);
      EXPECT_EQ(both.bytes_positions + both.bytes_state, 0u);
    }
    EXPECT_EQ(layers, all.bytes_total());
    EXPECT_EQ(sides, all.bytes_total());
    EXPECT_EQ(elements, all.elements);
  };
  check();
  for (int step = 0; step < 40; ++step) {
    const size_t most[] = {1, 10, 200, 900};
    const size_t tokens = 1 + random.Next() % most[random.Next() % 4];
    const uint32_t layer = static_cast<uint32_t>(random.Next() % 3);
    const Tensor x = Repeated(random.Next(), tokens, 2, 72);
    Append(*cache, layer, x, x);
    check();
    if (step % 13 == 12) {
      uint64_t n = Length(*cache, layer) / 2;
      while (!cache->Truncate(layer, n).ok()) --n;
      check();
    }
  }
  Must(cache->Clear());
  check();
}

TEST_P(EveryRecipe, ItemsFollowTheFormulas) {
  for (const Shape& shape : {Shape{.layers = 1, .q_heads = 3, .kv_heads = 3, .head_dim = 128},
                             Shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 72}}) {
    const auto cache = MakeCache(shape, GetParam());
    const Recipe recipe = MakeRecipe(GetParam());
    std::vector<uint64_t> history{2500};
    for (int i = 0; i < 3; ++i) history.push_back(70);
    const Tensor x = Repeated(2, 2710, shape.kv_heads, shape.head_dim);
    AppendParts(*cache, 0, x, x, history);
    for (ops::Side side : {ops::kSideK, ops::kSideV}) {
      const SideRecipe& of = side == ops::kSideK ? recipe.k : recipe.v;
      const Stats stats = StatsOf(*cache, 0, side == ops::kSideK, side == ops::kSideV);
      const oracle::Schedule schedule = oracle::ScheduleOf(of, history);
      Bytes want = Expected(of, side, shape, schedule);
      uint64_t window = 2710 - schedule.sealed;
      if (of.bits == 16) {
        // Sealed or not, rows are rows: 16 bits each, in segments that are not called compressed.
        EXPECT_EQ(stats.sealed_elements, 0u);
        window = stats.bytes_window_used / 2 / shape.kv_dim();
        want.codes = (2710 - window) * shape.kv_dim() * 2;
        EXPECT_LT(window, of.window + of.block);
      } else {
        EXPECT_EQ(stats.sealed_elements, schedule.sealed * shape.kv_dim());
      }
      if (of.block == 1) {
        // The last page has room to spare, and the others came of calls that sealed 70 tokens.
        EXPECT_GE(stats.bytes_codes, want.codes);
        EXPECT_LE(stats.bytes_codes, want.codes + want.codes / 16);
        EXPECT_EQ(stats.bytes_codes * want.scales, stats.bytes_scales * want.codes);
      } else {
        EXPECT_EQ(stats.bytes_codes, want.codes);
        EXPECT_EQ(stats.bytes_scales, want.scales);
        if (of.bits < 16) {
          EXPECT_EQ(stats.segments, schedule.segments.size());
        }
      }
      EXPECT_EQ(stats.bytes_low_rank, want.low_rank);
      EXPECT_EQ(stats.bytes_sparse, want.sparse);
      EXPECT_EQ(stats.bytes_window_used, window * shape.kv_dim() * 2);
      // Headers, lists and alignment stay small beside what they serve.
      EXPECT_LT(stats.bytes_bookkeeping, stats.bytes_total() / 20 + 4096);
    }
  }
}

TEST_P(EveryRecipe, BitsOfALongPromptAreThoseOfTheDesign) {
  // 8192 tokens, 8 heads of 128: widths, scales and minima, low rank, outliers, as in the papers;
  // window, room to spare and bookkeeping add less than an eighth of a bit and the window's share.
  const Shape shape{.layers = 1, .q_heads = 8, .kv_heads = 8, .head_dim = 128};
  const auto cache = MakeCache(shape, GetParam());
  const Recipe recipe = MakeRecipe(GetParam());
  const Tensor x = Repeated(3, 8192, 8, 128);
  Append(*cache, 0, x, x);
  double want = 0, window = 0;
  for (const SideRecipe* side : {&recipe.k, &recipe.v}) {
    double bits = side->bits;
    if (side->bits < 16) {
      const bool channel = side->axis == ops::kAxisChannel;
      const double group = side->group == SideRecipe::kWhole      ? (channel ? 1024 : 128)
                           : side->group == SideRecipe::kAllHeads ? 1024
                                                                  : side->group;
      bits += 32 / group;
      bits += 16.0 * side->rank * (1024 + 128) / (1024 * 128);
      if (side->outliers > 0) bits += side->outliers * 24 + 8.0 / 128 + 32.0 / (32 * 128);
    }
    want += bits / 2;
    window += 16.0 * (side->window + std::max(side->block, 32u)) / 8192 / 2;
  }
  const Stats stats = StatsOf(*cache);
  const double got =
      8.0 * static_cast<double>(stats.bytes_total()) / static_cast<double>(stats.elements);
  EXPECT_GT(got, want * 0.97);
  EXPECT_LT(got, want + window + 0.125);
}

TEST_P(EveryRecipe, EmptyIsZero) {
  const auto cache =
      MakeCache({.layers = 2, .q_heads = 2, .kv_heads = 2, .head_dim = 64}, GetParam());
  Stats want;
  want.bytes_bookkeeping = cache->runtime().memory().held();
  EXPECT_EQ(StatsOf(*cache), want);
  EXPECT_GT(want.bytes_bookkeeping, 0u);
  EXPECT_FALSE(cache->GetStats(2, true, true).ok());
}

TEST_P(EveryRecipe, DecodedTokensTakeNoMoreThanTheRecipeSays) {
  // A named recipe keeps its price when all tokens are decoded: no part is paid per small block.
  const Shape shape{.layers = 1, .q_heads = 4, .kv_heads = 4, .head_dim = 128};
  const auto prompt = MakeCache(shape, GetParam()), decoded = MakeCache(shape, GetParam());
  const Tensor x = Repeated(4, 2048, 4, 128);
  Append(*prompt, 0, x, x);
  for (size_t t = 0; t < 2048; t += 32) Append(*decoded, 0, x.Tokens(t, 32), x.Tokens(t, 32));
  const Stats a = StatsOf(*prompt), b = StatsOf(*decoded);
  EXPECT_LE(b.bytes_low_rank, a.bytes_low_rank);
  EXPECT_LE(b.bytes_sparse, a.bytes_sparse);
  EXPECT_LE(b.bytes_total(), a.bytes_total() + a.bytes_total() / 12);
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

TEST(Stats, LowRankOfSmallBlocksShows) {
  // Rank 2 on blocks of 64 tokens and 128 channels: 16 * 2 * (64 + 128) / (64 * 128) = 0.75 bits
  // per element, where a prompt's segments of 1024 pay 0.28.
  const Shape shape{.layers = 1, .q_heads = 4, .kv_heads = 4, .head_dim = 128};
  const std::string text = "gear-l-2,rank=2,decode_rank=2,window=0";
  const auto prompt = MakeCache(shape, text), decoded = MakeCache(shape, text);
  const Tensor x = NoiseTensor(5, 1024, 4, 128);
  Append(*prompt, 0, x, x);
  for (size_t t = 0; t < 1024; t += 64) Append(*decoded, 0, x.Tokens(t, 64), x.Tokens(t, 64));
  const auto bits = [](const Stats& s) {
    return 8.0 * static_cast<double>(s.bytes_low_rank) / static_cast<double>(s.elements);
  };
  EXPECT_DOUBLE_EQ(bits(StatsOf(*prompt)), 0.28125);
  EXPECT_DOUBLE_EQ(bits(StatsOf(*decoded)), 0.75);
}

TEST(Stats, WorstIsThatOfOneSegmentAndMeanGoesByTokens) {
  // Seven segments of a constant, which cost nothing, and one of noise.
  const Shape shape{.layers = 2, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  Tensor x(512, 1, 64);
  std::fill(x.data.begin(), x.data.end(), 1.0);
  const Tensor noise = NoiseTensor(6, 64, 1, 64);
  std::copy(noise.data.begin(), noise.data.end(), &x.data[3 * 64 * 64]);
  const auto cache = MakeCache(shape, "int4,window=0,block=64,segment=64");
  Append(*cache, 0, x, x);
  const Stats stats = StatsOf(*cache, 0);
  EXPECT_EQ(stats.segments, 16u);
  EXPECT_GT(stats.rel_error_k_worst, 0.05);
  EXPECT_NEAR(stats.rel_error_k_mean, stats.rel_error_k_worst / 8, 1e-12);
  EXPECT_EQ(stats.rel_error_k_worst, stats.rel_error_v_worst);
  // Over layers too.
  Append(*cache, 1, x.Tokens(0, 128), x.Tokens(0, 128));
  EXPECT_NEAR(StatsOf(*cache).rel_error_k_mean, stats.rel_error_k_worst / 10, 1e-12);
  EXPECT_EQ(StatsOf(*cache).rel_error_k_worst, stats.rel_error_k_worst);
  EXPECT_EQ(StatsOf(*cache, 1).rel_error_k_worst, 0);
  // Of the sides that were asked for.
  EXPECT_EQ(StatsOf(*cache, 0, false, true).rel_error_k_worst, 0);
}

}  // namespace
}  // namespace kvg::test
