// Saving and loading: what comes back is the same to the bit, goes on as if never saved, and is
// refused where it is not whole.
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "core/base/crc32c.h"
#include "core/format/layout.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/recipes.h"
#include "tests/support/saved.h"

namespace kvg::test {
namespace {

using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 40};

void AppendNoise(Cache& cache, uint64_t seed, size_t tokens) {
  for (uint32_t layer = 0; layer < cache.plan().shape().layers; ++layer) {
    const Tensor k = NoiseTensor(2 * seed + layer, tokens, 2, 40);
    const Tensor v = NoiseTensor(2 * seed + layer + 1000, tokens, 2, 40);
    Append(cache, layer, k, v);
  }
}

// Everything that tells two caches apart.
void ExpectSame(const Cache& a, const Cache& b) {
  const uint32_t layers = a.plan().shape().layers;
  for (uint32_t layer = 0; layer < layers; ++layer) {
    ASSERT_EQ(Length(a, layer), Length(b, layer));
    EXPECT_EQ(Content(a, layer), Content(b, layer));
    if (Length(a, layer) < 2) continue;
    const Tensor q = NoiseTensor(9, 2, 4, 40);
    EXPECT_EQ(Attend(a, layer, q).data, Attend(b, layer, q).data);
  }
}

// The file of a name of its own in a folder that goes with it.
class TemporaryFile {
 public:
  TemporaryFile() {
    std::string name = testing::TempDir() + "kvgear-saved-XXXXXX";
    folder_ = mkdtemp(name.data());
  }
  ~TemporaryFile() { std::filesystem::remove_all(folder_); }
  std::string path() const { return folder_ + "/cache.kvg"; }
  size_t files() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder_)) ++count;
    return count;
  }

 private:
  std::string folder_;
};

void SaveFile(const Cache& cache, const std::string& path) {
  auto sink = Value(FileSink::Create(path));
  Must(SaveCache(cache, {}, *sink));
  Must(sink->Commit(false));
}

// Those that learn a basis are of values, which need no queries for it; saved_state_test has the others.
class EveryRecipe : public testing::TestWithParam<std::string> {};

std::vector<std::string> AllNames() {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < RecipeCount(); ++i) names.emplace_back(RecipeName(i));
  return names;
}

TEST_P(EveryRecipe, RoundTripAtEveryStage) {
  const auto cache = MakeCache(kShape, GetParam());
  const size_t steps[] = {0, 1, 40, 300, 1, 1, 70, 2500, 5, 127, 1};
  uint64_t seed = 1;
  for (const size_t tokens : steps) {
    if (tokens > 0) AppendNoise(*cache, seed++, tokens);
    const Bytes bytes = Saved(*cache);
    EXPECT_EQ(bytes, Saved(*cache));
    const auto back = Loaded(bytes, *cache);
    ExpectSame(*cache, *back);
    EXPECT_EQ(Saved(*back), bytes);
    const Stats a = Value(cache->GetStats(kAllLayers, true, true)),
                b = Value(back->GetStats(kAllLayers, true, true));
    EXPECT_EQ(a.bytes_codes, b.bytes_codes);
    EXPECT_EQ(a.segments, b.segments);
    EXPECT_EQ(a.rel_error_k_mean, b.rel_error_k_mean);
    EXPECT_EQ(a.rel_error_v_worst, b.rel_error_v_worst);
  }
}

TEST_P(EveryRecipe, ALoadedCacheGoesOnAsTheOldOne) {
  const auto cache = MakeCache(kShape, GetParam());
  AppendNoise(*cache, 1, 777);
  AppendNoise(*cache, 2, 3);
  const auto back = Loaded(Saved(*cache), *cache);
  const auto fork = Value(back->Fork());
  for (uint64_t i = 0; i < 30; ++i) {
    AppendNoise(*cache, i, 1 + 13 * (i % 7));
    AppendNoise(*back, i, 1 + 13 * (i % 7));
  }
  ExpectSame(*cache, *back);
  EXPECT_EQ(Saved(*cache), Saved(*back));
  // Cut, saved and loaded again.
  uint64_t n = 900;
  while (!fork->Truncate(kAllLayers, n).ok()) --n;
  ExpectSame(*fork, *Loaded(Saved(*fork), *fork));
}

