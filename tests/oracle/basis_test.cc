// Transform codes: the basis that a cache learns against its definition in double precision, when it
// is learnt, what it is worth, and what becomes of it when caches are forked, cut and cleared.
#include "core/codec/basis.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "kernels/half.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 1, .q_heads = 4, .kv_heads = 2, .head_dim = 64};

// Rows of few strong directions, another few for each seed, around a mean.
Tensor Coloured(uint64_t seed, size_t tokens, size_t heads, size_t dim, double mean = 0) {
  Random random(seed);
  const Tensor mix = NoiseTensor(seed + 1000, dim, heads, dim);
  Tensor x(tokens, heads, dim);
  for (size_t t = 0; t < tokens; ++t) {
    for (size_t h = 0; h < heads; ++h) {
      for (size_t k = 0; k < dim; ++k) {
        const double strength = random.Normal() * std::pow(0.85, static_cast<double>(k));
        for (size_t d = 0; d < dim; ++d) x(t, h, d) += strength * mix(k, h, d);
      }
      for (size_t d = 0; d < dim; ++d) x(t, h, d) += mean * (d % 3 == 0 ? 1 : -0.5);
    }
  }
  return Rounded(x);
}

// Both sides learn a basis, keys from queries too.
constexpr char kOnline[] = "tc-3,k.map=online,k.rate=3.5";

Stats StatsOf(const Cache& cache) { return Value(cache.GetStats(kAllLayers, true, true)); }

// Appends, attends, and appends a token more, with which the basis is learnt.
std::unique_ptr<Cache> Taught(const std::string& text, const Tensor& k, const Tensor& v,
                              const Tensor& q) {
  auto cache = MakeCache(kShape, text);
  Append(*cache, 0, k.Tokens(0, k.tokens - 1), v.Tokens(0, k.tokens - 1));
  Attend(*cache, 0, q);
  Append(*cache, 0, k.Tokens(k.tokens - 1, 1), v.Tokens(k.tokens - 1, 1));
  return cache;
}

// ------------------------------------------------------------------------- the basis by itself

// [i][j] of a matrix of a basis.
double At(const uint16_t* matrix, size_t head, size_t i, size_t j, size_t dim) {
  return F16ToF32(matrix[(head * dim + i) * ((dim + 15) / 16 * 16) + j]);
}

