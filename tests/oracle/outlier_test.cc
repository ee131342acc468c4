// Outliers: which entries are kept, how many, and how exact they are.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/cache_fixture.h"
#include "tests/support/oracle.h"

namespace kvg::test {
namespace {

// Flags of the entries that the sealed pieces of one side list as sparse, [tokens, heads, dim].
std::vector<uint8_t> SparseEntries(const ops::Sequence& sequence, const Tensor& x) {
  std::vector<uint8_t> mark(x.data.size());
  for (uint64_t i = 0; i < sequence.count; ++i) {
    const ops::Piece& piece = *sequence.pieces[i];
    if (piece.kind != ops::kCodes || piece.sparse_start == nullptr) continue;
    const uint64_t blocks = piece.padded_tokens / ops::kBlockTokens;
    for (uint32_t h = 0; h < piece.kv_heads; ++h) {
      const uint32_t* start = piece.sparse_start + h * (blocks + 1);
      for (uint64_t block = 0; block < blocks; ++block) {
        uint32_t entry = start[block];
        for (uint64_t t = block * ops::kBlockTokens; t < (block + 1) * ops::kBlockTokens; ++t) {
          const uint8_t count = piece.sparse_count[h * piece.padded_tokens + t];
          for (uint8_t c = 0; c < count; ++c, ++entry) {
            const size_t at = x.Index(piece.first_token + t, h, piece.sparse_dir[entry]);
            EXPECT_LT(t, piece.tokens);
            EXPECT_EQ(mark[at], 0) << "listed twice";
            if (c > 0) {
              EXPECT_LT(piece.sparse_dir[entry - 1], piece.sparse_dir[entry]);
            }
            mark[at] = 1;
          }
        }
        EXPECT_EQ(entry, start[block + 1]) << "counts and starts disagree";
      }
    }
  }
  return mark;
}

class Outliers : public testing::Test {
 protected:
  void Build(const std::string& text, const Tensor& k, const Tensor& v) {
    k_ = k;
    v_ = v;
    shape_ = {.layers = 1,
              .q_heads = static_cast<uint32_t>(k.heads),
              .kv_heads = static_cast<uint32_t>(k.heads),
              .head_dim = static_cast<uint32_t>(k.dim)};
    recipe_ = MakeRecipe(text);
    cache_ = MakeCache(shape_, text, runtime_);
    Append(*cache_, 0, k, v);
    layer_.emplace(shape_, text, runtime_);
    layer_->Append(k, v);
  }

  const Tensor& x(ops::Side side) const { return side == ops::kSideK ? k_ : v_; }
  const SideRecipe& side_recipe(ops::Side side) const {
    return side == ops::kSideK ? recipe_.k : recipe_.v;
  }
  std::vector<uint8_t> Listed(ops::Side side) const {
    const PieceList list = layer_->pieces(side);
    return SparseEntries(list.sequence(), x(side));
  }
  // What the oracle selects, over all segments.
  std::vector<uint8_t> Wanted(ops::Side side) const {
    std::vector<uint8_t> mark;
    for (const auto& s : oracle::ScheduleOf(side_recipe(side), {k_.tokens}).segments) {
      const auto part = oracle::SelectOutliers(x(side).Tokens(s.first, s.tokens), side,
                                               side_recipe(side).outliers);
      mark.insert(mark.end(), part.begin(), part.end());
    }
    mark.resize(k_.data.size());
    return mark;
  }