TEST_P(EveryRecipe, MappedSegmentsAreUsedInPlace) {
  TemporaryFile file;
  const auto cache = MakeCache(kShape, GetParam());
  AppendNoise(*cache, 1, 3000);
  AppendNoise(*cache, 2, 3);
  SaveFile(*cache, file.path());
  EXPECT_EQ(file.files(), 1u);
  for (const bool tables_only : {false, true}) {
    std::unique_ptr<Cache> back;
    const auto runtime = MakeRuntime();
    {
      const auto source = Value(FileSource::Map(file.path()));
      back = Value(LoadCache(runtime, cache->shared_plan(),
                             {.exact = true, .tables_only = tables_only}, *source));
    }
    ExpectSame(*cache, *back);
    const Stats stats = Value(back->GetStats(kAllLayers, true, true));
    EXPECT_EQ(stats.bytes_total(), runtime->memory().held());
    EXPECT_GT(stats.bytes_mapped, stats.bytes_codes);
    const auto fork = Value(back->Fork());
    AppendNoise(*back, 3, 300);
    AppendNoise(*fork, 3, 300);
    back.reset();
    const auto alone = Value(cache->Fork());
    AppendNoise(*alone, 3, 300);
    ExpectSame(*fork, *alone);
    EXPECT_EQ(Saved(*fork), Saved(*alone));
  }
}

TEST_P(EveryRecipe, RangesAddUp) {
  const auto cache = MakeCache(kShape, GetParam());
  AppendNoise(*cache, 1, 1500);
  for (uint64_t i = 0; i < 40; ++i) AppendNoise(*cache, 2 + i, 17);
  const uint64_t length = Length(*cache);
  // Layers one by one.
  const auto by_layer = Value(Cache::Create(cache->shared_runtime(), cache->shared_plan()));
  for (uint32_t layer = 0; layer < 2; ++layer) {
    const Bytes part = Saved(*cache, {.first_layer = 1 - layer, .layers = 1});
    BufferSource source(part.data(), part.size());
    Must(ExtendCache(*by_layer, {}, source));
  }
  ExpectSame(*cache, *by_layer);
  // Tokens, wherever a cut is allowed.
  const auto by_tokens = Value(Cache::Create(cache->shared_runtime(), cache->shared_plan()));
  uint64_t at = 0;
  int parts = 0;
  for (uint64_t want = 400; at < length; want += 400) {
    const uint64_t end = want >= length ? length : cache->layer(0).NearestCuts(want).first;
    if (end <= at) continue;
    BytesSink sink;
    const absl::Status status =
        SaveCache(*cache, {.first_token = at, .tokens = end - at}, sink);
    if (!status.ok()) {
      // Only inside an open page.
      ASSERT_THAT(std::string(status.message()), HasSubstr("open page"));
      break;
    }
    BufferSource source(sink.out.data(), sink.out.size());
    const absl::Status added = ExtendCache(*by_tokens, {}, source);
    if (!added.ok()) {
      // Keys and values are not compressed up to the same token there.
      ASSERT_THAT(std::string(added.message()), HasSubstr("not all"));
      ASSERT_EQ(Length(*by_tokens), at);
      break;
    }
    ++parts;
    at = end;
    ASSERT_EQ(Length(*by_tokens), at);
  }
  EXPECT_GT(parts, 0);
  const Tensor k = ReadRange(*cache, ops::kSideK, 1, 0, at);
  EXPECT_EQ(Read(*by_tokens, ops::kSideK, 1).data, k.data);
  // A range in the middle is no cache of its own, and no gap may be left.
  if (at < length || parts > 1) {
    const uint64_t first = cache->layer(0).NearestCuts(600).first;
    BytesSink sink;
    if (first > 0 && SaveCache(*cache, {.first_token = first}, sink).ok()) {
      const absl::Status status = TryLoad(sink.out, *cache).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(status.message()), HasSubstr("begin at"));
    }
  }
}

