// Saved caches with a state that grows with the calls: bases and what they are learnt from, selected tokens with their
// positions and scores. What comes back goes on to the same bits, and numbers that contradict one another are refused.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "core/select/policy.h"
#include "tests/support/latent_model.h"
#include "tests/support/recipes.h"
#include "tests/support/saved.h"

namespace kvg::test {
namespace {

using absl::StatusCode;
using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 32};

// One step of a sequence: tokens, then queries for the newest of them, which are observed where a policy wants that.
struct Step {
  uint64_t seed;
  size_t tokens;
  uint32_t queries;  // 0 = none attend
};

std::vector<float> Attended(Cache& cache, uint32_t layer, uint64_t seed, uint32_t queries) {
  const std::vector<float> q = ToF32(NoiseTensor(seed, queries, 4, 32));
  std::vector<float> out(q.size());
  AttendOptions options;
  options.q_dtype = options.out_dtype = ops::kF32;
  options.queries = queries;
  Must(cache.AttendObserve(layer, q.data(), q.size() * 4, out.data(), out.size() * 4, options));
  return out;
}

// The answers to the queries.
std::vector<float> Take(Cache& cache, const Step& step) {
  std::vector<float> answers;
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    const Tensor k = RealisticTensor(7 * step.seed + layer, step.tokens, 2, 32);
    const Tensor v = RealisticTensor(7 * step.seed + layer + 3, step.tokens, 2, 32);
    if (step.tokens > 0) Append(cache, layer, k, v);
    if (step.queries == 0) continue;
    const std::vector<float> out = Attended(cache, layer, 11 * step.seed + layer, step.queries);
    answers.insert(answers.end(), out.begin(), out.end());
  }
  return answers;
}

void ExpectSame(const Cache& a, const Cache& b) {
  for (uint32_t layer = 0; layer < kShape.layers; ++layer) {
    ASSERT_EQ(Length(a, layer), Length(b, layer));
    ASSERT_EQ(Value(a.Held(layer)), Value(b.Held(layer)));
    EXPECT_EQ(Content(a, layer), Content(b, layer));
    for (uint32_t head = 0; head < kShape.kv_heads; ++head) {
      std::vector<uint64_t> of_a(Value(a.Held(layer))), of_b(of_a.size());
      Must(a.Positions(layer, head, of_a.data()));
      Must(b.Positions(layer, head, of_b.data()));
      EXPECT_EQ(of_a, of_b);
    }
  }
}

// A prompt, decode, a second prompt, decode: saved after each step, what comes back goes on like the cache it was made of.
std::vector<Step> Steps() {
  std::vector<Step> steps = {{1, 330, 3}};
  for (uint64_t i = 0; i < 40; ++i) steps.push_back({2 + i, 1, 1});
  steps.push_back({50, 90, 90});
  for (uint64_t i = 0; i < 130; ++i) steps.push_back({60 + i, 1 + i % 3 / 2, 1});
  return steps;
}

class EveryState : public testing::TestWithParam<std::string> {};

TEST_P(EveryState, GoesOnToTheSameBits) {
  const auto cache = MakeCache(kShape, GetParam());
  const std::vector<Step> steps = Steps();
  std::unique_ptr<Cache> back;
  for (size_t i = 0; i < steps.size(); ++i) {
    const std::vector<float> answers = Take(*cache, steps[i]);
    if (back != nullptr) {
      ASSERT_EQ(Take(*back, steps[i]), answers) << i;
    }
    const Bytes bytes = Saved(*cache);
    ASSERT_EQ(Saved(*cache), bytes) << i;
    if (back != nullptr) {
      ASSERT_EQ(Saved(*back), bytes) << i;
    }
    if (back == nullptr || i % 9 == 0) back = Loaded(bytes, *cache);
    ASSERT_EQ(Saved(*back), bytes) << i;
    if (i % 40 == 0) ExpectSame(*cache, *back);
  }
  // And when it is told to select.
  Must(cache->Select(kAllLayers));
  Must(back->Select(kAllLayers));
  ExpectSame(*cache, *back);
  EXPECT_EQ(Saved(*back), Saved(*cache));
  const Stats a = Value(cache->GetStats(kAllLayers, true, true)), b = Value(back->GetStats(kAllLayers, true, true));
  EXPECT_EQ(a.bytes_codes, b.bytes_codes);
  EXPECT_EQ(a.tokens, b.tokens);
  EXPECT_EQ(a.appended, b.appended);
  EXPECT_EQ(a.rel_error_k_mean, b.rel_error_k_mean);
  EXPECT_EQ(a.rel_error_v_worst, b.rel_error_v_worst);
}

