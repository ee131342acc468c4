// The quantiser of every recipe, alone: what is read back against the oracle's codes and scales.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

constexpr char kNoResidual[] = ",rank=0,decode_rank=0,outliers=0";

struct Verdict {
  size_t wrong = 0, ties = 0, entries = 0;
};

// y of H y, which is H applied once more and divided by the size of its blocks.
Tensor Turned(const Tensor& x) {
  Tensor y = oracle::RotateBack(x);
  const double block = static_cast<double>(x.dim & (~x.dim + 1));
  for (double& v : y.data) v /= block;
  return y;
}

double LargestOfRow(const Tensor& x, size_t i) {
  double most = 0;
  for (size_t d = 0; d < x.dim; ++d) most = std::max(most, std::abs(x.data[i / x.dim * x.dim + d]));
  return most;
}

// Compares what a cache gives back for one side with the oracle, segment by segment.
Verdict Compare(const Tensor& x, const Tensor& read, ops::Side side, const SideRecipe& recipe,
                const oracle::Schedule& schedule) {
  Verdict verdict;
  for (const oracle::Segment& segment : schedule.segments) {
    Tensor part = x.Tokens(segment.first, segment.tokens);
    Tensor got = read.Tokens(segment.first, segment.tokens);
    double turned = 0;  // what turning back and forth in fp32 adds, of the row's largest
    if (recipe.map == SideRecipe::kHadamard) {
      part = oracle::Rotate(part);
      got = Turned(got);
      turned = 0x1p-20;
    }
    const oracle::Backbone want = oracle::Quantise(part, side, recipe);
    for (size_t i = 0; i < part.data.size(); ++i) {
      // fp32: a product and a sum.
      const double slack = 0x1p-22 * (std::abs(want.value.data[i]) + std::abs(part.data[i]) +
                                      std::abs(want.scale.data[i])) +
                           turned * LargestOfRow(part, i);
      ++verdict.entries;
      if (std::abs(got.data[i] - want.value.data[i]) <= slack) continue;
      if (std::abs(got.data[i] - want.other.data[i]) <= slack) {
        ++verdict.ties;
      } else {
        ++verdict.wrong;
      }
    }
  }
  for (size_t t = schedule.sealed; t < x.tokens; ++t) {
    if (!TokenEqual(x, read, t)) ++verdict.wrong;
  }
  return verdict;
}

void ExpectBackbone(const std::string& text, size_t tokens, uint32_t kv_heads, uint32_t head_dim,
                    const Tensor& k, const Tensor& v) {
  SCOPED_TRACE(text + ", tokens " + std::to_string(tokens) + ", heads " + std::to_string(kv_heads) +
               ", head_dim " + std::to_string(head_dim));
  const auto cache = MakeCache(
      {.layers = 1, .q_heads = kv_heads, .kv_heads = kv_heads, .head_dim = head_dim}, text);
  Append(*cache, 0, k, v);
  const Recipe recipe = MakeRecipe(text);
  const Verdict on_k = Compare(k, Read(*cache, ops::kSideK), ops::kSideK, recipe.k,
                               oracle::ScheduleOf(recipe.k, {tokens}));
  const Verdict on_v = Compare(v, Read(*cache, ops::kSideV), ops::kSideV, recipe.v,
                               oracle::ScheduleOf(recipe.v, {tokens}));
  EXPECT_EQ(on_k.wrong, 0u);
  EXPECT_EQ(on_v.wrong, 0u);
  EXPECT_LE(on_k.ties, on_k.entries / 200);
  EXPECT_LE(on_v.ties, on_v.entries / 200);
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, BackboneEqualsTheOracle) {
  struct Case {
    size_t tokens;
    uint32_t kv_heads, head_dim;
  };
  // Lengths beside and off every group and block; head_dims that fill no tile, no group.
  for (const Case& c : {Case{300, 2, 64}, Case{257, 1, 80}, Case{1411, 2, 72}, Case{223, 3, 96},
                        Case{160, 2, 128}, Case{192, 1, 256}, Case{416, 5, 32}}) {
    const Tensor k = RealisticTensor(1, c.tokens, c.kv_heads, c.head_dim);
    const Tensor v = RealisticTensor(2, c.tokens, c.kv_heads, c.head_dim);
    ExpectBackbone(GetParam() + kNoResidual, c.tokens, c.kv_heads, c.head_dim, k, v);
  }
}

