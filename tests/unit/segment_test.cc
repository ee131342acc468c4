// Segments: forms that a recipe resolves to, the layout of the payload, copies, errors.
#include "core/codec/segment.h"

#include <algorithm>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"
#include "tests/support/recipes.h"

namespace kvg::test {
namespace {

SegmentForm FormOf(const std::string& recipe, ops::Side side, const Shape& shape, uint64_t tokens,
                   bool decode) {
  const Recipe r = MakeRecipe(recipe);
  return SegmentForm::Of(side == ops::kSideK ? r.k : r.v, shape, side, tokens, decode);
}

constexpr Shape kShape{.layers = 1, .q_heads = 4, .kv_heads = 4, .head_dim = 72};

TEST(SegmentForm, GroupsFollowTheAxis) {
  EXPECT_EQ(FormOf("gear-2", ops::kSideK, kShape, 1024, false).spec.group, 64u);
  EXPECT_EQ(FormOf("kcvt-4", ops::kSideK, kShape, 1024, false).spec.group, 1024u);
  EXPECT_EQ(FormOf("kcvt-4", ops::kSideK, kShape, 64, true).spec.group, 64u);
  EXPECT_EQ(FormOf("gear-2", ops::kSideV, kShape, 1024, false).spec.group, 64u);
  // A group as long as the head, or longer, is the head with its padding.
  EXPECT_EQ(FormOf("gear-2,v.group=whole", ops::kSideV, kShape, 64, true).spec.group, 80u);
  EXPECT_EQ(FormOf("gear-2,v.group=256", ops::kSideV, kShape, 64, true).spec.group, 80u);
  EXPECT_FALSE(FormOf("gear-2", ops::kSideV, kShape, 64, true).spec.heads_share_scale);
  EXPECT_TRUE(FormOf("kcvt-4", ops::kSideV, kShape, 64, true).spec.heads_share_scale);
  EXPECT_EQ(FormOf("fp16", ops::kSideV, kShape, 64, true).kind, ops::kRows);
}

TEST(SegmentForm, RanksAndOutliersFollowTheSegment) {
  const std::string text = "gear-2,rank_fit=0,rank=4,decode_rank=2,outliers=0.02";
  EXPECT_EQ(FormOf(text, ops::kSideK, kShape, 128, false).spec.rank, 4u);
  EXPECT_EQ(FormOf(text, ops::kSideK, kShape, 64, true).spec.rank, 2u);
  // K: along the tokens of the segment. V: along all heads of a token, whatever the segment.
  for (const auto& [tokens, k] :
       {std::pair<uint64_t, uint64_t>{64, 0}, {128, 1}, {1024, 10}, {8192, 81}}) {
    EXPECT_EQ(FormOf(text, ops::kSideK, kShape, tokens, false).spec.outliers, k) << tokens;
    EXPECT_EQ(FormOf(text, ops::kSideV, kShape, tokens, false).spec.outliers, 2u);  // 288 entries
  }
  // floor(0.02 * 300 / 2) is 3, although the product in binary falls short of it.
  EXPECT_EQ(FormOf("gear-2,outliers=0.3", ops::kSideK, kShape, 1280, false).spec.outliers, 192u);
  EXPECT_EQ(FormOf("gear-2,outliers=0.07", ops::kSideK, kShape, 3200, false).spec.outliers, 112u);
}

TEST(SegmentForm, FittedRanksCostLessThanTheNextWidth) {
  const Shape wide{.layers = 1, .q_heads = 4, .kv_heads = 4, .head_dim = 128};
  const auto rank = [](const std::string& text, const Shape& shape, uint64_t tokens) {
    return FormOf(text, ops::kSideK, shape, tokens, false).spec.rank;
  };
  // 16 * (1024 + 128) bits each, against 1024 * 128 for a third bit: 7.1 times as much.
  EXPECT_EQ(rank("gear-2,rank=16", wide, 1024), 7u);
  // 16 * (128 + 128) go into 128 * 128 exactly four times, and four would cost as much.
  EXPECT_EQ(rank("gear-2,rank=16", wide, 128), 3u);
  EXPECT_EQ(rank("gear-2,rank=2", wide, 1024), 2u);
  EXPECT_EQ(rank("gear-2,rank=16,rank_fit=0", wide, 128), 16u);
  // Behind 4 bits come 6.
  EXPECT_EQ(rank("gear-4,rank=16", wide, 1024), 14u);
  EXPECT_EQ(rank("gear-4", wide, 1024), 4u);
  EXPECT_EQ(rank("gear-2", {.layers = 1, .q_heads = 1, .kv_heads = 1, .head_dim = 64}, 1024), 3u);
}

class EveryRecipe : public testing::TestWithParam<std::string> {};

TEST_P(EveryRecipe, ArraysLieInsideTheAllocationAlignedAndApart) {
  Memory memory(SystemAllocator(), 0);
  HostExecutor executor(memory, ops::ReferenceTable(), {nullptr, 1, nullptr});
  for (const uint32_t dim : {32u, 72u, 256u}) {
    for (const uint64_t tokens : {uint64_t{128}, uint64_t{1024}}) {
      for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
        const Shape shape{.layers = 1, .q_heads = 3, .kv_heads = 3, .head_dim = dim};
        const SegmentForm form = FormOf(GetParam(), side, shape, tokens, false);
        const SegmentRef segment = Segment::Create(executor, form, 64);
        EXPECT_EQ(memory.held(), segment->allocated());
        const ops::Piece& p = segment->piece();
        EXPECT_EQ(p.first_token, 64u);
        EXPECT_EQ(p.tokens, 0u);
        EXPECT_EQ(p.padded_tokens, tokens);
        EXPECT_EQ(segment->room(), tokens);
        const uint64_t dirs = ops::PadDirs(dim), blocks = tokens / 32;
        struct Array {
          const void* at;
          uint64_t bytes, align;
        };
        std::vector<Array> arrays;
        if (form.kind == ops::kRows) {
          arrays = {{p.rows, 3 * tokens * dim * 2, 64}};
        } else {
          const uint64_t groups = p.axis == ops::kAxisChannel
                                      ? tokens / p.group * dirs
                                      : (dim + p.group - 1) / p.group * tokens;
          const uint64_t scales = (form.spec.heads_share_scale ? 1 : 3) * groups * 2;
          const uint64_t entries =
              2 * form.spec.outliers * (side == ops::kSideK ? 3 * dim : tokens);
          arrays = {{p.codes, 3 * tokens * dirs * form.bits / 8, 64},
                    {p.scale, scales, 64},
                    {p.minimum, scales, 64},
                    {p.a, 3 * p.rank * tokens * 2, 64},
                    {p.b, 3 * p.rank * dirs * 2, 64},
                    {p.sparse_value, entries * 2, 64},
                    {p.sparse_dir, entries, 64},
                    {p.sparse_count, entries > 0 ? 3 * tokens : 0, 64},
                    {p.sparse_start, entries > 0 ? 3 * (blocks + 1) * 4 : 0, 64},
                    {p.codes_head, 3 * 8, 8},
                    {p.codes_block, 3 * 4, 4},
                    {p.widths, 3 * dirs / 16, 1}};
        }
        // The first array starts the payload.
        const auto begin = reinterpret_cast<uintptr_t>(arrays[0].at);
        std::vector<std::pair<uintptr_t, uintptr_t>> spans;
        uint64_t sum = 0;
        for (const Array& array : arrays) {
          const auto at = reinterpret_cast<uintptr_t>(array.at);
          EXPECT_EQ(array.at == nullptr, array.bytes == 0);
          if (array.bytes == 0) continue;
          EXPECT_EQ(at % array.align, 0u);
          spans.emplace_back(at, at + array.bytes);
          sum += array.bytes;
        }
        std::sort(spans.begin(), spans.end());
        for (size_t i = 1; i < spans.size(); ++i) EXPECT_LE(spans[i - 1].second, spans[i].first);
        EXPECT_EQ(spans.front().first, begin);
        EXPECT_LE(spans.back().second, begin + segment->allocated() - sizeof(Segment));
        const SegmentBytes bytes = segment->Bytes();
        EXPECT_EQ(bytes.codes + bytes.scales + bytes.low_rank + bytes.sparse + bytes.bookkeeping,
                  segment->allocated());
        EXPECT_LE(bytes.bookkeeping, sizeof(Segment) + 12 * 64 + 3 * (12 + dirs / 16));
        if (form.kind == ops::kCodes) {
          for (uint64_t head = 0; head < 3; ++head) {
            EXPECT_EQ(p.codes_head[head], head * tokens * dirs * form.bits / 8);
            EXPECT_EQ(p.codes_block[head], 32 * dirs * form.bits / 8);
          }
          for (uint64_t i = 0; i < 3 * dirs / 16; ++i) EXPECT_EQ(p.widths[i], form.bits);
        }
      }
    }
  }
  EXPECT_EQ(memory.held(), 0u);
}

KVG_FOR_EVERY_RECIPE(EveryRecipe);

TEST(Segment, ACloneOfAnOpenPageGoesItsOwnWay) {
  const auto runtime = MakeRuntime();
  const Shape shape{.layers = 1, .q_heads = 2, .kv_heads = 2, .head_dim = 40};
  const SegmentForm form = FormOf("kivi-2", ops::kSideV, shape, 128, true);
  Turn turn(*runtime);
  const SegmentRef page = Segment::Create(turn.executor(), form, 0);
  const std::vector<uint16_t> ones(2 * 50 * 40, 0x3C00), twos(2 * 50 * 40, 0x4000);
  const auto seal = [&](Segment& segment, const std::vector<uint16_t>& x, uint64_t tokens) {
    return segment.Seal(turn.executor(), {x.data(), 50 * 40}, tokens, 1);
  };
  const auto value = [&](const Segment& segment, uint64_t token) {
    const ops::Piece* piece = &segment.piece();
    std::vector<float> out(2 * 40);
    ops::ReadArgs args{};
    args.side = {&piece, 1};
    args.kv_heads = 2;
    args.head_dim = 40;
    args.first_token = token;
    args.tokens = 1;
    args.dtype = ops::kF32;
    args.out = out.data();
    runtime->table().read(&args);
    return out[79];
  };
  page->Grow(seal(*page, ones, 50));
  // Work that is abandoned before Grow leaves what counts as it was.
  seal(*page, twos, 20);
  EXPECT_EQ(page->end(), 50u);
  EXPECT_EQ(value(*page, 49), 1);
  const SegmentRef copy = page->Clone(turn.executor(), 50);
  EXPECT_FALSE(page->shared());
  EXPECT_EQ(copy->room(), 78u);
  EXPECT_EQ(copy->norm_sq(), page->norm_sq());
  page->Grow(seal(*page, ones, 10));
  copy->Grow(seal(*copy, twos, 10));
  EXPECT_EQ(value(*page, 55), 1);
  EXPECT_EQ(value(*copy, 55), 2);
  EXPECT_EQ(value(*copy, 49), 1);
  copy->Shrink(52);
  copy->Grow(seal(*copy, ones, 30));
  EXPECT_EQ(value(*copy, 51), 2);
  EXPECT_EQ(value(*copy, 52), 1);
  EXPECT_EQ(value(*copy, 81), 1);
  EXPECT_EQ(value(*page, 59), 1);
}

TEST(Segment, ReferencesAreCounted) {
  CountingAllocator allocator;
  Memory memory(allocator.table(), 0);
  HostExecutor executor(memory, ops::ReferenceTable(), {nullptr, 1, nullptr});
  const SegmentForm form = FormOf("int4", ops::kSideK, kShape, 64, true);
  {
    SegmentRef a = Segment::Create(executor, form, 0);
    SegmentRef b = a, c;
    EXPECT_TRUE(a->shared());
    EXPECT_FALSE(static_cast<bool>(c));
    c = std::move(b);
    EXPECT_FALSE(static_cast<bool>(b));
    a = SegmentRef();
    EXPECT_FALSE(c->shared());
    SegmentRef& same = c;
    c = same;
    EXPECT_EQ(allocator.live_bytes(), c->allocated());
  }
  EXPECT_EQ(allocator.live_bytes(), 0u);
  allocator.FailFrom(0);
  EXPECT_THROW(Segment::Create(executor, form, 0), std::bad_alloc);
  EXPECT_EQ(memory.held(), 0u);
}

}  // namespace
}  // namespace kvg::test