TEST(Basis, KeysAndQueriesDecideAsDefined) {
  for (const uint32_t dim : {32u, 72u, 128u}) {
    const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = dim};
    const auto runtime = MakeRuntime();
    const Tensor k = Coloured(1, 700, 2, dim, 3);
    const Tensor q = Coloured(2, 300, 2, dim);
    std::vector<uint16_t> rows(k.data.size());
    SeenQueries seen(runtime->memory(), shape);
    for (size_t h = 0; h < 2; ++h) {
      for (size_t t = 0; t < k.tokens; ++t) {
        for (size_t d = 0; d < dim; ++d) {
          rows[(h * k.tokens + t) * dim + d] = F32ToF16(static_cast<float>(k(t, h, d)));
        }
      }
      for (size_t t = 0; t < q.tokens; ++t) {
        std::vector<float> row(dim);
        for (size_t d = 0; d < dim; ++d) row[d] = static_cast<float>(q(t, h, d));
        seen.Add(shape, static_cast<uint32_t>(h), row.data());
      }
    }
    seen.AddRows(q.tokens);
    SideRecipe recipe = MakeRecipe(kOnline).k;
    recipe.rate = 3;
    const BasisRef basis =
        Basis::Make(runtime->memory(), shape, ops::kSideK, recipe,
                    {.rows = rows.data(), .head_stride = k.tokens * dim}, k.tokens, seen);
    const ops::Map& map = basis->map();
    for (size_t h = 0; h < 2; ++h) {
      // y of all keys, then the covariance of y: diagonal and falling.
      std::vector<std::vector<double>> y(k.tokens, std::vector<double>(dim));
      std::vector<double> mean(dim);
      for (size_t t = 0; t < k.tokens; ++t) {
        for (size_t j = 0; j < dim; ++j) {
          for (size_t i = 0; i < dim; ++i) y[t][j] += k(t, h, i) * At(map.forward, h, i, j, dim);
          mean[j] += y[t][j] / static_cast<double>(k.tokens);
        }
      }
      const auto covariance = [&](size_t a, size_t b) {
        double sum = 0;
        for (const auto& row : y) sum += (row[a] - mean[a]) * (row[b] - mean[b]);
        return sum / static_cast<double>(k.tokens);
      };
      const double most = covariance(0, 0);
      for (size_t a = 0; a < dim; ++a) {
        if (a > 0) {
          EXPECT_LE(covariance(a, a), covariance(a - 1, a - 1) + 1e-3 * most);
        }
        for (size_t b = 0; b < a; ++b) ASSERT_NEAR(covariance(a, b), 0, 2e-3 * most);
      }
      // Back and forth is nothing, and white error in y costs the queries alike: column b of `back`
      // has 0.98 b^T C b + 0.02 b^T b = 1, C the second moment over its mean, 0.02 the prior.
      for (size_t i = 0; i < dim; ++i) {
        for (size_t j = 0; j < dim; ++j) {
          double sum = 0;
          for (size_t d = 0; d < dim; ++d) {
            sum += At(map.back, h, i, d, dim) * At(map.forward, h, j, d, dim);
          }
          ASSERT_NEAR(sum, i == j ? 1 : 0, 2e-2);
        }
      }
      double moment = 0;
      for (size_t t = 0; t < q.tokens; ++t) {
        for (size_t d = 0; d < dim; ++d) moment += q(t, h, d) * q(t, h, d);
      }
      moment /= static_cast<double>(q.tokens * dim);
      for (size_t j = 0; j < dim; ++j) {
        double sum = 0, length = 0;
        for (size_t d = 0; d < dim; ++d) length += std::pow(At(map.back, h, d, j, dim), 2);
        for (size_t t = 0; t < q.tokens; ++t) {
          double dot = 0;
          for (size_t d = 0; d < dim; ++d) dot += q(t, h, d) * At(map.back, h, d, j, dim);
          sum += dot * dot;
        }
        const double share = sum / static_cast<double>(q.tokens) / moment;
        ASSERT_NEAR(0.98 * share + 0.02 * length, 1, 0.02) << j;
      }
    }
    const size_t tiles = (dim + 15) / 16 * 2;
    const double bits = std::accumulate(basis->widths(), basis->widths() + tiles, 0.0);
    EXPECT_LE(bits, 3.0 * static_cast<double>(tiles));
    EXPECT_GT(bits, 3.0 * static_cast<double>(tiles) - 2);
    EXPECT_EQ(*std::min_element(basis->widths(), basis->widths() + tiles), 2);
    EXPECT_GT(*std::max_element(basis->widths(), basis->widths() + tiles), 3);
  }
}

TEST(Basis, ValuesTurnIntoTheirEigenvectors) {
  const Shape shape{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 80};
  const auto runtime = MakeRuntime();
  const Tensor v = Coloured(3, 500, 1, 80, 1);
  const std::vector<uint16_t> rows = ToF16(v);
  const BasisRef basis = Basis::Make(runtime->memory(), shape, ops::kSideV, MakeRecipe("tc-3").v,
                                     {.rows = rows.data(), .head_stride = 500 * 80}, 500, {});
  EXPECT_EQ(basis->map().forward, basis->map().back);
  for (size_t i = 0; i < 80; ++i) {
    for (size_t j = 0; j < 80; ++j) {
      double sum = 0;
      for (size_t d = 0; d < 80; ++d) {
        sum += At(basis->map().back, 0, i, d, 80) * At(basis->map().forward, 0, j, d, 80);
      }
      ASSERT_NEAR(sum, i == j ? 1 : 0, 2e-3);
    }
  }
}

// ------------------------------------------------------------------------------- in a cache

