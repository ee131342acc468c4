// Read of every table against the reference, in all data types and over all kinds of pieces.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/half.h"
#include "kernels/ops.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::kernel_test {
namespace {

// The tables may round in another order: a few units of fp32, and one of the type that is read.
double Tolerance(ops::DType dtype, double value, double largest) {
  const double step = dtype == ops::kF16 ? 0x1p-10 : dtype == ops::kBF16 ? 0x1p-7 : 0;
  const double smallest = dtype == ops::kF16 ? 0x1p-24 : 0;
  return 4e-6 * largest + std::max(step * std::fabs(value), smallest);
}

void Compare(const SequenceBuilder& side, uint32_t kv_heads, uint32_t head_dim, uint64_t first,
             uint64_t tokens) {
  const Buffer exact = Read(ops::ReferenceTable(), side.sequence(), kv_heads, head_dim, first,
                            tokens, ops::kF32);
  double largest = 0;
  for (uint64_t i = 0; i < tokens * kv_heads * head_dim; ++i) {
    largest = std::max(largest, std::fabs(LoadElement(exact, ops::kF32, i)));
  }
  for (const ops::Table* table : CpuTables()) {
    for (const ops::DType dtype : {ops::kF32, ops::kF16, ops::kBF16}) {
      const Buffer got =
          Read(*table, side.sequence(), kv_heads, head_dim, first, tokens, dtype);
      for (uint64_t i = 0; i < tokens * kv_heads * head_dim; ++i) {
        double want = LoadElement(exact, ops::kF32, i);
        if (dtype == ops::kF16) want = std::clamp(want, -65504.0, 65504.0);
        ASSERT_NEAR(LoadElement(got, dtype, i), want, Tolerance(dtype, want, largest))
            << table->name << ' ' << NameOf(dtype) << " element " << i << " of tokens " << first
            << " + " << tokens;
      }
    }
  }
}

TEST(Read, RandomForms) {
  Random random(1);
  for (int i = 0; i < 80; ++i) {
    const auto side = random.Chance(0.5) ? ops::kSideK : ops::kSideV;
    const auto heads = static_cast<uint32_t>(1 + random.Below(3));
    const auto head_dim = static_cast<uint32_t>(32 + 8 * random.Below(random.Chance(0.8) ? 8 : 29));
    SequenceBuilder sequence(side, heads, head_dim);
    for (uint64_t pieces = random.Below(3); pieces > 0; --pieces) {
      sequence.AddCodes(RandomForm(random, side, heads, head_dim, 32 * (1 + random.Below(3))),
                        random.Pick(kAllData), random.Next());
    }
    const Form last = RandomForm(random, side, heads, head_dim, 1 + random.Below(70));
    sequence.AddCodes(last, random.Pick(kAllData), random.Next());
    if (random.Chance(0.7)) sequence.AddRows(1 + random.Below(20), Data::kExtreme, random.Next());
    SCOPED_TRACE(testing::Message() << "case " << i << ", last codes: " << last.Describe());
    const uint64_t first = random.Below(sequence.length());
    Compare(sequence, heads, head_dim, 0, sequence.length());
    Compare(sequence, heads, head_dim, first, 1 + random.Below(sequence.length() - first));
    if (HasFatalFailure()) return;
  }
}

TEST(Read, EveryWidthAndHeadDim) {
  for (const uint32_t head_dim : {32u, 64u, 72u, 80u, 96u, 112u, 128u, 256u}) {
    for (const uint8_t width : kWidths) {
      for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
        for (const ops::Axis axis : {ops::kAxisToken, ops::kAxisChannel}) {
          SequenceBuilder sequence(side, 1, head_dim);
          const Form form = UniformForm(side, axis, 32, width, 1, head_dim, 33);
          sequence.AddCodes(form, Data::kNoise, width);
          SCOPED_TRACE(form.Describe());
          Compare(sequence, 1, head_dim, 0, 33);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Rows come back to the bit.
TEST(Read, RowsAreExact) {
  std::vector<const ops::Table*> tables = CpuTables();
  tables.push_back(&ops::ReferenceTable());
  for (const ops::Table* table : tables) {
    for (const uint32_t head_dim : {40u, 128u}) {
      SequenceBuilder sequence(ops::kSideK, 2, head_dim);
      sequence.AddRows(7, Data::kExtreme, 2);
      sequence.AddRows(3, Data::kTies, 3);  // with zeros of both signs
      const Buffer f16 = Read(*table, sequence.sequence(), 2, head_dim, 0, 10, ops::kF16);
      const Buffer f32 = Read(*table, sequence.sequence(), 2, head_dim, 0, 10, ops::kF32);
      uint64_t i = 0;
      for (uint64_t t = 0; t < 10; ++t) {
        const ops::Piece& piece = *sequence.sequence().pieces[t < 7 ? 0 : 1];
        for (uint64_t h = 0; h < 2; ++h) {
          for (uint64_t d = 0; d < head_dim; ++d, ++i) {
            const uint16_t want =
                piece.rows[h * piece.rows_head_stride + (t - piece.first_token) * head_dim + d];
            ASSERT_EQ(f16.data<uint16_t>()[i], want) << table->name;
            ASSERT_EQ(f32.data<float>()[i], F16ToF32(want)) << table->name;
          }
        }
      }
    }
  }
}

// What decodes beyond the range of fp16 is read as its end, not as infinity.
TEST(Read, SaturatesF16) {
  std::vector<const ops::Table*> tables = CpuTables();
  tables.push_back(&ops::ReferenceTable());
  Form form = UniformForm(ops::kSideK, ops::kAxisToken, 32, 6, 1, 32, 1);
  Rows x = MakeRows(Data::kNoise, 4, 1, 1, 32);
  // 63 steps of a scale that fp16 rounds up lead from -48 past 65504.
  for (uint32_t d = 0; d < 32; ++d) {
    x.data.data<uint16_t>()[d] = F32ToF16(d % 2 == 0 ? -48.0f : 65504.0f);
  }
  CodePiece piece(form, 0);
  piece.Seal(ops::ReferenceTable(), x, Serial());
  const ops::Piece* pointer = &piece.piece();
  const Buffer f32 = Read(ops::ReferenceTable(), {&pointer, 1}, 1, 32, 0, 1, ops::kF32);
  ASSERT_GT(f32.data<float>()[1], kF16Overflow) << "the case no longer reaches the edge";
  for (const ops::Table* table : tables) {
    const Buffer f16 = Read(*table, {&pointer, 1}, 1, 32, 0, 1, ops::kF16);
    EXPECT_EQ(f16.data<uint16_t>()[1], 0x7BFF) << table->name;
  }
}

}  // namespace
}  // namespace kvg::kernel_test