TEST_P(EveryRecipe, ALongPromptIsReallyCompressed) {
  const Shape shape{.layers = 1, .q_heads = 4, .kv_heads = 4, .head_dim = 64};
  const Recipe recipe = MakeRecipe(GetParam());
  const auto cache = MakeCache(shape, GetParam());
  const Tensor k = RealisticTensor(3, 4096, 4, 64), v = RealisticTensor(4, 4096, 4, 64);
  Append(*cache, 0, k, v);
  const Stats stats = Value(cache->GetStats(0, true, true));
  const double bits =
      8.0 * static_cast<double>(stats.bytes_total()) / static_cast<double>(stats.elements);
  if (recipe.k.bits == 16) {
    EXPECT_EQ(Content(*cache), Joined(k, v).data);
    return;
  }
  EXPECT_LT(bits, (recipe.k.bits + recipe.v.bits) / 2.0 + 4);
  EXPECT_GT(bits, (recipe.k.bits + recipe.v.bits) / 2.0);
  // What is read is the reconstruction, not the input that went in.
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const SideRecipe& of = side == ops::kSideK ? recipe.k : recipe.v;
    const Tensor& x = side == ops::kSideK ? k : v;
    const Tensor read = Read(*cache, side);
    const uint64_t sealed = oracle::ScheduleOf(of, {4096}).sealed;
    EXPECT_GE(sealed, 4096u - of.window - of.block);
    size_t untouched = 0;
    for (size_t t = 0; t < sealed; ++t) untouched += TokenEqual(x, read, t);
    EXPECT_EQ(untouched, 0u);
  }
}

TEST_P(EveryRecipe, ConstantAndZeroInputComesBackExact) {
  for (double value : {0.0, 1.0, -0.3330078125, 65504.0, -65504.0, 0x1p-24}) {
    Tensor x(300, 2, 64);
    std::fill(x.data.begin(), x.data.end(), value);
    const auto cache =
        MakeCache({.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64}, GetParam());
    Append(*cache, 0, x, x);
    if (MakeRecipe(GetParam()).k.map != SideRecipe::kNoMap) {
      // A constant row becomes one number among zeros, which the rounding of the scale moves by
      // up to 2^-11 of it each; turned back, they add up.
      for (ops::Side side : {ops::kSideK, ops::kSideV}) {
        for (double y : Read(*cache, side).data) {
          EXPECT_NEAR(y, value, std::abs(value) * 0x1p-5 + 0x1p-24);
        }
      }
      continue;
    }
    EXPECT_EQ(Read(*cache, ops::kSideK).data, x.data) << value;
    EXPECT_EQ(Read(*cache, ops::kSideV).data, x.data) << value;
    const Stats stats = Value(cache->GetStats(0, true, true));
    EXPECT_EQ(stats.rel_error_k_worst, 0);
    EXPECT_EQ(stats.rel_error_v_worst, 0);
    const Tensor out = Attend(*cache, 0, NoiseTensor(1, 1, 2, 64, 0.01));
    for (double y : out.data) EXPECT_NEAR(y, value, std::abs(value) * 1e-3);
  }
}

TEST_P(EveryRecipe, ConstantGroupsAmongOthersComeBackExact) {
  // Constant channels for K and constant tokens for V, between noisy ones.
  Tensor k = NoiseTensor(5, 320, 2, 64), v = NoiseTensor(6, 320, 2, 64);
  for (size_t t = 0; t < 320; ++t) {
    for (size_t h = 0; h < 2; ++h) {
      for (size_t d = 0; d < 64; ++d) {
        if (d % 2 == 0) k(t, h, d) = static_cast<double>(d) + 0.25;
        if (t % 2 == 0) v(t, h, d) = static_cast<double>(t) + 0.25;
      }
    }
  }
  const std::string text = GetParam() + kNoResidual;
  const Recipe recipe = MakeRecipe(text);
  const auto cache = MakeCache({.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64}, text);
  Append(*cache, 0, k, v);
  const Tensor k_read = Read(*cache, ops::kSideK), v_read = Read(*cache, ops::kSideV);
  for (size_t t = 0; t < 320; ++t) {
    for (size_t h = 0; h < 2; ++h) {
      for (size_t d = 0; d < 64; ++d) {
        ASSERT_TRUE(std::isfinite(k_read(t, h, d)));
        ASSERT_TRUE(std::isfinite(v_read(t, h, d)));
        if (d % 2 == 0 && recipe.k.axis == ops::kAxisChannel && recipe.k.map == SideRecipe::kNoMap) {
          ASSERT_EQ(k_read(t, h, d), k(t, h, d));
        }
        if (t % 2 == 0 && recipe.v.axis == ops::kAxisToken && recipe.v.map == SideRecipe::kNoMap) {
          ASSERT_EQ(v_read(t, h, d), v(t, h, d));
        }
      }
    }
  }
}

TEST_P(EveryRecipe, ExtremesStayFinite) {
  // The whole range of fp16 in one group, one huge entry among small ones, subnormals.
  Tensor x = NoiseTensor(7, 320, 2, 64);
  for (size_t d = 0; d < 64; ++d) {
    x(0, 0, d) = d % 2 == 0 ? 65504 : -65504;
    x(40, 0, d) = -x(0, 0, d);
    x(70, 1, d) = d == 5 ? 1e4 : x(70, 1, d);
    x(100, 0, d) = static_cast<double>(d) * 0x1p-24;
  }
  const auto cache =
      MakeCache({.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64}, GetParam());
  x = Rounded(x);
  Append(*cache, 0, x, x);
  for (double y : Content(*cache)) {
    ASSERT_TRUE(std::isfinite(y));
    ASSERT_LE(std::abs(y), 1.5 * 65504);
  }
  const Tensor out = Attend(*cache, 0, NoiseTensor(8, 1, 2, 64, 0.01));
  for (double y : out.data) ASSERT_TRUE(std::isfinite(y));
  ExpectBackbone(GetParam() + kNoResidual, 320, 2, 64, x, x);
}

