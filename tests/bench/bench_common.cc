// What the benchmarks share; see bench_common.h.
#include "tests/bench/bench_common.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "kernels/half.h"

namespace kvg::bench {
namespace {

std::vector<Part>& MutableParts() {
  static std::vector<Part> parts;
  return parts;
}

uint64_t Next(uint64_t& state) {  // splitmix64
  state += 0x9E3779B97F4A7C15u;
  uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

// Near enough to a normal number: the sum of four uniform ones.
float Normal(uint64_t& state) {
  const uint64_t bits = Next(state);
  uint64_t sum = 0;
  for (int i = 0; i < 4; ++i) sum += (bits >> (16 * i)) & 0xFFFFu;
  return (static_cast<float>(sum) * 0x1p-16f - 2.0f) * 1.7320508f;
}

}  // namespace

bool Register(const Part& part) {
  MutableParts().push_back(part);
  return true;
}
const std::vector<Part>& Parts() { return MutableParts(); }

void Fail(const absl::Status& status) { throw std::runtime_error(status.ToString()); }
void Must(const absl::Status& status) {
  if (!status.ok()) Fail(status);
}

std::shared_ptr<Runtime> MakeRuntime(uint32_t threads) {
  RuntimeOptions options;
  options.threads = threads;
  return Value(Runtime::Create(options));
}

std::vector<uint16_t> MakeTensor(uint64_t seed, uint64_t tokens, uint32_t kv_heads,
                                 uint32_t head_dim) {
  constexpr uint64_t kDistinct = 3001;  // not a multiple of any segment
  const uint64_t width = uint64_t{kv_heads} * head_dim;
  uint64_t state = seed;
  std::vector<float> offset(width);
  for (float& x : offset) x = Normal(state) * (Next(state) % 16 == 0 ? 4.0f : 0.3f);
  std::vector<uint16_t> rows(tokens * width);
  const uint64_t distinct = std::min(tokens, kDistinct);
  for (uint64_t i = 0; i < distinct * width; ++i) {
    float x = Normal(state) + offset[i % width];
    if (Next(state) % 100 == 0) x *= 8;
    rows[i] = F32ToF16(x);
  }
  for (uint64_t t = distinct; t < tokens; t += distinct) {
    std::copy_n(rows.begin(), std::min(distinct, tokens - t) * width,
                rows.begin() + static_cast<std::ptrdiff_t>(t * width));
  }
  return rows;
}

std::unique_ptr<Cache> MakeCache(std::shared_ptr<Runtime> runtime, const Shape& shape,
                                 const std::string& recipe, uint64_t tokens) {
  auto cache = Value(Cache::Create(std::move(runtime), Value(Plan::Create(shape, recipe))));
  const std::vector<uint16_t> k = MakeTensor(1, tokens, shape.kv_heads, shape.head_dim);
  const std::vector<uint16_t> v = MakeTensor(2, tokens, shape.kv_heads, shape.head_dim);
  Must(cache->Append(0, {.data = k.data(), .bytes = k.size() * 2},
                     {.data = v.data(), .bytes = v.size() * 2}, ops::kF16, tokens));
  return cache;
}

double ReadBandwidth(uint64_t bytes) {
  static std::map<uint64_t, double> measured;
  const uint64_t words = (bytes + 255) / 256 * 32;
  double& best = measured[words];
  if (best > 0) return best;
  std::vector<uint64_t> memory(words);
  for (uint64_t i = 0; i < words; ++i) memory[i] = i;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  uint64_t check = 0;
  do {
    const Clock::time_point before = Clock::now();
    uint64_t sum[32] = {};
    for (uint64_t i = 0; i < words; i += 32) {
      for (uint64_t j = 0; j < 32; ++j) sum[j] += memory[i + j];
    }
    const std::chrono::duration<double> took = Clock::now() - before;
    for (const uint64_t s : sum) check += s;
    best = std::max(best, static_cast<double>(words * 8) / took.count() * 1e-9);
  } while (Clock::now() - start < std::chrono::milliseconds(500));
  // Uses the sum, so that it must be computed.
  if (check == 1) Fail(absl::InternalError("memory does not hold what was written"));
  return best;
}

}  // namespace kvg::bench
