// Seal of every table against the reference: codes, scales and minima to the bit, the same
// outliers, a low-rank part that is as good, and the measured error of what was really stored.
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

Error ErrorOf(const CodePiece& piece, const Rows& x) {
  const std::vector<double> decoded = Decoded(piece);
  Error error;
  uint64_t i = 0;
  for (uint64_t t = 0; t < piece.piece().tokens; ++t) {
    for (uint32_t h = 0; h < x.kv_heads; ++h) {
      for (uint32_t d = 0; d < x.head_dim; ++d) {
        const double value = F16ToF32(x.x()[x.Index(h, t, d)]);
        error.error_sq += (value - decoded[i]) * (value - decoded[i]);
        error.norm_sq += value * value;
        ++i;
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

void Compare(const Form& form, Data data, uint64_t seed) {
  SCOPED_TRACE(testing::Message() << form.Describe() << " data " << static_cast<int>(data)
                                  << " seed " << seed);
  const Rows x = MakeRows(data, seed, form.kv_heads, form.tokens, form.head_dim, 16);
  CodePiece want(form, 0);
  want.Seal(ops::ReferenceTable(), x, Serial());
  const std::vector<double> want_decoded = Decoded(want);
  for (const ops::Table* table : CpuTables()) {
    SCOPED_TRACE(table->name);
    CodePiece got(form, 0);
    got.Seal(*table, x, Serial());
    ASSERT_EQ(got.codes(), want.codes());
    ASSERT_EQ(got.scales(), want.scales());
    ASSERT_EQ(got.minima(), want.minima());
    ASSERT_EQ(SparseShape(got), SparseShape(want));
    ExpectPaddedFactorsZero(got.piece());

    // The reported error is that of the stored bytes.
    const Error error = ErrorOf(got, x);
    ASSERT_NEAR(got.norm_sq(), error.norm_sq, 1e-9 * error.norm_sq);
    ASSERT_NEAR(got.error_sq(), error.error_sq, 1e-4 * error.error_sq + 1e-12 * error.norm_sq);
    // Factors may differ, but not in what they achieve.
    ASSERT_NEAR(got.error_sq(), want.error_sq(), 2e-3 * want.error_sq() + 1e-9 * error.norm_sq);
    if (form.spec.rank == 0) {  // what is left differs by fp16 rounding of the sparse values alone
      const std::vector<double> decoded = Decoded(got);
      for (uint64_t i = 0; i < decoded.size(); ++i) {
        const double bound = 1e-3 * std::fabs(want_decoded[i]) + 0x1p-20;
        ASSERT_NEAR(decoded[i], want_decoded[i], bound) << "element " << i;
      }
    }

    CodePiece shared(form, 0);
    shared.Seal(*table, x, Backwards());
    ASSERT_EQ(shared.AllBytes(), got.AllBytes()) << "differs with 3 workers";
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
  for (const uint32_t head_dim : {32u, 64u, 72u, 80u, 88u, 96u, 112u, 128u, 256u}) {
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
  Form form = UniformForm(ops::kSideK, ops::kAxisChannel, 64, 2, 4, 64, 300);
  form.spec.rank = 4;
  form.spec.outliers = 3;
  const Rows x = MakeRows(Data::kOutliers, 12, 4, 300, 64);
  for (const ops::Table* table : CpuTables()) {
    CodePiece serial(form, 0);
    serial.Seal(*table, x, Serial());
    CodePiece threads(form, 0);
    threads.Seal(*table, x, Threads());
    EXPECT_EQ(serial.AllBytes(), threads.AllBytes()) << table->name;
  }
}

// A page that grows holds the same bits as one sealed at once, wherever the runs begin and end.
TEST(Seal, OpenPageGrows) {
  const std::vector<std::vector<uint64_t>> all_runs = {
      {1, 1, 1, 1, 29, 1, 30}, {31, 2, 31}, {64}, {5, 59}, {0, 40, 24}};
  std::vector<const ops::Table*> tables = CpuTables();
  tables.push_back(&ops::ReferenceTable());
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    for (const uint8_t width : kWidths) {
      for (const bool share : {false, true}) {
        Form form = UniformForm(side, ops::kAxisToken, share ? 80 : 32, width, 2, 80, 64);
        form.spec.heads_share_scale = share;
        const Rows x = MakeRows(Data::kNoise, 13, 2, 64, 80);
        CodePiece want(form, 0);
        want.Seal(ops::ReferenceTable(), x, Serial());
        for (const ops::Table* table : tables) {
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
