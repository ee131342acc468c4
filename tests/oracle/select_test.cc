// Every policy against its definition in double precision: which tokens stay, at which positions, and
// that attention is that of the kept tokens alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/select/choose.h"
#include "core/select/policy.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/select_oracle.h"

namespace kvg::test {
namespace {

using oracle::Best;
using oracle::GroupWeights;
using Lists = std::vector<std::vector<uint64_t>>;

constexpr Shape kShape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 40};

Lists Kept(const Cache& cache, uint32_t layer = 0) {
  Lists lists;
  for (uint32_t head = 0; head < cache.plan().shape().kv_heads; ++head) {
    std::vector<uint64_t> positions(Value(cache.Held(layer)));
    Must(cache.Positions(layer, head, positions.data()));
    lists.push_back(positions);
  }
  return lists;
}

// A text of which the model's keys, values and queries are noise; attended token by token.
class Story {
 public:
  Story(const std::string& recipe, uint64_t prompt, uint64_t total, uint64_t seed = 1,
        Shape shape = kShape)
      : shape_(shape),
        k_(NoiseTensor(seed, total, shape.kv_heads, shape.head_dim, 1.5)),
        v_(NoiseTensor(seed + 1, total, shape.kv_heads, shape.head_dim)),
        q_(NoiseTensor(seed + 2, total, shape.q_heads, shape.head_dim, 1.5)),
        cache_(MakeCache(shape, recipe)) {
    Append(*cache_, 0, k_.Tokens(0, prompt), v_.Tokens(0, prompt));
    now_ = prompt;
  }

  // The queries that the policy asks for.
  std::vector<uint64_t> Probe() {
    std::vector<uint64_t> positions(Value(cache_->ProbeRoom(0)));
    positions.resize(Value(cache_->ProbePositions(0, positions.data())));
    ProbeAt(positions);
    return positions;
  }
  void ProbeAt(const std::vector<uint64_t>& positions) {
    if (positions.empty()) return;
    Tensor rows(positions.size(), shape_.q_heads, shape_.head_dim);
    for (size_t i = 0; i < positions.size(); ++i) {
      const Tensor one = q_.Tokens(positions[i], 1);
      std::copy(one.data.begin(), one.data.end(), rows.data.data() + i * one.data.size());
    }
    const std::vector<float> q = ToF32(rows);
    AttendOptions options;
    options.q_dtype = ops::kF32;
    options.queries = static_cast<uint32_t>(positions.size());
    Must(cache_->Probe(0, q.data(), q.size() * sizeof(float), positions.data(), options));
  }
  // Appends the next token and attends with its query; the result is checked against the tokens that
  // the cache says it holds.
  void Step(double tolerance = 2e-4) {
    Append(*cache_, 0, k_.Tokens(now_, 1), v_.Tokens(now_, 1));
    const std::vector<float> q = ToF32(q_.Tokens(now_, 1));
    std::vector<float> out(q.size());
    AttendOptions options;
    options.q_dtype = options.out_dtype = ops::kF32;
    Must(cache_->AttendObserve(0, q.data(), q.size() * 4, out.data(), out.size() * 4, options));
    const Tensor want = oracle::AttendKept(q_.Tokens(now_, 1), k_, v_, Kept(*cache_));
    double worst = 0;
    for (size_t i = 0; i < out.size(); ++i) {
      worst = std::max(worst, std::abs(want.data[i] - static_cast<double>(out[i])));
    }
    EXPECT_LT(worst, tolerance) << "token " << now_;
    ++now_;
  }
  Cache& cache() { return *cache_; }
  const Tensor& k() const { return k_; }
  const Tensor& v() const { return v_; }
  const Tensor& q() const { return q_; }
  uint64_t now() const { return now_; }

