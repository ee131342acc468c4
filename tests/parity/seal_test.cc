// Seal of every table against the reference.
//
// All that is stored is the same to the bit: codes, scales, minima, factors and outliers. What is
// reported as error is that of the bytes that were stored, but for the order of a sum.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "kernels/half.h"
#include "kernels/ops.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::kernel_test {
namespace {

// Everything the piece stands for, as fp32, [token][head][direction].
std::vector<double> Decoded(const CodePiece& piece) {
  const ops::Piece* pointer = &piece.piece();
  const uint64_t tokens = pointer->tokens;
  const Buffer out = Read(ops::ReferenceTable(), {&pointer, 1}, pointer->kv_heads,
                          pointer->head_dim, 0, tokens, ops::kF32);
  std::vector<double> values;
  for (uint64_t i = 0; i < out.size() / 4; ++i) values.push_back(LoadElement(out, ops::kF32, i));
  return values;
}

// Sum of (x - decoded)^2 and of x^2.
struct Error {
  double error_sq = 0, norm_sq = 0;
};

Error ErrorOf(const std::vector<double>& decoded, const Rows& x) {
  Error error;
  uint64_t i = 0;
  for (uint64_t t = 0; t < x.tokens; ++t) {
    for (uint32_t h = 0; h < x.kv_heads; ++h) {
      for (uint32_t d = 0; d < x.head_dim; ++d, ++i) {
        const double value = F16ToF32(x.x()[x.Index(h, t, d)]);
        error.error_sq += (value - decoded[i]) * (value - decoded[i]);
        error.norm_sq += value * value;
      }
    }
  }
  return error;
}

// The sparse part without its values.
std::vector<uint32_t> SparseShape(const CodePiece& piece) {
  const ops::Piece& p = piece.piece();
  std::vector<uint32_t> shape;
  if (p.sparse_start == nullptr) return shape;
  const uint64_t starts = p.kv_heads * (p.padded_tokens / ops::kBlockTokens + 1);
  shape.insert(shape.end(), p.sparse_start, p.sparse_start + starts);
  shape.insert(shape.end(), p.sparse_count, p.sparse_count + p.kv_heads * p.padded_tokens);
  shape.insert(shape.end(), p.sparse_dir, p.sparse_dir + piece.entries());
  return shape;
}

std::vector<uint16_t> SparseValues(const CodePiece& piece) {
  const uint16_t* const values = piece.piece().sparse_value;
  return {values, values + piece.entries()};
}

// Low-rank factors of padding are 0, so that kernels may multiply by them.
void ExpectPaddedFactorsZero(const ops::Piece& p) {
  for (uint64_t column = 0; column < uint64_t{p.kv_heads} * p.rank; ++column) {
    for (uint64_t t = p.tokens; t < p.padded_tokens; ++t) {
      ASSERT_EQ(p.a[column * p.padded_tokens + t], 0) << "a of token " << t;
    }
    for (uint64_t d = p.head_dim; d < p.dirs; ++d) {
      ASSERT_EQ(p.b[column * p.dirs + d], 0) << "b of direction " << d;
    }
  }
}

// An outlier decodes to what went in, but for the rounding of its fp16 value.
void ExpectOutliersExact(const CodePiece& piece, const Rows& x,
                         const std::vector<double>& decoded) {
  const ops::Piece& p = piece.piece();
  if (p.sparse_start == nullptr) return;
  const uint64_t blocks = p.padded_tokens / ops::kBlockTokens;
  for (uint32_t head = 0; head < p.kv_heads; ++head) {
    uint64_t entry = p.sparse_start[head * (blocks + 1)];
    for (uint64_t token = 0; token < p.tokens; ++token) {
      for (uint64_t left = p.sparse_count[head * p.padded_tokens + token]; left > 0; --left) {
        const uint32_t d = p.sparse_dir[entry];
        const double value = F16ToF32(p.sparse_value[entry]);
        ++entry;
        if (std::fabs(value) >= 65504) continue;  // saturated
        const double exact = F16ToF32(x.x()[x.Index(head, token, d)]);
        const double got = decoded[(token * p.kv_heads + head) * p.head_dim + d];
        const double bound =
            0x1p-11 * std::fabs(value) + 0x1p-25 + 0x1p-20 * (std::fabs(value) + std::fabs(exact));
        ASSERT_NEAR(got, exact, bound) << "head " << head << " token " << token << " dir " << d;
      }
    }
  }
}

void Compare(const Form& form, Data data, uint64_t seed) {
  SCOPED_TRACE(testing::Message() << form.Describe() << " data " << static_cast<int>(data)
                                  << " seed " << seed);
  const Rows x = MakeRows(data, seed, form.kv_heads, form.tokens, form.head_dim, 7);
  CodePiece want(form, 0);
  want.Seal(ops::ReferenceTable(), x, Serial());
  for (const ops::Table* table : CpuTables()) {
    SCOPED_TRACE(table->name);
    CodePiece got(form, 0);
    got.Seal(*table, x, Serial());
    ASSERT_EQ(got.codes(), want.codes());
    ASSERT_EQ(got.scales(), want.scales());
    ASSERT_EQ(got.minima(), want.minima());
    ASSERT_EQ(SparseShape(got), SparseShape(want));
    ASSERT_EQ(got.a(), want.a());
    ASSERT_EQ(got.b(), want.b());
    ASSERT_EQ(SparseValues(got), SparseValues(want));
    ExpectPaddedFactorsZero(got.piece());
    const std::vector<double> decoded = Decoded(got);
    if (form.map == nullptr) ExpectOutliersExact(got, x, decoded);  // else they are of M x

    const Error error = ErrorOf(decoded, x);
    if (form.map == nullptr) {
      ASSERT_NEAR(got.norm_sq(), error.norm_sq, 1e-6 * error.norm_sq);
      ASSERT_NEAR(got.error_sq(), error.error_sq, 1e-5 * error.error_sq + 1e-12 * error.norm_sq);
    } else {  // measured among mapped rows where the map keeps lengths
      ASSERT_NEAR(got.norm_sq(), error.norm_sq, 0x1p-9 * error.norm_sq);
      ASSERT_NEAR(std::sqrt(got.error_sq()), std::sqrt(error.error_sq),
                  0x1p-10 * std::sqrt(error.norm_sq));
    }

    CodePiece shared(form, 0);
    shared.Seal(*table, x, Backwards());
    ASSERT_EQ(shared.AllBytes(), got.AllBytes()) << "differs with 3 workers";
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Seal, EveryWidthAxisAndGroup) {
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (const uint8_t width : kWidths) {
      for (const uint32_t group : {32u, 64u}) {
        Compare(UniformForm(side, ops::kAxisChannel, group, width, 2, 64, 70), Data::kNoise, 1);
      }
      for (const uint32_t group : {16u, 32u, 64u, 128u}) {
        Compare(UniformForm(side, ops::kAxisToken, group, width, 2, 72, 37), Data::kNoise, 2);
      }
    }
  }
}

TEST(Seal, EveryKindOfData) {
  for (const Data data : kAllData) {
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      for (const ops::Axis axis : {ops::kAxisToken, ops::kAxisChannel}) {
        for (const uint8_t width : kWidths) {
          Form form = UniformForm(side, axis, 32, width, 2, 40, 33);
          Compare(form, data, 3);
          form.spec.outliers = 2;
          Compare(form, data, 4);
          form.spec.rank = 2;
          Compare(form, data, 5);
        }
      }
    }
  }
}

