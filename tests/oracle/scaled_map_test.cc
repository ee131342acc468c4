// map=channels and map=deco: ZipCache's channel-separable quantiser and DecoQuant's small factor, by their
// definitions in double precision, with the tokens that they are learnt from.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/codec/basis.h"
#include "kernels/half.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"

namespace kvg {
namespace {

using oracle::Tensor;
using test::SingleLayer;

constexpr Shape kShape{1, 4, 2, 64};
constexpr char kCst[] = "int4,group=all,map=channels,window=0,segment=8192";
constexpr char kDeco[] = "int4,group=all,map=deco,window=0,segment=8192";

// One entry of the matrices of a side's map.
double Entry(const uint16_t* matrix, size_t head, size_t i, size_t j) {
  return static_cast<double>(F16ToF32(matrix[(head * 64 + i) * 64 + j]));
}

// Noise with some channels far out.
Tensor WithOutliers(uint64_t seed, size_t tokens, const std::vector<size_t>& channels) {
  Tensor x = test::NoiseTensor(seed, tokens, 2, 64);
  for (size_t t = 0; t < tokens; ++t) {
    for (const size_t c : channels) {
      x(t, c / 64, c % 64) = oracle::RoundToF16(x(t, c / 64, c % 64) * (5 + static_cast<double>(c % 15)));
    }
  }
  return x;
}

double RelativeError(const std::string& recipe, const Tensor& v) {
  SingleLayer layer(kShape, recipe);
  layer.Append(v, v);
  const Tensor back = layer.Read(ops::kSideV);
  return test::Distance(back, v) / test::Distance(Tensor(v.tokens, v.heads, v.dim), v);
}

// |x - x~| <= c s / 2: c and s worked out anew; 2^-9 of x for maps and rows in fp16.
TEST(Channels, EveryElementIsWithinHalfAStep) {
  const Tensor v = WithOutliers(3, 128, {5, 40, 77, 100});
  SingleLayer layer(kShape, kCst);
  layer.Append(v, v);
  const Tensor back = layer.Read(ops::kSideV);
  std::vector<double> c(128, 0.0);
  for (size_t t = 0; t < v.tokens; ++t) {
    for (size_t i = 0; i < 128; ++i) c[i] = std::max(c[i], std::abs(v(t, i / 64, i % 64)));
  }
  for (double& one : c) one = std::sqrt(one);
  const Basis& basis = *layer.side(ops::kSideV).basis().get();
  for (size_t i = 0; i < 128; ++i) {
    EXPECT_NEAR(Entry(basis.map().back, i / 64, i % 64, i % 64), c[i], c[i] / 1024);
    EXPECT_EQ(Entry(basis.map().back, i / 64, i % 64, (i + 1) % 64), 0);
  }
  for (size_t t = 0; t < v.tokens; ++t) {
    double low = 1e9, high = -1e9;
    for (size_t i = 0; i < 128; ++i) {
      low = std::min(low, v(t, i / 64, i % 64) / c[i]);
      high = std::max(high, v(t, i / 64, i % 64) / c[i]);
    }
    const double step = (high - low) / 15;
    for (size_t i = 0; i < 128; ++i) {
      const double x = v(t, i / 64, i % 64);
      ASSERT_LE(std::abs(back(t, i / 64, i % 64) - x), c[i] * step / 2 * 1.02 + std::abs(x) / 512 + 1e-4);
    }
  }
}

TEST(Channels, HelpWhereChannelsStandOut) {
  const Tensor v = WithOutliers(4, 96, {3, 17, 50, 66, 90, 121});
  EXPECT_LT(RelativeError(kCst, v), 0.6 * RelativeError("int4,group=all,window=0", v));
}

TEST(Channels, ZeroChannelsAndConstantTokens) {
  Tensor v = test::NoiseTensor(5, 64, 2, 64);
  for (size_t t = 0; t < 64; ++t) {
    v(t, 0, 7) = 0;
    for (size_t i = 0; t == 9 && i < 128; ++i) v(t, i / 64, i % 64) = 0;
  }
  for (const char* recipe : {kCst, kDeco}) {
    SingleLayer layer(kShape, recipe);
    layer.Append(v, v);
    const Tensor back = layer.Read(ops::kSideV);
    for (size_t i = 0; i < 128; ++i) EXPECT_EQ(back(9, i / 64, i % 64), 0) << recipe;
    for (const double x : back.data) ASSERT_TRUE(std::isfinite(x)) << recipe;
  }
}

// T T^T is diagonal, T^-1 T is one, and every run of channels of every head has the same.
TEST(Deco, TheFactorIsBalanced) {
  const Tensor v = WithOutliers(6, 256, {5, 21, 37, 69, 101});
  SingleLayer layer(kShape, kDeco);
  layer.Append(v, v);
  const ops::Map& map = layer.side(ops::kSideV).basis()->map();
  double gram[16][16] = {};
  for (size_t run = 0; run < 256 * 8; ++run) {
    for (size_t i = 0; i < 16; ++i) {
      for (size_t j = 0; j < 16; ++j) {
        const size_t t = run / 8, c = run % 8 * 16;
        gram[i][j] += v(t, c / 64, c % 64 + i) * v(t, c / 64, c % 64 + j) / (256 * 8);
      }
    }
  }
  for (size_t a = 0; a < 16; ++a) {
    double norm = 0;
    for (size_t i = 0; i < 16; ++i) norm += std::pow(Entry(map.back, 0, i, a), 2);
    // Column a of `back` is row a of T, S^1/2 times an eigenvector: of length S^1/2, and gram times it is
    // S^2 times it.
    for (size_t i = 0; i < 16; ++i) {
      double product = 0;
      for (size_t j = 0; j < 16; ++j) product += gram[i][j] * Entry(map.back, 0, j, a);
      EXPECT_NEAR(product, norm * norm * Entry(map.back, 0, i, a), 0.05 * norm * norm * std::sqrt(norm));
    }
    for (size_t b = 0; b < 16; ++b) {
      double dot = 0, one = 0;
      for (size_t i = 0; i < 16; ++i) {
        dot += Entry(map.back, 0, i, a) * Entry(map.back, 0, i, b);
        one += Entry(map.forward, 0, i, a) * Entry(map.back, 0, i, b);
      }
      if (a != b) {
        EXPECT_NEAR(dot, 0, 0.02 * norm);
      }
      EXPECT_NEAR(one, a == b ? 1 : 0, 5e-3);
      EXPECT_EQ(Entry(map.back, 1, 32 + a, 32 + b), Entry(map.back, 0, a, b));
      EXPECT_EQ(Entry(map.back, 1, a, 32 + b), 0);
    }
  }
}

// Where outliers lie at one place of every run there is much to gain; where nothing stands out, nothing.
TEST(Deco, GainsWhereOutliersAlign) {
  const Tensor aligned = WithOutliers(7, 96, {5, 21, 37, 53, 69, 85, 101, 117});
  const Tensor even = test::NoiseTensor(8, 96, 2, 64);
  const std::string plain = "int4,group=all,window=0";
  EXPECT_LT(RelativeError(kDeco, aligned), 0.75 * RelativeError(plain, aligned));
  EXPECT_NEAR(RelativeError(kDeco, even) / RelativeError(plain, even), 1, 0.1);
}

// Folded into queries and sums, or undone on rows: the same attention. Maps of other caches do not matter.
TEST(ScaledMaps, AttentionIsThatOfTheRows) {
  for (const char* recipe : {kCst, kDeco, "kcvt-4,v.map=channels", "int4,map=deco,run=8,rank=2,outliers=0.02"}) {
    const auto cache = test::MakeCache(kShape, recipe);
    const Tensor k = WithOutliers(9, 300, {1, 70}), v = WithOutliers(10, 300, {2, 99});
    test::AppendParts(*cache, 0, k, v, {200, 64, 1, 35});
    const Tensor q = test::NoiseTensor(11, 3, 4, 64);
    const Tensor wanted = oracle::Attend(q, test::Read(*cache, ops::kSideK), test::Read(*cache, ops::kSideV), {});
    EXPECT_LE(test::MaxDistance(test::Attend(*cache, 0, q), wanted), 0.02 * test::MaxAbs(wanted)) << recipe;
    const auto fork = test::Value(cache->Fork());
    EXPECT_EQ(test::Attend(*fork, 0, q).data, test::Attend(*cache, 0, q).data);
    const Stats stats = test::Value(cache->GetStats(kAllLayers, false, true));
    EXPECT_GT(stats.bytes_state, 2u * 2 * 64 * 64 * 2);
  }
}

TEST(ScaledMaps, Refusals) {
  EXPECT_FALSE(Plan::Create(kShape, "int4,map=deco,run=24").ok());
  EXPECT_TRUE(Plan::Create({1, 2, 2, 72}, "int4,map=deco,run=24").ok());
  EXPECT_FALSE(ParseRecipe("kivi-4,k.map=channels").ok());
  EXPECT_FALSE(ParseRecipe("int4,map=deco,run=65").ok());
  EXPECT_FALSE(ParseRecipe("int4,map=channels,select=h2o").ok());
  EXPECT_EQ(PrintRecipe(test::MakeRecipe("int4,v.map=deco,v.run=8")), "int4,v.map=deco,v.run=8");
}

}  // namespace
}  // namespace kvg