TEST_P(EveryState, ForksAndCutsComeBack) {
  const auto cache = MakeCache(kShape, GetParam());
  for (const Step& step : {Step{1, 330, 5}, Step{2, 1, 1}, Step{3, 1, 1}}) Take(*cache, step);
  const auto fork = Value(cache->Fork());
  for (const uint64_t i : {4u, 5u, 6u}) Take(*fork, {i, 2, 1});
  const auto back = Loaded(Saved(*fork), *fork);
  ExpectSame(*fork, *back);
  // Back to where the fork began, or as far as the policy allows.
  uint64_t n = 332;
  while (!fork->Truncate(kAllLayers, n).ok()) ASSERT_LT(++n, 340u);
  Must(back->Truncate(kAllLayers, n));
  EXPECT_EQ(Saved(*fork), Saved(*back));
  ExpectSame(*fork, *Loaded(Saved(*fork), *fork));
  for (const uint64_t i : {7u, 8u}) EXPECT_EQ(Take(*fork, {i, 40, 1}), Take(*back, {i, 40, 1}));
  EXPECT_EQ(Saved(*fork), Saved(*back));
  Must(fork->Clear());
  EXPECT_EQ(Saved(*fork), Saved(*MakeCache(kShape, GetParam())));
}

TEST_P(EveryState, MappedBuffersAreUsedInPlaceAndCounted) {
  const auto cache = MakeCache(kShape, GetParam());
  for (const Step& step : {Step{1, 330, 5}, Step{2, 1, 1}}) Take(*cache, step);
  for (uint64_t i = 0; i < 200; ++i) Take(*cache, {3 + i, 1, 1});
  const auto bytes = std::make_shared<const Bytes>(Saved(*cache));
  for (const bool tables_only : {false, true}) {
    const auto runtime = MakeRuntime();
    std::unique_ptr<Cache> back;
    {
      BufferSource source(bytes->data(), bytes->size(), bytes);
      back = Value(LoadCache(runtime, cache->shared_plan(), {.exact = true, .tables_only = tables_only}, source));
    }
    ExpectSame(*cache, *back);
    const Stats stats = Value(back->GetStats(kAllLayers, true, true));
    EXPECT_EQ(stats.bytes_total(), runtime->memory().held());
    EXPECT_EQ(stats.bytes_mapped > 0, stats.segments > 0);
    const auto own = Loaded(*bytes, *cache);
    for (uint64_t i = 0; i < 120; ++i) EXPECT_EQ(Take(*back, {900 + i, 1, 1}), Take(*own, {900 + i, 1, 1}));
    EXPECT_EQ(Saved(*back), Saved(*own));
  }
}

TEST_P(EveryState, EveryCutAndEveryFlipIsRefused) {
  const auto cache = MakeCache(kShape, GetParam());
  for (const Step& step : {Step{1, 330, 5}, Step{2, 1, 1}, Step{3, 1, 1}}) Take(*cache, step);
  const uint64_t held = cache->runtime().memory().held();
  const Bytes whole = Saved(*cache);
  const auto status = [&](const Bytes& bytes) { return TryLoad(bytes, *cache, {.exact = true}).status(); };
  for (size_t size = 0; size < whole.size(); size += 1 + whole.size() / 150) {
    ASSERT_EQ(status(Bytes(whole.begin(), whole.begin() + static_cast<long>(size))).code(), StatusCode::kDataLoss);
  }
  for (size_t at = 0; at < whole.size(); at += 1 + whole.size() / 150) {
    Bytes flipped = whole;
    flipped[at] ^= std::byte{4};
    ASSERT_EQ(status(flipped).code(), StatusCode::kDataLoss) << at;
  }
  EXPECT_EQ(cache->runtime().memory().held(), held);
}