TEST(Seal, SharedScales) {
  for (const uint8_t width : kWidths) {
    Form form = UniformForm(ops::kSideV, ops::kAxisToken, 0xFFFFFFFF, width, 3, 80, 34);
    form.spec.heads_share_scale = true;
    Compare(form, Data::kNoise, 6);
    form.spec.outliers = 5;
    form.spec.rank = 2;
    Compare(form, Data::kOutliers, 7);
  }
}

TEST(Seal, HeadDimsAndLengths) {
  for (const uint32_t head_dim :
       {32u, 40u, 64u, 72u, 80u, 88u, 96u, 112u, 128u, 136u, 192u, 248u, 256u}) {
    for (const uint64_t tokens : {1u, 31u, 32u, 33u}) {
      for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
        const ops::Axis axis = side == ops::kSideK ? ops::kAxisChannel : ops::kAxisToken;
        Form form = UniformForm(side, axis, 32, 2, 1, head_dim, tokens);
        form.spec.rank = 4;
        form.spec.outliers = side == ops::kSideK ? tokens / 8 : 3;
        Compare(form, Data::kOutliers, head_dim + tokens);
      }
    }
  }
}

// Outlier sets at their limits: none left over, and more in a row than a row may hold.
TEST(Seal, OutlierLimits) {
  for (const Data data : {Data::kNoise, Data::kTies, Data::kConstant}) {
    for (const ops::Axis axis : {ops::kAxisToken, ops::kAxisChannel}) {
      Form all = UniformForm(ops::kSideK, axis, 32, 2, 1, 256, 32);
      all.spec.outliers = 16;  // every entry, so 256 in each row
      Compare(all, data, 8);
      Form v = UniformForm(ops::kSideV, axis, 32, 3, 1, 256, 5);
      v.spec.outliers = 128;
      Compare(v, data, 9);
      Form nearly = UniformForm(ops::kSideV, axis, 32, 3, 3, 48, 6);
      nearly.spec.outliers = 71;
      Compare(nearly, data, 10);
    }
  }
}

