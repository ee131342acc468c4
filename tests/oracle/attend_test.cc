// Attention on the compressed form against attention in double on the tokens as they are read back.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

// Bound of what computing may add to the error of storing, relative to the largest |v|.
constexpr double kBound = 2e-3;

void ExpectAttention(const Cache& cache, const Tensor& q, const AttendOptions& options,
                     uint32_t layer = 0) {
  const Tensor k = Read(cache, ops::kSideK, layer), v = Read(cache, ops::kSideV, layer);
  const Tensor want = oracle::Attend(q, k, v,
                                     {.scale = options.scale,
                                      .softcap = options.softcap,
                                      .sliding_window = options.sliding_window,
                                      .causal = options.causal});
  const Tensor got = Attend(cache, layer, q, options);
  EXPECT_LE(MaxDistance(got, want), kBound * MaxAbs(v))
      << "length " << k.tokens << ", queries " << q.tokens << ", causal " << options.causal
      << ", sliding window " << options.sliding_window << ", softcap " << options.softcap;
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, AllLengthsOneQuery) {
  const Shape shape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const auto cache = MakeCache(shape, GetParam());
  const Tensor k = RealisticTensor(1, 700, 2, 64), v = RealisticTensor(2, 700, 2, 64);
  const Tensor q = NoiseTensor(3, 1, 4, 64);
  uint64_t at = 0;
  for (uint64_t n :
       {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 64u, 96u, 128u, 129u, 160u, 193u, 256u, 289u, 700u}) {
    Append(*cache, 0, k.Tokens(at, n - at), v.Tokens(at, n - at));
    at = n;
    ExpectAttention(*cache, q, {});
  }
}

TEST_P(EveryRecipe, ShapesAndGroupedQueries) {
  struct Case {
    uint32_t q_heads, kv_heads, head_dim;
  };
  for (const Case& c :
       {Case{1, 1, 32}, Case{3, 1, 40}, Case{8, 2, 72}, Case{7, 7, 80}, Case{6, 2, 96},
        Case{5, 1, 112}, Case{16, 2, 128}, Case{9, 3, 200}, Case{4, 2, 256}, Case{64, 1, 64}}) {
    SCOPED_TRACE(std::to_string(c.q_heads) + "/" + std::to_string(c.kv_heads) + "/" +
                 std::to_string(c.head_dim));
    const auto cache = MakeCache(
        {.layers = 1, .q_heads = c.q_heads, .kv_heads = c.kv_heads, .head_dim = c.head_dim},
        GetParam());
    AppendParts(*cache, 0, RealisticTensor(4, 333, c.kv_heads, c.head_dim),
                RealisticTensor(5, 333, c.kv_heads, c.head_dim), {300, 1, 32});
    ExpectAttention(*cache, NoiseTensor(6, 1, c.q_heads, c.head_dim), {});
    ExpectAttention(*cache, NoiseTensor(7, 3, c.q_heads, c.head_dim), {});
  }
}

TEST_P(EveryRecipe, Masks) {
  const Shape shape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 32};
  const auto cache = MakeCache(shape, GetParam());
  Append(*cache, 0, RealisticTensor(8, 420, 2, 32), RealisticTensor(9, 420, 2, 32));
  for (size_t queries : {1u, 2u, 37u, 420u}) {
    const Tensor q = NoiseTensor(10, queries, 4, 32);
    for (bool causal : {true, false}) {
      for (uint64_t window : {0u, 1u, 2u, 31u, 100u, 255u, 419u, 420u, 100000u}) {
        if (queries == 420 && !(causal && (window == 0 || window == 100))) continue;
        ExpectAttention(*cache, q, {.causal = causal, .sliding_window = window});
      }
    }
  }
}

TEST_P(EveryRecipe, ScaleAndSoftcap) {
  const Shape shape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};
  const auto cache = MakeCache(shape, GetParam());
  Append(*cache, 0, RealisticTensor(11, 300, 2, 64), RealisticTensor(12, 300, 2, 64));
  const Tensor q = NoiseTensor(13, 2, 4, 64);
  for (float scale : {0.0f, 0.01f, 0.3f, -0.1f}) {
    for (float softcap : {0.0f, 1.0f, 30.0f}) {
      ExpectAttention(*cache, q, {.scale = scale, .softcap = softcap});
    }
  }
}

TEST_P(EveryRecipe, LongSequencesAcrossSplitsAndSegments) {
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 32};
  const auto cache = MakeCache(shape, GetParam());
  Append(*cache, 0, RealisticTensor(14, 5000, 1, 32), RealisticTensor(15, 5000, 1, 32));
  const Tensor q = NoiseTensor(16, 2, 2, 32);
  ExpectAttention(*cache, q, {});
  ExpectAttention(*cache, q, {.sliding_window = 2500});
}

TEST_P(EveryRecipe, OneTokenTakesAllTheWeight) {
  // A needle: one key along q and far longer than the others. The output is that token's value.
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  for (size_t needle : {5u, 100u, 299u}) {
    Tensor k = NoiseTensor(17, 300, 2, 64, 0.05), v = NoiseTensor(18, 300, 2, 64);
    Tensor q(1, 2, 64);
    for (size_t h = 0; h < 2; ++h) {
      for (size_t d = 0; d < 64; ++d) {
        q(0, h, d) = (d * 7 + h) % 3 == 0 ? 4 : -2;
        k(needle, h, d) = q(0, h, d);
      }
    }
    const auto cache = MakeCache(shape, GetParam());
    Append(*cache, 0, k, v);
    ExpectAttention(*cache, q, {});
    const Tensor out = Attend(*cache, 0, q);
    const Tensor stored = ReadRange(*cache, ops::kSideV, 0, needle, 1);
    EXPECT_LE(MaxDistance(out, stored), 0.01 * MaxAbs(v)) << needle;
  }
}

TEST_P(EveryRecipe, HugeLogitsGiveNoNan) {
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  const auto cache = MakeCache(shape, GetParam());
  Append(*cache, 0, NoiseTensor(19, 300, 2, 64, 5000), NoiseTensor(20, 300, 2, 64, 5000));
  for (double size : {1e-30, 1.0, 1e4, 1e15}) {
    Tensor q = NoiseTensor(21, 2, 2, 64);
    for (double& x : q.data) x *= size;
    for (float softcap : {0.0f, 20.0f}) {
      for (double y : Attend(*cache, 0, q, {.softcap = softcap}).data)
        ASSERT_TRUE(std::isfinite(y)) << size;
    }
  }
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

TEST(AttendWhole, EightBitsAnswerAsTheInputsDo) {
  // From the inputs themselves to the answer: storing and computing together.
  const Shape shape{.layers = 1, .q_heads = 8, .kv_heads = 2, .head_dim = 128};
  const Tensor k = NoiseTensor(22, 1000, 2, 128), v = NoiseTensor(23, 1000, 2, 128);
  const Tensor q = NoiseTensor(24, 1, 8, 128);
  const Tensor want = oracle::Attend(q, k, v, {});
  const struct {
    const char* recipe;
    double bound;
  } cases[] = {{"fp16", 1e-3}, {"int8", 0.01}, {"gear-4", 0.15}, {"int4", 0.15}};
  for (const auto& c : cases) {
    const auto cache = MakeCache(shape, c.recipe);
    Append(*cache, 0, k, v);
    EXPECT_LE(MaxDistance(Attend(*cache, 0, q), want), c.bound * MaxAbs(want)) << c.recipe;
  }
}

}  // namespace
}  // namespace kvg::test
