// Cache::Attend and Cache::Read as calls: types, strides, shapes, who reads which head, refusals.
// What is computed is held to the oracle in tests/oracle/attend_test.cc.
#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/half.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

using ::testing::HasSubstr;

constexpr Shape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

std::unique_ptr<Cache> Filled(const std::string& recipe, size_t tokens,
                              const Shape& shape = kShape) {
  auto cache = MakeCache(shape, recipe);
  Append(*cache, 0, RealisticTensor(1, tokens, shape.kv_heads, shape.head_dim),
         RealisticTensor(2, tokens, shape.kv_heads, shape.head_dim));
  return cache;
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, EveryRatioOfQueryHeads) {
  for (uint32_t group :
       {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u, 9u, 10u, 11u, 12u, 13u, 14u, 15u, 16u, 64u}) {
    const Shape shape{.layers = 1, .q_heads = 2 * group, .kv_heads = 2, .head_dim = 64};
    const auto cache = Filled(GetParam(), 290, shape);
    const Tensor q = NoiseTensor(group, 1, 2 * group, 64);
    const Tensor k = Read(*cache, ops::kSideK), v = Read(*cache, ops::kSideV);
    const Tensor got = Attend(*cache, 0, q);
    EXPECT_LE(MaxDistance(got, oracle::Attend(q, k, v, {})), 2e-3 * MaxAbs(v)) << group;
  }
}

TEST_P(EveryRecipe, OneTokenAnswersWithItsValue) {
  const auto cache = Filled(GetParam(), 1);
  const Tensor out = Attend(*cache, 0, NoiseTensor(3, 1, 4, 64));
  const Tensor v = Read(*cache, ops::kSideV);
  for (size_t h = 0; h < 4; ++h) {
    for (size_t d = 0; d < 64; ++d) EXPECT_NEAR(out(0, h, d), v(0, h / 2, d), 1e-5 * MaxAbs(v));
  }
}

TEST_P(EveryRecipe, ManyReadersAtOnceGetTheSameBits) {
  const auto cache = MakeCache(kShape, GetParam(), MakeRuntime(2));
  Append(*cache, 0, RealisticTensor(1, 500, 2, 64), RealisticTensor(2, 500, 2, 64));
  const Tensor q = NoiseTensor(4, 3, 4, 64);
  const std::vector<double> want = Attend(*cache, 0, q).data, content = Content(*cache);
  std::vector<int> good(4);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < good.size(); ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 5; ++round) {
        const auto fork = Value(cache->Fork());
        good[i] += Attend(*cache, 0, q).data == want && Content(*cache) == content &&
                   Attend(*fork, 0, q).data == want;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, std::vector<int>(4, 5));
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

TEST(CacheAttend, EveryTypeAndStride) {
  const auto cache = Filled("gear-4", 400);
  const Tensor q = Rounded(NoiseTensor(5, 3, 4, 64));
  const Tensor want = Attend(*cache, 0, q);
  const auto read_back = [](const std::vector<std::byte>& bytes, ops::DType dtype, size_t at) {
    if (dtype == ops::kF32) {
      float value;
      std::memcpy(&value, &bytes[at * 4], 4);
      return value;
    }
    uint16_t half;
    std::memcpy(&half, &bytes[at * 2], 2);
    if (dtype == ops::kF16) return F16ToF32(half);
    const uint32_t bits = uint32_t{half} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
  };
  // Packed, heads first, and with room between the rows.
  const size_t strides[][2] = {{256, 64}, {64, 192}, {300, 70}};
  for (ops::DType out_dtype : {ops::kF32, ops::kF16, ops::kBF16}) {
    for (const auto& in : strides) {
      for (const auto& to : strides) {
        const size_t size = out_dtype == ops::kF32 ? 4 : 2;
        std::vector<uint16_t> q16(3 * 300 + 64 * 4);
        for (size_t t = 0; t < 3; ++t) {
          for (size_t h = 0; h < 4; ++h) {
            for (size_t d = 0; d < 64; ++d) {
              q16[t * in[0] + h * in[1] + d] = F32ToF16(static_cast<float>(q(t, h, d)));
            }
          }
        }
        std::vector<std::byte> out((3 * 300 + 64 * 4) * size, std::byte{0xAB});
        AttendOptions options;
        options.out_dtype = out_dtype;
        options.queries = 3;
        options.q_token_stride = static_cast<int64_t>(in[0]);
        options.q_head_stride = static_cast<int64_t>(in[1]);
        options.out_token_stride = static_cast<int64_t>(to[0]);
        options.out_head_stride = static_cast<int64_t>(to[1]);
        Must(cache->Attend(0, q16.data(), q16.size() * 2, out.data(), out.size(), options));
        const double ulp = out_dtype == ops::kF32   ? 0x1p-22
                           : out_dtype == ops::kF16 ? 0x1p-11
                                                    : 0x1p-8;
        std::vector<bool> written(out.size() / size);
        for (size_t t = 0; t < 3; ++t) {
          for (size_t h = 0; h < 4; ++h) {
            for (size_t d = 0; d < 64; ++d) {
              const size_t at = t * to[0] + h * to[1] + d;
              written[at] = true;
              ASSERT_NEAR(read_back(out, out_dtype, at), want(t, h, d),
                          ulp * std::abs(want(t, h, d)) + 1e-6);
            }
          }
        }
        for (size_t i = 0; i < out.size(); ++i) {
          if (!written[i / size]) {
            ASSERT_EQ(out[i], std::byte{0xAB}) << "written between the rows";
          }
        }
      }
    }
  }
}