// Any number of outliers, where many entries are alike and the index decides.
TEST(Seal, OutlierCounts) {
  for (const Data data : {Data::kNoise, Data::kTies, Data::kConstant}) {
    for (uint64_t k = 1; k <= 35; k += k < 8 ? 1 : 9) {
      Form by_channel = UniformForm(ops::kSideK, ops::kAxisChannel, 96, 2, 2, 40, 71);
      by_channel.spec.outliers = k;
      Compare(by_channel, data, k);
      Form by_token = UniformForm(ops::kSideV, ops::kAxisToken, 32, 2, 3, 40, 33);
      by_token.spec.outliers = k;
      Compare(by_token, data, k);
      if (HasFatalFailure()) return;
    }
  }
}

// Long pieces and many heads: groups, vectors and sums of thousands of entries.
TEST(Seal, LongVectors) {
  for (const Data data : {Data::kOutliers, Data::kExtreme, Data::kTies}) {
    for (const uint8_t width : {uint8_t{0}, uint8_t{3}}) {
      Form k = UniformForm(ops::kSideK, ops::kAxisChannel, 2112, width, 1, 32, 2100);
      k.spec.outliers = 21;
      k.spec.rank = 2;
      Compare(k, data, 15);
      Form v = UniformForm(ops::kSideV, ops::kAxisToken, 128, width, 17, 128, 5);
      v.spec.heads_share_scale = true;
      v.spec.outliers = 21;
      Compare(v, data, 16);
      if (HasFatalFailure()) return;
    }
  }
  // The longest segment there is, with runs of equal values longer than 8 bits count.
  Form longest = UniformForm(ops::kSideK, ops::kAxisChannel, 8192, 2, 1, 32, 8192);
  for (const uint64_t k : {82u, 3000u}) {
    longest.spec.outliers = k;
    Compare(longest, Data::kTies, k);
  }
}

TEST(Seal, Random) {
  Random random(11);
  for (int i = 0; i < 150; ++i) {
    const auto side = random.Chance(0.5) ? ops::kSideK : ops::kSideV;
    const auto heads = static_cast<uint32_t>(1 + random.Below(3));
    const auto head_dim = static_cast<uint32_t>(32 + 8 * random.Below(random.Chance(0.8) ? 8 : 29));
    const Form form = RandomForm(random, side, heads, head_dim, 1 + random.Below(130));
    Compare(form, random.Pick(kAllData), random.Next());
    if (HasFatalFailure()) return;
  }
}

TEST(Seal, ThreadsGiveTheSameBits) {
  const Rows x = MakeRows(Data::kOutliers, 12, 4, 300, 64);
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (const ops::Axis axis : {ops::kAxisToken, ops::kAxisChannel}) {
      Form form = UniformForm(side, axis, 64, 2, 4, 64, 300);
      form.spec.rank = 4;
      form.spec.outliers = 3;
      for (const ops::Table* table : CpuTables()) {
        CodePiece serial(form, 0);
        serial.Seal(*table, x, Serial());
        CodePiece threads(form, 0);
        threads.Seal(*table, x, Threads());
        EXPECT_EQ(serial.AllBytes(), threads.AllBytes()) << table->name << ' ' << form.Describe();
      }
    }
  }
}

