// The low-rank part: near the best that its rank allows, of the right matrix, and never harmful.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"

namespace kvg::test {
namespace {

struct HeadError {
  double before, after, best;  // without low rank, as read, by singular values
};

// Of every segment and head of one side after one append of x.
std::vector<HeadError> Errors(const Tensor& x, const Tensor& read, ops::Side side,
                              const SideRecipe& recipe) {
  std::vector<HeadError> errors;
  for (const oracle::Segment& s : oracle::ScheduleOf(recipe, {x.tokens}).segments) {
    const Tensor part = x.Tokens(s.first, s.tokens), got = read.Tokens(s.first, s.tokens);
    const oracle::Backbone backbone = oracle::Quantise(part, side, recipe);
    for (size_t h = 0; h < x.heads; ++h) {
      const std::vector<double> e = oracle::Residual(part, backbone, h);
      double after = 0;
      for (size_t t = 0; t < s.tokens; ++t) {
        for (size_t d = 0; d < x.dim; ++d) {
          const double left = part(t, h, d) - got(t, h, d);
          after += left * left;
        }
      }
      errors.push_back({oracle::Norm(e), std::sqrt(after),
                        oracle::BestError(oracle::SingularValues(e, s.tokens, x.dim),
                                          oracle::RankOf(recipe, s, x.dim))});
    }
  }
  return errors;
}

struct Sides {
  Recipe recipe;
  std::unique_ptr<Cache> cache;
  Tensor k, v;
  std::vector<HeadError> errors(ops::Side side) const {
    return side == ops::kSideK ? Errors(k, Read(*cache, side), side, recipe.k)
                               : Errors(v, Read(*cache, side), side, recipe.v);
  }
};

Sides Build(const std::string& text, const Tensor& k, const Tensor& v) {
  const auto heads = static_cast<uint32_t>(k.heads);
  Sides s{MakeRecipe(text),
          MakeCache({.layers = 1,
                     .q_heads = heads,
                     .kv_heads = heads,
                     .head_dim = static_cast<uint32_t>(k.dim)},
                    text),
          k, v};
  Append(*s.cache, 0, k, v);
  return s;
}

TEST(LowRank, WithEnoughSweepsItIsTheBest) {
  for (const size_t tokens : {192u, 384u}) {
    for (const uint32_t dim : {64u, 80u, 128u}) {
      const Sides s = Build("gear-l-2,rank_fit=0,rank=4,decode_rank=4,sweeps=8,window=0,outliers=0",
                            RealisticTensor(1, tokens, 2, dim), RealisticTensor(2, tokens, 2, dim));
      for (ops::Side side : {ops::kSideK, ops::kSideV}) {
        const auto errors = s.errors(side);
        ASSERT_FALSE(errors.empty());
        for (const HeadError& e : errors) {
          EXPECT_LT(e.best, 0.999 * e.before);
          EXPECT_GE(e.after, e.best * (1 - 1e-3));
          EXPECT_LE(e.after, e.best * 1.05);
        }
      }
    }
  }
}

TEST(LowRank, WithOutliersItIsNoWorseThanTheBest) {
  // Kept entries count as exact, so the error may even lie below that of the best approximation.
  const Sides s = Build("gear-2,rank_fit=0,rank=4,decode_rank=4,sweeps=8,window=0,outliers=0.02",
                        RealisticTensor(3, 320, 2, 64), RealisticTensor(4, 320, 2, 64));
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (const HeadError& e : s.errors(side)) EXPECT_LE(e.after, e.best * 1.05);
  }
}

TEST(LowRank, DefaultSweepsComeWithinFifteenPercentOnPlantedRank) {
  // Keys and values of rank 2 plus noise; the residual of a coarse quantiser inherits structure.
  Random random(5);
  Tensor x(512, 2, 64);
  for (size_t h = 0; h < 2; ++h) {
    std::vector<double> u(2 * 512), w(2 * 64);
    for (double& value : u) value = random.Normal();
    for (double& value : w) value = random.Normal();
    for (size_t t = 0; t < 512; ++t) {
      for (size_t d = 0; d < 64; ++d) {
        x(t, h, d) = u[2 * t] * w[2 * d] + u[2 * t + 1] * w[2 * d + 1] + 0.1 * random.Normal();
      }
    }
  }
  x = Rounded(x);
  const Sides s = Build("gear-l-2,window=0,outliers=0", x, x);
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    if ((side == ops::kSideK ? s.recipe.k : s.recipe.v).rank == 0) continue;
    for (const HeadError& e : s.errors(side)) {
      EXPECT_LE(e.after, e.best * 1.15);
      EXPECT_GE(e.after, e.best * (1 - 1e-3));
    }
  }
}

TEST(LowRank, NeverMakesTheErrorLarger) {
  const std::string forms[] = {"sweeps=1,rank=1,decode_rank=1", "sweeps=1,rank=4,decode_rank=2",
                               "sweeps=3,rank=16,decode_rank=16", "sweeps=2,rank=3,decode_rank=0"};
  for (const std::string& form : forms) {
    for (const std::string name : {"gear-l-2", "gear-2", "gear-l-4", "gear-4"}) {
      for (const size_t tokens : {64u, 128u, 500u}) {
        SCOPED_TRACE(name + "," + form + " on " + std::to_string(tokens));
        const Sides s = Build(name + "," + form + ",window=0", NoiseTensor(6, tokens, 2, 72, 3),
                              NoiseTensor(7, tokens, 2, 72, 3));
        for (ops::Side side : {ops::kSideK, ops::kSideV}) {
          for (const HeadError& e : s.errors(side)) EXPECT_LE(e.after, e.before * (1 + 1e-6));
        }
      }
    }
  }
}

