// Subspaces and ranks against their definitions: Eckart and Young's tails, Palu's and LoRC's rules.
#include "factorise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

namespace kvgplan {
namespace {

constexpr size_t kRows = 24, kInputs = 40;

std::vector<double> Noise(uint32_t seed, size_t count) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> out(count);
  for (double& x : out) x = normal(random);
  return out;
}

double Norm(const std::vector<double>& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

/// (W - U U^T W) x for every column x of `inputs` [kInputs, count].
std::vector<double> Residual(const Subspace& s, const std::vector<double>& w,
                             const std::vector<double>& inputs, size_t count, size_t rank) {
  std::vector<double> y(kRows * count), out;
  for (size_t r = 0; r < kRows; ++r) {
    for (size_t c = 0; c < count; ++c) {
      for (size_t i = 0; i < kInputs; ++i) y[r * count + c] += w[r * kInputs + i] * inputs[i * count + c];
    }
  }
  out = y;
  for (size_t k = 0; k < rank; ++k) {
    for (size_t c = 0; c < count; ++c) {
      double dot = 0;
      for (size_t r = 0; r < kRows; ++r) dot += s.vectors[k * kRows + r] * y[r * count + c];
      for (size_t r = 0; r < kRows; ++r) out[r * count + c] -= dot * s.vectors[k * kRows + r];
    }
  }
  return out;
}

std::vector<double> Identity(size_t n) {
  std::vector<double> out(n * n);
  for (size_t i = 0; i < n; ++i) out[i * n + i] = 1;
  return out;
}

TEST(Factorise, TailsAreThoseOfEckartAndYoung) {
  const std::vector<double> w = Noise(1, kRows * kInputs);
  const Subspace s = Factorise(w, kRows, kInputs, {});
  double before = 2;
  for (size_t rank = 0; rank <= kRows; ++rank) {
    const double lost = Norm(Residual(s, w, Identity(kInputs), kInputs, rank));
    EXPECT_NEAR(TailShare(s, rank), lost / Norm(w), 1e-10);
    EXPECT_NEAR(PlainLoss(s, w, kInputs, rank), lost / Norm(w), 1e-7);
    EXPECT_LE(TailShare(s, rank), before);
    before = TailShare(s, rank);
  }
  EXPECT_NEAR(before, 0, 1e-12);
}

// In the norm of the inputs: the tail is what the cut loses of the rows they give, and no plain cut
// loses less.
TEST(Factorise, WhitenedIsBestForItsInputs) {
  const size_t count = 300;
  const std::vector<double> w = Noise(2, kRows * kInputs);
  std::vector<double> x = Noise(3, kInputs * count);
  for (size_t i = 0; i < kInputs; ++i) {
    for (size_t c = 0; c < count; ++c) x[i * count + c] *= i < 5 ? 20 : 1;
  }
  std::vector<double> moment(kInputs * kInputs);
  for (size_t i = 0; i < kInputs; ++i) {
    for (size_t j = 0; j < kInputs; ++j) {
      for (size_t c = 0; c < count; ++c) moment[i * kInputs + j] += x[i * count + c] * x[j * count + c];
    }
  }
  const Subspace white = Factorise(w, kRows, kInputs, moment), plain = Factorise(w, kRows, kInputs, {});
  const double all = Norm(Residual(white, w, x, count, 0));
  for (const size_t rank : {1u, 5u, 8u, 16u, 23u}) {
    const double lost = Norm(Residual(white, w, x, count, rank));
    EXPECT_NEAR(TailShare(white, rank), lost / all, 1e-8);
    EXPECT_LE(lost, Norm(Residual(plain, w, x, count, rank)) * (1 + 1e-9));
  }
  EXPECT_LT(TailShare(white, 5), 0.3);
}

TEST(Factorise, RotationKeepsTheSpace) {
  const Subspace s = Factorise(Noise(4, kRows * kInputs), kRows, kInputs, {});
  const std::vector<double> rotated = Rotated(s, 16, 1), split = Rotated(s, 24, 1);
  for (const auto& [rows, rank] : {std::pair{&rotated, size_t{16}}, std::pair{&split, size_t{24}}}) {
    for (size_t a = 0; a < rank; ++a) {
      double inside = 0;
      for (size_t b = 0; b < rank; ++b) {
        double dot = 0, with = 0;
        for (size_t r = 0; r < kRows; ++r) {
          dot += (*rows)[a * kRows + r] * (*rows)[b * kRows + r];
          with += (*rows)[a * kRows + r] * s.vectors[b * kRows + r];
        }
        EXPECT_NEAR(dot, a == b ? 1 : 0, 1e-12);
        inside += with * with;
      }
      EXPECT_NEAR(inside, 1, 1e-12);
    }
  }
}

TEST(Condition, IsOfTheExtremesAndOfNoScale) {
  EXPECT_NEAR(LogCondition({8, 4, 2}), std::log(4.0), 1e-12);
  EXPECT_NEAR(LogCondition({8e9, 4e9, 2e9}), std::log(4.0), 1e-12);
  EXPECT_NEAR(LogCondition({1, 0}), std::log(1e8), 1e-9);
  EXPECT_EQ(LogCondition({0, 0}), 0);
}

TEST(Condition, SharesFallFromMostToLeast) {
  const std::vector<double> shares = ConditionShares({1, 3, 0.5, 2}, 0.8, 0.2);
  EXPECT_DOUBLE_EQ(shares.front(), 0.8);
  EXPECT_DOUBLE_EQ(shares.back(), 0.2);
  // Suffix sums 6.5, 5.5, 2.5, 2: the second has lost 1 of 4.5.
  EXPECT_NEAR(shares[1], 0.8 - 0.6 / 4.5, 1e-12);
  EXPECT_NEAR(shares[2], 0.8 - 0.6 * 4 / 4.5, 1e-12);
  EXPECT_EQ(ConditionShares({0, 0}, 0.8, 0.2), (std::vector<double>{0.8, 0.8}));
}

TEST(Ranks, UniformAndInProportion) {
  const RankLimits limits{128, 2, 8};
  EXPECT_EQ(ShareRanks({1, 1, 1}, 0.5, limits), (std::vector<uint32_t>{64, 64, 64}));
  EXPECT_EQ(ShareRanks({1, 3}, 0.5, limits), (std::vector<uint32_t>{32, 96}));
  // The second is full; what is left over of it goes round.
  EXPECT_EQ(ShareRanks({1, 30, 1}, 0.5, limits), (std::vector<uint32_t>{32, 128, 32}));
  EXPECT_EQ(ShareRanks({0, 0}, 0.5, limits), (std::vector<uint32_t>{64, 64}));
  EXPECT_EQ(ShareRanks({1, 1}, 0.001, limits), (std::vector<uint32_t>{8, 8}));
}

TEST(Ranks, StayNearTheTargetAndInOrder) {
  const RankLimits limits{256, 2, 32};
  const std::vector<double> importance = {5, 3, 9, 4, 7, 6, 8, 5.5};
  const std::vector<uint32_t> ranks = ShareRanks(importance, 0.5, limits);
  const double sum = std::accumulate(ranks.begin(), ranks.end(), 0.0);
  EXPECT_LE(std::abs(sum - 0.5 * 256 * 8), 16 * 8);
  for (size_t a = 0; a < ranks.size(); ++a) {
    EXPECT_EQ(ranks[a] % 32, 0u);
    for (size_t b = 0; b < ranks.size(); ++b) {
      if (importance[a] < importance[b]) {
        EXPECT_LE(ranks[a], ranks[b]);
      }
    }
  }
}

}  // namespace
}  // namespace kvgplan
