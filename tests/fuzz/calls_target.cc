// Fuzzing: any bytes as a sequence of calls on a few caches, beside a model that is a plain list of rows. Lengths must be those
// of the model, rows near those that were appended, and forks and restored caches as what they came from, to the bit.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "tests/fuzz/target.h"
#include "tests/support/saved.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 1, .q_heads = 2, .kv_heads = 1, .head_dim = 32};
constexpr const char* kPlans[] = {"fp16,window=32", "int8,window=16,block=32,segment=64", "kivi-4,v.window=16,k.block=32",
                                  "gear-4,window=32"};

struct Both {
  std::unique_ptr<Cache> cache;
  std::vector<float> model;  // one number for each token, the same in all of its channels
};

void Must(bool condition) {
  if (!condition) std::abort();
}

Tensor Rows(const std::vector<float>& model, size_t first) {
  Tensor x(model.size() - first, 1, 32);
  for (size_t i = 0; i < x.data.size(); ++i) x.data[i] = model[first + i / 32];
  return x;
}

// Constant rows lose little in any recipe: a group over tokens spans the numbers -2 to 2 with at least 4 bits.
void Compare(const Both& both) {
  Must(Length(*both.cache) == both.model.size());
  if (both.model.empty()) return;
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    const Tensor got = Read(*both.cache, side), want = Rows(both.model, 0);
    for (size_t i = 0; i < got.data.size(); ++i) Must(std::abs(got.data[i] - want.data[i]) <= 0.3);
  }
  const Tensor out = Attend(*both.cache, 0, Tensor(1, 2, 32));  // a query of zeros: the mean of the values
  double mean = 0;
  for (const float x : both.model) mean += x;
  mean /= static_cast<double>(both.model.size());
  Must(std::abs(out.data[5] - mean) <= 0.3);
}

}  // namespace

void FuzzOne(const uint8_t* data, size_t size) {
  if (size < 2) return;
  const char* plan = kPlans[data[0] % std::size(kPlans)];
  std::vector<Both> caches;
  caches.push_back({MakeCache(kShape, plan), {}});
  const auto runtime = caches[0].cache->shared_runtime();
  uint64_t tokens = 0;
  for (size_t at = 1; at + 1 < size && at < 80 && tokens < 4000; at += 2) {
    Both& both = caches[(data[at] >> 4) % caches.size()];
    const size_t amount = data[at + 1];
    switch (data[at] % 8) {
      case 0:
      case 1:
      case 2: {  // a few tokens, or many
        const size_t first = both.model.size(), count = data[at] % 8 == 2 ? 3 * amount : amount % 40;
        for (size_t i = 0; i < count; ++i) {
          both.model.push_back(static_cast<float>((first + i * 7 + amount) % 17) / 4 - 2);
        }
        tokens += count;
        if (count > 0) Append(*both.cache, 0, Rows(both.model, first), Rows(both.model, first));
        break;
      }
      case 3: {
        const uint64_t length = both.model.size() * amount / 255;
        const bool cut = both.cache->Truncate(0, length).ok();
        Must(cut || length < both.model.size());
        if (cut) both.model.resize(length);
        break;
      }
      case 4:
        if (caches.size() < 6) caches.push_back({Value(both.cache->Fork()), both.model});
        break;
      case 5:
        if (caches.size() > 1) std::swap(both, caches.back()), caches.pop_back();
        break;
      case 6: {  // saved, and restored in its place
        auto back = Loaded(Saved(*both.cache), *both.cache);
        Must(Content(*back) == Content(*both.cache));
        both.cache = std::move(back);
        break;
      }
      case 7:
        Compare(both);
        break;
    }
  }
  for (const Both& both : caches) Compare(both);
  caches.clear();
  Must(runtime->memory().held() == 0);
}

}  // namespace kvg::test