TEST_P(EveryState, EveryAllocationOfALoadMayFail) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache(kShape, GetParam(), runtime);
  for (const Step& step : {Step{1, 330, 5}, Step{2, 1, 1}}) Take(*cache, step);
  const Bytes whole = Saved(*cache);
  const uint64_t live = allocator.live_bytes();
  for (uint64_t n = 0;; ++n) {
    allocator.FailFrom(allocator.allocations() + n);
    bool failed = false;
    try {
      Loaded(whole, *cache);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocator.FailFrom(UINT64_MAX);
    if (!failed) break;
    ASSERT_EQ(allocator.live_bytes(), live) << n;
  }
}

std::vector<std::string> Recipes() {
  std::vector<std::string> recipes = {
      "tc-3,k.map=online",
      "gear-2,map=online,v.axis=channel;1:fp16",
      "tc-2.5,k.map=online,k.rate=2.5,k.outliers=0.05,k.rank=2,window=32,block=32",
      "gear-4,window=32,select=streaming-llm,budget=200,sinks=4",
      "gear-2,select=h2o,budget=0.4,sinks=3",
      "kivi-2,select=snapkv,budget=180,recent=16;1:tc-2",
      "int4-rot,select=tova,budget=190",
      "kcvt-4,select=pyramidinfer",
      "gear-4,select=h2o,budget=0.5,low=0.5,low_bits=2",
      "gear-4,select=zipcache,low=0.3",
      "fp16,k.bits=4,select=h2o,budget=220,recent=0.5",
  };
  for (uint32_t i = 0; i < PolicyCount(); ++i) {
    const bool tokens = PolicyAt(i)->defaults.budget >= 1;
    recipes.push_back(std::string(PolicyAt(i)->name) + (tokens ? ",budget=90" : "") +
                      (PolicyAt(i)->defaults.recent >= 1 ? ",recent=20" : ""));
  }
  return recipes;
}
INSTANTIATE_TEST_SUITE_P(Recipes, EveryState, testing::ValuesIn(Recipes()),
                         [](const auto& info) { return TestName(info.param); });

// ----------------------------------------------------------------------------------------- bases

constexpr char kOnline[] = "tc-3,k.map=online,v.map=online,segment=128";

TEST(SavedBasis, APromptThatWaitsForQueriesComesBackWhole) {
  const auto cache = MakeCache(kShape, kOnline);
  Take(*cache, {1, 900, 0});  // far more than a window
  ASSERT_EQ(cache->layer(0).sealed(ops::kSideK), 0u);
  ASSERT_GT(cache->layer(0).sealed(ops::kSideV), 0u);
  // Some queries, but not enough.
  Take(*cache, {2, 0, 5});
  const Bytes bytes = Saved(*cache);
  const auto back = Loaded(bytes, *cache);
  EXPECT_EQ(Saved(*back), bytes);
  EXPECT_EQ(Take(*cache, {3, 1, 900}), Take(*back, {3, 1, 900}));
  EXPECT_EQ(Take(*cache, {4, 1, 1}), Take(*back, {4, 1, 1}));
  ASSERT_GT(cache->layer(0).sealed(ops::kSideK), 0u);
  EXPECT_EQ(Saved(*cache), Saved(*back));
  // What the queries were decides: without the first five the basis is another.
  const auto other = MakeCache(kShape, kOnline);
  for (const Step& step : {Step{1, 900, 0}, Step{3, 1, 900}, Step{4, 1, 1}}) Take(*other, step);
  EXPECT_NE(Saved(*cache), Saved(*other));
}

