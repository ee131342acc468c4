// The oracle against what can be worked out by hand: a wrong oracle would hide a wrong codec.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/half.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"

namespace kvg::oracle {
namespace {

using test::NoiseTensor;
using test::Random;

TEST(OracleHalf, AgreesWithTheLibrarysConversionOnEveryFp16ValueAndBetween) {
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const double low = F16ToF32(static_cast<uint16_t>(bits));
    const double high = F16ToF32(static_cast<uint16_t>(bits + 1));
    EXPECT_EQ(RoundToF16(low), low);
    EXPECT_EQ(F16Ulp(low), high - low);
    for (double part : {0.25, 0.5, 0.75}) {
      const double x = low + part * (high - low);
      ASSERT_EQ(RoundToF16(x), F16ToF32(F32ToF16(static_cast<float>(x)))) << x;
      ASSERT_EQ(RoundToF16(-x), -RoundToF16(x)) << x;
    }
  }
  EXPECT_EQ(RoundToF16(1e9), 65504);
}

TEST(OracleQuantise, WorkedExample) {
  // One channel, 2 bits: 0 to 6 gives a scale of 2; 1, 3 and 5 are ties and go to even codes.
  Tensor x(8, 1, 1);
  x.data = {0, 1, 2, 3, 4, 5, 6, 5.5};
  SideRecipe recipe;
  recipe.bits = 2;
  recipe.axis = ops::kAxisChannel;
  recipe.group = 32;
  const Backbone b = Quantise(x, ops::kSideK, recipe);
  EXPECT_EQ(b.value.data, (std::vector<double>{0, 0, 2, 4, 4, 4, 6, 6}));
  EXPECT_EQ(b.other.data, (std::vector<double>{0, 2, 2, 2, 4, 6, 6, 6}));
}

TEST(OracleQuantise, GroupsOfEachKind) {
  // 64 tokens, 2 heads, 48 channels; every group is constant, so all of it must come back exact.
  const auto exact_for = [](SideRecipe recipe, auto value) {
    Tensor x(64, 2, 48);
    for (size_t t = 0; t < 64; ++t) {
      for (size_t h = 0; h < 2; ++h) {
        for (size_t d = 0; d < 48; ++d) x(t, h, d) = static_cast<double>(value(t, h, d));
      }
    }
    recipe.bits = 1;
    return Quantise(x, ops::kSideV, recipe).value.data == x.data;
  };
  SideRecipe recipe;
  recipe.axis = ops::kAxisChannel;
  recipe.group = 32;
  EXPECT_TRUE(
      exact_for(recipe, [](size_t t, size_t h, size_t d) { return t / 32 + 2 * h + 5 * d; }));
  EXPECT_FALSE(exact_for(recipe, [](size_t t, size_t, size_t) { return t / 8; }));
  recipe.group = SideRecipe::kWhole;
  EXPECT_TRUE(exact_for(recipe, [](size_t, size_t h, size_t d) { return h + 2 * d; }));
  EXPECT_FALSE(exact_for(recipe, [](size_t t, size_t, size_t) { return t / 16; }));
  recipe.axis = ops::kAxisToken;
  EXPECT_TRUE(exact_for(recipe, [](size_t t, size_t h, size_t) { return t + 64 * h; }));
  EXPECT_FALSE(exact_for(recipe, [](size_t, size_t, size_t d) { return d / 16; }));
  recipe.group = 32;
  EXPECT_TRUE(
      exact_for(recipe, [](size_t t, size_t h, size_t d) { return t + 64 * h + 128 * (d / 32); }));
  EXPECT_FALSE(exact_for(recipe, [](size_t, size_t, size_t d) { return d / 8; }));
  recipe.group = SideRecipe::kAllHeads;
  EXPECT_TRUE(exact_for(recipe, [](size_t t, size_t, size_t) { return t; }));
  EXPECT_FALSE(exact_for(recipe, [](size_t, size_t h, size_t d) { return h + d; }));
}

TEST(OracleOutliers, CountsAndTies) {
  EXPECT_EQ(OutlierCount(0.02, 64), 0u);
  EXPECT_EQ(OutlierCount(0.02, 99), 0u);
  EXPECT_EQ(OutlierCount(0.02, 100), 1u);
  EXPECT_EQ(OutlierCount(0.02, 300), 3u);
  EXPECT_EQ(OutlierCount(0.02, 1024), 10u);
  EXPECT_EQ(OutlierCount(1.0, 7), 3u);
  Tensor x(6, 1, 1);
  x.data = {1, 1, 1, 1, 1, 1};
  const auto mark = SelectOutliers(x, ops::kSideK, 0.67);  // two at each end
  EXPECT_EQ(mark, (std::vector<uint8_t>{1, 1, 0, 0, 1, 1}));
}

TEST(OracleSchedule, KiviByHand) {
  SideRecipe k;
  k.bits = 2;
  k.window = 0;
  k.block = 128;
  SideRecipe v = k;
  v.window = 128;
  v.block = 1;
  EXPECT_EQ(ScheduleOf(k, {127}).sealed, 0u);
  EXPECT_EQ(ScheduleOf(k, {128}).sealed, 128u);
  EXPECT_EQ(ScheduleOf(k, {300}).sealed, 256u);
  EXPECT_EQ(ScheduleOf(k, {100, 100}).sealed, 128u);
  EXPECT_EQ(ScheduleOf(v, {128}).sealed, 0u);
  EXPECT_EQ(ScheduleOf(v, {129}).sealed, 1u);
  EXPECT_EQ(ScheduleOf(v, {300}).sealed, 172u);
}

TEST(OracleSchedule, LongPromptsAreCutIntoSegments) {
  SideRecipe side;
  side.bits = 4;
  side.block = 64;
  side.window = 64;
  side.segment = 256;
  side.rank = 4;
  side.decode_rank = 2;
  const Schedule s = ScheduleOf(side, {700, 1, 1, 64});
  ASSERT_EQ(s.segments.size(), 4u);
  EXPECT_EQ(s.segments[1].first, 256u);
  EXPECT_EQ(s.segments[1].rank, 4u);
  EXPECT_EQ(s.segments[2].tokens, 64u);  // 700 - 512 - 64 leaves one block
  EXPECT_EQ(s.segments[3].tokens, 64u);
  EXPECT_EQ(s.segments[3].rank, 2u);
  EXPECT_EQ(s.sealed, 640u);
}

TEST(OracleSvd, KnownSpectrum) {
  // Sum of 3 outer products of orthogonal vectors, both tall and wide.
  for (const auto& [rows, cols] : {std::pair<size_t, size_t>{40, 16}, {16, 40}}) {
    std::vector<double> m(rows * cols);
    const double s[3] = {5, 2, 0.5};
    for (size_t k = 0; k < 3; ++k) {
      for (size_t i = 0; i < rows; ++i) {
        for (size_t j = 0; j < cols; ++j) {
          const auto wave = [k](size_t at, size_t n) {  // orthonormal cosines
            return std::sqrt(2.0 / static_cast<double>(n)) *
                   std::cos(M_PI * (static_cast<double>(at) + 0.5) * static_cast<double>(k + 1) /
                            static_cast<double>(n));
          };
          m[i * cols + j] += s[k] * wave(i, rows) * wave(j, cols);
        }
      }
    }
    const std::vector<double> values = SingularValues(m, rows, cols);
    ASSERT_EQ(values.size(), 16u);
    for (size_t k = 0; k < 3; ++k) EXPECT_NEAR(values[k], s[k], 1e-12);
    EXPECT_NEAR(values[3], 0, 1e-12);
    EXPECT_NEAR(BestError(values, 1), std::sqrt(4.25), 1e-12);
  }
}

TEST(OracleSvd, EnergyIsKept) {
  const Tensor x = NoiseTensor(5, 50, 1, 24);
  const std::vector<double> values = SingularValues(x.data, 50, 24);
  EXPECT_NEAR(Norm(values), Norm(x.data), 1e-9);
  EXPECT_NEAR(BestError(values, 0), Norm(x.data), 1e-9);
  EXPECT_EQ(BestError(values, 24), 0);
}

TEST(OracleAttend, ByHand) {
  // Two tokens with logits ln 3 and 0: weights 3/4 and 1/4.
  Tensor q(1, 2, 1), k(2, 1, 1), v(2, 1, 1);
  q.data = {std::log(3.0), 0};
  k.data = {1, 0};
  v.data = {4, 8};
  EXPECT_NEAR(Attend(q, k, v, {})(0, 0, 0), 5, 1e-12);
  EXPECT_NEAR(Attend(q, k, v, {})(0, 1, 0), 6, 1e-12);  // a query of zeros takes the mean
  EXPECT_NEAR(Attend(q, k, v, {.sliding_window = 1})(0, 0, 0), 8, 1e-12);
  EXPECT_NEAR(Attend(q, k, v, {.scale = 2})(0, 0, 0), 4.4, 1e-12);
  Tensor two(2, 2, 1);
  two.data = {0, 0, 0, 0};
  EXPECT_NEAR(Attend(two, k, v, {})(0, 0, 0), 4, 1e-12);  // causal: the first query sees one token
  EXPECT_NEAR(Attend(two, k, v, {.causal = false})(0, 0, 0), 6, 1e-12);
}

}  // namespace
}  // namespace kvg::oracle