TEST(CacheAttend, WrongArgumentsAreRefusedAndWriteNothing) {
  const auto cache = Filled("kivi-2", 100);
  std::vector<float> q(100 * 256), out(100 * 256, 7);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  struct Case {
    const char* part;
    uint32_t layer;
    const void* q;
    size_t q_bytes;
    void* out;
    size_t out_bytes;
    AttendOptions options;
  };
  const auto with = [&](const char* part, auto change) {
    Case c{part, 0, q.data(), 1024, out.data(), 1024, {}};
    c.options.q_dtype = c.options.out_dtype = ops::kF32;
    change(c);
    return c;
  };
  const Case cases[] = {
      with("layers 0 to 1", [](Case& c) { c.layer = 2; }),
      with("layer 1 holds 0", [](Case& c) { c.layer = 1; }),
      with("queries is 0", [](Case& c) { c.options.queries = 0; }),
      with("holds 100 tokens", [](Case& c) { c.options.queries = 101; }),
      with("holds 100 tokens", [](Case& c) { c.options.queries = UINT32_MAX; }),
      with("scale must be finite", [&](Case& c) { c.options.scale = nan; }),
      with("scale must be finite", [&](Case& c) { c.options.scale = -infinity; }),
      with("logit_softcap", [&](Case& c) { c.options.softcap = nan; }),
      with("logit_softcap", [&](Case& c) { c.options.softcap = infinity; }),
      with("logit_softcap", [](Case& c) { c.options.softcap = -1; }),
      with("q is NULL", [](Case& c) { c.q = nullptr; }),
      with("out is NULL", [](Case& c) { c.out = nullptr; }),
      with("q_bytes is 1023", [](Case& c) { c.q_bytes = 1023; }),
      with("out_bytes is 1023", [](Case& c) { c.out_bytes = 1023; }),
      with("overlap", [&](Case& c) { c.q = out.data() + 255; }),
      with("rows overlap",
           [](Case& c) {
             c.options.out_token_stride = 256;
             c.options.out_head_stride = 63;
           }),
      with("address space",
           [](Case& c) {
             c.options.queries = 2;
             c.options.q_token_stride = std::numeric_limits<int64_t>::max();
             c.options.q_head_stride = 64;
           }),
  };
  for (const Case& c : cases) {
    const absl::Status status =
        cache->Attend(c.layer, c.q, c.q_bytes, c.out, c.out_bytes, c.options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.part;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.part));
    EXPECT_EQ(out, std::vector<float>(100 * 256, 7)) << c.part;
  }
}

TEST(CacheRead, AnyRangeIsThePartOfTheWhole) {
  for (const std::string recipe : {"fp16", "kivi-2", "gear-2"}) {
    const auto cache = Filled(recipe, 450);
    for (ops::Side side : {ops::kSideK, ops::kSideV}) {
      const Tensor whole = Read(*cache, side);
      for (uint64_t first : {0u, 1u, 31u, 63u, 64u, 127u, 200u, 321u, 322u, 449u, 450u}) {
        for (uint64_t tokens : {0u, 1u, 2u, 33u, 128u, 450u}) {
          if (first + tokens > 450) continue;
          EXPECT_EQ(ReadRange(*cache, side, 0, first, tokens).data,
                    whole.Tokens(first, tokens).data);
        }
      }
    }
  }
}

TEST(CacheRead, HalfTypesAreTheRoundedWhole) {
  const auto cache = Filled("gear-4", 300);
  const Tensor whole = Read(*cache, ops::kSideK);
  std::vector<uint16_t> half(300 * 128);
  Must(cache->Read(0, ops::kSideK, 0, 300, ops::kF16, half.data(), half.size() * 2));
  for (size_t i = 0; i < half.size(); ++i) {
    ASSERT_EQ(F16ToF32(half[i]), oracle::RoundToF16(whole.data[i])) << i;
  }
  Must(cache->Read(0, ops::kSideK, 0, 300, ops::kBF16, half.data(), half.size() * 2));
  for (size_t i = 0; i < half.size(); ++i) {
    const uint32_t bits = uint32_t{half[i]} << 16;
    float value;
    std::memcpy(&value, &bits, 4);
    ASSERT_NEAR(value, whole.data[i], std::abs(whole.data[i]) * 0x1p-8);
  }
}

TEST(CacheRead, WrongArgumentsAreRefused) {
  const auto cache = Filled("int4", 100);
  std::vector<float> out(100 * 128, 7);
  const auto read = [&](uint32_t layer, uint64_t first, uint64_t tokens, void* to, size_t bytes) {
    return cache->Read(layer, ops::kSideK, first, tokens, ops::kF32, to, bytes);
  };
  const size_t bytes = out.size() * 4;
  EXPECT_FALSE(read(2, 0, 1, out.data(), bytes).ok());
  EXPECT_FALSE(read(0, 0, 101, out.data(), bytes).ok());
  EXPECT_FALSE(read(0, 101, 0, out.data(), bytes).ok());
  EXPECT_FALSE(read(0, 1, UINT64_MAX, out.data(), bytes).ok());
  EXPECT_FALSE(read(0, UINT64_MAX, 1, out.data(), bytes).ok());
  EXPECT_FALSE(read(0, 0, 100, out.data(), bytes - 1).ok());
  EXPECT_FALSE(read(0, 0, 1, nullptr, bytes).ok());
  EXPECT_EQ(out, std::vector<float>(100 * 128, 7));
  EXPECT_TRUE(read(0, 100, 0, nullptr, 0).ok());
}

}  // namespace
}  // namespace kvg::test
