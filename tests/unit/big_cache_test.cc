// A cache whose one side holds more than 2^31 elements: no index may be 32 bits wide.
//
// The input repeats itself, and so does everything made of it; the allocator can therefore map one
// small piece of memory over and over into each large block, all but its ends. The cache believes
// to have its gigabytes, and a few megabytes hold them. Left out under sanitizers, which watch
// every byte and would take minutes.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define KVG_SANITIZED 1
#endif
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define KVG_SANITIZED 1
#endif
#endif

namespace kvg::test {
namespace {

constexpr size_t kTile = size_t{1} << 21;    // what repeats
constexpr size_t kEnd = size_t{1} << 21;     // at each end of a block, memory of its own
constexpr size_t kLarge = size_t{64} << 20;  // smaller blocks are as usual

size_t Mapped(size_t size) { return (size + kTile - 1) / kTile * kTile; }

// Large blocks are one tile of memory many times, each block one of its own.
AllocatorTable RepeatingAllocator() {
  static const AllocatorTable system = SystemAllocator();
  const auto alloc = [](void*, size_t size, size_t alignment) -> void* {
    if (size < kLarge) return system.alloc(system.user, size, alignment);
    const size_t bytes = Mapped(size);
    const int file = memfd_create("kvgear-test", MFD_CLOEXEC);
    if (file < 0) return nullptr;
    void* block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool good = block != MAP_FAILED && ftruncate(file, kTile) == 0;
    for (size_t at = kEnd; good && at + 2 * kEnd <= bytes; at += kTile) {
      good = mmap(static_cast<std::byte*>(block) + at, kTile, PROT_READ | PROT_WRITE,
                  MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED;
    }
    close(file);
    if (!good && block != MAP_FAILED) munmap(block, bytes);
    return good ? block : nullptr;
  };
  const auto release = [](void*, void* ptr, size_t size, size_t alignment) {
    if (size < kLarge) {
      system.release(system.user, ptr, size, alignment);
    } else {
      munmap(ptr, Mapped(size));
    }
  };
  return {nullptr, alloc, release};
}

constexpr Shape kShape{.layers = 1, .q_heads = 1024, .kv_heads = 1024, .head_dim = 256};
constexpr uint64_t kTokens = 8192 + 40;  // of 2^18 elements each, on one side
static_assert(kTokens * 1024 * 256 > uint64_t{1} << 31);

// One token's row, the same for every token and head: whole numbers that repeat each 16 directions.
double Element(size_t direction) { return static_cast<double>(direction % 2) * 3 - 1; }

void Fill(Cache& cache) {
  std::vector<float> row(256);
  for (size_t d = 0; d < 256; ++d) row[d] = static_cast<float>(Element(d));
  std::vector<float> token(1024 * 256);
  for (size_t h = 0; h < 1024; ++h) std::copy(row.begin(), row.end(), &token[h * 256]);
  const TensorView view{.data = token.data(),
                        .bytes = token.size() * 4,
                        .token_stride = 0,
                        .head_stride = 256,
                        .dim_stride = 1};
  Must(cache.Append(0, view, view, ops::kF32, kTokens));
}

class BigCache : public testing::TestWithParam<std::string> {};

TEST_P(BigCache, MoreThanTwoToThe31ElementsOnOneSide) {
#ifdef KVG_SANITIZED
  GTEST_SKIP() << "takes minutes under a sanitizer";
#endif
  RuntimeOptions options;
  options.allocator = RepeatingAllocator();
  const auto cache = MakeCache(kShape, GetParam(), Value(Runtime::Create(options)));
  Fill(*cache);
  ASSERT_EQ(Length(*cache), kTokens);
  const Stats stats = Value(cache->GetStats(0, true, true));
  EXPECT_EQ(stats.elements, 2 * kTokens * kShape.kv_dim());
  EXPECT_EQ(stats.segments, 2u);  // one for each side, of 8192 tokens
  EXPECT_EQ(stats.bytes_total(), cache->runtime().memory().held());
  EXPECT_EQ(stats.rel_error_k_worst + stats.rel_error_v_worst, 0);
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (uint64_t first : {uint64_t{0}, uint64_t{4095}, uint64_t{8190}, kTokens - 1}) {
      const Tensor read = ReadRange(*cache, side, 0, first, 1);
      for (size_t i = 0; i < read.data.size(); ++i) ASSERT_EQ(read.data[i], Element(i % 256)) << i;
    }
  }
  // All tokens are the same, so the answer is the value, for every window and query.
  const Tensor q = NoiseTensor(1, 1, 1024, 256, 0.1);
  for (uint64_t window : {100u, 1u}) {
    const Tensor out = Attend(*cache, 0, q, {.sliding_window = window});
    for (size_t i = 0; i < out.data.size(); ++i) {
      ASSERT_NEAR(out.data[i], Element(i % 256), 1e-3) << i;
    }
  }
  Must(cache->Truncate(0, 8192));
  EXPECT_EQ(Length(*cache), 8192u);
}

INSTANTIATE_TEST_SUITE_P(Recipes, BigCache,
                         testing::Values("fp16,window=32,block=32,segment=8192",
                                         "int4,bits=1,group=all,window=32,block=32,segment=8192"),
                         [](const auto& info) { return info.index == 0 ? "rows" : "codes"; });

}  // namespace
}  // namespace kvg::test
