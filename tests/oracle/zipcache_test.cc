// ZipCache's tiers: saliency by both definitions, who gets few bits, and that nothing is lost.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "core/select/choose.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/select_oracle.h"

namespace kvg::test {
namespace {

using oracle::Best;
using oracle::GroupWeights;

constexpr Shape kShape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 48};

std::vector<uint64_t> Range(uint64_t n) {
  std::vector<uint64_t> all(n);
  std::iota(all.begin(), all.end(), uint64_t{0});
  return all;
}

void ProbeAt(Cache& cache, const Tensor& q, const std::vector<uint64_t>& positions) {
  std::vector<float> rows;
  for (const uint64_t p : positions) {
    const std::vector<float> one = ToF32(q.Tokens(p, 1));
    rows.insert(rows.end(), one.begin(), one.end());
  }
  AttendOptions options;
  options.q_dtype = ops::kF32;
  options.queries = static_cast<uint32_t>(positions.size());
  Must(cache.Probe(0, rows.data(), rows.size() * 4, positions.data(), options));
}

// Positions of a head by bits.
std::vector<uint64_t> OfBits(const Cache& cache, uint32_t head, uint8_t bits,
                             ops::Side side = ops::kSideK) {
  const uint64_t held = Value(cache.Held(0));
  std::vector<uint64_t> positions(held), found;
  std::vector<uint8_t> all(held);
  Must(cache.Positions(0, head, positions.data()));
  Must(cache.Bits(0, side, all.data()));
  for (size_t i = 0; i < held; ++i) {
    if (all[i] == bits) found.push_back(positions[i]);
  }
  std::sort(found.begin(), found.end());
  return found;
}

TEST(ZipCache, BothDefinitionsOfSaliency) {
  const uint64_t n = 320;
  const Tensor k = NoiseTensor(1, n, 2, 48, 1.5), q = NoiseTensor(3, n, 4, 48, 1.5);
  for (const std::string norm : {"probes", "causal"}) {
    const auto cache = MakeCache(kShape, "zipcache,norm=" + norm);
    Append(*cache, 0, k, k);
    std::vector<uint64_t> probes(Value(cache->ProbeRoom(0)));
    probes.resize(Value(cache->ProbePositions(0, probes.data())));
    EXPECT_EQ(probes.size(), 32u);  // 5 % newest, 5 % drawn from the rest
    for (uint64_t p = 304; p < n; ++p) {
      EXPECT_EQ(std::count(probes.begin(), probes.end(), p), 1) << p;
    }
    ProbeAt(*cache, q, probes);
    Must(cache->Select(0));
    for (uint32_t head = 0; head < 2; ++head) {
      std::vector<double> sum(n, 0), rows(n, 0);
      for (const uint64_t p : probes) {
        const auto w = GroupWeights(q, p, head, k, Range(n), p);
        for (uint64_t t = 0; t <= p; ++t) {
          sum[t] += w[t];
          ++rows[t];
        }
      }
      for (uint64_t t = 0; t < n; ++t) {
        sum[t] /= norm == "probes" ? std::max(rows[t], 1.0) : static_cast<double>(n - t);
      }
      const std::vector<size_t> best = Best(sum, 192);  // 60 % of 320
      EXPECT_EQ(OfBits(*cache, head, 4), std::vector<uint64_t>(best.begin(), best.end())) << norm;
      EXPECT_EQ(OfBits(*cache, head, 2).size(), 128u);
    }
  }
}

// All logits equal: token i of l has the mean over rows k >= i of 1 / (k + 1).
TEST(ZipCache, ClosedFormOfEqualLogits) {
  const uint64_t n = 96;
  const Shape shape{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  const auto cache = MakeCache(shape, "zipcache,probe_recent=1");
  Tensor zero(n, 1, 32);
  Append(*cache, 0, NoiseTensor(1, n, 1, 32), NoiseTensor(1, n, 1, 32));
  ProbeAt(*cache, zero, Range(n));
  Must(cache->Select(0));
  std::vector<double> mean(n);
  for (uint64_t i = 0; i < n; ++i) {
    for (uint64_t row = i; row < n; ++row) mean[i] += 1 / static_cast<double>(row + 1);
    mean[i] /= static_cast<double>(n - i);
  }
  const std::vector<size_t> best = Best(mean, 64);
  EXPECT_EQ(OfBits(*cache, 0, 4), std::vector<uint64_t>(best.begin(), best.end()));
  EXPECT_EQ(best.back(), 63u);  // it falls with i
}

TEST(ZipCache, TheOrderOfProbesDoesNotMatterAndSealingAgainIsNothing) {
  const uint64_t n = 256;
  const Tensor k = NoiseTensor(1, n, 2, 48, 1.5), q = NoiseTensor(3, n, 4, 48, 1.5);
  std::vector<std::vector<uint64_t>> lows;
  for (const bool parts : {false, true}) {
    const auto cache = MakeCache(kShape, "zipcache");
    Append(*cache, 0, k, k);
    if (parts) {
      ProbeAt(*cache, q, {200, 255});
      ProbeAt(*cache, q, {17, 90});
    } else {
      ProbeAt(*cache, q, {17, 90, 200, 255});
    }
    Must(cache->Select(0));
    lows.push_back(OfBits(*cache, 0, 2));
    const auto before = Content(*cache);
    Must(cache->Select(0));
    EXPECT_EQ(Content(*cache), before);
  }
  EXPECT_EQ(lows[0], lows[1]);
}

TEST(ZipCache, ShortInputsDoNotFail) {
  for (uint64_t n = 1; n < 40; ++n) {
    const auto cache = MakeCache(kShape, "zipcache");
    const Tensor k = NoiseTensor(n, n, 2, 48), q = NoiseTensor(n + 1, n, 4, 48);
    Append(*cache, 0, k, k);
    std::vector<uint64_t> probes(Value(cache->ProbeRoom(0)));
    probes.resize(Value(cache->ProbePositions(0, probes.data())));
    ASSERT_GE(probes.size(), 1u);
    ProbeAt(*cache, q, probes);
    Must(cache->Select(0));
    ASSERT_EQ(Value(cache->Held(0)), n);
  }
}

// A prompt and decoded tokens: every token is held once, sealed runs come every 100 tokens, and what
// was sealed stays as it is, unless it is to be sealed again each time.
TEST(ZipCache, SealsOnceOrAgain) {
  const uint64_t prompt = 300, n = 640;
  const Tensor k = NoiseTensor(1, n, 2, 48, 1.5), v = NoiseTensor(2, n, 2, 48),
               q = NoiseTensor(3, n, 4, 48, 1.5);
  double errors[2] = {0, 0};
  for (const bool again : {false, true}) {
    const auto cache = MakeCache(kShape, again ? "zipcache-requant" : "zipcache");
    Append(*cache, 0, k.Tokens(0, prompt), v.Tokens(0, prompt));
    std::vector<uint64_t> probes(Value(cache->ProbeRoom(0)));
    probes.resize(Value(cache->ProbePositions(0, probes.data())));
    ProbeAt(*cache, q, probes);
    uint64_t runs = 0, sealed = 0;
    std::vector<double> first;
    std::vector<std::set<uint64_t>> low(2);
    for (uint64_t t = prompt; t < n; ++t) {
      Append(*cache, 0, k.Tokens(t, 1), v.Tokens(t, 1));
      const std::vector<float> row = ToF32(q.Tokens(t, 1));
      std::vector<float> out(row.size());
      AttendOptions options;
      options.q_dtype = options.out_dtype = ops::kF32;
      Must(cache->AttendObserve(0, row.data(), row.size() * 4, out.data(), out.size() * 4, options));
      const Stats stats = Value(cache->GetStats(0, true, true));
      const uint64_t now = stats.sealed_elements / (2 * 96);
      if (now != sealed) ++runs;
      sealed = now;
      for (uint32_t head = 0; head < 2; ++head) {
        std::vector<uint64_t> positions(Value(cache->Held(0)));
        Must(cache->Positions(0, head, positions.data()));
        std::sort(positions.begin(), positions.end());
        ASSERT_EQ(positions, Range(t + 1));  // every token once
        // Assignments never change.
        const std::vector<uint64_t> two = OfBits(*cache, head, 2);
        for (const uint64_t p : low[head]) {
          ASSERT_TRUE(std::binary_search(two.begin(), two.end(), p)) << p << " at " << t;
        }
        low[head] = {two.begin(), two.end()};
      }
      if (!again) {
        const Tensor rows = ReadRange(*cache, ops::kSideK, 0, 0, 288);
        if (first.empty()) first = rows.data;
        ASSERT_EQ(rows.data, first) << "a sealed token changed at " << t;
      }
    }
    EXPECT_EQ(runs, 4u);  // the prompt, and three times about 100 tokens
    // Errors of the keys against what was appended.
    for (uint32_t head = 0; head < 2; ++head) {
      std::vector<uint64_t> positions(Value(cache->Held(0)));
      Must(cache->Positions(0, head, positions.data()));
      const Tensor rows = Read(*cache, ops::kSideK);
      for (size_t i = 0; i < positions.size(); ++i) {
        for (size_t d = 0; d < 48; ++d) {
          const double e = rows(i, head, d) - k(positions[i], head, d);
          errors[again] += e * e;
        }
      }
    }
    const Stats stats = Value(cache->GetStats(0, true, true));
    double norm = 0;
    for (const double x : k.data) norm += x * x;
    // What is reported of the worst segment covers it; of what was sealed again too.
    EXPECT_GE(stats.rel_error_k_worst, std::sqrt(errors[again] / norm)) << again;
  }
  EXPECT_GT(errors[1], errors[0]);  // sealing again loses more
}

TEST(ZipCache, KeysOfATierHaveOneScaleForAChannel) {
  const uint64_t n = 320;
  const Tensor k = NoiseTensor(1, n, 2, 48, 1.5), q = NoiseTensor(3, n, 4, 48, 1.5);
  const auto cache = MakeCache(kShape, "zipcache");
  Append(*cache, 0, k, k);
  ProbeAt(*cache, q, {100, 319});
  Must(cache->Select(0));
  const Tensor rows = Read(*cache, ops::kSideK);
  for (uint32_t head = 0; head < 2; ++head) {
    std::vector<uint64_t> positions(n);
    std::vector<uint8_t> bits(n);
    Must(cache->Positions(0, head, positions.data()));
    Must(cache->Bits(0, ops::kSideK, bits.data()));
    for (const uint8_t width : {uint8_t{4}, uint8_t{2}}) {
      for (size_t d = 0; d < 48; ++d) {
        double least = 1e9, most = -1e9, worst = 0;
        std::set<double> levels;
        for (size_t i = 0; i < n; ++i) {
          if (bits[i] != width) continue;
          const double x = k(positions[i], head, d);
          least = std::min(least, x);
          most = std::max(most, x);
          worst = std::max(worst, std::abs(rows(i, head, d) - x));
          levels.insert(rows(i, head, d));
        }
        const double step = (most - least) / ((1 << width) - 1);
        ASSERT_LE(worst, 0.51 * step + 2e-3) << +width << " bits, channel " << d;
        ASSERT_LE(levels.size(), size_t{1} << width);
      }
    }
  }
}

}  // namespace
}  // namespace kvg::test