TEST_P(EveryRecipe, EveryCutAndEveryFlipIsRefused) {
  const Shape small{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  const auto cache = MakeCache(small, GetParam());
  const Tensor x = NoiseTensor(1, 130, 1, 32);
  Append(*cache, 0, x, x);
  Append(*cache, 0, x.Tokens(0, 1), x.Tokens(0, 1));
  const uint64_t held = cache->runtime().memory().held();
  const Bytes whole = Saved(*cache);
  for (size_t size = 0; size < whole.size(); size += size < 700 ? 1 : 61) {
    const absl::Status status =
        TryLoad(Bytes(whole.begin(), whole.begin() + static_cast<long>(size)), *cache).status();
    ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << size << status.ToString();
  }
  for (size_t at = 0; at < whole.size(); at += at < 700 ? 1 : 29) {
    for (const int bit : {0, 7}) {
      Bytes flipped = whole;
      flipped[at] ^= static_cast<std::byte>(1 << bit);
      const absl::Status status = TryLoad(flipped, *cache).status();
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << at << status.ToString();
    }
  }
  EXPECT_EQ(cache->runtime().memory().held(), held);
}

INSTANTIATE_TEST_SUITE_P(Recipes, EveryRecipe, testing::ValuesIn(AllNames()),
                         [](const auto& info) { return TestName(info.param); });

// --------------------------------------------------------------------------------- refusals

TEST(SavedCache, AnotherModelOrRecipeIsNamed) {
  const auto cache = MakeCache(kShape, "gear-2");
  AppendNoise(*cache, 1, 300);
  const Bytes bytes = Saved(*cache, {.fingerprint = "llama"});
  const auto refusal = [&](const Shape& shape, const std::string& recipe, std::string_view print) {
    const auto other = MakeCache(shape, recipe);
    const absl::Status status = TryLoad(bytes, *other, {.fingerprint = print}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  Shape more = kShape;
  more.layers = 3;
  EXPECT_THAT(refusal(more, "gear-2", "llama"), HasSubstr("another model"));
  EXPECT_THAT(refusal(kShape, "gear-2;1:gear-4", "llama"), HasSubstr("layer 1 was saved with gear-2"));
  EXPECT_THAT(refusal(kShape, "gear-2", ""), HasSubstr("fingerprint"));
  EXPECT_THAT(refusal(kShape, "gear-2", "other"), HasSubstr("fingerprint"));
  EXPECT_TRUE(TryLoad(bytes, *cache, {.fingerprint = "llama"}).ok());
  EXPECT_FALSE(
      SaveCache(*cache, {.fingerprint = std::string(257, 'x')}, *std::make_unique<BytesSink>())
          .ok());
}

TEST(SavedCache, ForgedNumbersAreRefusedBeforeMemoryIsTaken) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const Shape small{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  const auto cache = MakeCache(small, "kivi-2,k.outliers=0.1,k.rank=2", runtime);
  const Tensor x = NoiseTensor(1, 700, 1, 32);
  Append(*cache, 0, x, x);
  const Bytes whole = Saved(*cache);
  constexpr size_t kPayload = format::kSectionBytes;
  constexpr size_t kFirst = kPayload + format::kSideBytes;  // record of the first segment
  const auto status = [&](const Forged& forged) {
    const uint64_t before = allocator.live_bytes();
    const absl::Status result = TryLoad(forged.bytes(), *cache).status();
    EXPECT_EQ(allocator.live_bytes(), before);
    return result.code();
  };
  const auto of = [&] { return Forged(whole); };
  using absl::StatusCode;
  EXPECT_EQ(status(of()), StatusCode::kOk);
  EXPECT_EQ(status(of().Header<uint32_t>(8, 0x04030201)), StatusCode::kUnimplemented);
  EXPECT_EQ(status(of().Header<uint32_t>(12, 2)), StatusCode::kUnimplemented);
  EXPECT_EQ(status(of().Header<uint64_t>(16, 1)), StatusCode::kOk);  // known, and not used
  EXPECT_EQ(status(of().Header<uint64_t>(16, uint64_t{1} << 63)), StatusCode::kUnimplemented);
  EXPECT_EQ(status(of().Header<uint64_t>(24, uint64_t{1} << 60)), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Header<uint64_t>(32, 1000000)), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Header<uint64_t>(32, 4)), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Header<uint64_t>(40, 1)), StatusCode::kDataLoss);
  // Section headers.
  EXPECT_EQ(status(of().Section<uint64_t>(format::kModel, 0, 24, ~uint64_t{0})),
            StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section<uint64_t>(format::kData, 1, 24, uint64_t{1} << 40)),
            StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section<uint32_t>(format::kData, 0, 4, 2)), StatusCode::kUnimplemented);
  EXPECT_EQ(status(of().Section<uint32_t>(format::kData, 0, 0, format::Kind('N', 'E', 'W', '1'))),
            StatusCode::kUnimplemented);
  EXPECT_EQ(status(of().Section<uint32_t>(format::kData, 0, 12, 1)), StatusCode::kDataLoss);
  // Tables: counts, forms, tokens.
  const auto table = [&](size_t at, auto value) {
    return status(of().Section(format::kSide, 0, at, value));
  };
  EXPECT_EQ(table(kPayload + 8, ~uint64_t{0}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kPayload + 16, uint64_t{2}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kPayload + 32, uint64_t{1} << 39), StatusCode::kDataLoss);
  EXPECT_EQ(table(kPayload, uint64_t{32}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kPayload + 40, uint32_t{1}), StatusCode::kDataLoss);  // no basis without the feature
  EXPECT_EQ(table(kPayload + 48, uint64_t{1}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 0, uint32_t{2}), StatusCode::kUnimplemented);
  EXPECT_EQ(table(kFirst + 4, uint32_t{2}), StatusCode::kUnimplemented);
  EXPECT_EQ(table(kFirst + 8, uint32_t{5}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 12, uint32_t{0}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 12, uint32_t{7}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 16, uint32_t{17}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 24, uint32_t{1}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 28, uint32_t{1000}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 32, uint32_t{256}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 36, uint32_t{2}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 36, uint32_t{3}), StatusCode::kUnimplemented);
  EXPECT_EQ(table(kFirst + 40, ~uint64_t{0}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 48, uint64_t{32}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 56, uint64_t{64}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 64, uint64_t{1} << 50), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 80, -1.0), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 88, uint64_t{64}), StatusCode::kDataLoss);
  EXPECT_EQ(table(kFirst + 96, uint32_t{1}), StatusCode::kUnimplemented);
  // Payloads: what kernels use as an index, and numbers that are none.
  const Segment* segment = nullptr;
  cache->layer(0).side(ops::kSideK).segments().ForEach(
      [&](const Segment& s, bool, bool) { segment = s.piece().first_token == 0 ? &s : segment; });
  ASSERT_NE(segment, nullptr);
  const ops::Piece& piece = segment->piece();
  const auto payload = [&](const void* field, auto value) {
    const size_t at = static_cast<size_t>(static_cast<const std::byte*>(field) - segment->payload());
    return status(of().Section(format::kData, 0, kPayload + at, value));
  };
  EXPECT_EQ(payload(piece.codes, uint32_t{0xABCDEF01}), StatusCode::kOk);
  EXPECT_EQ(payload(piece.widths, uint8_t{8}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.codes_head, uint64_t{64}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.codes_block, uint32_t{64}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.sparse_start + 1, uint32_t{1u << 30}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.sparse_count, uint8_t{200}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.sparse_dir, uint8_t{32}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.sparse_value, uint16_t{0x7C00}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.scale, uint16_t{0x7E00}), StatusCode::kDataLoss);
  EXPECT_EQ(payload(piece.a, uint16_t{0xFC00}), StatusCode::kDataLoss);
  EXPECT_EQ(status(of().Section(format::kWindow, 0, kPayload, uint16_t{0x7C01})),
            StatusCode::kDataLoss);
}

