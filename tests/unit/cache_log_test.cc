// What a cache tells the log sink: tokens sealed, and appends that the budget refuses.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/cache/cache.h"
#include "core/model/plan.h"
#include "core/runtime/runtime.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace kvg {
namespace {

using ::testing::ElementsAre;

using Lines = std::vector<std::string>;

void Write(void* user, uint32_t level, const char* message) {
  static_cast<Lines*>(user)->push_back(std::to_string(level) + " " + message);
}

std::shared_ptr<Runtime> MakeRuntime(uint64_t budget) {
  RuntimeOptions options;
  options.memory_budget = budget;
  return *Runtime::Create(options);
}

std::unique_ptr<Cache> MakeCache(const std::shared_ptr<Runtime>& runtime) {
  const Shape shape = {.layers = 2, .q_heads = 1, .kv_heads = 1, .head_dim = 32};
  return *Cache::Create(runtime, *Plan::Create(shape, "int4,k.window=32,v.window=64,block=32"));
}

absl::Status AppendZeros(Cache& cache, uint64_t tokens) {
  const std::vector<float> zeros(tokens * 32);
  const TensorView x = {.data = zeros.data(), .bytes = zeros.size() * sizeof(float)};
  return cache.Append(1, x, x, ops::kF32, tokens);
}

TEST(CacheLog, SaysWhatWasSealed) {
  const std::shared_ptr<Runtime> runtime = MakeRuntime(0);
  const std::unique_ptr<Cache> cache = MakeCache(runtime);
  Lines lines;
  runtime->SetLog(Write, &lines);
  ASSERT_TRUE(AppendZeros(*cache, 63).ok());
  EXPECT_THAT(lines, ElementsAre());
  ASSERT_TRUE(AppendZeros(*cache, 1).ok());
  ASSERT_TRUE(AppendZeros(*cache, 1).ok());
  ASSERT_TRUE(AppendZeros(*cache, 95).ok());
  EXPECT_THAT(lines, ElementsAre("0 layer 1: sealed 32 tokens of K and 0 of V",
                                 "0 layer 1: sealed 96 tokens of K and 96 of V"));
}

TEST(CacheLog, WarnsWhenTheBudgetRefuses) {
  const std::shared_ptr<Runtime> runtime = MakeRuntime(20000);
  const std::unique_ptr<Cache> cache = MakeCache(runtime);
  Lines lines;
  runtime->SetLog(Write, &lines);
  EXPECT_THROW((void)AppendZeros(*cache, 4096), BudgetExceeded);
  EXPECT_THAT(lines, ElementsAre("2 layer 1: 4096 tokens refused, the memory budget of 20000 bytes"
                                 " would be exceeded"));
}

}  // namespace
}  // namespace kvg
