// Score of every table against the reference, over rows and every kind of codes, masks and weights.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::kernel_test {
namespace {

struct Case {
  uint32_t q_heads, kv_heads, head_dim, queries;
  ops::DType dtype = ops::kF32;
  float softcap = 0;
};

std::vector<float> Score(const ops::Table& table, const ops::Parallel& parallel, const Case& c,
                         const SequenceBuilder& k, uint64_t seed) {
  Random random(seed);
  const Buffer q(c.queries * c.q_heads * c.head_dim * SizeOf(c.dtype));
  for (uint64_t i = 0; i < uint64_t{c.queries} * c.q_heads * c.head_dim; ++i) {
    StoreElement(q, c.dtype, i, random.Normal());
  }
  std::vector<uint64_t> sees(c.kv_heads * c.queries);
  for (uint64_t& s : sees) s = 1 + random.Below(k.length());
  sees.back() = k.length();
  std::vector<float> weight(c.queries);
  for (float& w : weight) w = static_cast<float>(0.5 + random.Uniform());
  std::vector<float> sums(c.kv_heads * k.length(), 0.25f);  // to be added to
  ops::ScoreArgs args{};
  args.k = k.sequence();
  args.length = k.length();
  args.q_heads = c.q_heads;
  args.kv_heads = c.kv_heads;
  args.head_dim = c.head_dim;
  args.queries = c.queries;
  args.q = q.data();
  args.q_dtype = c.dtype;
  args.q_token_stride = static_cast<int64_t>(c.q_heads * c.head_dim);
  args.q_head_stride = c.head_dim;
  args.scale = 1 / std::sqrt(static_cast<float>(c.head_dim));
  args.softcap = c.softcap;
  args.sees = sees.data();
  args.weight = weight.data();
  args.sums = sums.data();
  const Buffer scratch(table.score_scratch(&args, parallel.workers));
  args.scratch = scratch.data();
  table.score(&args, &parallel);
  return sums;
}

void Compare(const Case& c, const SequenceBuilder& k, uint64_t seed) {
  const std::vector<float> want = Score(ops::ReferenceTable(), Serial(), c, k, seed);
  double total = 0, expected = 0;
  for (const float w : want) total += static_cast<double>(w) - 0.25;
  Random random(seed);
  for (uint64_t i = 0; i < uint64_t{c.queries} * c.q_heads * c.head_dim; ++i) random.Normal();
  for (uint64_t i = 0; i < uint64_t{c.kv_heads} * c.queries; ++i) random.Next();
  for (uint32_t i = 0; i < c.queries; ++i) {
    expected += c.kv_heads * static_cast<double>(static_cast<float>(0.5 + random.Uniform()));
  }
  // Weights of a row add up to one.
  ASSERT_NEAR(total, expected, 1e-5 * expected + 1e-6 * static_cast<double>(want.size()));
  for (const ops::Table* table : CpuTables()) {
    const std::vector<float> got = Score(*table, Serial(), c, k, seed);
    for (size_t i = 0; i < want.size(); ++i) {
      // A sum of up to `queries` weights of at most 1.5, each within 2^-17 of it.
      ASSERT_NEAR(got[i], want[i], 1e-5 * (want[i] + 1e-3 * c.queries))
          << table->name << " slot " << i;
    }
    // Nobody's number of workers changes a bit.
    ASSERT_EQ(Score(*table, Backwards(), c, k, seed), got) << table->name;
    ASSERT_EQ(Score(*table, Threads(), c, k, seed), got) << table->name;
  }
}

TEST(Score, RandomForms) {
  Random random(5);
  for (int i = 0; i < 24; ++i) {
    const auto kv_heads = static_cast<uint32_t>(1 + random.Below(3));
    const auto head_dim = static_cast<uint32_t>(32 + 8 * random.Below(13));
    SequenceBuilder k(ops::kSideK, kv_heads, head_dim);
    for (uint64_t pieces = random.Below(4); pieces > 0; --pieces) {
      k.AddCodes(RandomForm(random, ops::kSideK, kv_heads, head_dim, 32 * (1 + random.Below(4))),
                 Data::kNoise, random.Next());
    }
    k.AddRows(1 + random.Below(40), Data::kNoise, random.Next());
    Case c{.q_heads = kv_heads * static_cast<uint32_t>(1 + random.Below(4)),
           .kv_heads = kv_heads,
           .head_dim = head_dim,
           .queries = static_cast<uint32_t>(1 + random.Below(40))};
    c.dtype = static_cast<ops::DType>(random.Below(3));
    c.softcap = random.Chance(0.3) ? 5.0f : 0.0f;
    SCOPED_TRACE(testing::Message() << "case " << i);
    Compare(c, k, random.Next());
    if (HasFatalFailure()) return;
  }
}

TEST(Score, OneTokenAndMoreThanATask) {
  for (const uint64_t tokens : {1u, 31u, 256u, 257u, 700u}) {
    SequenceBuilder k(ops::kSideK, 2, 72);
    k.AddRows(tokens, Data::kNoise, tokens);
    Compare({.q_heads = 2, .kv_heads = 2, .head_dim = 72, .queries = 17}, k, tokens);
  }
}

}  // namespace
}  // namespace kvg::kernel_test