TEST(SavedCache, OptionalSectionsOfNewerVersionsArePassedOver) {
  const auto cache = MakeCache(kShape, "int4");
  AppendNoise(*cache, 1, 200);
  Bytes bytes = Saved(*cache);
  for (const uint32_t flags : {1u, 0u}) {
    format::Record<format::kSectionBytes> header;
    const char text[] = "something that only a newer version knows";
    header.Put<uint32_t>(0, format::Kind('N', 'E', 'W', '1'));
    header.Put<uint32_t>(8, flags);
    header.Put<uint32_t>(20, Crc32c(text, sizeof(text)));
    header.Put<uint64_t>(24, sizeof(text));
    header.Seal();
    Bytes section(header.data(), header.data() + header.size());
    section.resize(64 + format::Padded(sizeof(text)));
    std::memcpy(&section[64], text, sizeof(text));
    Bytes longer = bytes;
    longer.insert(longer.end(), section.begin(), section.end());
    uint64_t count;
    std::memcpy(&count, &bytes[32], sizeof(count));
    Forged forged(longer);
    forged.Header<uint64_t>(24, longer.size()).Header<uint64_t>(32, count + 1);
    EXPECT_EQ(TryLoad(forged.bytes(), *cache).status().code(),
              flags == 1 ? absl::StatusCode::kOk : absl::StatusCode::kUnimplemented);
  }
}

