// Read of every table against the reference, in all data types and over all kinds of pieces.
#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/half.h"
#include "kernels/ops.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::kernel_test {
namespace {

// The order of sums is laid down in kernels/ops.h, so all tables read the same bits.
void Compare(const SequenceBuilder& side, uint32_t kv_heads, uint32_t head_dim, uint64_t first,
             uint64_t tokens) {
  for (const ops::DType dtype : {ops::kF32, ops::kF16, ops::kBF16}) {
    const Buffer want =
        Read(ops::ReferenceTable(), side.sequence(), kv_heads, head_dim, first, tokens, dtype);
    for (const ops::Table* table : CpuTables()) {
      const Buffer got = Read(*table, side.sequence(), kv_heads, head_dim, first, tokens, dtype);
      if (got.bytes() == want.bytes()) continue;
      for (uint64_t i = 0; i < tokens * kv_heads * head_dim; ++i) {
        ASSERT_EQ(LoadElement(got, dtype, i), LoadElement(want, dtype, i))
            << table->name << ' ' << NameOf(dtype) << " token " << first + i / head_dim / kv_heads
            << " head " << i / head_dim % kv_heads << " direction " << i % head_dim;
      }
      FAIL() << table->name << ' ' << NameOf(dtype) << ": a zero of the other sign, or NaN";
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
  for (const uint32_t head_dim : {32u, 40u, 64u, 72u, 80u, 96u, 112u, 128u, 136u, 256u}) {
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

// All parts at once, and every way in which a range may begin and end inside a block or a piece.
TEST(Read, Ranges) {
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    SequenceBuilder sequence(side, 2, 40);
    for (const ops::Axis axis : {ops::kAxisChannel, ops::kAxisToken}) {
      Form form = UniformForm(side, axis, 32, 3, 2, 40, 64);
      form.spec.rank = 2;
      form.spec.outliers = 4;
      sequence.AddCodes(form, Data::kOutliers, 5);
    }
    Form page = UniformForm(side, ops::kAxisToken, 32, 2, 2, 40, 37);
    page.padded_tokens = 128;
    sequence.AddCodes(page, Data::kNoise, 6, 2);  // and two tokens that were cut off
    sequence.AddRows(5, Data::kNoise, 7);
    const std::vector<uint64_t> edges = {0,  1,  15, 16,  31,  32,  33,  47,  63,  64,
                                         65, 95, 96, 127, 128, 129, 160, 162, 163, 168};
    for (const uint64_t first : edges) {
      for (const uint64_t end : edges) {
        if (first < end) Compare(sequence, 2, 40, first, end - first);
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Every number that a row may hold, in every type it may be read as.
TEST(Read, EveryF16Number) {
  SequenceBuilder sequence(ops::kSideV, 1, 256);
  Rows x = MakeRows(Data::kNoise, 1, 1, 256, 256);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    x.data.data<uint16_t>()[bits] = F16IsFinite(h) ? h : uint16_t{0};
  }
  const std::vector<uint8_t> numbers = x.data.bytes();
  sequence.AddRows(std::move(x));
  for (const ops::Table* table : AllTables()) {
    const Buffer f16 = Read(*table, sequence.sequence(), 1, 256, 0, 256, ops::kF16);
    const Buffer f32 = Read(*table, sequence.sequence(), 1, 256, 0, 256, ops::kF32);
    const Buffer bf16 = Read(*table, sequence.sequence(), 1, 256, 0, 256, ops::kBF16);
    EXPECT_EQ(f16.bytes(), numbers) << table->name;
    for (uint32_t i = 0; i < 0x10000; ++i) {
      const float want = F16ToF32(f16.data<uint16_t>()[i]);
      ASSERT_EQ(std::bit_cast<uint32_t>(f32.data<float>()[i]), std::bit_cast<uint32_t>(want))
          << table->name;
      ASSERT_EQ(bf16.data<uint16_t>()[i], F32ToBF16(want)) << table->name;
    }
  }
}

// Rows come back to the bit.
TEST(Read, RowsAreExact) {
  for (const ops::Table* table : AllTables()) {
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
  for (const ops::Table* table : AllTables()) {
    const Buffer f16 = Read(*table, {&pointer, 1}, 1, 32, 0, 1, ops::kF16);
    EXPECT_EQ(f16.data<uint16_t>()[1], 0x7BFF) << table->name;
  }
}

}  // namespace
}  // namespace kvg::kernel_test