  std::shared_ptr<Runtime> runtime_ = MakeRuntime();
  Shape shape_;
  Recipe recipe_;
  Tensor k_, v_;
  std::unique_ptr<Cache> cache_;
  std::optional<SingleLayer> layer_;
};

constexpr char kPlain[] = "gear-2,rank=0,decode_rank=0,window=0,segment=1024,block=64";

TEST_F(Outliers, SetIsTheOraclesOnBothSides) {
  for (const std::string share : {"0.01", "0.02", "0.1", "0.5"}) {
    SCOPED_TRACE(share);
    Build(std::string(kPlain) + ",outliers=" + share, RealisticTensor(1, 1280, 2, 80),
          RealisticTensor(2, 1280, 2, 80));
    EXPECT_EQ(Listed(ops::kSideK), Wanted(ops::kSideK));
    EXPECT_EQ(Listed(ops::kSideV), Wanted(ops::kSideV));
  }
}

TEST_F(Outliers, CountsFollowTheVectorOfEachSide) {
  // K vectors are the tokens of a segment, V vectors the channels of all heads of a token.
  for (size_t tokens : {64u, 128u, 8192u}) {
    SCOPED_TRACE(tokens);
    Build("gear-2,rank=0,decode_rank=0,window=0,block=64,segment=8192,outliers=0.02",
          NoiseTensor(3, tokens, 2, 64), NoiseTensor(4, tokens, 2, 64));
    const size_t k_end = tokens / 100;  // floor(0.02 * n / 2)
    const auto k = Listed(ops::kSideK), v = Listed(ops::kSideV);
    for (size_t channel = 0; channel < 128; ++channel) {
      size_t n = 0;
      for (size_t t = 0; t < tokens; ++t) n += k[t * 128 + channel];
      ASSERT_EQ(n, 2 * k_end) << "channel " << channel;
    }
    for (size_t t = 0; t < tokens; ++t) {
      size_t n = 0;
      for (size_t i = 0; i < 128; ++i) n += v[t * 128 + i];
      ASSERT_EQ(n, 2u) << "token " << t;
    }
  }
}

TEST_F(Outliers, AreExactAndTheRestIsTheBackboneWithoutThem) {
  for (const std::string name : {"gear-2", "gear-4"}) {
    Build(name + ",rank=0,decode_rank=0,outliers=0.03", RealisticTensor(5, 640, 3, 96),
          RealisticTensor(6, 640, 3, 96));
    for (ops::Side side : {ops::kSideK, ops::kSideV}) {
      const Tensor read = Read(*cache_, side);
      for (const auto& s : oracle::ScheduleOf(side_recipe(side), {640}).segments) {
        const Tensor part = x(side).Tokens(s.first, s.tokens), got = read.Tokens(s.first, s.tokens);
        const oracle::Backbone want = oracle::Quantise(part, side, side_recipe(side));
        for (size_t i = 0; i < part.data.size(); ++i) {
          const double slack = 0x1p-21 * (std::abs(want.value.data[i]) + std::abs(part.data[i]) +
                                          std::abs(want.scale.data[i]));
          if (want.outlier[i]) {
            // The code of an outlier may be clamped, so a tie leaves it either way.
            const double delta = std::max(std::abs(part.data[i] - want.value.data[i]),
                                          std::abs(part.data[i] - want.other.data[i]));
            ASSERT_NEAR(got.data[i], part.data[i], oracle::F16Ulp(delta) / 2 + slack);
          } else if (std::abs(got.data[i] - want.other.data[i]) > slack) {
            ASSERT_NEAR(got.data[i], want.value.data[i], slack);
          }
        }
      }
    }
  }
}

TEST_F(Outliers, AreExactUnderALowRankPartToo) {
  Build("gear-2,rank=4,decode_rank=2,outliers=0.04", RealisticTensor(7, 640, 2, 64),
        RealisticTensor(8, 640, 2, 64));
  for (ops::Side side : {ops::kSideK, ops::kSideV}) {
    const Tensor read = Read(*cache_, side);
    const auto mark = Wanted(side);
    size_t checked = 0;
    for (size_t i = 0; i < mark.size(); ++i) {
      if (!mark[i]) continue;
      ++checked;
      ASSERT_NEAR(read.data[i], x(side).data[i], 0x1p-11 * (std::abs(x(side).data[i]) + 64));
    }
    EXPECT_GT(checked, mark.size() / 50);
  }
}

TEST_F(Outliers, TiesGoByPosition) {
  // Three values only: nearly every place among the outliers is decided by position.
  Tensor k(256, 1, 64), v(256, 1, 64);
  Random random(9);
  for (double& value : k.data) value = static_cast<double>(random.Next() % 3) + 1;
  for (double& value : v.data) value = static_cast<double>(random.Next() % 3) + 1;
  Build(std::string(kPlain) + ",outliers=0.2", k, v);
  EXPECT_EQ(Listed(ops::kSideK), Wanted(ops::kSideK));
  EXPECT_EQ(Listed(ops::kSideV), Wanted(ops::kSideV));
  std::fill(k.data.begin(), k.data.end(), 2.5);
  Build(std::string(kPlain) + ",outliers=0.2", k, k);
  EXPECT_EQ(Listed(ops::kSideK), Wanted(ops::kSideK));
  EXPECT_EQ(Listed(ops::kSideV), Wanted(ops::kSideV));
  EXPECT_EQ(Content(*cache_), Joined(k, k).data);
}

TEST_F(Outliers, NoneWhereTheShareRoundsToNone) {
  // 64 tokens at 2 %: floor(0.64) = 0 for K; V vectors of 128 still have one at each end.
  Build(std::string(kPlain) + ",outliers=0.02", NoiseTensor(10, 64, 2, 64),
        NoiseTensor(11, 64, 2, 64));
  EXPECT_EQ(Listed(ops::kSideK), std::vector<uint8_t>(64 * 128));
  EXPECT_EQ(Value(cache_->GetStats(0, true, false)).bytes_sparse, 0u);
  EXPECT_GT(Value(cache_->GetStats(0, false, true)).bytes_sparse, 0u);
}

TEST_F(Outliers, MoreThanARowHoldsStayCodes) {
  // Every channel's largest entry lies on one token: 256 of them, one more than a row can list.
  Tensor x = NoiseTensor(12, 128, 1, 256);
  for (size_t d = 0; d < 256; ++d) x(77, 0, d) = 100 + static_cast<double>(d % 7);
  Build(std::string(kPlain) + ",outliers=0.02", x, x);
  const auto k = Listed(ops::kSideK);
  EXPECT_EQ(k, Wanted(ops::kSideK));
  size_t row = 0;
  for (size_t d = 0; d < 256; ++d) row += k[77 * 256 + d];
  EXPECT_EQ(row, 255u);
  EXPECT_EQ(k[77 * 256 + 255], 0);
  EXPECT_NEAR(Read(*cache_, ops::kSideK)(77, 0, 255), x(77, 0, 255), 0.1);  // its group's maximum
}

TEST_F(Outliers, AGroupOfOutliersAlone) {
  // Token groups of 16 channels and spikes on all of them: no entry is left to take a range from.
  Tensor x = NoiseTensor(14, 128, 1, 64);
  for (size_t d = 16; d < 32; ++d) {
    for (size_t t = 0; t < 128; ++t) x(t, 0, d) = d % 2 == 0 ? 500 : -500;
  }
  Build(
      "gear-2,axis=token,group=16,rank=0,decode_rank=0,window=0,segment=1024,block=64,v.outliers=0."
      "25,"
      "k.outliers=0",
      x, x);
  const Tensor read = Read(*cache_, ops::kSideV);
  for (size_t t = 0; t < 128; ++t) {
    for (size_t d = 16; d < 32; ++d) ASSERT_EQ(read(t, 0, d), x(t, 0, d));
  }
}

}  // namespace
}  // namespace kvg::test