// ------------------------------------------------------------------------------------- streams

struct Slow {
  const Bytes* bytes = nullptr;
  Bytes written;
  size_t at = 0;
  int64_t answer = 0;     // once `at` has reached `turn`
  size_t turn = SIZE_MAX;
  Random random{1};
};

int64_t SlowRead(void* user, void* data, uint64_t bytes) {
  Slow& slow = *static_cast<Slow*>(user);
  if (slow.at >= slow.turn) return slow.answer;
  const size_t some = std::min<size_t>(1 + slow.random.Next() % bytes, slow.bytes->size() - slow.at);
  std::memcpy(data, slow.bytes->data() + slow.at, some);
  slow.at += some;
  return static_cast<int64_t>(some);
}

int64_t SlowWrite(void* user, const void* data, uint64_t bytes) {
  Slow& slow = *static_cast<Slow*>(user);
  if (slow.written.size() >= slow.turn) return slow.answer;
  const size_t some = 1 + slow.random.Next() % bytes;
  const auto* at = static_cast<const std::byte*>(data);
  slow.written.insert(slow.written.end(), at, at + some);
  return static_cast<int64_t>(some);
}

TEST(SavedCache, FunctionsThatGiveLittleFailOrLie) {
  const auto cache = MakeCache(kShape, "gear-2");
  AppendNoise(*cache, 1, 500);
  const Bytes whole = Saved(*cache);
  Slow writer;
  FunctionSink sink(SlowWrite, &writer);
  Must(SaveCache(*cache, {}, sink));
  EXPECT_EQ(writer.written, whole);
  Slow reader;
  reader.bytes = &whole;
  FunctionSource source(SlowRead, &reader);
  ExpectSame(*Value(LoadCache(cache->shared_runtime(), cache->shared_plan(), {}, source)), *cache);
  const uint64_t held = cache->runtime().memory().held();
  for (size_t turn = 0; turn < whole.size(); turn += whole.size() / 50) {
    for (const int64_t answer : {int64_t{0}, int64_t{-1}, int64_t{INT64_MIN}, int64_t{1} << 40}) {
      Slow bad;
      bad.bytes = &whole;
      bad.turn = turn;
      bad.answer = answer;
      FunctionSink to(SlowWrite, &bad);
      EXPECT_EQ(SaveCache(*cache, {}, to).code(), absl::StatusCode::kAborted);
      FunctionSource from(SlowRead, &bad);
      EXPECT_EQ(LoadCache(cache->shared_runtime(), cache->shared_plan(), {}, from).status().code(),
                answer == 0 ? absl::StatusCode::kDataLoss : absl::StatusCode::kAborted);
      EXPECT_EQ(cache->runtime().memory().held(), held);
    }
  }
}

