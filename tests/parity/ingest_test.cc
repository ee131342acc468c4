// Ingest of every table against the rule: each element rounded to fp16, refused if not finite.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/half.h"
#include "kernels/ops.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::kernel_test {
namespace {

const std::vector<ops::DType> kDTypes = {ops::kF32, ops::kF16, ops::kBF16};

// A tensor with its strides, and the call that ingests it.
struct Input {
  uint32_t kv_heads, head_dim;
  uint64_t tokens;
  ops::DType dtype;
  int64_t token_stride, head_stride, dim_stride;
  int64_t first;  // index of element [0][0][0] in `data`
  Buffer data;

  int64_t Index(uint64_t token, uint64_t head, uint64_t d) const {
    return first + static_cast<int64_t>(token) * token_stride +
           static_cast<int64_t>(head) * head_stride + static_cast<int64_t>(d) * dim_stride;
  }
  void Store(uint64_t token, uint64_t head, uint64_t d, double value) {
    StoreElement(data, dtype, static_cast<uint64_t>(Index(token, head, d)), value);
  }
  float Load(uint64_t token, uint64_t head, uint64_t d) const {
    return static_cast<float>(
        LoadElement(data, dtype, static_cast<uint64_t>(Index(token, head, d))));
  }
  uint64_t rows_head_stride() const { return tokens * head_dim + 40; }

  bool Ingest(const ops::Table& table, Buffer& rows) const {
    rows = Buffer((kv_heads - 1) * rows_head_stride() * 2 + tokens * head_dim * 2);
    const ops::IngestArgs args{.x = data.data() + first * static_cast<int64_t>(SizeOf(dtype)),
                               .dtype = dtype,
                               .token_stride = token_stride,
                               .head_stride = head_stride,
                               .dim_stride = dim_stride,
                               .tokens = tokens,
                               .kv_heads = kv_heads,
                               .head_dim = head_dim,
                               .rows = rows.data<uint16_t>(),
                               .rows_head_stride = rows_head_stride()};
    return table.ingest(&args);
  }
};

// Contiguous but for `dim_step`, in either order of tokens and heads; `flip` negates all strides.
Input MakeInput(ops::DType dtype, uint32_t kv_heads, uint32_t head_dim, uint64_t tokens,
                int64_t dim_step = 1, bool heads_first = false, bool flip = false) {
  const int64_t row = int64_t{head_dim} * dim_step;
  Input input{.kv_heads = kv_heads,
              .head_dim = head_dim,
              .tokens = tokens,
              .dtype = dtype,
              .token_stride = heads_first ? row : row * kv_heads,
              .head_stride = heads_first ? row * static_cast<int64_t>(tokens) : row,
              .dim_stride = dim_step,
              .first = 0,
              .data = {}};
  // Only bytes from the first to the last element used exist.
  const int64_t last = input.Index(tokens - 1, kv_heads - 1, head_dim - 1);
  input.data = Buffer(static_cast<uint64_t>(last + 1) * SizeOf(dtype));
  if (flip) {
    input.first = last;
    input.token_stride = -input.token_stride;
    input.head_stride = -input.head_stride;
    input.dim_stride = -input.dim_stride;
  }
  Random random(tokens + head_dim);
  for (uint64_t t = 0; t < tokens; ++t) {
    for (uint64_t h = 0; h < kv_heads; ++h) {
      for (uint64_t d = 0; d < head_dim; ++d) {
        const auto exponent = static_cast<double>(random.Below(30)) - 18;
        input.Store(t, h, d, random.Normal() * std::exp2(exponent));
      }
    }
  }
  return input;
}

void ExpectRounded(const Input& input) {
  for (const ops::Table* table : AllTables()) {
    SCOPED_TRACE(table->name);
    Buffer rows;
    ASSERT_TRUE(input.Ingest(*table, rows));
    const auto* out = rows.data<const uint16_t>();
    for (uint64_t h = 0; h < input.kv_heads; ++h) {
      for (uint64_t i = 0; i < input.tokens * input.head_dim; ++i) {
        const float x = input.Load(i / input.head_dim, h, i % input.head_dim);
        ASSERT_EQ(out[h * input.rows_head_stride() + i], F32ToF16(x)) << x << " at " << i;
      }
      if (h + 1 == input.kv_heads) break;
      for (uint64_t i = input.tokens * input.head_dim; i < input.rows_head_stride(); ++i) {
        ASSERT_EQ(out[h * input.rows_head_stride() + i], 0xA5A5) << "written between the heads";
      }
    }
  }
}

TEST(Ingest, ShapesAndStrides) {
  for (const ops::DType dtype : kDTypes) {
    for (const uint32_t head_dim : {32u, 40u, 72u, 128u, 256u}) {
      for (const uint64_t tokens : {1u, 3u}) {
        SCOPED_TRACE(testing::Message() << NameOf(dtype) << " " << head_dim << " x " << tokens);
        ExpectRounded(MakeInput(dtype, 3, head_dim, tokens));
        ExpectRounded(MakeInput(dtype, 3, head_dim, tokens, 1, true));
        ExpectRounded(MakeInput(dtype, 2, head_dim, tokens, 3));
        ExpectRounded(MakeInput(dtype, 2, head_dim, tokens, 1, false, true));
        ExpectRounded(MakeInput(dtype, 2, head_dim, tokens, 2, true, true));
      }
    }
  }
}

TEST(Ingest, BroadcastByZeroStride) {
  Input input = MakeInput(ops::kF32, 2, 64, 5);
  input.token_stride = 0;
  ExpectRounded(input);
  input.dim_stride = 0;
  ExpectRounded(input);
}

TEST(Ingest, NothingToDo) {
  for (const ops::Table* table : AllTables()) {
    Input input = MakeInput(ops::kF16, 1, 32, 1);
    input.tokens = 0;
    Buffer rows;
    EXPECT_TRUE(input.Ingest(*table, rows)) << table->name;
  }
}

// Every finite fp16 number, through every type that holds it.
TEST(Ingest, EveryF16Number) {
  Input f16 = MakeInput(ops::kF16, 1, 256, 256);
  Input f32 = MakeInput(ops::kF32, 1, 256, 256);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto h = static_cast<uint16_t>(bits);
    const uint16_t finite = F16IsFinite(h) ? h : uint16_t{0};
    f16.data.data<uint16_t>()[bits] = finite;
    f32.data.data<float>()[bits] = F16ToF32(finite);
  }
  ExpectRounded(f16);
  ExpectRounded(f32);
}

