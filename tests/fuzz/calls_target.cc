// Fuzzing: any bytes as a sequence of calls on a few caches, beside a model that is a plain list of rows. Lengths must be those
// of the model, rows near those that were appended, and forks and restored caches as what they came from, to the bit. Of caches
// that select tokens the positions say which row a slot has.
#include <algorithm>
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
                                  "gear-4,window=32",
                                  // From here on for first bytes above 15.
                                  "tc-4,window=32,block=32,segment=64", "h2o,budget=0.5",
                                  "int8,window=16,block=32,segment=64,select=streaming-llm,budget=80,sinks=4",
                                  "int8,window=16,block=32,segment=64,select=tova,budget=70",
                                  "int8,window=16,block=32,segment=64,select=zipcache,low=0.3,low_bits=8"};
constexpr uint8_t kOldPlans = 4;

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
  std::vector<uint64_t> positions(Value(both.cache->Held(0)));
  if (positions.empty()) return;
  kvg::test::Must(both.cache->Positions(0, 0, positions.data()));
  double mean = 0;
  for (const uint64_t position : positions) {
    Must(position < both.model.size());
    mean += both.model[position];
  }
  mean /= static_cast<double>(positions.size());
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    const Tensor got = Read(*both.cache, side);
    for (size_t i = 0; i < got.data.size(); ++i) {
      Must(std::abs(got.data[i] - both.model[positions[i / 32]]) <= 0.3);
    }
  }
  const Tensor out = Attend(*both.cache, 0, Tensor(1, 2, 32));  // a query of zeros: the mean of the values
  Must(std::abs(out.data[5] - mean) <= 0.3);
}

// As a host does after each append, so that policies have scores.
void Observe(Cache& cache, size_t tokens) {
  if (cache.layer(0).selected() == nullptr) return;
  const auto queries = static_cast<uint32_t>(std::min<size_t>(tokens, 3));
  const std::vector<float> q = ToF32(NoiseTensor(tokens, queries, 2, 32));
  std::vector<float> out(q.size());
  AttendOptions options;
  options.q_dtype = options.out_dtype = ops::kF32;
  options.queries = queries;
  kvg::test::Must(cache.AttendObserve(0, q.data(), q.size() * 4, out.data(), out.size() * 4, options));
}

}  // namespace

void FuzzOne(const uint8_t* data, size_t size) {
  if (size < 2) return;
  const char* plan = kPlans[data[0] < 16 ? data[0] % kOldPlans : data[0] % std::size(kPlans)];
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
        if (count == 0) break;
        Append(*both.cache, 0, Rows(both.model, first), Rows(both.model, first));
        Observe(*both.cache, count);
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
        const Bytes bytes = Saved(*both.cache);
        auto back = Loaded(bytes, *both.cache);
        Must(Saved(*back) == bytes && Content(*back) == Content(*both.cache));
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