TEST(SavedBasis, PatienceGoesOnToo) {
  const auto cache = MakeCache(kShape, kOnline);
  Take(*cache, {1, 300, 0});
  Take(*cache, {2, 70, 0});
  auto back = Loaded(Saved(*cache), *cache);
  for (uint64_t i = 0; cache->layer(0).sealed(ops::kSideK) == 0; ++i) {
    ASSERT_LT(i, 100u);
    Take(*cache, {3 + i, 1, 0});
    Take(*back, {3 + i, 1, 0});
    ASSERT_EQ(back->layer(0).sealed(ops::kSideK), cache->layer(0).sealed(ops::kSideK));
    back = Loaded(Saved(*back), *back);
  }
  EXPECT_EQ(Saved(*cache), Saved(*back));
}

TEST(SavedBasis, RangesCarryItAndMayNotMix) {
  const auto cache = MakeCache(kShape, kOnline), stranger = MakeCache(kShape, kOnline);
  for (const uint64_t i : {1u, 2u}) Take(*cache, {i, 700, 40}), Take(*stranger, {i + 5, 700, 40});
  const uint64_t cut = cache->layer(0).NearestCuts(900).first;
  ASSERT_GT(cut, 0u);
  const Bytes first = Saved(*cache, {.tokens = cut}), rest = Saved(*cache, {.first_token = cut});
  const auto joined = Loaded(first, *cache);
  EXPECT_EQ(Length(*joined), cut);
  BufferSource more(rest.data(), rest.size());
  Must(ExtendCache(*joined, {}, more));
  ExpectSame(*cache, *joined);
  EXPECT_EQ(Saved(*cache), Saved(*joined));
  EXPECT_EQ(Take(*cache, {9, 300, 2}), Take(*joined, {9, 300, 2}));
  // Onto the tokens of another cache it does not fit.
  const auto other = Loaded(Saved(*stranger, {.tokens = cut}), *stranger);
  BufferSource again(rest.data(), rest.size());
  const absl::Status status = ExtendCache(*other, {}, again);
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("another basis"));
  EXPECT_EQ(Length(*other), cut);
}

TEST(SavedBasis, ExtendingOtherLayersKeepsTheQueriesSeen) {
  const auto cache = MakeCache(kShape, kOnline);
  Take(*cache, {1, 400, 6});
  const Bytes second = Saved(*cache, {.first_layer = 1, .layers = 1});
  const auto target = Loaded(Saved(*cache, {.layers = 1}), *cache);
  const uint64_t rows = target->layer(0).side(ops::kSideK).has_seen() ? 1 : 0;
  ASSERT_EQ(rows, 1u);
  BufferSource source(second.data(), second.size());
  Must(ExtendCache(*target, {}, source));
  EXPECT_EQ(Saved(*target), Saved(*cache));
}