// x[t][d] = u[t] w[d], other u and w for every head. Quantised with one group along either axis the
// residual is, but for codes that lie on a tie, again an outer product with the same w (or u): one
// pair of factors removes nearly all of it, but only if it is the residual of this head and not a
// transposed or re-read one. u > 0, lest a negative factor turn the codes round.
Tensor OuterProducts(size_t tokens, size_t heads, size_t dim) {
  Tensor x(tokens, heads, dim);
  for (size_t h = 0; h < heads; ++h) {
    for (size_t t = 0; t < tokens; ++t) {
      for (size_t d = 0; d < dim; ++d) {
        const double step = static_cast<double>(h) + 1;
        const double u = 1.5 + std::sin(0.37 * step * static_cast<double>(t) + step);
        const double w =
            2.3 + std::cos(0.9 * static_cast<double>(d) / step) * (1 + static_cast<double>(d % 5));
        x(t, h, d) = u * w;
      }
    }
  }
  return Rounded(x);
}

TEST(LowRank, TheResidualIsNotScrambled) {
  for (const std::string axis : {"axis=channel,group=whole", "axis=token,group=whole"}) {
    for (const auto& [tokens, dim] :
         {std::pair<size_t, size_t>{128, 32}, {64, 64}, {64, 128}, {256, 80}}) {
      SCOPED_TRACE(axis + ", " + std::to_string(tokens) + " tokens of " + std::to_string(dim));
      const Tensor x = OuterProducts(tokens, 3, dim);
      const Sides s = Build(
          "gear-l-2,rank_fit=0,rank=1,decode_rank=1,sweeps=6,outliers=0,window=0,block=64,segment=1024," +
              axis,
          x, x);
      for (ops::Side side : {ops::kSideK, ops::kSideV}) {
        for (const HeadError& e : s.errors(side)) {
          EXPECT_GT(e.before, 1);
          EXPECT_LT(e.best, 0.2 * e.before);
          EXPECT_LE(e.after, 1.02 * e.best + 1e-3 * e.before);
        }
      }
    }
  }
}

TEST(LowRank, RankAboveThatOfTheResidualIsHarmless) {
  const Tensor x = OuterProducts(128, 2, 64);
  const Sides s = Build(
      "gear-l-2,rank_fit=0,rank=16,decode_rank=16,outliers=0,window=0,block=64,segment=1024,axis=channel,"
      "group=whole",
      x, x);
  for (double y : Content(*s.cache)) ASSERT_TRUE(std::isfinite(y));
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (const HeadError& e : s.errors(side)) EXPECT_LT(e.after, 0.05 * e.before);
  }
}

// The numerical rank of what is read minus the codes, of one head of one segment.
size_t RankRead(const Tensor& x, const Tensor& read, const oracle::Segment& s,
                const SideRecipe& recipe) {
  const Tensor part = x.Tokens(s.first, s.tokens);
  const oracle::Backbone backbone = oracle::Quantise(part, ops::kSideK, recipe);
  std::vector<double> l;
  for (size_t t = 0; t < s.tokens; ++t) {
    for (size_t d = 0; d < x.dim; ++d) {
      l.push_back(read(s.first + t, 0, d) - backbone.value(t, 0, d));
    }
  }
  const std::vector<double> values = oracle::SingularValues(l, s.tokens, x.dim);
  size_t rank = 0;
  while (rank < values.size() && values[rank] > 1e-3 * values[0] && values[rank] > 1e-6) ++rank;
  return rank;
}

TEST(LowRank, PromptsAndDecodedBlocksHaveTheirOwnRank) {
  const std::string text = "gear-l-2,rank_fit=0,rank=5,decode_rank=2,outliers=0,window=0,block=64,segment=512";
  const SideRecipe recipe = MakeRecipe(text).k;
  const Shape shape{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64};
  const auto cache = MakeCache(shape, text);
  const Tensor x = NoiseTensor(8, 1088, 1, 64);
  std::vector<uint64_t> appends{1024};
  for (int i = 0; i < 64; ++i) appends.push_back(1);
  AppendParts(*cache, 0, x, x, appends);
  const oracle::Schedule schedule = oracle::ScheduleOf(recipe, appends);
  ASSERT_EQ(schedule.segments.size(), 3u);
  const Tensor read = Read(*cache, ops::kSideK);
  EXPECT_EQ(RankRead(x, read, schedule.segments[0], recipe), 5u);
  EXPECT_EQ(RankRead(x, read, schedule.segments[1], recipe), 5u);
  EXPECT_EQ(RankRead(x, read, schedule.segments[2], recipe), 2u);
}

TEST(LowRank, HeadsAreIndependent) {
  // The same head alone and beside a much louder one: its own factors, its own bits.
  const std::string text =
      "gear-l-2,rank_fit=0,rank=2,decode_rank=2,outliers=0,window=0,v.axis=channel,v.group=64";
  const Tensor one = RealisticTensor(9, 256, 1, 64);
  Tensor two(256, 2, 64);
  const Tensor loud = NoiseTensor(10, 256, 1, 64, 1000);
  for (size_t t = 0; t < 256; ++t) {
    for (size_t d = 0; d < 64; ++d) {
      two(t, 0, d) = one(t, 0, d);
      two(t, 1, d) = loud(t, 0, d);
    }
  }
  const Sides a = Build(text, one, one), b = Build(text, two, two);
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const Tensor x = Read(*a.cache, side), y = Read(*b.cache, side);
    for (size_t t = 0; t < 256; ++t) {
      for (size_t d = 0; d < 64; ++d) ASSERT_EQ(x(t, 0, d), y(t, 0, d));
    }
  }
}

}  // namespace
}  // namespace kvg::test
