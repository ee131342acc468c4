// Fuzzing: any bytes as a saved cache. What loads must then work, and what is saved of it comes back as the same bytes.
//
// The first byte chooses one of a few plans; with a 1 in its high bit all checksums are made right first, so that
// what lies behind them is reached.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "core/base/crc32c.h"
#include "core/format/layout.h"
#include "tests/fuzz/target.h"
#include "tests/support/saved.h"

namespace kvg::test {
namespace {

constexpr Shape kShape{.layers = 2, .q_heads = 4, .kv_heads = 2, .head_dim = 40};
constexpr const char* kPlans[] = {
    "gear-2,outliers=0.1,rank=3,decode_rank=2,window=32;1:kivi-2,v.window=32",
    "kcvt-4;1:fp16,window=32", "int4-rot,bits=3;1:int8,bits=6,k.axis=channel",
    "gear-4,outliers=0.05,k.decode_rank=3;1:gear-2,bits=1,v.decode_rank=2",
    "tc-3,k.map=online,v.rate=2.5;1:gear-4,select=h2o,budget=0.6,sinks=2,window=32",
    "tc-2,k.map=online,window=192;1:tova,budget=60", "zipcache;1:int4,window=32,select=snapkv,budget=120,recent=20",
    "pyramidinfer,bits=4;1:gear-4,window=32,select=streaming-llm,budget=100,sinks=4"};

void MakeSumsRight(Bytes& bytes) {
  const auto seal = [&bytes](size_t at, size_t size) {
    const uint32_t crc = Crc32c(&bytes[at], size - 4);
    std::memcpy(&bytes[at + size - 4], &crc, sizeof(crc));
  };
  if (bytes.size() < format::kHeaderBytes) return;
  const uint64_t whole = bytes.size();
  std::memcpy(&bytes[24], &whole, sizeof(whole));
  seal(0, format::kHeaderBytes);
  for (size_t at = format::kHeaderBytes; bytes.size() - at >= format::kSectionBytes;) {
    uint64_t length;
    std::memcpy(&length, &bytes[at + 24], sizeof(length));
    const size_t left = bytes.size() - at - format::kSectionBytes;
    if (length > left || format::Padded(length) > left) length = left / 64 * 64;
    const uint32_t crc = Crc32c(&bytes[at] + format::kSectionBytes, length);
    std::memcpy(&bytes[at + 20], &crc, sizeof(crc));
    seal(at, format::kSectionBytes);
    at += format::kSectionBytes + format::Padded(length);
  }
}

// Reads, attends, appends and selects. A policy may refuse what it has no scores for.
void Use(Cache& cache, uint32_t layer) {
  const size_t dim = kShape.head_dim;
  for (const size_t tokens : {size_t{70}, size_t{1}, size_t{1}}) {
    if (Value(cache.Held(layer)) > 0) {
      (void)Content(cache, layer);
      const std::vector<float> q = ToF32(NoiseTensor(3, 1, kShape.q_heads, dim));
      std::vector<float> out(q.size());
      AttendOptions options;
      options.q_dtype = options.out_dtype = ops::kF32;
      (void)cache.AttendObserve(layer, q.data(), q.size() * 4, out.data(), out.size() * 4, options);
    }
    const Tensor x = NoiseTensor(1, tokens, kShape.kv_heads, dim);
    const absl::Status status = TryAppend(cache, layer, x, x);
    if (!status.ok() && cache.layer(layer).selected() == nullptr) std::abort();
  }
  (void)cache.Select(layer);
}

}  // namespace

void FuzzOne(const uint8_t* data, size_t size) {
  if (size == 0) return;
  static const std::vector<std::unique_ptr<Cache>> caches = [] {
    std::vector<std::unique_ptr<Cache>> made;
    for (const char* plan : kPlans) made.push_back(MakeCache(kShape, plan));
    return made;
  }();
  const Cache& like = *caches[(data[0] & 0x7F) % std::size(kPlans)];
  Bytes bytes(size - 1);
  std::memcpy(bytes.data(), data + 1, bytes.size());
  if ((data[0] & 0x80) != 0) MakeSumsRight(bytes);
  const uint64_t held = like.runtime().memory().held();
  {
    BufferSource source(bytes.data(), bytes.size());
    const auto cache = LoadCache(like.shared_runtime(), like.shared_plan(),
                                 {.fingerprint = "golden", .exact = true}, source);
    if (cache.ok()) {
      const Bytes saved = Saved(**cache);
      if (Saved(*Loaded(saved, **cache)) != saved) std::abort();
      for (uint32_t layer = 0; layer < kShape.layers; ++layer) Use(**cache, layer);
      (void)Saved(**cache);
    }
    BufferSource tables(bytes.data(), bytes.size());
    (void)InspectSaved(tables, true, true);
  }
  if (like.runtime().memory().held() != held) std::abort();
}

}  // namespace kvg::test