TEST(SavedBasis, ForgedContentIsRefused) {
  CountingAllocator allocator;
  const Shape odd{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 40};  // dirs = 48: there is padding
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache(odd, kOnline, runtime);
  const Tensor x = RealisticTensor(1, 700, 2, 40);
  Append(*cache, 0, x, x);
  const Bytes waiting = Saved(*cache);
  (void)Attend(*cache, 0, NoiseTensor(1, 64, 2, 40));
  const Bytes seen = Saved(*cache);
  Append(*cache, 0, x, x);
  const Bytes learnt = Saved(*cache);
  constexpr size_t kPayload = format::kSectionBytes;
  const auto status = [&](const Forged& forged) {
    const uint64_t before = allocator.live_bytes();
    const absl::Status result = TryLoad(forged.bytes(), *cache).status();
    EXPECT_EQ(allocator.live_bytes(), before);
    return result.code();
  };
  const auto of = [&] { return Forged(learnt); };
  EXPECT_EQ(status(of()), StatusCode::kOk);
  EXPECT_EQ(status(of().Header<uint64_t>(16, 0)), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section(format::kBasis, 0, kPayload, uint16_t{0x7C00})), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section(format::kBasis, 0, kPayload + 2 * 40, uint16_t{1})), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section(format::kBasis, 0, kPayload, uint16_t{0x7BFF})), StatusCode::kOk);
  const size_t widths = Basis::WidthsAt(odd, ops::kSideV);
  EXPECT_EQ(status(of().Section(format::kBasis, 1, kPayload + widths, uint8_t{5})), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section(format::kBasis, 1, kPayload + widths, uint8_t{9})), StatusCode::kDataLoss);
  EXPECT_NE(status(of().Section(format::kBasis, 1, kPayload + widths, uint8_t{0})), StatusCode::kOk);
  EXPECT_EQ(status(of().Section(format::kSide, 0, kPayload + 40, uint32_t{0})), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section(format::kSide, 0, kPayload + 40, uint32_t{4})), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section(format::kSide, 0, kPayload + 48, ~uint64_t{0})), StatusCode::kDataLoss);
  // By token, or as rows.
  EXPECT_EQ(status(of().Section(format::kSide, 0, kPayload + 64 + 4, uint32_t{0})), StatusCode::kDataLoss);
  const auto of_seen = [&] { return Forged(seen); };
  EXPECT_EQ(status(of_seen()), StatusCode::kOk);
  EXPECT_EQ(status(of_seen().Section(format::kSeen, 0, kPayload, uint64_t{1} << 20)), StatusCode::kDataLoss);
  EXPECT_EQ(status(of_seen().Section(format::kSeen, 0, kPayload, uint64_t{0})), StatusCode::kDataLoss);
  EXPECT_EQ(status(of_seen().Section(format::kSeen, 0, kPayload + 8, int64_t{-1})), StatusCode::kDataLoss);
  EXPECT_EQ(status(of_seen().Section(format::kSeen, 0, kPayload + 16, int64_t{1} << 60)), StatusCode::kDataLoss);
  // Products that no queries have, but that their squares allow, load, and do no harm.
  Forged negative = of_seen();
  for (size_t i = 1; i < 40; ++i) {
    const auto square = [&](size_t j) {
      int64_t value;
      const size_t at = static_cast<size_t>(
          std::search(seen.begin(), seen.end(), reinterpret_cast<const std::byte*>("SEEN"),
                      reinterpret_cast<const std::byte*>("SEEN") + 4) - seen.begin());
      std::memcpy(&value, &seen[at + kPayload + 8 + 8 * (j * (j + 1) / 2 + j)], sizeof(value));
      return static_cast<double>(value);
    };
    for (size_t j = 0; j < i; ++j) {
      negative.Section(format::kSeen, 0, kPayload + 8 + 8 * (i * (i + 1) / 2 + j),
                       static_cast<int64_t>(-0.999 * std::sqrt(square(i) * square(j))));
    }
  }
  const auto odd_one = TryLoad(negative.bytes(), *cache);
  ASSERT_TRUE(odd_one.ok()) << odd_one.status();
  Append(**odd_one, 0, x, x);
  for (const double value : Content(**odd_one)) ASSERT_TRUE(std::isfinite(value));
  // A basis that the recipe does not have.
  EXPECT_EQ(TryLoad(waiting, *MakeCache(odd, "int4")).status().code(), StatusCode::kInvalidArgument);
}

// Through a function nothing is known of what is still to come: no memory is taken for rows before they are there.
struct Front {
  const Bytes* bytes;
  size_t at = 0;
};
int64_t ReadFront(void* user, void* data, uint64_t bytes) {
  auto* const front = static_cast<Front*>(user);
  const size_t some = std::min<size_t>(bytes, front->bytes->size() - front->at);
  std::memcpy(data, front->bytes->data() + front->at, some);
  front->at += some;
  return static_cast<int64_t>(some);
}