// A page that grows holds the same bits as one sealed at once, wherever the runs begin and end.
TEST(Seal, OpenPageGrows) {
  const std::vector<std::vector<uint64_t>> all_runs = {
      {1, 1, 1, 1, 29, 1, 30}, {31, 2, 31}, {64}, {5, 59}, {0, 40, 24}};
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (const uint8_t width : kWidths) {
      for (const bool share : {false, true}) {
        Form form = UniformForm(side, ops::kAxisToken, share ? 80 : 32, width, 2, 80, 64);
        form.spec.heads_share_scale = share;
        const Rows x = MakeRows(Data::kNoise, 13, 2, 64, 80);
        CodePiece want(form, 0);
        want.Seal(ops::ReferenceTable(), x, Serial());
        for (const ops::Table* table : AllTables()) {
          for (const std::vector<uint64_t>& runs : all_runs) {
            SCOPED_TRACE(testing::Message() << table->name << ' ' << form.Describe());
            CodePiece got(form, 0);
            uint64_t done = 0;
            double error_sq = 0;
            for (const uint64_t tokens : runs) {
              got.Seal(*table, x, done, tokens, Serial());
              done += tokens;
              error_sq += got.error_sq();
            }
            ASSERT_EQ(done, 64u);
            ASSERT_EQ(got.codes(), want.codes());
            ASSERT_EQ(got.scales(), want.scales());
            ASSERT_EQ(got.minima(), want.minima());
            ASSERT_NEAR(error_sq, want.error_sq(), 1e-5 * want.error_sq());
          }
        }
      }
    }
  }
}

// Tokens that take the place of ones that were cut off leave nothing of them, and their neighbours
// in the same words as they were.
TEST(Seal, OpenPageGrowsAgainAfterACut) {
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (const uint8_t width : kWidths) {
      for (const uint64_t kept : {0u, 1u, 31u, 32u, 40u, 63u}) {
        const Form form = UniformForm(side, ops::kAxisToken, 32, width, 2, 72, 64);
        const Rows before = MakeRows(Data::kNoise, 17, 2, 64, 72);
        const Rows after = MakeRows(Data::kOutliers, 18, 2, 64, 72);
        Rows both = ZeroRows(2, 64, 72);
        for (uint32_t h = 0; h < 2; ++h) {
          for (uint64_t t = 0; t < 64; ++t) {
            for (uint32_t d = 0; d < 72; ++d) {
              const uint64_t i = both.Index(h, t, d);
              both.Store(h, t, d, F16ToF32((t < kept ? before : after).x()[i]));
            }
          }
        }
        CodePiece want(form, 0);
        want.Seal(ops::ReferenceTable(), both, Serial());
        for (const ops::Table* table : AllTables()) {
          SCOPED_TRACE(testing::Message()
                       << table->name << ' ' << form.Describe() << " kept " << kept);
          CodePiece got(form, 0);
          got.Seal(*table, before, Serial());
          got.Cut(kept);
          got.Seal(*table, after, kept, 64 - kept, Serial());
          ASSERT_EQ(got.codes(), want.codes());
          ASSERT_EQ(got.scales(), want.scales());
          ASSERT_EQ(got.minima(), want.minima());
        }
      }
    }
  }
}

// What lies behind the new tokens of an open page is not touched.
TEST(Seal, OpenPageLeavesOtherSlotsAlone) {
  for (const ops::Table* table : CpuTables()) {
    Form form = UniformForm(ops::kSideV, ops::kAxisToken, 32, 3, 1, 64, 64);
    const Rows x = MakeRows(Data::kNoise, 14, 1, 64, 64);
    CodePiece piece(form, 0);
    piece.Seal(*table, x, 0, 20, Serial());
    const std::vector<double> before = Decoded(piece);
    piece.Seal(*table, x, 20, 7, Serial());
    const std::vector<double> after = Decoded(piece);
    ASSERT_EQ(before, std::vector<double>(after.begin(), after.begin() + 20 * 64)) << table->name;
    for (uint64_t token = 27; token < 64; ++token) {
      ASSERT_EQ(piece.piece().scale[token], 0) << table->name;
      ASSERT_EQ(piece.piece().minimum[token], 0) << table->name;
    }
  }
}

}  // namespace
}  // namespace kvg::kernel_test