TEST(SavedCache, FilesTakeTheirNameWhenTheyAreWhole) {
  TemporaryFile file;
  const auto old = MakeCache(kShape, "int4"), newer = MakeCache(kShape, "int4");
  AppendNoise(*old, 1, 100);
  AppendNoise(*newer, 2, 900);
  SaveFile(*old, file.path());
  {
    const auto sink = Value(FileSink::Create(file.path()));
    Must(SaveCache(*newer, {}, *sink));
    // Given up before Commit.
  }
  EXPECT_EQ(file.files(), 1u);
  const auto load = [&](const Cache& like) {
    const auto source = Value(FileSource::Open(file.path()));
    return Value(LoadCache(like.shared_runtime(), like.shared_plan(), {.exact = true}, *source));
  };
  ExpectSame(*load(*old), *old);
  SaveFile(*newer, file.path());
  EXPECT_EQ(file.files(), 1u);
  ExpectSame(*load(*newer), *newer);
  // Something behind the end.
  std::FILE* const more = std::fopen(file.path().c_str(), "ab");
  std::fputc(0, more);
  std::fclose(more);
  const auto source = Value(FileSource::Open(file.path()));
  EXPECT_EQ(LoadCache(old->shared_runtime(), old->shared_plan(), {.exact = true}, *source)
                .status()
                .code(),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(FileSource::Open(file.path() + "x").status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(FileSink::Create("/nowhere/at/all").status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(FileSource::Map("/").status().code(), absl::StatusCode::kAborted);
}

TEST(SavedCache, AFullDiskLeavesTheOldFile) {
  TemporaryFile file;
  const auto cache = MakeCache(kShape, "int4");
  AppendNoise(*cache, 1, 100);
  SaveFile(*cache, file.path());
  const auto larger = MakeCache(kShape, "fp16");
  AppendNoise(*larger, 1, 3000);
  // A limit on the size of files stands for it.
  signal(SIGXFSZ, SIG_IGN);
  rlimit old{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  rlimit low = old;
  low.rlim_cur = 100000;
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &low), 0);
  const auto sink = Value(FileSink::Create(file.path()));
  const absl::Status status = SaveCache(*larger, {}, *sink);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  const auto source = Value(FileSource::Open(file.path()));
  ExpectSame(
      *Value(LoadCache(cache->shared_runtime(), cache->shared_plan(), {.exact = true}, *source)),
      *cache);
}

TEST(SavedCache, EveryAllocationOfALoadMayFail) {
  CountingAllocator allocator;
  const auto runtime = MakeRuntime(0, 0, &allocator);
  const auto cache = MakeCache(kShape, "kivi-2", runtime);
  AppendNoise(*cache, 1, 500);
  const Bytes whole = Saved(*cache), tail = Saved(*cache, {.first_layer = 1});
  const auto target = Value(Cache::Create(runtime, cache->shared_plan()));
  const uint64_t live = allocator.live_bytes();
  for (uint64_t n = 0;; ++n) {
    allocator.FailFrom(allocator.allocations() + n);
    bool failed = false;
    try {
      Loaded(whole, *cache);
      BufferSource source(tail.data(), tail.size());
      Must(ExtendCache(*target, {}, source));
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    allocator.FailFrom(UINT64_MAX);
    if (!failed) {
      EXPECT_GT(n, 20u);
      break;
    }
    ASSERT_EQ(allocator.live_bytes(), live) << n;
    ASSERT_EQ(Length(*target, 1), 0u);
  }
  EXPECT_EQ(Content(*target, 1), Content(*cache, 1));
}

TEST(SavedCache, Inspection) {
  const auto cache = MakeCache(kShape, "gear-2;1:kivi-4");
  AppendNoise(*cache, 1, 1000);
  const Bytes bytes = Saved(*cache, {.fingerprint = "abc"});
  for (const bool verify : {false, true}) {
    BufferSource source(bytes.data(), bytes.size());
    const SavedCache saved = Value(InspectSaved(source, true, verify));
    EXPECT_EQ(saved.bytes, bytes.size());
    EXPECT_EQ(saved.fingerprint, "abc");
    EXPECT_EQ(saved.recipes, (std::vector<std::string>{"gear-2", "kivi-4"}));
    ASSERT_EQ(saved.sides.size(), 4u);
    const Stats stats = Value(cache->GetStats(0, true, false));
    EXPECT_EQ(saved.sides[0].bytes.codes, stats.bytes_codes);
    EXPECT_EQ(saved.sides[0].bytes.sparse, stats.bytes_sparse);
    EXPECT_EQ(saved.sides[0].segments.size(), stats.segments);
    EXPECT_EQ(saved.sides[3].end(), 1000u);
  }
  Bytes flipped = bytes;
  flipped[flipped.size() - 200] ^= std::byte{1};
  BufferSource unseen(flipped.data(), flipped.size()), seen(flipped.data(), flipped.size());
  EXPECT_TRUE(InspectSaved(unseen, true, false).ok());
  EXPECT_EQ(InspectSaved(seen, true, true).status().code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace kvg::test