TEST(TransformCodes, AttendIsThatOfTheRowsRead) {
  for (const char* text : {"tc-2", "tc-2.5", "tc-3", "tc-3.5", "tc-4", kOnline,
                           "tc-3,k.rank=2,outliers=0.02,k.map=online,k.rate=3", "tc-2,k.map=online"}) {
    SCOPED_TRACE(text);
    const Tensor k = Coloured(4, 901, 2, 64, 2), v = Coloured(5, 901, 2, 64);
    const auto cache = Taught(text, k, v, Coloured(6, 64, 4, 64));
    const Stats stats = StatsOf(*cache);
    EXPECT_GT(stats.sealed_elements, stats.elements * 3 / 4);
    EXPECT_GT(stats.bytes_state, 0u);
    EXPECT_EQ(stats.bytes_total(), cache->runtime().memory().held());
    const Tensor k_read = Read(*cache, ops::kSideK), v_read = Read(*cache, ops::kSideV);
    EXPECT_LT(Distance(k, k_read), 0.5 * Distance(k, Tensor(901, 2, 64)));
    const Tensor q = NoiseTensor(7, 3, 4, 64, 0.3);
    EXPECT_LE(MaxDistance(Attend(*cache, 0, q), oracle::Attend(q, k_read, v_read, {})),
              5e-3 * MaxAbs(v_read));
    // The error that is reported is that of the rows read.
    const uint64_t sealed = stats.sealed_elements / 2 / kShape.kv_dim();
    const auto part = [sealed](const Tensor& x) { return x.Tokens(0, sealed); };
    const double error = Distance(part(v), part(v_read)) /
                         Distance(part(v), Tensor(sealed, 2, 64));
    EXPECT_NEAR(stats.rel_error_v_mean, error, 0.02 * error);
  }
}

TEST(TransformCodes, WaitForQueriesButNotForever) {
  const Tensor x = Coloured(8, 1000, 2, 64);
  const auto cache = MakeCache(kShape, kOnline);
  Append(*cache, 0, x.Tokens(0, 600), x.Tokens(0, 600));
  const auto sealed = [&](bool k) {
    return Value(cache->GetStats(0, k, !k)).sealed_elements / kShape.kv_dim();
  };
  EXPECT_EQ(sealed(true), 0u);
  EXPECT_EQ(sealed(false), 512u);  // values need no queries
  Append(*cache, 0, x.Tokens(600, 127), x.Tokens(600, 127));
  EXPECT_EQ(sealed(true), 0u);
  // The window holds more than its usual room meanwhile.
  EXPECT_EQ(Read(*cache, ops::kSideK).data, x.Tokens(0, 727).data);
  Append(*cache, 0, x.Tokens(727, 1), x.Tokens(727, 1));
  EXPECT_EQ(sealed(true), 640u);
  // And no more of it than usual from then on.
  EXPECT_EQ(StatsOf(*cache).bytes_window_allocated, 2u * 2 * (64 + 128) * 64 * 2);
}

// Mean square of q . (k - read) over the sealed tokens.
double LogitError(const Tensor& q, const Tensor& k, const Tensor& read, size_t tokens) {
  double sum = 0;
  for (size_t i = 0; i < q.tokens; ++i) {
    for (size_t h = 0; h < q.heads; ++h) {
      for (size_t t = 0; t < tokens; ++t) {
        double dot = 0;
        for (size_t d = 0; d < k.dim; ++d) {
          dot += q(i, h, d) * (k(t, h / 2, d) - read(t, h / 2, d));
        }
        sum += dot * dot;
      }
    }
  }
  return sum / static_cast<double>(q.tokens * q.heads * tokens);
}

