// Attention of every table against the reference, over every kind of piece.
//
// Bounds are shares of the largest decoded value among the tokens that a query sees, since the
// result is a mean of those. To them comes the rounding of the output type.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "core/model/recipe.h"
#include "kernels/half.h"
#include "kernels/ops.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::kernel_test {
namespace {

struct Share {
  double base;
  double per_logit;  // times scale * sum of |q| |k|, the largest there is
};
// Where both sides are fp16 rows: sums in fp32.
constexpr Share kRowsError = {5e-6, 0x1p-20};
// Where there are codes: queries and weights may be 16-bit integers.
constexpr Share kCodesError = {3e-4, 0x1p-14};
// On a GPU, whatever there is: queries and weights are fp16, and may be multiplied by a scale in fp16.
constexpr Share kCudaError = {1e-3, 0x1p-11};

bool IsCuda(const ops::Table& table) { return std::string_view(table.name) == "cuda"; }

double RoundingOf(ops::DType dtype) {
  return dtype == ops::kF32 ? 0 : dtype == ops::kF16 ? 0x1p-11 : 0x1p-8;
}

bool HasMap(const ops::Sequence& side) {
  return std::any_of(side.pieces, side.pieces + side.count,
                     [](const ops::Piece* piece) { return piece->map != nullptr; });
}

// Largest |v| of each token and KV head; with a map, which may turn a row into any direction and
// back, its length.
std::vector<double> LargestValues(const AttendShape& shape, const ops::AttendItem& item) {
  const Buffer v = Read(ops::ReferenceTable(), item.v, shape.kv_heads, shape.head_dim, 0,
                        item.length, ops::kF32);
  std::vector<double> largest(item.length * shape.kv_heads);
  for (uint64_t i = 0; i < largest.size() * shape.head_dim; ++i) {
    double& row = largest[i / shape.head_dim];
    const double x = LoadElement(v, ops::kF32, i);
    row = HasMap(item.v) ? std::hypot(row, x) : std::max(row, std::fabs(x));
  }
  return largest;
}

bool Sees(const AttendShape& shape, uint64_t length, uint32_t query, uint64_t token) {
  const auto own = static_cast<int64_t>(length - shape.queries + query);
  const auto t = static_cast<int64_t>(token);
  if (shape.causal && t > own) return false;
  return shape.sliding_window == 0 || t > own - static_cast<int64_t>(shape.sliding_window);
}

// Elements between the rows must keep the junk that the buffer started with.
void ExpectGapsUntouched(const AttendShape& shape, const Buffer& out) {
  const Strides strides = shape.out_strides();
  std::vector<bool> written(strides.elements);
  for (uint32_t query = 0; query < shape.queries; ++query) {
    for (uint32_t head = 0; head < shape.q_heads; ++head) {
      for (uint32_t d = 0; d < shape.head_dim; ++d) written[strides.Index(query, head, d)] = true;
    }
  }
  const size_t size = SizeOf(shape.out_dtype);
  for (uint64_t i = 0; i < out.size(); ++i) {
    if (!written[i / size]) {
      ASSERT_EQ(out.data()[i], 0xA5) << "element " << i / size;
    }
  }
}

bool HasCodes(const ops::Sequence& side) {
  return std::any_of(side.pieces, side.pieces + side.count,
                     [](const ops::Piece* piece) { return piece->kind == ops::kCodes; });
}

// The largest scale * sum of |q| |k| over all tokens, [query * q_heads + head]; with a map, the
// product of their lengths.
std::vector<double> LargestLogits(const AttendCall& call, uint64_t item) {
  const AttendShape& shape = call.shape();
  const uint64_t length = call.item(item).length;
  const Buffer k = Read(ops::ReferenceTable(), call.item(item).k, shape.kv_heads, shape.head_dim, 0,
                        length, ops::kF32);
  const bool mapped = HasMap(call.item(item).k);
  std::vector<double> largest;
  std::vector<float> q(shape.head_dim);
  for (uint32_t query = 0; query < shape.queries; ++query) {
    for (uint32_t head = 0; head < shape.q_heads; ++head) {
      for (uint32_t d = 0; d < shape.head_dim; ++d) {
        q[d] = static_cast<float>(call.Query(item, query, head, d));
      }
      const uint32_t kv_head = head / (shape.q_heads / shape.kv_heads);
      float most = 0;
      for (uint64_t token = 0; token < length; ++token) {
        const float* row = k.data<float>() + (token * shape.kv_heads + kv_head) * shape.head_dim;
        float sum = 0;
        float k_sq = 0;
        float q_sq = 0;
        for (uint32_t d = 0; d < shape.head_dim; ++d) {
          sum += std::fabs(q[d] * row[d]);
          k_sq += row[d] * row[d];
          q_sq += q[d] * q[d];
        }
        most = std::max(most, mapped ? std::sqrt(k_sq) * std::sqrt(q_sq) : sum);
      }
      largest.push_back(static_cast<double>(most * shape.EffectiveScale()));
    }
  }
  return largest;
}

// What is allowed for one item, [query * q_heads + head].
std::vector<double> Bounds(const AttendCall& call, uint64_t i, bool cuda) {
  const AttendShape& shape = call.shape();
  const ops::AttendItem& item = call.item(i);
  const Share share = cuda                                   ? kCudaError
                      : HasCodes(item.k) || HasCodes(item.v) ? kCodesError
                                                             : kRowsError;
  const std::vector<double> logits = LargestLogits(call, i);
  const std::vector<double> values = LargestValues(shape, item);
  std::vector<double> bounds;
  for (uint32_t query = 0; query < shape.queries; ++query) {
    for (uint32_t head = 0; head < shape.q_heads; ++head) {
      const uint32_t kv_head = head / (shape.q_heads / shape.kv_heads);
      double most = 0;
      for (uint64_t token = 0; token < item.length; ++token) {
        if (!Sees(shape, item.length, query, token)) continue;
        most = std::max(most, values[token * shape.kv_heads + kv_head]);
      }
      const double kernel = share.base + share.per_logit * logits[bounds.size()];
      bounds.push_back(most * (kernel + RoundingOf(shape.out_dtype)) + 0x1p-24);
    }
  }
  return bounds;
}

void Compare(const AttendCall& call) {
  const AttendShape& shape = call.shape();
  SCOPED_TRACE(shape.Describe());
  // The reference's own answer, before it is rounded to the output type.
  const std::vector<Buffer> want = call.Run(ops::ReferenceTable(), Serial(), ops::kF32);
  const bool cuda = IsCuda(*AllTables().front());
  std::vector<std::vector<double>> bounds;
  for (uint64_t i = 0; i < call.items(); ++i) bounds.push_back(Bounds(call, i, cuda));
  const Strides strides = shape.out_strides();
  for (const ops::Table* table : AllTables()) {
    SCOPED_TRACE(table->name);
    const std::vector<Buffer> got = call.Run(*table, Serial());
    for (uint64_t i = 0; i < call.items(); ++i) {
      for (uint32_t query = 0; query < shape.queries; ++query) {
        for (uint32_t head = 0; head < shape.q_heads; ++head) {
          const double bound = bounds[i][query * shape.q_heads + head];
          for (uint32_t d = 0; d < shape.head_dim; ++d) {
            const uint64_t at = strides.Index(query, head, d);
            ASSERT_NEAR(LoadElement(got[i], shape.out_dtype, at),
                        LoadElement(want[i], ops::kF32, at), bound)
                << "item " << i << " query " << query << " head " << head << " direction " << d;
          }
        }
      }
      ExpectGapsUntouched(shape, got[i]);
    }
    const std::vector<Buffer> shared = call.Run(*table, Backwards());
    for (uint64_t i = 0; i < call.items(); ++i) {
      ASSERT_EQ(shared[i].bytes(), got[i].bytes()) << "item " << i << " differs with 3 workers";
    }
  }
}

// One sequence, both sides built by `build(builder)`.
template <typename Build>
void CompareOne(const AttendShape& shape, uint64_t seed, const Build& build) {
  SequenceBuilder k(ops::kSideK, shape.kv_heads, shape.head_dim);
  SequenceBuilder v(ops::kSideV, shape.kv_heads, shape.head_dim);
  build(k);
  build(v);
  AttendCall call(shape, seed);
  call.Add(k, v);
  Compare(call);
}

// Codes of a typical recipe: keys by channel, values by token, rank and outliers if asked for.
Form Typical(ops::Side side, uint8_t width, const AttendShape& shape, uint64_t tokens,
             bool residual) {
  const ops::Axis axis = side == ops::kSideK ? ops::kAxisChannel : ops::kAxisToken;
  Form form = UniformForm(side, axis, 32, width, shape.kv_heads, shape.head_dim, tokens);
  if (residual) {
    form.spec.rank = 4;
    form.spec.outliers = side == ops::kSideK ? tokens / 40 : shape.kv_heads * shape.head_dim / 40;
  }
  return form;
}

TEST(Attend, EveryWidthAxisAndGroup) {
  const AttendShape shape{.q_heads = 4, .kv_heads = 1, .head_dim = 72};
  for (const uint8_t width : kWidths) {
    for (const uint32_t group : {16u, 32u, 64u, 128u}) {
      for (const ops::Axis axis : {ops::kAxisToken, ops::kAxisChannel}) {
        if (axis == ops::kAxisChannel && group == 16) continue;
        SCOPED_TRACE(testing::Message()
                     << "width " << int{width} << " group " << group << " axis " << axis);
        for (const ops::Side coded : {ops::kSideK, ops::kSideV}) {
          CompareOne(shape, width, [&](SequenceBuilder& side) {
            if (side.side() == coded) {
              side.AddCodes(UniformForm(coded, axis, group, width, 1, 72, 70), Data::kNoise, group);
            } else {
              side.AddRows(70, Data::kNoise, group);
            }
          });
        }
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Attend, HeadDims) {
  for (const uint32_t head_dim :
       {32u, 40u, 64u, 72u, 80u, 88u, 96u, 104u, 112u, 120u, 128u, 136u, 192u, 248u, 256u}) {
    for (const bool residual : {false, true}) {
      const AttendShape shape{.q_heads = 4, .kv_heads = 2, .head_dim = head_dim, .queries = 2};
      CompareOne(shape, head_dim, [&](SequenceBuilder& side) {
        side.AddCodes(Typical(side.side(), 2, shape, 64, residual), Data::kOutliers, 1);
        side.AddCodes(Typical(side.side(), 4, shape, 32, residual), Data::kNoise, 2);
        side.AddRows(5, Data::kNoise, 3);
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Attend, QueryGroups) {
  std::vector<uint32_t> groups = {64, 71};
  for (uint32_t group = 1; group <= 17; ++group) groups.push_back(group);
  for (const uint32_t group : groups) {
    for (const uint32_t queries : {1u, 3u}) {
      const AttendShape shape{
          .q_heads = 2 * group, .kv_heads = 2, .head_dim = 64, .queries = queries};
      CompareOne(shape, group, [&](SequenceBuilder& side) {
        side.AddCodes(Typical(side.side(), 3, shape, 64, true), Data::kNoise, group);
        side.AddRows(6, Data::kNoise, group);
      });
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Attend, MasksAndCaps) {
  for (uint32_t queries = 1; queries <= 16; ++queries) {
    for (const bool causal : {true, false}) {
      for (const uint64_t window : {0u, 1u, 7u, 33u, 1000u}) {
        AttendShape shape{.q_heads = 2, .kv_heads = 1, .head_dim = 32, .queries = queries};
        shape.causal = causal;
        shape.sliding_window = window;
        shape.softcap = queries % 2 == 0 ? 2.5f : 0.0f;
        shape.scale = queries % 4 == 1 ? 0.7f : 0.0f;
        CompareOne(shape, queries, [&](SequenceBuilder& side) {
          side.AddCodes(Typical(side.side(), 4, shape, 64, queries % 3 == 0), Data::kNoise, 1);
          // The newest queries see different numbers of tokens of this page.
          side.AddCodes(Typical(side.side(), 2, shape, 35, false), Data::kNoise, 2);
          if (queries % 2 == 1) side.AddRows(3, Data::kNoise, 3);
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

// Keys of zero weigh all tokens alike, and values of 0 and 1 are exact in codes of any width. So an
// output is the share of tokens with a 1 among those seen, and one token too many or too few shows.
TEST(Attend, SeesExactlyItsTokens) {
  const uint32_t head_dim = 40;
  const auto value = [](uint64_t token, uint32_t d) { return token % 3 == d % 3 ? 1.0f : 0.0f; };
  for (const uint64_t length : {5u, 31u, 32u, 64u, 90u, 200u}) {
    for (const bool coded : {false, true}) {
      for (const uint32_t queries : {1u, 2u, 5u, 16u}) {
        if (queries > length) continue;
        for (const bool causal : {true, false}) {
          for (const uint64_t window : {0u, 1u, 2u, 31u, 32u, 33u, 64u, 190u, 1000u}) {
            AttendShape shape{.q_heads = 3, .kv_heads = 1, .head_dim = head_dim};
            shape.queries = queries;
            shape.causal = causal;
            shape.sliding_window = window;
            SCOPED_TRACE(shape.Describe());
            Rows ones = ZeroRows(1, length, head_dim);
            for (uint64_t t = 0; t < length; ++t) {
              for (uint32_t d = 0; d < head_dim; ++d) ones.Store(0, t, d, value(t, d));
            }
            SequenceBuilder k(ops::kSideK, 1, head_dim);
            SequenceBuilder v(ops::kSideV, 1, head_dim);
            if (coded) {
              k.AddCodes(Typical(ops::kSideK, 4, shape, length, false),
                         ZeroRows(1, length, head_dim));
              v.AddCodes(Typical(ops::kSideV, length % 2 == 0 ? 1 : 2, shape, length, false), ones);
            } else {
              k.AddRows(ZeroRows(1, length, head_dim));
              v.AddRows(std::move(ones));
            }
            AttendCall call(shape, 1);
            call.Add(k, v);
            for (const ops::Table* table : AllTables()) {
              const std::vector<Buffer> out = call.Run(*table, Serial());
              for (uint32_t query = 0; query < queries; ++query) {
                double seen = 0;
                double hits[3] = {};
                for (uint64_t t = 0; t < length; ++t) {
                  if (!Sees(shape, length, query, t)) continue;
                  ++seen;
                  ++hits[t % 3];
                }
                for (uint32_t i = 0; i < 3 * head_dim; ++i) {
                  const uint64_t at = shape.out_strides().Index(query, i / head_dim, i % head_dim);
                  ASSERT_NEAR(LoadElement(out[0], ops::kF32, at), hits[i % head_dim % 3] / seen,
                              (IsCuda(*table) ? kCudaError : coded ? kCodesError : kRowsError).base)
                      << table->name << " length " << length << " query " << query;
                }
              }
            }
          }
        }
      }
    }
  }
}

TEST(Attend, Lengths) {
  for (const uint64_t length : {1u, 2u, 15u, 16u, 17u, 31u, 32u, 33u, 63u, 64u, 65u, 96u}) {
    for (const bool rows : {false, true}) {
      for (const uint32_t queries : {1u, 8u}) {
        if (queries > length) continue;
        const AttendShape shape{.q_heads = 2, .kv_heads = 1, .head_dim = 40, .queries = queries};
        CompareOne(shape, length, [&](SequenceBuilder& side) {
          if (rows) {
            side.AddRows(length, Data::kNoise, length);
          } else {
            Form form = Typical(side.side(), 3, shape, length, true);
            form.padded_tokens = 128;
            side.AddCodes(form, Data::kNoise, length);
          }
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(Attend, EdgesOfPiecesDiffer) {
  const AttendShape shape{.q_heads = 6, .kv_heads = 2, .head_dim = 64, .queries = 4};
  SequenceBuilder k(ops::kSideK, 2, 64);
  k.AddCodes(Typical(ops::kSideK, 2, shape, 96, true), Data::kOutliers, 1);
  k.AddCodes(Typical(ops::kSideK, 4, shape, 32, false), Data::kNoise, 2);
  k.AddRows(40, Data::kNoise, 3);
  SequenceBuilder v(ops::kSideV, 2, 64);
  v.AddCodes(Typical(ops::kSideV, 3, shape, 32, false), Data::kNoise, 4);
  v.AddCodes(Typical(ops::kSideV, 2, shape, 32, true), Data::kOutliers, 5);
  Form page = Typical(ops::kSideV, 6, shape, 99, false);
  page.padded_tokens = 160;
  v.AddCodes(page, Data::kNoise, 6);
  v.AddRows(5, Data::kNoise, 7);
  ASSERT_EQ(k.length(), v.length());
  AttendCall call(shape, 1);
  call.Add(k, v);
  Compare(call);
}

TEST(Attend, DataTypesAndStrides) {
  const std::vector<Order> orders = {
      {}, {.gap = 5}, {.heads_first = true}, {.gap = 3, .heads_first = true}};
  for (const ops::DType q : {ops::kF32, ops::kF16, ops::kBF16}) {
    for (const ops::DType out : {ops::kF32, ops::kF16, ops::kBF16}) {
      for (uint32_t i = 0; i < orders.size(); ++i) {
        const AttendShape shape{.q_heads = 4,
                                .kv_heads = 2,
                                .head_dim = 72,
                                .queries = 3,
                                .q_dtype = q,
                                .out_dtype = out,
                                .q_order = orders[i],
                                .out_order = orders[(i + 1) % orders.size()]};
        CompareOne(shape, 1, [&](SequenceBuilder& side) {
          side.AddCodes(Typical(side.side(), 3, shape, 64, true), Data::kNoise, 2);
          side.AddRows(9, Data::kNoise, 3);
        });
        if (HasFatalFailure()) return;
      }
    }
  }
}

// One side of a recipe as the forms that its segments take.
Form FormOf(const SideRecipe& recipe, ops::Side side, const AttendShape& shape, uint64_t tokens,
            uint32_t rank) {
  const bool by_channel = recipe.axis == ops::kAxisChannel;
  const auto longest = static_cast<uint32_t>(by_channel ? tokens : shape.head_dim);
  const bool whole = recipe.group == SideRecipe::kWhole || recipe.group > longest;
  Form form =
      UniformForm(side, recipe.axis, whole ? longest : recipe.group,
                  static_cast<uint8_t>(recipe.bits), shape.kv_heads, shape.head_dim, tokens);
  form.spec.heads_share_scale = recipe.group == SideRecipe::kAllHeads;
  const uint64_t vector = side == ops::kSideK ? tokens : shape.kv_heads * shape.head_dim;
  form.spec.outliers = static_cast<uint64_t>(recipe.outliers * static_cast<double>(vector) / 2);
  form.spec.rank = rank;
  form.spec.sweeps = recipe.sweeps;
  return form;
}

// A prompt, sealed in segments, then blocks of decoding or a page that is open, then the window.
void AddRecipe(SequenceBuilder& side, const SideRecipe& recipe, const AttendShape& shape,
               uint64_t prompt, uint64_t decode, uint64_t window) {
  if (recipe.bits == 16) return side.AddRows(prompt + decode + window, Data::kNoise, prompt);
  for (uint64_t done = 0; done < prompt; done += recipe.segment) {
    const uint64_t tokens = std::min<uint64_t>(recipe.segment, prompt - done);
    side.AddCodes(FormOf(recipe, side.side(), shape, tokens, recipe.rank), Data::kOutliers, done);
  }
  if (recipe.block == 1) {
    Form page = FormOf(recipe, side.side(), shape, decode + window / 2, 0);
    page.padded_tokens = ops::PadTokens(decode + window);
    side.AddCodes(page, Data::kNoise, 7);
    return side.AddRows(window - window / 2, Data::kNoise, 8);
  }
  for (uint64_t done = 0; done < decode; done += 64) {
    side.AddCodes(FormOf(recipe, side.side(), shape, 64, recipe.decode_rank), Data::kNoise, done);
  }
  side.AddRows(window, Data::kNoise, 9);
}

TEST(Attend, NamedRecipes) {
  for (uint32_t i = 0; RecipeName(i) != nullptr; ++i) {
    SCOPED_TRACE(RecipeName(i));
    const auto recipe = ParseRecipe(RecipeName(i));
    ASSERT_TRUE(recipe.ok());
    for (const uint64_t prompt : {320u, 2240u}) {
      const AttendShape shape{.q_heads = 3, .kv_heads = 1, .head_dim = 64, .queries = 2};
      CompareOne(shape, i, [&](SequenceBuilder& side) {
        const SideRecipe& of_side = side.side() == ops::kSideK ? recipe->k : recipe->v;
        AddRecipe(side, of_side, shape, prompt, 128, 67);
      });
      if (HasFatalFailure()) return;
    }
  }
}

// Every token holds as many sparse entries as the format allows.
TEST(Attend, FullSparsePart) {
  const AttendShape shape{.q_heads = 5, .kv_heads = 1, .head_dim = 256, .queries = 2};
  CompareOne(shape, 1, [&](SequenceBuilder& side) {
    for (const uint64_t tokens : {64u, 40u}) {
      Form form = Typical(side.side(), 2, shape, tokens, true);
      form.spec.outliers = side.side() == ops::kSideK ? tokens / 2 : 128;
      side.AddCodes(form, Data::kOutliers, tokens);
    }
  });
}

// A page that was cut holds codes and scales of tokens that are no more. These were large, and must
// not cost the others their precision.
TEST(Attend, TokensCutOffAPage) {
  for (const uint64_t cut : {1u, 9u, 31u, 33u, 63u}) {
    const AttendShape shape{.q_heads = 2, .kv_heads = 1, .head_dim = 64, .queries = 2};
    Rows x = MakeRows(Data::kNoise, 2, 1, 70, 64);
    for (uint64_t t = 70 - cut; t < 70; ++t) {
      for (uint32_t d = 0; d < 64; ++d) {
        x.Store(0, t, d, 9000.0f * F16ToF32(x.x()[x.Index(0, t, d)]));
      }
    }
    CompareOne(shape, cut, [&](SequenceBuilder& side) {
      side.AddCodes(Typical(side.side(), 4, shape, 64, true), Data::kNoise, 1);
      Form page = UniformForm(side.side(), ops::kAxisToken, 32, 2, 1, 64, 70);
      page.padded_tokens = 128;
      side.AddCodes(page, x, cut);
      side.AddRows(3, Data::kNoise, 3);
    });
    if (HasFatalFailure()) return;
  }
}

// Logits that rise, for some heads, and fall, for others, all along the sequence, so that every
// part of the sums is scaled down again and again. Half of the directions of the first values are
// large.
TEST(Attend, MaximumMovesAlongTheSequence) {
  enum class Part { kCodes, kLowRank, kSparse };  // what holds most of the values
  constexpr uint64_t kTokens = 864;
  for (const uint32_t q_heads : {1u, 3u, 8u}) {
    const uint32_t head_dim = q_heads == 3 ? 256 : 40;
    for (const ops::Axis axis : {ops::kAxisToken, ops::kAxisChannel}) {
      for (const Part part : {Part::kCodes, Part::kLowRank, Part::kSparse}) {
        const AttendShape shape{
            .q_heads = q_heads, .kv_heads = 1, .head_dim = head_dim, .queries = 2};
        Rows keys = ZeroRows(1, kTokens, head_dim);
        Rows values = MakeRows(Data::kNoise, 1, 1, kTokens, head_dim);
        for (uint64_t t = 0; t < kTokens; ++t) {
          for (uint32_t d = 0; d < head_dim; ++d) {
            keys.Store(0, t, d, 4.0f * static_cast<float>(t) / kTokens * (d % 3 == 0 ? -1 : 1));
            if (t < 256 && d % 2 == 0) values.Store(0, t, d, 20);
          }
        }
        for (const uint64_t seed : {1u, 2u}) {
          SequenceBuilder k(ops::kSideK, 1, head_dim);
          SequenceBuilder v(ops::kSideV, 1, head_dim);
          Form k_form = UniformForm(ops::kSideK, axis, 32, 8, 1, head_dim, kTokens);
          Form v_form = UniformForm(ops::kSideV, axis, 32, part == Part::kLowRank ? 0 : 4, 1,
                                    head_dim, kTokens);
          if (part == Part::kLowRank) k_form.spec.rank = v_form.spec.rank = 3;
          if (part == Part::kSparse) {
            k_form.spec.outliers = 20;
            v_form.spec.outliers = head_dim / 2;  // all
          }
          k.AddCodes(k_form, keys);
          v.AddCodes(v_form, values);
          k.AddRows(3, Data::kNoise, 2);
          v.AddRows(3, Data::kNoise, 3);
          AttendCall call(shape, seed);
          call.Add(k, v);
          Compare(call);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Many queries at once, as a prompt has them.
TEST(Attend, Prompt) {
  for (const uint64_t window : {0u, 20u}) {
    AttendShape shape{.q_heads = 4, .kv_heads = 2, .head_dim = 64, .queries = 75};
    shape.sliding_window = window;
    CompareOne(shape, window, [&](SequenceBuilder& side) {
      side.AddCodes(Typical(side.side(), 4, shape, 64, true), Data::kNoise, 1);
      side.AddRows(75, Data::kNoise, 2);
    });
  }
}

TEST(Attend, RandomSequences) {
  Random random(2);
  for (int i = 0; i < 120; ++i) {
    AttendShape shape;
    shape.kv_heads = static_cast<uint32_t>(1 + random.Below(2));
    shape.q_heads = shape.kv_heads * static_cast<uint32_t>(1 + random.Below(6));
    shape.head_dim = static_cast<uint32_t>(32 + 8 * random.Below(random.Chance(0.8) ? 8 : 29));
    shape.out_dtype = random.Pick<ops::DType>({ops::kF32, ops::kF16, ops::kBF16});
    shape.q_dtype = random.Pick<ops::DType>({ops::kF32, ops::kF16, ops::kBF16});
    shape.q_order = {.gap = static_cast<uint32_t>(random.Below(2) * 7),
                     .heads_first = random.Chance(0.3)};
    shape.out_order = {.gap = static_cast<uint32_t>(random.Below(2) * 3),
                       .heads_first = random.Chance(0.3)};
    shape.q_deviation = random.Pick<double>({0.3, 1, 3, 10});
    shape.causal = random.Chance(0.8);
    if (random.Chance(0.3)) shape.sliding_window = 1 + random.Below(100);
    if (random.Chance(0.3)) shape.softcap = 4;
    const std::vector<Data> data = {Data::kNoise, Data::kOutliers, Data::kLowRank, Data::kConstant,
                                    Data::kTies};
    SequenceBuilder k(ops::kSideK, shape.kv_heads, shape.head_dim);
    SequenceBuilder v(ops::kSideV, shape.kv_heads, shape.head_dim);
    const uint64_t length = 1 + random.Below(200);
    for (SequenceBuilder* side : {&k, &v}) {
      while (side->length() < length) {
        const uint64_t left = length - side->length();
        const uint64_t tokens = std::min(left, 32 * (1 + random.Below(4)));
        if (random.Chance(0.25)) {
          side->AddRows(left, random.Pick(data), random.Next());
        } else {
          side->AddCodes(RandomForm(random, side->side(), shape.kv_heads, shape.head_dim, tokens),
                         random.Pick(data), random.Next());
        }
      }
    }
    shape.queries = static_cast<uint32_t>(1 + random.Below(std::min<uint64_t>(16, length)));
    SCOPED_TRACE(testing::Message() << "case " << i << " length " << length);
    AttendCall call(shape, random.Next());
    call.Add(k, v);
    Compare(call);
    if (HasFatalFailure()) return;
  }
}

// More tokens than one unit of work, several sequences, several threads: still the same bits.
TEST(Attend, LongBatchOnThreads) {
  AttendShape shape{.q_heads = 4, .kv_heads = 2, .head_dim = 32, .queries = 2};
  shape.out_dtype = ops::kF16;
  std::vector<std::unique_ptr<SequenceBuilder>> sides;
  AttendCall call(shape, 3);
  for (const uint64_t tokens : {4800u, 2048u, 64u, 2080u}) {
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      sides.push_back(std::make_unique<SequenceBuilder>(side, 2, 32));
      for (uint64_t done = 0; done < tokens; done += 1024) {
        sides.back()->AddCodes(
            Typical(side, 2, shape, std::min<uint64_t>(1024, tokens - done), false), Data::kNoise,
            done);
      }
      sides.back()->AddRows(70, Data::kNoise, tokens);
    }
    call.Add(*sides[sides.size() - 2], *sides.back());
  }
  Compare(call);
  for (const ops::Table* table : CpuTables()) {
    const std::vector<Buffer> serial = call.Run(*table, Serial());
    const std::vector<Buffer> threads = call.Run(*table, Threads());
    for (uint64_t i = 0; i < call.items(); ++i) {
      ASSERT_EQ(serial[i].bytes(), threads[i].bytes()) << table->name << " item " << i;
    }
  }
}

// A window that ends whole units of work before the newest token leaves them out without NaN.
TEST(Attend, WindowSkipsWholeUnits) {
  AttendShape shape{.q_heads = 2, .kv_heads = 1, .head_dim = 32, .queries = 3};
  shape.sliding_window = 5;
  CompareOne(shape, 4, [&](SequenceBuilder& side) {
    side.AddCodes(Typical(side.side(), 2, shape, 4096, false), Data::kNoise, 5);
    side.AddCodes(Typical(side.side(), 2, shape, 64, false), Data::kNoise, 6);
  });
}

// Logits in the thousands: one token takes all the weight, and nothing overflows on the way.
TEST(Attend, LargeLogitsStayFinite) {
  AttendShape shape{.q_heads = 4, .kv_heads = 1, .head_dim = 64, .queries = 2};
  shape.q_deviation = 1000;
  SequenceBuilder k(ops::kSideK, 1, 64);
  SequenceBuilder v(ops::kSideV, 1, 64);
  for (SequenceBuilder* side : {&k, &v}) {
    side->AddCodes(Typical(side->side(), 4, shape, 96, true), Data::kOutliers, 7);
    side->AddRows(10, Data::kOutliers, 8);
  }
  AttendCall call(shape, 9);
  call.Add(k, v);
  const std::vector<double> largest = LargestValues(shape, call.item(0));
  const double most = *std::max_element(largest.begin(), largest.end());
  for (const ops::Table* table : CpuTables()) {
    const Buffer out = std::move(call.Run(*table, Serial())[0]);
    for (uint64_t i = 0; i < out.size() / sizeof(float); ++i) {
      const double value = LoadElement(out, ops::kF32, i);
      ASSERT_TRUE(std::isfinite(value)) << table->name;
      ASSERT_LE(std::fabs(value), most * (1 + (IsCuda(*table) ? kCudaError : kCodesError).base))
          << table->name;
    }
  }
}

// Values up to the end of fp16, as in a layer with massive activations.
TEST(Attend, ExtremeValues) {
  AttendShape shape{.q_heads = 2, .kv_heads = 1, .head_dim = 64};
  SequenceBuilder k(ops::kSideK, 1, 64);
  SequenceBuilder v(ops::kSideV, 1, 64);
  k.AddRows(90, Data::kNoise, 10);
  Form form = Typical(ops::kSideV, 4, shape, 64, true);
  v.AddCodes(form, Data::kExtreme, 11);
  v.AddCodes(UniformForm(ops::kSideV, ops::kAxisToken, 64, 0, 1, 64, 26), Data::kTiny, 12);
  AttendCall call(shape, 13);
  call.Add(k, v);
  Compare(call);
}

}  // namespace
}  // namespace kvg::kernel_test
