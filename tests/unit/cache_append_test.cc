// Cache::Append: what is stored, whatever the pieces, dtypes and strides; what is refused.
#include <cmath>
#include <limits>
#include <string>
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

// Lengths that add up to `tokens`, most of them small, some beyond every block and window.
std::vector<uint64_t> RandomParts(uint64_t seed, uint64_t tokens) {
  Random random(seed);
  std::vector<uint64_t> parts;
  while (tokens > 0) {
    const uint64_t most[] = {1, 3, 33, 70, 200, 700};
    const uint64_t part = std::min(tokens, 1 + random.Next() % most[random.Next() % 6]);
    parts.push_back(part);
    tokens -= part;
  }
  return parts;
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, AnyPiecesSealTheSameTokensAndWhereTheyCanTheSameBits) {
  constexpr uint64_t kTokens = 1500;
  const Tensor k = RealisticTensor(1, kTokens, 2, 64), v = RealisticTensor(2, kTokens, 2, 64);
  const Recipe recipe = MakeRecipe(GetParam());
  const auto whole = MakeCache(kShape, GetParam());
  Append(*whole, 0, k, v);
  const auto bare = MakeCache(kShape, GetParam() + ",rank=0,decode_rank=0,outliers=0");
  Append(*bare, 0, k, v);
  const Stats whole_stats = Value(whole->GetStats(0, true, true));
  for (uint64_t seed : {1u, 2u, 3u, 4u}) {
    const auto parts = MakeCache(kShape, GetParam());
    AppendParts(*parts, 0, k, v, RandomParts(seed, kTokens));
    EXPECT_EQ(Value(parts->GetStats(0, true, true)).sealed_elements, whole_stats.sealed_elements);
    for (ops::Side side : {ops::kSideK, ops::kSideV}) {
      const SideRecipe& of = side == ops::kSideK ? recipe.k : recipe.v;
      const Tensor a = Read(*whole, side), b = Read(*parts, side);
      if (!LooksAtSegments(of, side)) {
        EXPECT_EQ(a.data, b.data) << "seed " << seed;
        continue;
      }
      const Tensor& x = side == ops::kSideK ? k : v;
      const uint64_t sealed = oracle::ScheduleOf(of, {kTokens}).sealed;
      for (size_t t = sealed; t < kTokens; ++t) {
        ASSERT_TRUE(TokenEqual(x, a, t) && TokenEqual(x, b, t)) << "window token " << t;
      }
      EXPECT_LT(Distance(x, b), 1.01 * Distance(x, Read(*bare, side)));
    }
  }
}

TEST_P(EveryRecipe, EqualSegmentsAreEqualBits) {
  // Two histories with the same segments: single tokens, and pieces of one to a few tokens.
  constexpr uint64_t kTokens = 450;
  const Tensor k = RealisticTensor(3, kTokens, 2, 64), v = RealisticTensor(4, kTokens, 2, 64);
  const auto single = MakeCache(kShape, GetParam()), small = MakeCache(kShape, GetParam());
  AppendParts(*single, 0, k, v, std::vector<uint64_t>(kTokens, 1));
  AppendParts(*small, 0, k, v, std::vector<uint64_t>(kTokens / 9, 9));
  EXPECT_EQ(Content(*single), Content(*small));
}

TEST_P(EveryRecipe, AnotherLayerIsLeftAlone) {
  const auto cache = MakeCache(kShape, GetParam());
  Append(*cache, 1, NoiseTensor(5, 300, 2, 64), NoiseTensor(6, 300, 2, 64));
  const std::vector<double> before = Content(*cache, 1);
  Append(*cache, 0, NoiseTensor(7, 500, 2, 64), NoiseTensor(8, 500, 2, 64));
  EXPECT_EQ(Content(*cache, 1), before);
  EXPECT_EQ(Length(*cache, 0), 500u);
  EXPECT_EQ(Length(*cache, 1), 300u);
}

