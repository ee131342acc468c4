// Latent caches (Palu, LoRC) against their definition in double precision.
//
// Bounds. Latents are stored in fp16: what attention is compared with is computed from the latents
// rounded to fp16, so that what is left is the fp32 arithmetic of rebuilding, rotation and attention;
// 2e-3 of the largest value covers it (a latent that lies at the edge of two fp16 values may fall to
// the other side, which moves it by 2^-11).
#include <gtest/gtest.h>

#include "tests/support/latent_model.h"
#include "tests/support/oracle.h"

namespace kvg {
namespace {

using oracle::Tensor;
using test::Value;
using test::LatentModel;
using test::LatentSpec;
using test::Rope;

constexpr double kBound = 2e-3;

Tensor Rounded(Tensor x) {
  for (double& v : x.data) v = oracle::RoundToF16(v);
  return x;
}

struct Input {
  Tensor k, v, q;
};

Input InputOf(const Shape& shape, size_t tokens, size_t queries, uint64_t seed = 7) {
  return {test::NoiseTensor(seed, tokens, shape.kv_heads, shape.head_dim),
          test::NoiseTensor(seed + 1, tokens, shape.kv_heads, shape.head_dim),
          test::NoiseTensor(seed + 2, queries, shape.q_heads, shape.head_dim)};
}

// What attention is to give when latents are stored in fp16.
Tensor Expected(const LatentModel& model, const Input& x, const oracle::AttendSpec& spec = {}) {
  const Tensor k = model.Rotated(model.Up(ops::kSideK, Rounded(model.Down(ops::kSideK, x.k))));
  const Tensor v = model.Up(ops::kSideV, Rounded(model.Down(ops::kSideV, x.v)));
  return oracle::Attend(x.q, k, v, spec);
}

void ExpectNear(const Tensor& found, const Tensor& wanted, double bound = kBound) {
  ASSERT_EQ(found.data.size(), wanted.data.size());
  EXPECT_LE(test::MaxDistance(found, wanted), bound * std::max(1.0, test::MaxAbs(wanted)));
}

struct Case {
  const char* name;
  LatentSpec spec;
};

class Latent : public testing::TestWithParam<Case> {};

TEST_P(Latent, AttentionOfEveryLength) {
  const LatentModel model(GetParam().spec);
  for (const size_t tokens : {1u, 7u, 32u, 33u, 200u, 300u}) {
    for (const size_t queries : {size_t{1}, std::min<size_t>(tokens, 5)}) {
      const Input x = InputOf(model.spec().shape, tokens, queries);
      const auto cache = model.MakeCache("palu");
      test::Append(*cache, 0, x.k, x.v);
      ExpectNear(test::Attend(*cache, 0, x.q), Expected(model, x));
    }
  }
}

TEST_P(Latent, MasksScaleAndCap) {
  const LatentModel model(GetParam().spec);
  const Input x = InputOf(model.spec().shape, 290, 40);  // more than a pass of queries
  const auto cache = model.MakeCache("palu", 1);
  test::Append(*cache, 0, x.k, x.v);
  AttendOptions options;
  oracle::AttendSpec spec;
  options.queries = 40;
  options.sliding_window = spec.sliding_window = 21;
  options.scale = 0.3f;
  spec.scale = static_cast<double>(0.3f);
  options.softcap = 5;
  spec.softcap = 5;
  ExpectNear(test::Attend(*cache, 0, x.q, options), Expected(model, x, spec));
  options.causal = spec.causal = false;
  options.sliding_window = spec.sliding_window = 0;
  ExpectNear(test::Attend(*cache, 0, x.q, options), Expected(model, x, spec));
}

TEST_P(Latent, ReadGivesRowsBeforeRotation) {
  const LatentModel model(GetParam().spec);
  const Input x = InputOf(model.spec().shape, 130, 1);
  const auto cache = model.MakeCache("palu");
  test::AppendParts(*cache, 0, x.k, x.v, {100, 1, 29});
  ExpectNear(test::Read(*cache, ops::kSideK),
             model.Up(ops::kSideK, Rounded(model.Down(ops::kSideK, x.k))));
  ExpectNear(test::Read(*cache, ops::kSideV),
             model.Up(ops::kSideV, Rounded(model.Down(ops::kSideV, x.v))));
  ExpectNear(test::ReadRange(*cache, ops::kSideK, 0, 61, 37),
             test::Read(*cache, ops::kSideK).Tokens(61, 37), 1e-6);
}

LatentSpec Spec(uint32_t q_heads, uint32_t kv_heads, uint32_t dim, uint32_t k_group, uint32_t v_group,
                uint32_t k_rank, uint32_t v_rank, Rope rope = Rope::kHalf, bool bias = false,
                uint32_t pairs = 0) {
  return {{1, q_heads, kv_heads, dim}, k_group, v_group, k_rank, v_rank, rope, pairs, bias, dim};
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Latent,
    testing::Values(Case{"heads_alone", Spec(2, 2, 64, 1, 1, 32, 32)},
                    Case{"groups_and_odd_ranks", Spec(8, 4, 64, 4, 2, 40, 24)},
                    Case{"rank_above_head_dim", Spec(4, 4, 72, 4, 4, 88, 104)},
                    Case{"head_dim_80_interleaved", Spec(6, 2, 80, 2, 1, 64, 16, Rope::kInterleaved)},
                    Case{"head_dim_96_no_rope", Spec(4, 1, 96, 1, 1, 48, 8, Rope::kNone)},
                    Case{"bias", Spec(4, 2, 64, 2, 2, 48, 48, Rope::kHalf, true)},
                    Case{"part_of_the_head_rotated", Spec(2, 2, 64, 1, 1, 32, 32, Rope::kHalf, false, 8)},
                    Case{"split_latents", Spec(16, 4, 128, 4, 4, 352, 264)}),
    [](const auto& which) { return std::string(which.param.name); });

// At full rank nothing is lost: attention is that of the rows, rotated.
TEST(LatentIdentity, FullRankIsDense) {
  const LatentModel model(Spec(8, 4, 64, 2, 4, 128, 256));
  const Input x = InputOf(model.spec().shape, 150, 3);
  const auto cache = model.MakeCache("palu");
  test::Append(*cache, 0, x.k, x.v);
  ExpectNear(test::Attend(*cache, 0, x.q), oracle::Attend(x.q, model.Rotated(x.k), x.v, {}), 6e-3);
}

// One side latent, the other as usual: keys come rotated then.
TEST(LatentSides, EitherSideAlone) {
  const LatentModel model(Spec(4, 2, 64, 2, 1, 64, 32));
  const Input x = InputOf(model.spec().shape, 140, 2);
  const Tensor rotated = Rounded(model.Rotated(x.k));
  const auto values = model.MakeCache("fp16,v.latent=plan");
  test::Append(*values, 0, rotated, x.v);
  const Tensor v = model.Up(ops::kSideV, Rounded(model.Down(ops::kSideV, x.v)));
  ExpectNear(test::Attend(*values, 0, x.q), oracle::Attend(x.q, rotated, v, {}));
  const auto keys = model.MakeCache("fp16,k.latent=plan");
  test::Append(*keys, 0, x.k, x.v);
  const Tensor k = model.Rotated(model.Up(ops::kSideK, Rounded(model.Down(ops::kSideK, x.k))));
  ExpectNear(test::Attend(*keys, 0, x.q), oracle::Attend(x.q, k, x.v, {}));
}

// The latent output, expanded by whoever asked for it, is the expanded one.
TEST(LatentOutput, ExpandsToTheOther) {
  const LatentModel model(Spec(8, 4, 64, 4, 2, 64, 24, Rope::kHalf, true));
  const Input x = InputOf(model.spec().shape, 100, 4);
  const auto cache = model.MakeCache("palu");
  test::Append(*cache, 0, x.k, x.v);
  const Tensor whole = test::Attend(*cache, 0, x.q);
  std::vector<float> q = test::ToF32(x.q), latent(4 * 8 * 24);
  AttendOptions options;
  options.q_dtype = options.out_dtype = ops::kF32;
  options.queries = 4;
  options.latent_out = true;
  test::Must(cache->Attend(0, q.data(), q.size() * 4, latent.data(), latent.size() * 4, options));
  // Up() takes the latents of groups: those of one query head of each KV head at a time.
  for (size_t j = 0; j < 2; ++j) {
    for (size_t h = 0; h < 4; ++h) {
      Tensor z(4, 2, 24);
      for (size_t t = 0; t < 4; ++t) {
        for (size_t r = 0; r < 24; ++r) {
          z(t, h / 2, r) = static_cast<double>(latent[(t * 8 + h * 2 + j) * 24 + r]);
        }
      }
      const Tensor up = model.Up(ops::kSideV, z);
      for (size_t t = 0; t < 4; ++t) {
        for (size_t d = 0; d < 64; ++d) EXPECT_NEAR(up(t, h, d), whole(t, h * 2 + j, d), 1e-5);
      }
    }
  }
  EXPECT_FALSE(cache->Attend(0, q.data(), q.size() * 4, latent.data(), latent.size() * 4 - 1, options).ok());
}

// Codes of latents: within half a step of a token's range, as for any other rows, and of U no more.
TEST(LatentCodes, ErrorsAreThoseOfTheQuantiser) {
  const LatentModel model(Spec(4, 4, 64, 4, 4, 64, 64));
  const Input x = InputOf(model.spec().shape, 256, 1);
  const auto cache = model.MakeCache("palu-4,window=0");
  test::Append(*cache, 0, x.k, x.v);
  const Tensor z = Rounded(model.Down(ops::kSideK, x.k));
  const Tensor back = model.Down(ops::kSideK, test::Read(*cache, ops::kSideK));
  for (size_t t = 0; t < z.tokens; ++t) {
    double low = z(t, 0, 0), high = low;
    for (size_t r = 0; r < z.dim; ++r) {
      low = std::min(low, z(t, 0, r));
      high = std::max(high, z(t, 0, r));
    }
    const double step = (high - low) / 15;
    for (size_t r = 0; r < z.dim; ++r) {
      EXPECT_LE(std::abs(back(t, 0, r) - z(t, 0, r)), step / 2 * 1.02 + 4e-3) << t << " " << r;
    }
  }
  const Stats stats = Value(cache->GetStats(kAllLayers, true, true));
  // 4 bits for 64 of 256 elements, and two scales for a token of a side.
  EXPECT_EQ(stats.bytes_codes, 2u * 256 * 64 / 2);
  EXPECT_EQ(stats.bytes_scales, 2u * 256 * 4);
  EXPECT_GT(stats.bytes_plan, 2u * 4 * 64 * 64 * 4);
  EXPECT_EQ(stats.elements, 2u * 256 * 256);
}

// GEAR's parts on top of codes of latents: outliers and low rank lower the error.
TEST(LatentCodes, GearOnTop) {
  const LatentModel model(Spec(4, 4, 64, 4, 4, 64, 64));
  const Shape& shape = model.spec().shape;
  const Tensor k = test::RealisticTensor(3, 512, shape.kv_heads, shape.head_dim);
  const Tensor v = test::RealisticTensor(4, 512, shape.kv_heads, shape.head_dim);
  const auto error = [&](const std::string& recipe) {
    const auto cache = model.MakeCache(recipe);
    test::Append(*cache, 0, k, v);
    const Stats stats = Value(cache->GetStats(kAllLayers, true, true));
    EXPECT_GT(stats.rel_error_k_mean, 0);
    return stats.rel_error_k_mean + stats.rel_error_v_mean;
  };
  EXPECT_LT(error("palu-2,rank=4,outliers=0.02"), 0.9 * error("palu-2"));
}

// A rotation folded into the factors changes no answer where nothing is quantised.
TEST(LatentRotation, InvariantWithoutCodes) {
  LatentSpec spec = Spec(4, 2, 64, 2, 2, 32, 32);
  const LatentModel model(spec);
  const Input x = InputOf(spec.shape, 90, 1);
  const auto plain = model.MakeCache("palu");
  test::Append(*plain, 0, x.k, x.v);
  std::vector<float> turned[2];
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    const std::vector<float>& u = model.factors(side);
    turned[side].resize(u.size());
    for (size_t h = 0; h < 2; ++h) {
      for (size_t r = 0; r < 32; ++r) {
        for (size_t s = 0; s < 32; ++s) {
          const float sign = __builtin_popcount(static_cast<unsigned>(r & s)) % 2 == 0 ? 1.0f : -1.0f;
          for (size_t d = 0; d < 64; ++d) {
            turned[side][(h * 32 + r) * 64 + d] += sign / std::sqrt(32.0f) * u[(h * 32 + s) * 64 + d];
          }
        }
      }
    }
  }
  PlanWriter writer(spec.shape);
  writer.Text("rope", "none");
  writer.Text("recipes", "palu");
  writer.Floats("layers.0.k.latent", {1, 2, 32, 64}, turned[0]);
  writer.Floats("layers.0.v.latent", {1, 2, 32, 64}, turned[1]);
  const test::TemporaryFile file(writer.Contents());
  const auto other = Value(Cache::Create(test::MakeRuntime(), Value(Plan::Load(file.path(), nullptr, "", ""))));
  test::Append(*other, 0, x.k, x.v);
  ExpectNear(test::Read(*other, ops::kSideK), test::Read(*plain, ops::kSideK), 4e-3);
  ExpectNear(test::Read(*other, ops::kSideV), test::Read(*plain, ops::kSideV), 4e-3);
}

// The same bits, however many threads and queries at a time; forks and cuts as everywhere.
TEST(LatentPromises, BitsForksAndCuts) {
  const LatentModel model(Spec(8, 4, 64, 2, 2, 48, 48));
  const Input x = InputOf(model.spec().shape, 700, 6);
  const auto one = model.MakeCache("palu-3"), many = model.MakeCache("palu-3", 3);
  test::Append(*one, 0, x.k, x.v);
  test::Append(*many, 0, x.k, x.v);
  const Tensor out = test::Attend(*one, 0, x.q);
  EXPECT_EQ(out.data, test::Attend(*many, 0, x.q).data);
  const auto fork = Value(one->Fork());
  test::Must(fork->Truncate(0, 660));
  test::Append(*fork, 0, x.k.Tokens(660, 40), x.v.Tokens(660, 40));
  EXPECT_EQ(out.data, test::Attend(*fork, 0, x.q).data);
  const Cache* const batch[] = {one.get(), fork.get()};
  std::vector<float> q = test::ToF32(x.q), results(2 * q.size());
  q.insert(q.end(), q.begin(), q.begin() + static_cast<long>(results.size() / 2));
  AttendOptions options;
  options.q_dtype = options.out_dtype = ops::kF32;
  options.queries = 6;
  test::Must(Cache::AttendBatch(batch, 0, q.data(), q.size() * 4, results.data(), results.size() * 4, options));
  for (size_t i = 0; i < results.size(); ++i) {
    ASSERT_EQ(static_cast<double>(results[i]), out.data[i % out.data.size()]);
  }
}

TEST(LatentPromises, WhatCannotBeStoredIsRefused) {
  const LatentModel model(LatentSpec{});
  const auto cache = model.MakeCache("palu");
  Input x = InputOf(model.spec().shape, 5, 1);
  test::Append(*cache, 0, x.k, x.v);
  x.v(3, 1, 9) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(test::TryAppend(*cache, 0, x.k, x.v).code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(test::Length(*cache), 5u);
}

}  // namespace
}  // namespace kvg