TEST_P(EveryRecipe, OneHugeEntryHurtsItsOwnGroupAlone) {
  Tensor quiet = NoiseTensor(9, 512, 2, 64);
  Tensor loud = quiet;
  loud(70, 1, 37) = 1e4;
  const std::string text = GetParam() + kNoResidual;
  const Recipe recipe = MakeRecipe(text);
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 64};
  const auto a = MakeCache(shape, text), b = MakeCache(shape, text);
  Append(*a, 0, quiet, quiet);
  Append(*b, 0, loud, loud);
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const SideRecipe& of = side == ops::kSideK ? recipe.k : recipe.v;
    const Tensor before = Read(*a, side), after = Read(*b, side);
    for (size_t t = 0; t < 512; ++t) {
      for (size_t h = 0; h < 2; ++h) {
        for (size_t d = 0; d < 64; ++d) {
          const bool may_differ = of.axis == ops::kAxisChannel ? h == 1 && d == 37 : t == 70;
          if (!may_differ) {
            ASSERT_EQ(before(t, h, d), after(t, h, d)) << t << ' ' << h << ' ' << d;
          }
        }
      }
    }
  }
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

// Every width on both axes: all 2^bits levels are reached, and whole numbers come back exact.
class EveryWidth : public testing::TestWithParam<uint32_t> {};

TEST_P(EveryWidth, AllLevelsAreReachedAndExact) {
  const uint32_t levels = 1u << GetParam();
  for (const std::string axis : {"channel", "token"}) {
    const std::string text = "int4,bits=" + std::to_string(GetParam()) + ",axis=" + axis +
                             ",group=" + (axis == "channel" ? "256" : "whole") +
                             ",window=0,block=256,segment=1024";
    Tensor x(256, 1, 256);
    for (size_t t = 0; t < 256; ++t) {
      for (size_t d = 0; d < 256; ++d) {
        x(t, 0, d) = static_cast<double>((t + d * 7) % levels) - 3;
      }
    }
    const auto cache = MakeCache({.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 256}, text);
    Append(*cache, 0, x, x);
    ASSERT_EQ(Value(cache->GetStats(0, true, true)).sealed_elements, 2u * 256 * 256) << text;
    EXPECT_EQ(Read(*cache, ops::kSideK).data, x.data) << text;
    EXPECT_EQ(Read(*cache, ops::kSideV).data, x.data) << text;

    // A ramp falls on all 2^bits levels and on nothing else, from its minimum to its maximum.
    Tensor ramp(256, 1, 256);
    for (size_t t = 0; t < 256; ++t) {
      for (size_t d = 0; d < 256; ++d) {
        ramp(t, 0, d) = oracle::RoundToF16(static_cast<double>((t + d * 7) % 256) * 0.79 - 100);
      }
    }
    const auto coarse =
        MakeCache({.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 256}, text);
    Append(*coarse, 0, ramp, ramp);
    for (ops::Side side : {ops::kSideK, ops::kSideV}) {
      const Tensor read = Read(*coarse, side);
      for (size_t i : {0u, 100u, 255u}) {
        std::set<double> seen;
        for (size_t j = 0; j < 256; ++j) {
          seen.insert(axis == "channel" ? read(j, 0, i) : read(i, 0, j));
        }
        EXPECT_EQ(seen.size(), levels) << text;
        EXPECT_EQ(*seen.begin(), -100);
        EXPECT_NEAR(*seen.rbegin(), 255 * 0.79 - 100, 0.1);
      }
    }
  }
}

TEST_P(EveryWidth, EveryAxisAndGroupEqualsTheOracle) {
  for (const std::string form :
       {"axis=channel,group=32,block=32", "axis=channel,group=64,block=64",
        "axis=channel,group=128,block=128", "axis=channel,group=whole,block=32",
        "axis=token,group=16,block=32", "axis=token,group=32,block=64",
        "axis=token,group=64,block=64", "axis=token,group=whole,block=32",
        "axis=token,group=all,block=32", "axis=token,group=32,block=1"}) {
    const std::string text =
        "int4,bits=" + std::to_string(GetParam()) + "," + form + ",window=16,segment=256";
    const Tensor k = RealisticTensor(11, 700, 2, 80), v = RealisticTensor(12, 700, 2, 80);
    ExpectBackbone(text, 700, 2, 80, k, v);
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, EveryWidth, testing::Values(1, 2, 3, 4, 6, 8));

}  // namespace
}  // namespace kvg::test