TEST(SavedBasis, RowsThatAreNotThereTakeNoMemory) {
  const Shape small{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  const auto runtime = MakeRuntime(0, uint64_t{64} << 20);
  for (const char* recipe : {"tc-3,k.map=online", "h2o"}) {
    const auto cache = MakeCache(small, recipe, runtime);
    const Tensor x = NoiseTensor(1, 1000, 1, 32);
    Append(*cache, 0, x, x);
    Bytes bytes = Saved(*cache);
    // Half of the rows of the keys, and no end to them. (The header of a section is right in itself.)
    Forged forged(bytes);
    const uint64_t many = uint64_t{1} << 36;
    forged.Header<uint64_t>(24, many * 4).Section<uint64_t>(format::kSide, 0, 64 + 32, many / 64);
    if (std::string(recipe) != "h2o") {
      forged.Section<uint64_t>(format::kWindow, 0, 24, many);
    }
    bytes = forged.bytes();
    Front front{&bytes};
    FunctionSource source(ReadFront, &front);
    const absl::Status status = LoadCache(runtime, cache->shared_plan(), {}, source).status();
    EXPECT_EQ(status.code(), StatusCode::kDataLoss) << status;
  }
}

// ---------------------------------------------------------------------------------------- latents

TEST(SavedLatents, ComeBackAndGoOn) {
  LatentSpec spec;
  spec.k_group = 2;
  spec.k_rank = 40;
  spec.bias = true;
  const LatentModel model(spec);
  for (const char* recipe : {"palu", "palu-3,window=32", "palu-2,rank=4,outliers=0.02", "kivi-2,v.latent=plan"}) {
    const auto cache = model.MakeCache(recipe);
    const auto grow = [](Cache& of, uint64_t seed, size_t tokens) {
      const Tensor x = NoiseTensor(seed, tokens, 2, 64);
      Append(of, 0, x, x);
    };
    grow(*cache, 1, 300);
    grow(*cache, 2, 7);
    const Bytes bytes = Saved(*cache);
    const auto back = Loaded(bytes, *cache);
    EXPECT_EQ(Saved(*back), bytes) << recipe;
    for (const uint64_t seed : {3u, 4u}) {
      const Tensor q = NoiseTensor(seed, 2, 4, 64);
      EXPECT_EQ(Attend(*cache, 0, q).data, Attend(*back, 0, q).data) << recipe;
      EXPECT_EQ(Content(*cache), Content(*back)) << recipe;
      grow(*cache, seed, 90);
      grow(*back, seed, 90);
    }
    EXPECT_EQ(Saved(*back), Saved(*cache)) << recipe;
    BufferSource source(bytes.data(), bytes.size());
    const SavedCache saved = Value(InspectSaved(source, true, true));
    EXPECT_EQ(saved.features, format::kLatents);
    EXPECT_TRUE(saved.sides[1].latents);
    // Of other factors, of none, without the feature, of another size.
    LatentSpec other_spec = spec;
    other_spec.seed = 9;
    const absl::Status status = TryLoad(bytes, *LatentModel(other_spec).MakeCache(recipe)).status();
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("other factors"));
    const auto code = [&](const Forged& forged) { return TryLoad(forged.bytes(), *cache).status().code(); };
    EXPECT_EQ(code(Forged(bytes).Header<uint64_t>(16, 0)), StatusCode::kDataLoss);
    EXPECT_EQ(code(Forged(bytes).Section<uint32_t>(format::kSide, 1, 64 + 56, 0)), StatusCode::kDataLoss);
    EXPECT_EQ(code(Forged(bytes).Section<uint32_t>(format::kSide, 1, 64 + 60, 300)), StatusCode::kDataLoss);
    EXPECT_NE(code(Forged(bytes).Section<uint32_t>(format::kSide, 1, 64 + 60, 8)), StatusCode::kOk);
    EXPECT_NE(code(Forged(bytes).Section<uint32_t>(format::kSide, 1, 64 + 40, 0)), StatusCode::kOk);
  }
}

// ------------------------------------------------------------------------------------- selections