TEST(TransformCodes, FollowTheQueries) {
  // Error per logit falls against a basis that has seen no queries, and that is below half of what
  // rotation leaves.
  const Tensor k = Coloured(9, 1100, 2, 64, 1);
  const Tensor some = Coloured(10, 300, 4, 64);
  const Tensor q = some.Tokens(0, 200), later = some.Tokens(200, 20);
  const auto error = [&](const std::string& text, bool shown) {
    const auto cache = MakeCache(kShape, text);
    Append(*cache, 0, k.Tokens(0, 1000), k.Tokens(0, 1000));
    if (shown) Attend(*cache, 0, q);
    for (size_t t = 1000; t < 1100; t += 50) Append(*cache, 0, k.Tokens(t, 50), k.Tokens(t, 50));
    Append(*cache, 0, k.Tokens(0, 50), k.Tokens(0, 50));
    return LogitError(later, k, Read(*cache, ops::kSideK), 896);
  };
  const double following = error("tc-3,k.map=online,k.rate=3", true);
  const double alone = error("tc-3,k.map=online,k.rate=3", false);
  const double turned = error("tc-3,k.bits=3", false);
  EXPECT_LT(following, 0.85 * alone);
  EXPECT_LT(alone, 0.5 * turned);
}

TEST(TransformCodes, OrderOfQueriesChangesNoBit) {
  const Tensor k = Coloured(11, 700, 2, 64), q = Coloured(12, 64, 4, 64);
  const auto whole = Taught(kOnline, k, k, q);
  const auto parts = MakeCache(kShape, kOnline);
  Append(*parts, 0, k.Tokens(0, 699), k.Tokens(0, 699));
  std::vector<std::thread> threads;
  for (size_t i = 4; i-- > 0;) {
    threads.emplace_back([&, i] {
      for (size_t t = 16; t-- > 0;) Attend(*parts, 0, q.Tokens(16 * i + t, 1));
    });
  }
  for (std::thread& thread : threads) thread.join();
  Append(*parts, 0, k.Tokens(699, 1), k.Tokens(699, 1));
  EXPECT_EQ(Content(*whole), Content(*parts));
}

TEST(TransformCodes, ForksShareTheBasis) {
  const Tensor k = Coloured(13, 700, 2, 64), q = Coloured(14, 64, 4, 64);
  auto cache = Taught(kOnline, k, k, q);
  const uint64_t held = cache->runtime().memory().held();
  const auto fork = Value(cache->Fork());
  EXPECT_EQ(StatsOf(*fork).bytes_state, StatsOf(*cache).bytes_state);
  EXPECT_GE(StatsOf(*fork).bytes_shared, StatsOf(*fork).bytes_state);
  EXPECT_LT(cache->runtime().memory().held() - held, StatsOf(*fork).bytes_state);
  // It outlives the cache that learnt it, and serves what the fork seals next.
  const std::vector<double> content = Content(*fork);
  Must(cache->Clear());
  EXPECT_EQ(StatsOf(*cache).bytes_state, 0u);
  cache.reset();
  EXPECT_EQ(Content(*fork), content);
  const uint64_t state = StatsOf(*fork).bytes_state;
  Append(*fork, 0, k.Tokens(0, 300), k.Tokens(0, 300));
  EXPECT_EQ(StatsOf(*fork).bytes_state, state);
  // Cut to nothing, it still knows what it has learnt; cleared, it does not.
  Must(fork->Truncate(0, 0));
  EXPECT_EQ(StatsOf(*fork).bytes_state, state);
  Append(*fork, 0, k.Tokens(0, 699), k.Tokens(0, 699));
  Append(*fork, 0, k.Tokens(699, 1), k.Tokens(699, 1));
  const auto again = Taught(kOnline, k, k, q);
  EXPECT_EQ(Read(*fork, ops::kSideK).Tokens(0, 512).data,
            Read(*again, ops::kSideK).Tokens(0, 512).data);
  Must(fork->Clear());
  EXPECT_EQ(StatsOf(*fork).bytes_state, 0u);
}