// Every bf16 number that fp16 can hold; many are subnormal there.
TEST(Ingest, EveryBF16Number) {
  Input bf16 = MakeInput(ops::kBF16, 1, 256, 256);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    bf16.data.data<uint16_t>()[bits] =
        std::fabs(BF16ToF32(b)) < kF16Overflow ? b : uint16_t{0x3F80};
  }
  ExpectRounded(bf16);
}

// fp32 at, just below and just above the middle of all neighbouring fp16 numbers, of both signs.
TEST(Ingest, TiesOfF32) {
  constexpr uint64_t kLast = 0x7BFF;
  Input f32 = MakeInput(ops::kF32, 1, 256, 6 * (kLast + 1) / 256);
  float* x = f32.data.data<float>();
  for (uint64_t i = 0; i < kLast; ++i, x += 6) {
    const auto low = static_cast<uint16_t>(i);
    const float middle = (F16ToF32(low) + F16ToF32(static_cast<uint16_t>(low + 1))) / 2;
    x[0] = middle;
    x[1] = std::nextafter(middle, 0.0f);
    x[2] = std::nextafter(middle, 1e9f);
    for (int sign = 0; sign < 3; ++sign) x[3 + sign] = -x[sign];
  }
  ExpectRounded(f32);
}

struct Special {
  double value;
  bool accepted;
};

const std::vector<Special>& SpecialsOf(ops::DType dtype) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  static const std::vector<Special> f32 = {
      {kNan, false},  {-kNan, false},   {kInf, false},     {-kInf, false},   {65504, true},
      {-65504, true}, {65519.99, true}, {-65519.99, true}, {65520, false},   {-65520, false},
      {1e9, false},   {-1e9, false},    {3.4e38, false},   {-3.4e38, false}, {1e-40, true},
      {-1e-40, true}, {-0.0, true},     {0x1p-24, true},   {0x1p-25, true},  {0x1.8p-25, true}};
  static const std::vector<Special> f16 = {{kNan, false},   {-kNan, false},   {kInf, false},
                                           {-kInf, false},  {65504, true},    {-65504, true},
                                           {0x1p-24, true}, {-0x1p-24, true}, {-0.0, true}};
  static const std::vector<Special> bf16 = {{kNan, false},  {-kNan, false},  {kInf, false},
                                            {-kInf, false}, {65280, true},   {-65280, true},
                                            {65536, false}, {-65536, false}, {3e38, false},
                                            {1e-40, true},  {0x1p-25, true}, {-0.0, true}};
  return dtype == ops::kF32 ? f32 : dtype == ops::kF16 ? f16 : bf16;
}

// One special value in each place where a vectorised loop might look away: first, last, tail.
TEST(Ingest, SpecialValuesAnywhere) {
  for (const ops::DType dtype : kDTypes) {
    for (const uint32_t head_dim : {40u, 128u}) {
      for (const int64_t dim_step : {1, 2}) {
        for (const Special& special : SpecialsOf(dtype)) {
          for (const uint32_t d : {0u, 1u, 17u, head_dim - 8, head_dim - 1}) {
            for (const uint64_t token : {0u, 2u}) {
              Input input = MakeInput(dtype, 2, head_dim, 3, dim_step);
              input.Store(token, d % 2, d, special.value);
              for (const ops::Table* table : AllTables()) {
                Buffer rows;
                ASSERT_EQ(input.Ingest(*table, rows), special.accepted)
                    << table->name << ' ' << NameOf(dtype) << ' ' << special.value << " at " << d;
                if (!special.accepted) continue;
                const uint64_t at = d % 2 * input.rows_head_stride() + token * head_dim + d;
                ASSERT_EQ(rows.data<uint16_t>()[at], F32ToF16(input.Load(token, d % 2, d)))
                    << table->name << ' ' << NameOf(dtype) << ' ' << special.value;
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvg::kernel_test