TEST(SavedSelection, IsSavedAndLoadedAsAWhole) {
  const auto cache = MakeCache(kShape, "int4;1:h2o");
  Take(*cache, {1, 400, 5});
  BytesSink sink;
  for (const SaveOptions& part : {SaveOptions{.tokens = 320}, SaveOptions{.first_token = 320}}) {
    const absl::Status status = SaveCache(*cache, part, sink);
    EXPECT_EQ(status.code(), StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(status.message()), HasSubstr("layer 1 selects tokens"));
  }
  Must(SaveCache(*cache, {.layers = 1, .first_token = 320}, sink));
  const Bytes second = Saved(*cache, {.first_layer = 1, .tokens = 400});
  const auto target = Value(Cache::Create(cache->shared_runtime(), cache->shared_plan()));
  for (const bool again : {false, true}) {
    BufferSource source(second.data(), second.size());
    const absl::Status status = ExtendCache(*target, {}, source);
    EXPECT_EQ(status.code(), again ? StatusCode::kInvalidArgument : StatusCode::kOk) << status;
  }
  EXPECT_EQ(Content(*target, 1), Content(*cache, 1));
  // Sections of a layer that keeps all tokens are none of one that selects, and the other way round.
  const auto plain = MakeCache(kShape, "int4;1:fp16");
  Take(*plain, {1, 400, 0});
  EXPECT_EQ(TryLoad(Saved(*plain), *cache).status().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(TryLoad(Saved(*cache), *plain).status().code(), StatusCode::kInvalidArgument);
}

TEST(SavedSelection, ForgedNumbersAreRefused) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const Shape one{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 32};
  const auto cache = MakeCache(one, "gear-4,select=h2o,budget=0.5,sinks=2", runtime);
  const Tensor x = RealisticTensor(1, 400, 2, 32);
  Append(*cache, 0, x, x);
  (void)Attended(*cache, 0, 3, 5);
  for (size_t i = 0; i < 3; ++i) {
    Append(*cache, 0, x.Tokens(i, 1), x.Tokens(i, 1));
    (void)Attended(*cache, 0, 5 + i, 1);
  }
  const SelectedLayer::Numbers numbers = cache->layer(0).selected()->numbers();
  const uint64_t sealed = cache->layer(0).selected()->sealed();
  ASSERT_GT(sealed, 64u);
  ASSERT_GT(numbers.held, sealed + 4);
  const Bytes whole = Saved(*cache);
  constexpr size_t kPayload = format::kSectionBytes;
  constexpr size_t kNumbers = kPayload + format::kSelectionBytes;
  const auto status = [&](const Forged& forged) {
    const uint64_t before = allocator.live_bytes();
    const absl::Status result = TryLoad(forged.bytes(), *cache).status();
    EXPECT_EQ(allocator.live_bytes(), before);
    return result.code();
  };
  const auto slct = [&](size_t at, auto value) {
    return status(Forged(whole).Section(format::kSelection, 0, at, value));
  };
  EXPECT_EQ(status(Forged(whole)), StatusCode::kOk);
  EXPECT_EQ(status(Forged(whole).Header<uint64_t>(16, 0)), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kPayload + 0, uint64_t{200}), StatusCode::kDataLoss);           // length
  EXPECT_EQ(slct(kPayload + 0, uint64_t{1} << 32), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kPayload + 8, numbers.held + 1), StatusCode::kDataLoss);        // held
  EXPECT_EQ(slct(kPayload + 8, ~uint64_t{0}), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kPayload + 16, numbers.length + 1), StatusCode::kDataLoss);     // selected
  EXPECT_EQ(slct(kPayload + 24, numbers.length + 1), StatusCode::kDataLoss);     // sealed_end
  EXPECT_EQ(slct(kPayload + 24, uint64_t{10}), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kPayload + 32, numbers.selected + 1), StatusCode::kDataLoss);   // prompt
  EXPECT_EQ(slct(kPayload + 40, numbers.held + 1), StatusCode::kDataLoss);       // pruned
  EXPECT_EQ(slct(kPayload + 56, numbers.scored + 1), StatusCode::kDataLoss);     // scored
  EXPECT_EQ(slct(kPayload + 64, uint32_t{1}), StatusCode::kDataLoss);            // lists
  EXPECT_EQ(slct(kPayload + 68, uint32_t{0}), StatusCode::kDataLoss);            // scores
  EXPECT_EQ(slct(kPayload + 68, uint32_t{8}), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kPayload + 72, uint32_t{1}), StatusCode::kDataLoss);
  // Positions: beyond the length, twice, out of order in the pool.
  uint32_t first, in_pool;
  const size_t section = static_cast<size_t>(
      std::search(whole.begin(), whole.end(), reinterpret_cast<const std::byte*>("SLCT"),
                  reinterpret_cast<const std::byte*>("SLCT") + 4) - whole.begin());
  std::memcpy(&first, &whole[section + kNumbers], sizeof(first));
  std::memcpy(&in_pool, &whole[section + kNumbers + 4 * (numbers.held - 1)], sizeof(in_pool));
  EXPECT_EQ(slct(kNumbers, uint32_t{0xFFFFFFFF}), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kNumbers + 4, first), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kNumbers + 4 * (numbers.held - 2), in_pool), StatusCode::kDataLoss);
  EXPECT_EQ(slct(kNumbers + 4 * (numbers.held + 5), static_cast<uint32_t>(numbers.length)), StatusCode::kDataLoss);
  const size_t scores = kNumbers + 4 * 2 * numbers.held;
  for (const float bad : {-1.0f, NAN, INFINITY, FLT_MAX}) EXPECT_EQ(slct(scores + 8, bad), StatusCode::kDataLoss);
  EXPECT_EQ(slct(scores + 8, 3.0f), StatusCode::kOk);
  // The sides: other numbers of slots, a page, a basis.
  const auto side = [&](int nth, size_t at, auto value) {
    return status(Forged(whole).Section(format::kSide, nth, kPayload + at, value));
  };
  EXPECT_EQ(side(0, 0, uint64_t{32}), StatusCode::kDataLoss);
  EXPECT_EQ(side(1, 32, uint64_t{1}), StatusCode::kDataLoss);
  EXPECT_EQ(side(0, 40, uint32_t{1}), StatusCode::kDataLoss);
  EXPECT_EQ(side(1, 48, uint64_t{1}), StatusCode::kDataLoss);
  EXPECT_EQ(status(Forged(whole).Section(format::kWindow, 1, kPayload, uint16_t{0x7C01})), StatusCode::kDataLoss);
  // Observations without scores.
  const auto done = MakeCache(one, "snapkv,budget=90,recent=20", runtime);
  Append(*done, 0, x, x);
  (void)Attended(*done, 0, 3, 25);
  Append(*done, 0, x.Tokens(0, 1), x.Tokens(0, 1));
  ASSERT_FALSE(done->layer(0).selected()->numbers().scores);
  const Forged forged = Forged(Saved(*done)).Section(format::kSelection, 0, kPayload + 48, uint64_t{3});
  EXPECT_EQ(TryLoad(forged.bytes(), *done).status().code(), StatusCode::kDataLoss);
}

