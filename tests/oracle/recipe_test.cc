// Every named recipe as it is: error bounds, the error that the statistics report, and that nothing
// but its own tokens and the recipe decides what a cache holds.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, ErrorLiesBetweenTheBestAndTheBackbone) {
  const Recipe recipe = MakeRecipe(GetParam());
  const Tensor k = RealisticTensor(1, 500, 2, 64), v = RealisticTensor(2, 500, 2, 64);
  const auto cache =
      MakeCache({.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64}, GetParam());
  Append(*cache, 0, k, v);
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const SideRecipe& of = side == ops::kSideK ? recipe.k : recipe.v;
    const Tensor& x = side == ops::kSideK ? k : v;
    const Tensor read = Read(*cache, side);
    for (const oracle::Segment& s : oracle::ScheduleOf(of, {500}).segments) {
      const Tensor part = x.Tokens(s.first, s.tokens), got = read.Tokens(s.first, s.tokens);
      const oracle::Backbone backbone = oracle::Quantise(part, side, of);
      for (size_t h = 0; h < 2; ++h) {
        const std::vector<double> e = oracle::Residual(part, backbone, h);
        const double norm = oracle::Norm(e);
        const double typical = norm / std::sqrt(static_cast<double>(e.size()));
        double rest = 0;
        for (size_t t = 0; t < s.tokens; ++t) {
          for (size_t d = 0; d < 64; ++d) {
            const size_t i = part.Index(t, h, d);
            const double left = std::abs(part.data[i] - got.data[i]);
            if (!backbone.outlier[i]) {
              rest += left * left;
              continue;
            }
            // fp16 of what codes and low rank leave; the latter stays near the residual's size.
            const double delta = std::abs(part.data[i] - backbone.value.data[i]) + 16 * typical;
            ASSERT_LE(left, oracle::F16Ulp(delta) + 1e-5 * std::abs(part.data[i]));
          }
        }
        EXPECT_LE(std::sqrt(rest), norm * (1 + 1e-5));
        const std::vector<double> spectrum = oracle::SingularValues(e, s.tokens, 64);
        const double best = oracle::BestError(spectrum, oracle::RankOf(of, s, 64));
        EXPECT_LE(std::sqrt(rest), 1.15 * best + 1e-3 * norm);
      }
    }
  }
}

TEST_P(EveryRecipe, ReportedErrorsAreThoseOfWhatIsRead) {
  const Recipe recipe = MakeRecipe(GetParam());
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 72};
  const Tensor k = RealisticTensor(3, 1500, 2, 72), v = RealisticTensor(4, 1500, 2, 72);
  std::vector<uint64_t> appends{1360};
  for (int i = 0; i < 140; ++i) appends.push_back(1);
  const auto cache = MakeCache(shape, GetParam());
  AppendParts(*cache, 0, k, v, appends);
  SingleLayer layer(shape, GetParam());
  uint64_t first = 0;
  for (uint64_t tokens : appends) {
    layer.Append(k.Tokens(first, tokens), v.Tokens(first, tokens));
    first += tokens;
  }
  const Stats stats = Value(cache->GetStats(0, true, true));
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const Tensor& x = side == ops::kSideK ? k : v;
    const Tensor read = Read(*cache, side);
    double sum = 0, tokens = 0, worst = 0;
    const PieceList list = layer.pieces(side);
    const ops::Sequence sequence = list.sequence();
    for (uint64_t i = 0; i < sequence.count; ++i) {
      const ops::Piece& piece = *sequence.pieces[i];
      if (piece.kind != ops::kCodes) continue;
      const Tensor part = x.Tokens(piece.first_token, piece.tokens);
      const double error =
          Distance(part, read.Tokens(piece.first_token, piece.tokens)) / oracle::Norm(part.data);
      sum += error * static_cast<double>(piece.tokens);
      tokens += static_cast<double>(piece.tokens);
      worst = std::max(worst, error);
    }
    const double mean = tokens > 0 ? sum / tokens : 0;
    // With a map, what is lost is measured among mapped rows, which are rounded to fp16.
    const bool mapped = (side == ops::kSideK ? recipe.k : recipe.v).map != SideRecipe::kNoMap;
    const double rounding = mapped ? 0x1p-10 : 0;
    EXPECT_NEAR(side == ops::kSideK ? stats.rel_error_k_mean : stats.rel_error_v_mean, mean,
                1e-5 * mean + rounding);
    EXPECT_NEAR(side == ops::kSideK ? stats.rel_error_k_worst : stats.rel_error_v_worst, worst,
                1e-5 * worst + rounding);
    if (recipe.k.bits < 16) {
      EXPECT_GT(mean, 0);
    }
    EXPECT_GE(worst, mean);
  }
}

