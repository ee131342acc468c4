// tests/parity/attend_test.cc on a CUDA device, in place of the tables of this processor; and what only
// a device has to hold to.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <numeric>
#include <vector>

#include "tests/gpu/device_table.h"
#include "tests/support/kernel_fixture.h"

namespace kvg::kernel_test {
namespace {

// The outputs of some items of a call, f32.
std::vector<Buffer> RunItems(const AttendCall& call, const std::vector<uint64_t>& which) {
  const AttendShape& shape = call.shape();
  const Strides q = shape.q_strides(), out = shape.out_strides();
  std::vector<ops::AttendItem> items;
  std::vector<Buffer> outs;
  for (const uint64_t i : which) {
    items.push_back(call.item(i));
    outs.emplace_back(out.elements * sizeof(float));
    items.back().out = outs.back().data();
  }
  ops::AttendArgs args{.items = items.data(),
                       .count = items.size(),
                       .q_heads = shape.q_heads,
                       .kv_heads = shape.kv_heads,
                       .head_dim = shape.head_dim,
                       .queries = shape.queries,
                       .q_dtype = shape.q_dtype,
                       .out_dtype = ops::kF32,
                       .q_token_stride = q.token,
                       .q_head_stride = q.head,
                       .out_token_stride = out.token,
                       .out_head_stride = out.head,
                       .scale = shape.EffectiveScale(),
                       .softcap = 0,
                       .sliding_window = 0,
                       .causal = true,
                       .scratch = nullptr};
  gpu_test::DeviceTable().attend(&args, nullptr);
  return outs;
}

// A sequence gets the same bits alone and in any batch, though a thread block takes one chunk of it
// then, and a row of them now.
TEST(DeviceAttend, BatchChangesNoBit) {
  constexpr uint32_t kHeads = 2, kDim = 64;
  std::vector<std::unique_ptr<SequenceBuilder>> sides;
  for (const uint64_t tokens : {9216u, 4608u, 1024u, 9184u}) {
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      sides.push_back(std::make_unique<SequenceBuilder>(side, kHeads, kDim));
      for (uint64_t done = 0; done < tokens; done += 1024) {
        const uint64_t piece = tokens - done < 1024 ? tokens - done : 1024;
        const ops::Axis axis = side == ops::kSideK ? ops::kAxisChannel : ops::kAxisToken;
        Form form = UniformForm(side, axis, 32, 4, kHeads, kDim, piece);
        form.spec.rank = side == ops::kSideK ? 4 : 0;
        form.spec.outliers = side == ops::kSideK ? piece / 100 : kHeads * kDim / 100;
        sides.back()->AddCodes(form, Data::kNoise, done);
      }
      sides.back()->AddRows(70, Data::kNoise, tokens);
    }
  }
  for (const uint32_t queries : {1u, 2u}) {  // 4 and 8 columns
    AttendShape shape{.q_heads = 8, .kv_heads = kHeads, .head_dim = kDim, .queries = queries};
    AttendCall all(shape, 5);
    for (uint32_t i = 0; i < 120; ++i) all.Add(*sides[i % 4 * 2], *sides[i % 4 * 2 + 1]);
    gpu_test::VaryForms(false);
    std::vector<uint64_t> every(all.items());
    std::iota(every.begin(), every.end(), 0);
    const std::vector<Buffer> together = RunItems(all, every);
    for (const uint64_t i : {0u, 1u, 2u, 3u, 61u, 119u}) {
      EXPECT_EQ(RunItems(all, {i})[0].bytes(), together[i].bytes()) << "sequence " << i;
    }
    const std::vector<Buffer> few = RunItems(all, {7, 2, 40, 41, 3});
    EXPECT_EQ(few[2].bytes(), together[40].bytes());
    EXPECT_EQ(few[4].bytes(), together[3].bytes());
    gpu_test::VaryForms(true);
  }
}

}  // namespace
}  // namespace kvg::kernel_test

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!kvg::gpu_test::HasDevice()) {
    std::puts("skipped: no CUDA device");
    return 0;
  }
  kvg::kernel_test::TestInstead(&kvg::gpu_test::DeviceTable());
  return RUN_ALL_TESTS();
}