TEST(TransformCodes, AForkBeforeTheBasisLearnsItsOwn) {
  const Tensor k = Coloured(15, 700, 2, 64);
  const auto cache = MakeCache(kShape, kOnline);
  Append(*cache, 0, k.Tokens(0, 699), k.Tokens(0, 699));
  const auto fork = Value(cache->Fork());
  Attend(*cache, 0, Coloured(16, 64, 4, 64));
  Append(*cache, 0, k.Tokens(699, 1), k.Tokens(699, 1));
  Append(*fork, 0, k.Tokens(699, 1), k.Tokens(699, 1));
  const auto sealed = [](const Cache& of) { return Value(of.GetStats(0, true, false)).sealed_elements; };
  EXPECT_GT(sealed(*cache), 0u);
  EXPECT_EQ(sealed(*fork), 0u);
  Attend(*fork, 0, Coloured(17, 64, 4, 64));
  Append(*fork, 0, k.Tokens(0, 1), k.Tokens(0, 1));
  EXPECT_GT(sealed(*fork), 0u);
  EXPECT_NE(Read(*fork, ops::kSideK).Tokens(0, 512).data,
            Read(*cache, ops::kSideK).Tokens(0, 512).data);
}

TEST(TransformCodes, HardInputs) {
  // Constant rows (no covariance at all), zeros, huge numbers; queries that are zero, huge or NaN.
  for (const double value : {0.0, 1.0, 65504.0, 0x1p-24}) {
    for (const double query : {0.0, 1e30, std::nan("")}) {
      Tensor x(300, 2, 64), q(64, 4, 64);
      std::fill(x.data.begin(), x.data.end(), value);
      std::fill(q.data.begin(), q.data.end(), query);
      const auto cache = Taught("tc-2,k.map=online,k.rate=2", x, x, q);
      for (const double y : Content(*cache)) {
        ASSERT_TRUE(std::isfinite(y));
        ASSERT_NEAR(y, value, std::abs(value) * 0.05 + 0x1p-20) << value << ' ' << query;
      }
    }
  }
}

// ---------------------------------------------------------------------------- least squares

TEST(LeastSquares, NearTheBestOfAllLines) {
  // Of normal data, against a fine grid of scales and minima in double precision, per direction of
  // a segment. The search looks at few places and so is not the best, but never worse than the range.
  const Shape shape{.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  for (const uint32_t bits : {1u, 2u, 3u, 4u}) {
    const std::string text = "int4,axis=channel,group=whole,window=0,bits=" + std::to_string(bits);
    const Tensor x = Coloured(18, 256, 1, 32, 3);
    const auto least = MakeCache(shape, text + ",fit=least"), range = MakeCache(shape, text);
    Append(*least, 0, x, x);
    Append(*range, 0, x, x);
    const Tensor got = Read(*least, ops::kSideK), simple = Read(*range, ops::kSideK);
    const double top = std::exp2(bits) - 1;
    for (size_t d = 0; d < 32; ++d) {
      double mean = 0, low = 1e9, high = -1e9;
      for (size_t t = 0; t < 256; ++t) {
        mean += x(t, 0, d) / 256;
        low = std::min(low, x(t, 0, d));
        high = std::max(high, x(t, 0, d));
      }
      const auto error = [&](const auto& decoded) {
        double sum = 0;
        for (size_t t = 0; t < 256; ++t) {
          const double left = x(t, 0, d) - decoded(t);
          sum += left * left;
        }
        return sum;
      };
      double best = 1e300;
      for (int i = 1; i <= 60; ++i) {
        const double scale = (high - low) / top * i / 60;
        for (int j = 0; j <= 40; ++j) {
          const double minimum = low + (high - low - scale * top) * j / 40;
          best = std::min(best, error([&](size_t t) {
                            const double code =
                                std::clamp(std::nearbyint((x(t, 0, d) - minimum) / scale), 0.0, top);
                            return scale * code + minimum;
                          }));
        }
      }
      const double mine = error([&](size_t t) { return got(t, 0, d); });
      EXPECT_LE(mine, error([&](size_t t) { return simple(t, 0, d); }) * (1 + 1e-6));
      EXPECT_LE(mine, 1.5 * best) << "bits " << bits << " direction " << d;
    }
  }
}

}  // namespace
}  // namespace kvg::test