TEST_P(EveryRecipe, OneByOneIsAboutAsGoodAsInOneGo) {
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  const Tensor k = RealisticTensor(5, 640, 2, 64), v = RealisticTensor(6, 640, 2, 64);
  const auto whole = MakeCache(shape, GetParam()), single = MakeCache(shape, GetParam());
  Append(*whole, 0, k, v);
  AppendParts(*single, 0, k, v, std::vector<uint64_t>(640, 1));
  ASSERT_EQ(Length(*whole), Length(*single));
  const Recipe recipe = MakeRecipe(GetParam());
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const SideRecipe& of = side == ops::kSideK ? recipe.k : recipe.v;
    const Tensor& x = side == ops::kSideK ? k : v;
    const Tensor read = Read(*single, side);
    // Per block the bound of its own backbone, which is what decoded blocks may fall back to.
    for (const auto& s : oracle::ScheduleOf(of, std::vector<uint64_t>(640, 1)).segments) {
      const Tensor part = x.Tokens(s.first, s.tokens);
      double bound = 0;
      const oracle::Backbone backbone = oracle::Quantise(part, side, of);
      for (size_t h = 0; h < 2; ++h)
        bound += std::pow(oracle::Norm(oracle::Residual(part, backbone, h)), 2);
      EXPECT_LE(Distance(part, read.Tokens(s.first, s.tokens)), 1.001 * std::sqrt(bound) + 1e-3);
    }
  }
}

TEST_P(EveryRecipe, TheSameBitsOnEveryRunAndForEveryNumberOfThreads) {
  const Shape shape{.layers = 2, .q_heads = 8, .kv_heads = 4, .head_dim = 64};
  const Tensor k = RealisticTensor(7, 1300, 4, 64), v = RealisticTensor(8, 1300, 4, 64);
  const Tensor q = NoiseTensor(9, 2, 8, 64);
  std::vector<double> content, out;
  for (uint32_t threads : {0u, 0u, 1u, 3u, 7u}) {
    const auto cache = MakeCache(shape, GetParam(), MakeRuntime(threads));
    AppendParts(*cache, 1, k, v, {1200, 1, 99});
    const std::vector<double> this_content = Content(*cache, 1);
    const std::vector<double> this_out = Attend(*cache, 1, q).data;
    if (content.empty()) {
      content = this_content;
      out = this_out;
    }
    EXPECT_EQ(this_content, content) << threads << " threads";
    EXPECT_EQ(this_out, out) << threads << " threads";
  }
}

TEST_P(EveryRecipe, ItemsOfABatchAreNotMixed) {
  // Different sequences side by side, their appends interleaved: each as if it were alone.
  const Shape shape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const auto runtime = MakeRuntime(1);
  std::vector<std::unique_ptr<Cache>> batch;
  std::vector<Tensor> k, v;
  for (uint64_t i = 0; i < 4; ++i) {
    k.push_back(RealisticTensor(100 + i, 400 + 50 * i, 2, 64));
    v.push_back(RealisticTensor(200 + i, 400 + 50 * i, 2, 64));
    batch.push_back(MakeCache(shape, GetParam(), runtime));
  }
  const Tensor q = NoiseTensor(10, 1, 4, 64);
  for (size_t i = 0; i < 4; ++i) Append(*batch[i], 0, k[i].Tokens(0, 300), v[i].Tokens(0, 300));
  for (size_t i = 0; i < 4; ++i) {
    Append(*batch[i], 0, k[i].Tokens(300, k[i].tokens - 300), v[i].Tokens(300, k[i].tokens - 300));
  }
  for (size_t i = 0; i < 4; ++i) {
    const auto alone = MakeCache(shape, GetParam());
    AppendParts(*alone, 0, k[i], v[i], {300, k[i].tokens - 300});
    EXPECT_EQ(Content(*batch[i]), Content(*alone)) << "item " << i;
    EXPECT_EQ(Attend(*batch[i], 0, q).data, Attend(*alone, 0, q).data) << "item " << i;
    for (size_t j = 0; j < i; ++j) EXPECT_NE(Content(*batch[i]), Content(*batch[j]));
  }
}

TEST_P(EveryRecipe, LayersAreNotMixed) {
  const Shape shape{.layers = 3, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  const auto cache = MakeCache(shape, GetParam());
  std::vector<Tensor> k, v;
  for (uint32_t layer = 0; layer < 3; ++layer) {
    k.push_back(RealisticTensor(300 + layer, 200 + 100 * layer, 2, 64));
    v.push_back(RealisticTensor(400 + layer, 200 + 100 * layer, 2, 64));
    Append(*cache, layer, k[layer], v[layer]);
  }
  for (uint32_t layer = 0; layer < 3; ++layer) {
    const auto alone = MakeCache(shape, GetParam());
    Append(*alone, layer, k[layer], v[layer]);
    EXPECT_EQ(Content(*cache, layer), Content(*alone, layer));
  }
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

TEST(Fp16Recipe, IsExactAtEveryLength) {
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 72};
  const auto cache = MakeCache(shape, "fp16");
  const Tensor k = RealisticTensor(11, 3000, 2, 72), v = RealisticTensor(12, 3000, 2, 72);
  AppendParts(*cache, 0, k, v, {1, 63, 64, 1, 1000, 871, 1000});
  EXPECT_EQ(Content(*cache), Joined(k, v).data);
  const Stats stats = Value(cache->GetStats(0, true, true));
  EXPECT_EQ(stats.rel_error_k_worst + stats.rel_error_v_worst, 0);
}

}  // namespace
}  // namespace kvg::test