TEST(SavedSelection, Inspection) {
  const auto cache = MakeCache(kShape, "gear-4,select=h2o,budget=0.5;1:tc-3,k.map=online");
  Take(*cache, {1, 400, 5});
  const Bytes waiting = Saved(*cache);
  Take(*cache, {2, 300, 300});
  Take(*cache, {3, 1, 1});
  for (const Bytes& bytes : {waiting, Saved(*cache)}) {
    for (const bool verify : {false, true}) {
      BufferSource source(bytes.data(), bytes.size());
      const SavedCache saved = Value(InspectSaved(source, true, verify));
      EXPECT_EQ(saved.features, format::kBases | format::kSelections);
      ASSERT_EQ(saved.selections.size(), 1u);
      ASSERT_EQ(saved.sides.size(), 4u);
      EXPECT_EQ(saved.sides[0].end(), saved.selections[0].held);
      EXPECT_EQ(saved.selections[0].bytes_positions, 2 * 4 * saved.selections[0].held);
      EXPECT_EQ(saved.sides[3].bytes_basis, Basis::ContentBytes(kShape, ops::kSideV));
      EXPECT_EQ(saved.sides[2].bytes_seen > 0, &bytes == &waiting || saved.sides[2].bytes_basis == 0);
    }
  }
}

}  // namespace
}  // namespace kvg::test