 private:
  const Shape shape_;
  const Tensor k_, v_, q_;
  std::unique_ptr<Cache> cache_;
  uint64_t now_ = 0;
};

std::vector<uint64_t> Range(uint64_t first, uint64_t end) {
  std::vector<uint64_t> all(end - first);
  std::iota(all.begin(), all.end(), first);
  return all;
}

// ------------------------------------------------------------------------------ streaming-llm

TEST(StreamingLlm, KeepsSinksAndTheNewest) {
  Story story("streaming-llm,budget=50,sinks=4", 20, 140);
  for (uint64_t t = 20; t < 140; ++t) {
    story.Step();
    // The policy acts when the next token comes: one more than the budget is held until then.
    std::vector<uint64_t> want = Range(0, std::min<uint64_t>(t + 1, 4));
    const uint64_t first = t + 1 <= 51 ? 4 : t - 46;
    for (uint64_t p = first; p <= t; ++p) want.push_back(p);
    for (const auto& list : Kept(story.cache())) ASSERT_EQ(list, want) << t;
  }
  Must(story.cache().Select(0));
  EXPECT_EQ(Value(story.cache().Held(0)), 50u);
}

TEST(StreamingLlm, ALongPromptIsCutWhenTheNextTokenComes) {
  Story story("streaming-llm,budget=30", 200, 204);
  EXPECT_EQ(Value(story.cache().Held(0)), 200u);  // attention of the prompt sees all of it
  story.Step();
  std::vector<uint64_t> want = Range(0, 4);
  for (uint64_t p = 174; p <= 200; ++p) want.push_back(p);
  for (const auto& list : Kept(story.cache())) EXPECT_EQ(list, want);
}

TEST(StreamingLlm, WithCodesWholeBlocksGoAndSinksStayExact) {
  Story story("int8,group=whole,window=32,block=32,select=streaming-llm,budget=132,sinks=4", 300, 560);
  for (uint64_t t = 300; t < 560; ++t) {
    story.Step(0.05);
    const std::vector<uint64_t> kept = Kept(story.cache())[0];
    std::vector<uint64_t> sorted = kept;
    std::sort(sorted.begin(), sorted.end());
    ASSERT_GE(sorted.size(), std::min<uint64_t>(132, t + 1)) << t;
    ASSERT_LE(sorted.size(), 132u + 32) << t;
    std::vector<uint64_t> want = Range(0, 4);
    for (uint64_t p = t + 1 - (sorted.size() - 4); p <= t; ++p) want.push_back(p);
    ASSERT_EQ(sorted, want) << t;
  }
  const Stats stats = Value(story.cache().GetStats(0, true, true));
  EXPECT_GT(stats.sealed_elements, stats.elements / 2);
  std::vector<uint8_t> bits(Value(story.cache().Held(0)));
  Must(story.cache().Bits(0, ops::kSideK, bits.data()));
  const std::vector<uint64_t> kept = Kept(story.cache())[0];
  for (size_t i = 0; i < kept.size(); ++i) {
    if (kept[i] < 4) {
      EXPECT_EQ(bits[i], 16) << "a sink";
    }
  }
}

// --------------------------------------------------------------------------------------- h2o

TEST(H2o, FollowsItsDefinitionStepByStep) {
  for (const std::string budget : {"budget=24", "budget=0.4"}) {
    Story story("h2o,recent=0.5," + budget, 40, 110, 7);
    story.Probe();  // all queries of the prompt
    Lists kept(2, Range(0, 40));
    std::vector<std::vector<double>> sums(2, std::vector<double>(110, 0));
    for (size_t h = 0; h < 2; ++h) {
      for (uint64_t row = 0; row < 40; ++row) {
        const auto w = GroupWeights(story.q(), row, h, story.k(), kept[h], row);
        for (size_t i = 0; i < w.size(); ++i) sums[h][kept[h][i]] += w[i];
      }
    }
    for (uint64_t t = 40; t < 110; ++t) {
      const auto share = static_cast<uint64_t>(0.4 * static_cast<double>(t) + 1e-9);
      const uint64_t keep = budget == "budget=24" ? 24 : share;
      const uint64_t recent = keep / 2;
      for (size_t h = 0; h < 2; ++h) {
        if (kept[h].size() > keep) {
          std::vector<double> old;
          for (size_t i = 0; i + recent < kept[h].size(); ++i) old.push_back(sums[h][kept[h][i]]);
          std::vector<uint64_t> next;
          for (const size_t i : Best(old, keep - recent)) next.push_back(kept[h][i]);
          next.insert(next.end(), kept[h].end() - static_cast<int64_t>(recent), kept[h].end());
          kept[h] = next;
        }
        kept[h].push_back(t);
      }
      story.Step();
      ASSERT_EQ(Kept(story.cache()), kept) << budget << " at " << t;
      for (size_t h = 0; h < 2; ++h) {
        const auto w = GroupWeights(story.q(), t, h, story.k(), kept[h], t);
        for (size_t i = 0; i < w.size(); ++i) sums[h][kept[h][i]] += w[i];
      }
    }
    EXPECT_NE(kept[0], kept[1]);  // heads differ, or the test shows little
  }
}

// -------------------------------------------------------------------------------------- tova

TEST(Tova, DropsTheLeastOfTheNewestQuery) {
  Story story("tova,budget=20", 36, 80, 11);
  EXPECT_EQ(story.Probe(), std::vector<uint64_t>{35});
  std::vector<uint64_t> kept = Range(0, 36);
  uint64_t row = 35;
  for (uint64_t t = 36; t < 80; ++t) {
    if (kept.size() > 20) {
      std::vector<double> mean(kept.size(), 0);
      for (size_t h = 0; h < 2; ++h) {
        const auto w = GroupWeights(story.q(), row, h, story.k(), kept, row);
        for (size_t i = 0; i < w.size(); ++i) mean[i] += w[i] / 2;
      }
      std::vector<uint64_t> next;
      for (const size_t i : Best(mean, 20)) next.push_back(kept[i]);
      kept = next;
    }
    kept.push_back(t);
    story.Step();
    ASSERT_EQ(Kept(story.cache()), Lists(2, kept)) << t;
    row = t;
  }
}

// ------------------------------------------------------------------------- snapkv, pyramidkv

std::vector<double> SnapScores(const Story& story, size_t head, uint64_t n, uint64_t window,
                               size_t pool) {
  std::vector<double> sums(n - window, 0), pooled(n - window, 0);
  for (uint64_t row = n - window; row < n; ++row) {
    const auto w = GroupWeights(story.q(), row, head, story.k(), Range(0, n), row);
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += w[i];
  }
  for (size_t i = 0; i < sums.size(); ++i) {
    for (int64_t j = -static_cast<int64_t>(pool / 2); j <= static_cast<int64_t>(pool / 2); ++j) {
      const int64_t at = static_cast<int64_t>(i) + j;
      if (at >= 0 && at < static_cast<int64_t>(sums.size())) {
        pooled[i] += sums[static_cast<size_t>(at)] / static_cast<double>(pool);
      }
    }
  }
  return pooled;
}

TEST(SnapKv, KeepsWhatTheWindowLooksAt) {
  const std::string rest = ",budget=40,recent=16";
  for (const bool whole : {false, true}) {
    Story story("snapkv" + rest, 150, 200, 17);
    if (whole) {
      story.ProbeAt(Range(0, 150));  // more rows than the window are passed over
    } else {
      EXPECT_EQ(story.Probe(), Range(134, 150));
    }
    story.Step();
    Lists want;
    for (size_t h = 0; h < 2; ++h) {
      std::vector<uint64_t> list;
      for (const size_t i : Best(SnapScores(story, h, 150, 16, 5), 24)) list.push_back(i);
      for (uint64_t p = 134; p <= 150; ++p) list.push_back(p);
      want.push_back(list);
    }
    EXPECT_EQ(Kept(story.cache()), want);
    while (story.now() < 200) story.Step();
    EXPECT_EQ(Value(story.cache().Held(0)), 90u);  // decoded tokens are not evicted
    EXPECT_EQ(Value(story.cache().GetStats(0, true, true)).bytes_state, 0u);
  }
}

TEST(SnapKv, AShortPromptStays) {
  Story story("snapkv", 100, 102);
  story.Probe();
  story.Step();
  story.Step();
  EXPECT_EQ(Value(story.cache().Held(0)), 102u);
}

TEST(PyramidKv, BudgetsAreThoseOfThePaper) {
  const SelectRecipe recipe = FindPolicy("pyramidkv")->defaults;
  uint64_t total = 0;
  for (uint32_t layer = 0; layer < 32; ++layer) {
    // budgets without the window, as in the reference: from 500 in steps of 15
    const uint64_t budget = BudgetTokens(recipe, layer, 32, 4096);
    EXPECT_EQ(budget, 500u - 15 * layer + 64) << layer;
    total += budget;
  }
  EXPECT_EQ(total, 10608u);
  EXPECT_LE(total, 32u * 320 + 32 * 30 / 2);
  // A prompt shorter than two budgets: the same for all; shorter than one: everything.
  EXPECT_EQ(BudgetTokens(recipe, 0, 32, 400), 320u);
  EXPECT_EQ(BudgetTokens(recipe, 31, 32, 400), 320u);
  // The first layer never gets more than there is.
  EXPECT_EQ(BudgetTokens(recipe, 0, 32, 530), 530u);
}

TEST(PyramidKv, LayersKeepTheirBudgets) {
  const Shape shape{.layers = 4, .q_heads = 2, .kv_heads = 1, .head_dim = 32};
  const auto cache = MakeCache(shape, "pyramidkv,budget=60,recent=20");
  const Tensor k = NoiseTensor(1, 300, 1, 32), q = NoiseTensor(2, 300, 2, 32);
  const Recipe& recipe = cache->plan().recipe(0);
  for (uint32_t layer = 0; layer < 4; ++layer) {
    Append(*cache, layer, k, k);
    std::vector<uint64_t> positions = Range(280, 300);
    const std::vector<float> rows = ToF32(q.Tokens(280, 20));
    AttendOptions options;
    options.q_dtype = ops::kF32;
    options.queries = 20;
    Must(cache->Probe(layer, rows.data(), rows.size() * 4, positions.data(), options));
  }
  Must(cache->Select(kAllLayers));
  for (uint32_t layer = 0; layer < 4; ++layer) {
    EXPECT_EQ(Value(cache->Held(layer)), BudgetTokens(recipe.select, layer, 4, 300)) << layer;
  }
  EXPECT_GT(Value(cache->Held(0)), Value(cache->Held(3)));
}

// ----------------------------------------------------------------------------- pyramidinfer

std::vector<uint64_t> PrunedLengths(SelectRecipe recipe, uint64_t prompt, uint32_t layers) {
  std::vector<uint64_t> lengths;
  uint64_t held = prompt;
  for (uint32_t layer = 0; layer < layers; ++layer) {
    lengths.push_back(held);
    const Pruning pruning = PruneLayer(recipe, layer, layers, prompt, held);
    held = pruning.kept + pruning.window;
  }
  return lengths;
}

TEST(PyramidInfer, SchedulesAreThoseOfTheReference) {
  SelectRecipe recipe = FindPolicy("pyramidinfer")->defaults;
  EXPECT_EQ(PrunedLengths(recipe, 2048, 32),
            (std::vector<uint64_t>{2048, 2048, 2047, 2045, 2041, 2034, 2024, 2010, 1991, 1967, 1938,
                                   1904, 1864, 1819, 1769, 1714, 1655, 1592, 1527, 1460, 1392, 1324,
                                   1256, 1190, 1126, 1064, 1006, 951,  900,  852,  808,  768}));
  recipe.decay = 0.8;
  recipe.interval = 2;
  EXPECT_EQ(PrunedLengths(recipe, 512, 40),
            (std::vector<uint64_t>{512, 512, 512, 511, 511, 509, 509, 504, 504, 496,
                                   496, 484, 484, 468, 468, 448, 448, 424, 424, 396,
                                   396, 366, 366, 335, 335, 304, 304, 274, 274, 246,
                                   246, 221, 221, 199, 199, 180, 180, 180, 180, 180}));
  recipe.decay = 1;
  EXPECT_EQ(PrunedLengths(recipe, 512, 40), std::vector<uint64_t>(40, 512));
}

// A prompt goes through the layers; after each the caller gathers the tokens that go on.
TEST(PyramidInfer, PrunesFromLayerToLayer) {
  const Shape shape{.layers = 6, .q_heads = 4, .kv_heads = 2, .head_dim = 32};
  const auto cache = MakeCache(shape, "pyramidinfer,decay=0.5,least=16");
  const SelectRecipe& recipe = cache->plan().recipe(0).select;
  const uint64_t n = 200, window = 41;
  std::vector<uint64_t> positions = Range(0, n);
  const std::vector<uint64_t> lengths = PrunedLengths(recipe, n, 6);
  for (uint32_t layer = 0; layer < 6; ++layer) {
    ASSERT_EQ(positions.size(), lengths[layer]);
    // Each layer has other keys; those of the tokens that came so far.
    const Tensor all_k = NoiseTensor(100 + layer, n, 2, 32, 1.5);
    const Tensor all_q = NoiseTensor(200 + layer, n, 4, 32, 1.5);
    Tensor k(positions.size(), 2, 32), q(window, 4, 32);
    for (size_t i = 0; i < positions.size(); ++i) {
      for (size_t j = 0; j < 64; ++j) k.data[i * 64 + j] = all_k.data[positions[i] * 64 + j];
    }
    for (size_t i = 0; i < window; ++i) {
      for (size_t j = 0; j < 128; ++j) q.data[i * 128 + j] = all_q.data[(n - window + i) * 128 + j];
    }
    const std::vector<uint16_t> rows = ToF16(k);
    const TensorView view{rows.data(), rows.size() * 2, 0, 0, 0};
    Must(cache->Append(layer, view, view, ops::kF16, positions.size(), positions.data()));
    std::vector<uint64_t> probes(Value(cache->ProbeRoom(layer)));
    probes.resize(Value(cache->ProbePositions(layer, probes.data())));
    ASSERT_EQ(probes, Range(n - window, n));
    AttendOptions options;
    options.q_dtype = ops::kF32;
    options.queries = window;
    const std::vector<float> q32 = ToF32(q);
    Must(cache->Probe(layer, q32.data(), q32.size() * 4, probes.data(), options));
    std::vector<uint64_t> next(Value(cache->NextTokens(layer, nullptr)));
    Value(cache->NextTokens(layer, next.data()));

    std::vector<double> scores(positions.size() - window, 0);
    for (size_t row = 0; row < window; ++row) {
      const double weight = 1 + 0.2 * static_cast<double>(row) / (window - 1);
      for (size_t h = 0; h < 2; ++h) {
        const auto w = GroupWeights(q, row, h, all_k, positions, n - window + row);
        for (size_t i = 0; i < scores.size(); ++i) scores[i] += weight * w[i];
      }
    }
    for (size_t i = 0; i < 4; ++i) scores[i] = 1e9;
    std::vector<uint64_t> want;
    const uint64_t keep = layer + 1 < 6 ? lengths[layer + 1] - window : next.size() - window;
    for (const size_t i : Best(scores, keep)) want.push_back(i);
    for (uint64_t i = positions.size() - window; i < positions.size(); ++i) want.push_back(i);
    ASSERT_EQ(next, want) << layer;
    for (uint64_t& i : next) i = positions[i];
    positions = next;
  }
  EXPECT_LT(lengths[5], 120u);  // or the test shows little
  // kept + evicted = appended, tokens that never came to a layer among the evicted
  const Stats stats = Value(cache->GetStats(kAllLayers, true, true));
  EXPECT_EQ(stats.appended, 6 * n);
  EXPECT_EQ(stats.tokens, std::accumulate(lengths.begin(), lengths.end(), uint64_t{0}));
}

TEST(PyramidInfer, DecodedTokensArePrunedInChunksAndThePromptStays) {
  Story story("pyramidinfer", 60, 220, 23);
  story.Probe();
  const uint64_t window = 13;
  std::vector<uint64_t> growth;
  for (uint64_t t = 60; t < 220; ++t) {
    story.Step();
    const auto kept = Kept(story.cache());
    ASSERT_EQ(std::vector<uint64_t>(kept[0].begin(), kept[0].begin() + 60), Range(0, 60));
    ASSERT_EQ(kept[0], kept[1]);
    // One layer: 14 of 16. The policy has seen t tokens, of which t - 60 - window left the window.
    const uint64_t left = t < 60 + window ? 0 : (t - 60 - window) / 16;
    ASSERT_EQ(kept[0].size(), t + 1 - 2 * left) << t;
  }
  EXPECT_EQ(ChunkKeeps(FindPolicy("pyramidinfer")->defaults, 0, 32), 14u);
  EXPECT_EQ(ChunkKeeps(FindPolicy("pyramidinfer")->defaults, 31, 32), 1u);
}

}  // namespace
}  // namespace kvg::test