TEST_P(EveryRecipe, EveryHeadDim) {
  // A length that is no multiple of any group, and a single token.
  for (uint32_t dim = 32; dim <= 256; dim += 8) {
    const auto cache =
        MakeCache({.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = dim}, GetParam());
    const Tensor k = NoiseTensor(dim, 201, 1, dim), v = NoiseTensor(dim + 1, 201, 1, dim);
    AppendParts(*cache, 0, k, v, {1, 199, 1});
    const Recipe recipe = MakeRecipe(GetParam());
    for (ops::Side side : {ops::kSideK, ops::kSideV}) {
      const Tensor& x = side == ops::kSideK ? k : v;
      const uint32_t bits = (side == ops::kSideK ? recipe.k : recipe.v).bits;
      const double error = Distance(x, Read(*cache, side)) / oracle::Norm(x.data);
      const double bound[] = {0, 0, 0.55, 0.25, 0.13, 0, 0, 0, 0.01};
      EXPECT_LE(error, bits == 16 ? 0 : bound[bits]) << "head_dim " << dim << ", side " << side;
    }
    const Tensor q = NoiseTensor(dim + 2, 1, 1, dim);
    const Tensor want = oracle::Attend(q, Read(*cache, ops::kSideK), Read(*cache, ops::kSideV), {});
    EXPECT_LE(MaxDistance(Attend(*cache, 0, q), want), 2e-3 * MaxAbs(v)) << "head_dim " << dim;
  }
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

// ------------------------------------------------------------------------- dtypes and strides

// A tensor of any dtype and strides: one buffer, in which element [0, 0, 0] need not come first.
struct Strided {
  std::vector<std::byte> bytes;
  TensorView view;
};

Strided Place(const Tensor& x, ops::DType dtype, int64_t token_stride, int64_t head_stride,
              int64_t dim_stride) {
  const int64_t strides[] = {token_stride, head_stride, dim_stride};
  const size_t sizes[] = {x.tokens, x.heads, x.dim};
  int64_t front = 0, behind = 0;
  for (int i = 0; i < 3; ++i) {
    const int64_t reach = strides[i] * static_cast<int64_t>(sizes[i] - 1);
    (reach > 0 ? behind : front) += reach;
  }
  const size_t size = dtype == ops::kF32 ? 4 : 2;
  Strided out;
  // What lies between the elements is NaN, and must not be read as an element.
  out.bytes.assign(static_cast<size_t>(behind - front + 1) * size, std::byte{0xFF});
  std::byte* const first = out.bytes.data() + static_cast<size_t>(-front) * size;
  for (size_t t = 0; t < x.tokens; ++t) {
    for (size_t h = 0; h < x.heads; ++h) {
      for (size_t d = 0; d < x.dim; ++d) {
        const int64_t at = static_cast<int64_t>(t) * token_stride +
                           static_cast<int64_t>(h) * head_stride +
                           static_cast<int64_t>(d) * dim_stride;
        const float value = static_cast<float>(x(t, h, d));
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        if (dtype == ops::kF16) bits = F32ToF16(value);
        if (dtype == ops::kBF16) bits >>= 16;
        std::memcpy(first + at * static_cast<int64_t>(size), &bits, size);
      }
    }
  }
  out.view = {.data = first,
              .bytes = static_cast<size_t>(behind + 1) * size,
              .token_stride = token_stride,
              .head_stride = head_stride,
              .dim_stride = dim_stride};
  return out;
}

// Values that every dtype holds.
Tensor SmallWholes(uint64_t seed, size_t tokens) {
  Random random(seed);
  Tensor x(tokens, 2, 64);
  for (double& value : x.data) value = static_cast<double>(random.Next() % 255) - 127;
  return x;
}

TEST(CacheAppend, EveryDtypeAndStrideGivesTheSameBits) {
  constexpr size_t kTokens = 310;
  const Tensor k = SmallWholes(1, kTokens), v = SmallWholes(2, kTokens);
  for (const std::string recipe : {"fp16", "kivi-2", "gear-4"}) {
    const auto want = MakeCache(kShape, recipe);
    AppendParts(*want, 0, k, v, {3, 300, 7});
    for (ops::DType dtype : {ops::kF32, ops::kF16, ops::kBF16}) {
      const int64_t n = kTokens;
      const int64_t cases[][3] = {{128, 64, 1},   {0, 0, 0},       {64, 64 * n, 1}, {-128, 64, 1},
                                  {400, -130, 2}, {-1, n, -2 * n}, {131, 65, 1}};
      for (const auto& c : cases) {
        const bool packed = c[0] == 0;
        const auto cache = MakeCache(kShape, recipe);
        size_t first = 0;
        for (size_t tokens : {3u, 300u, 7u}) {
          const auto place = [&](const Tensor& x) {
            return Place(x.Tokens(first, tokens), dtype, packed ? 128 : c[0], packed ? 64 : c[1],
                         packed ? 1 : c[2]);
          };
          Strided at_k = place(k), at_v = place(v);
          if (packed) at_k.view.token_stride = at_k.view.head_stride = at_k.view.dim_stride = 0;
          Must(cache->Append(0, at_k.view, at_v.view, dtype, tokens));
          first += tokens;
        }
        ASSERT_EQ(Content(*cache), Content(*want))
            << recipe << ", dtype " << dtype << ", strides " << c[0] << ' ' << c[1] << ' ' << c[2];
      }
    }
  }
}

TEST(CacheAppend, AStrideOfZeroRepeats) {
  const Tensor one = SmallWholes(3, 1);
  const std::vector<uint16_t> f16 = ToF16(one);
  const TensorView view{.data = f16.data(),
                        .bytes = f16.size() * 2,
                        .token_stride = 0,
                        .head_stride = 64,
                        .dim_stride = 1};
  const auto cache = MakeCache(kShape, "fp16");
  Must(cache->Append(0, view, view, ops::kF16, 200));
  const Tensor read = Read(*cache, ops::kSideK);
  for (size_t t = 0; t < 200; ++t) {
    ASSERT_TRUE(std::equal(one.data.begin(), one.data.end(), &read.data[t * 128]));
  }
}

TEST(CacheAppend, SinglePrecisionIsRoundedToNearestEven) {
  Tensor x(4, 2, 64);
  Random random(4);
  for (double& value : x.data) value = static_cast<float>(random.Normal() * 100);
  x.data[0] = 2049;       // between 2048 and 2050: a tie
  x.data[1] = 2051;       // a tie the other way
  x.data[2] = 0x1p-25;    // a tie with zero
  x.data[3] = 0x1.8p-24;  // a tie between subnormals
  x.data[4] = 65519;      // rounds to 65504
  x.data[5] = -0.0;
  const Strided at = Place(x, ops::kF32, 128, 64, 1);
  const auto cache = MakeCache(kShape, "fp16");
  Must(cache->Append(0, at.view, at.view, ops::kF32, 4));
  EXPECT_EQ(Read(*cache, ops::kSideK).data, Rounded(x).data);
  EXPECT_EQ(Rounded(x).data[0], 2048);
  EXPECT_EQ(Rounded(x).data[1], 2052);
}

// ------------------------------------------------------------------------------------ refusals

class Refusals : public testing::TestWithParam<std::string> {};

TEST_P(Refusals, NonFiniteInputChangesNothing) {
  const float bad[] = {std::numeric_limits<float>::quiet_NaN(),
                       -std::numeric_limits<float>::quiet_NaN(),
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       65520.0f,
                       -1e30f};
  Tensor k = SmallWholes(5, 900), v = SmallWholes(6, 900);
  const auto cache = MakeCache(kShape, GetParam()), twin = MakeCache(kShape, GetParam());
  size_t at = 0;
  size_t step = 0;
  // Pieces that stay in the window, seal one block, fill a page and seal long segments. The bad
  // element is the first, the last, or lies where the tokens are sealed or in the new window.
  for (size_t tokens : {1u, 60u, 64u, 1u, 30u, 200u, 40u, 500u}) {
    const Tensor piece_k = k.Tokens(at, tokens), piece_v = v.Tokens(at, tokens);
    const std::vector<double> before = Content(*cache);
    const Stats stats = Value(cache->GetStats(0, true, true));
    for (size_t place : {size_t{0}, piece_k.data.size() / 2, piece_k.data.size() - 1}) {
      for (bool in_k : {true, false}) {
        Tensor hurt_k = piece_k, hurt_v = piece_v;
        (in_k ? hurt_k : hurt_v).data[place] = bad[step++ % std::size(bad)];
        const Strided at_k = Place(hurt_k, ops::kF32, 128, 64, 1);
        const Strided at_v = Place(hurt_v, ops::kF32, 128, 64, 1);
        const absl::Status status = cache->Append(0, at_k.view, at_v.view, ops::kF32, tokens);
        ASSERT_EQ(status.code(), absl::StatusCode::kOutOfRange) << status;
        EXPECT_THAT(std::string(status.message()), HasSubstr(in_k ? "k holds" : "v holds"));
        ASSERT_EQ(Content(*cache), before);
        ASSERT_EQ(Value(cache->GetStats(0, true, true)), stats);
      }
    }
    // The refused appends leave no trace in what comes after them either.
    Append(*cache, 0, piece_k, piece_v);
    Append(*twin, 0, piece_k, piece_v);
    ASSERT_EQ(Content(*cache), Content(*twin));
    at += tokens;
  }
  EXPECT_EQ(cache->runtime().memory().held(), twin->runtime().memory().held());
}

INSTANTIATE_TEST_SUITE_P(Recipes, Refusals,
                         testing::Values("fp16", "int8", "kivi-2", "kcvt-4", "gear-2"),
                         [](const auto& info) { return TestName(info.param); });

TEST(CacheAppend, NonFiniteF16AndBf16AreRefused) {
  const Tensor x = SmallWholes(7, 2);
  for (const auto& [dtype, bits] : {std::pair<ops::DType, uint16_t>{ops::kF16, 0x7C00},
                                    {ops::kF16, 0xFC00},
                                    {ops::kF16, 0x7E00},
                                    {ops::kF16, 0xFC01},
                                    {ops::kBF16, 0x7F80},
                                    {ops::kBF16, 0xFF80},
                                    {ops::kBF16, 0x7FC0},
                                    {ops::kBF16, 0x4780}}) {  // 65536
    Strided bad = Place(x, dtype, 128, 64, 1);
    std::memcpy(bad.bytes.data() + 77 * 2, &bits, 2);
    const auto cache = MakeCache(kShape, "int4");
    EXPECT_EQ(cache->Append(0, bad.view, bad.view, dtype, 2).code(), absl::StatusCode::kOutOfRange);
    EXPECT_EQ(Length(*cache), 0u);
  }
}

TEST(CacheAppend, NothingIsNothing) {
  const auto cache = MakeCache(kShape, "gear-2");
  EXPECT_TRUE(cache->Append(0, {}, {}, ops::kF16, 0).ok());
  EXPECT_EQ(Length(*cache), 0u);
  EXPECT_FALSE(cache->Append(2, {}, {}, ops::kF16, 0).ok());
}

TEST(CacheAppend, WrongArgumentsAreRefusedWithASentence) {
  const auto cache = MakeCache(kShape, "kivi-4");
  const Tensor x = SmallWholes(8, 10);
  Append(*cache, 0, x, x);
  const std::vector<double> before = Content(*cache);
  const std::vector<uint16_t> f16 = ToF16(x);
  const TensorView good{.data = f16.data(), .bytes = f16.size() * 2};
  const auto with = [&](auto change) {
    TensorView view = good;
    change(view);
    return view;
  };
  const int64_t huge = std::numeric_limits<int64_t>::max();
  const int64_t least = std::numeric_limits<int64_t>::min();
  const struct {
    const char* part;
    uint32_t layer;
    TensorView k, v;
    uint64_t tokens;
  } cases[] = {
      {"layers 0 to 1", 2, good, good, 10},
      {"layers 0 to 1", 0xFFFFFFFF, good, good, 10},
      {"k is NULL", 0, with([](TensorView& t) { t.data = nullptr; }), good, 10},
      {"v is NULL", 0, good, with([](TensorView& t) { t.data = nullptr; }), 10},
      {"k_bytes is 2559", 0, with([](TensorView& t) { --t.bytes; }), good, 10},
      {"v_bytes is 2559", 0, good, with([](TensorView& t) { --t.bytes; }), 10},
      {"k_bytes is 2560", 0, good, good, 11},
      {"v_bytes is 0", 0, good, with([](TensorView& t) { t.bytes = 0; }), 1},
      {"aligned", 0, with([](TensorView& t) {
         t.data = static_cast<const std::byte*>(t.data) + 1;
         t.bytes -= 128;
       }),
       good, 9},
      {"need", 0,
       with([](TensorView& t) { t.token_stride = 129, t.head_stride = 64, t.dim_stride = 1; }),
       good, 10},
      {"address space", 0, with([&](TensorView& t) {
         t.token_stride = huge, t.head_stride = huge, t.dim_stride = huge;
       }),
       good, 10},
      {"address space", 0,
       with([&](TensorView& t) { t.token_stride = least, t.head_stride = 64, t.dim_stride = 1; }),
       good, 10},
      {"at most", 0, good, good, uint64_t{1} << 63},
      {"at most", 0, good, good, UINT64_MAX},
      {"address space", 0,
       with([&](TensorView& t) { t.token_stride = huge, t.head_stride = 64, t.dim_stride = 1; }),
       good, uint64_t{1} << 39},
  };
  for (const auto& c : cases) {
    const absl::Status status = cache->Append(c.layer, c.k, c.v, ops::kF16, c.tokens);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.part;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.part));
    EXPECT_EQ(Content(*cache), before);
  }
}

}  // namespace
}  // namespace kvg::test
