// Readers on many threads: beside a writer on another cache, and beside a writer on the same cache
// when the host's own lock keeps them apart.
#include <atomic>
#include <map>
#include <mutex>
#include <shared_mutex>

#include "crew.h"

namespace {

constexpr int kReaders = 3;

// Every const call, over and over, on one cache, while a writer changes another one of the same
// runtime: each call gives what it gave before there were other threads.
void BesideAnotherCache(const char* recipe, uint32_t workers) {
  kvg_runtime_options options;
  kvg_runtime_options_init(&options);
  options.threads = workers;
  kvt_rig rig;
  if (!kvt_rig_open(&rig, recipe, 1, 4, 2, 32, &options)) return;
  kvg_cache* other = nullptr;
  CHECK(kvg_cache_create(rig.runtime, rig.plan, &other, nullptr) == KVG_OK);
  CHECK(kvt_append(&rig, rig.cache, 0, 0, 330, 1, nullptr) == KVG_OK);
  const std::vector<float> attended = kvt::Attend(rig, rig.cache, 2);
  const std::vector<float> k = kvt::Read(rig, rig.cache, KVG_SIDE_K, 100, 200);
  const std::vector<float> v = kvt::Read(rig, rig.cache, KVG_SIDE_V, 0, 330);
  const kvg_stats stats = kvt::Stats(rig.cache);
  std::atomic<int> reading{kReaders};
  kvt::RunTogether(kReaders + 1, [&](int i) {
    if (i == 0) {
      uint64_t length = 0;
      while (reading.load() > 0) {
        CHECK(kvt_append(&rig, other, 0, length, 37, 2, nullptr) == KVG_OK);
        length += 37;
        if (length > 200) {
          CHECK(kvg_cache_truncate(other, 0, 0, nullptr) == KVG_OK);
          CHECK(kvg_cache_clear(other, nullptr) == KVG_OK);
          length = 0;
        }
        CHECK(kvt_length(other, 0) == length);
      }
      return;
    }
    for (int round = 0; round < 12; ++round) {
      CHECK(kvt::Attend(rig, rig.cache, 2) == attended);
      CHECK(kvt::Read(rig, rig.cache, KVG_SIDE_K, 100, 200) == k);
      CHECK(kvt::Read(rig, rig.cache, KVG_SIDE_V, 0, 330) == v);
      const kvg_stats now = kvt::Stats(rig.cache);
      CHECK(now.bytes_total == stats.bytes_total && now.segments == stats.segments);
      CHECK(kvt_length(rig.cache, 0) == 330);
      kvg_shape shape;
      kvg_shape_init(&shape);
      CHECK(kvg_plan_shape(rig.plan, &shape, nullptr) == KVG_OK && shape.head_dim == 32);
      char text[128];
      CHECK(kvg_plan_recipe(rig.plan, 0, text, sizeof(text), nullptr, nullptr) == KVG_OK);
      CHECK(kvg_runtime_describe(rig.runtime, text, sizeof(text), nullptr, nullptr) == KVG_OK);
      uint64_t bytes = 0;
      CHECK(kvg_runtime_memory(rig.runtime, &bytes, nullptr) == KVG_OK && bytes > 0);
      // A refusal beside the others' work: each caller has its own kvg_error.
      kvg_error err;
      CHECK(kvg_cache_length(rig.cache, 7, &bytes, &err) == KVG_E_INVALID);
      CHECK(err.code == KVG_E_INVALID && err.message[0] != '\0');
    }
    reading.fetch_sub(1);
  });
  kvg_cache_destroy(other);
  kvt_rig_close(&rig);
}

// One writer and several readers on the same cache under a shared lock of the host. Readers see the
// cache between two appends, never within one.
void BesideAWriter(const char* recipe, uint32_t workers) {
  constexpr uint64_t kPiece = 23, kMost = 18 * kPiece;
  kvg_runtime_options options;
  kvg_runtime_options_init(&options);
  options.threads = workers;
  kvt_rig rig;
  if (!kvt_rig_open(&rig, recipe, 1, 4, 2, 32, &options)) return;
  // What attention gives at every length that the readers may find.
  std::map<uint64_t, std::vector<float>> expected;
  for (uint64_t length = 0; length < kMost; length += kPiece) {
    CHECK(kvt_append(&rig, rig.cache, 0, length, kPiece, 1, nullptr) == KVG_OK);
    expected[length + kPiece] = kvt::Attend(rig, rig.cache, 1);
  }
  CHECK(kvg_cache_clear(rig.cache, nullptr) == KVG_OK);
  CHECK(kvt_append(&rig, rig.cache, 0, 0, kPiece, 1, nullptr) == KVG_OK);
  std::shared_mutex lock;
  std::atomic<int> reading{kReaders};
  std::atomic<long> looks{0};
  kvt::RunTogether(kReaders + 1, [&](int i) {
    if (i == 0) {
      uint64_t length = kPiece;
      while (reading.load() > 0) {
        const long seen = looks.load();
        {
          const std::unique_lock<std::shared_mutex> exclusive(lock);
          if (length == kMost) {
            CHECK(kvg_cache_clear(rig.cache, nullptr) == KVG_OK);
            length = 0;
          }
          CHECK(kvt_append(&rig, rig.cache, 0, length, kPiece, 1, nullptr) == KVG_OK);
          length += kPiece;
        }
        while (looks.load() == seen && reading.load() > 0) std::this_thread::yield();
      }
      return;
    }
    for (int round = 0; round < 40; ++round) {
      {
        const std::shared_lock<std::shared_mutex> together(lock);
        const uint64_t length = kvt_length(rig.cache, 0);
        const auto found = expected.find(length);
        CHECK(found != expected.end());
        if (found == expected.end()) break;
        CHECK(kvt::Attend(rig, rig.cache, 1) == found->second);
        kvt::Read(rig, rig.cache, KVG_SIDE_V, length / 2, length / 2);
        CHECK(kvt::Stats(rig.cache).tokens == length);
      }
      looks.fetch_add(1);
    }
    reading.fetch_sub(1);
  });
  kvt_rig_close(&rig);
}

}  // namespace

int main() {
  for (const char* recipe : {"fp16", "kivi-2", "gear-4"}) {
    for (const uint32_t workers : {0u, 2u}) {
      BesideAnotherCache(recipe, workers);
      BesideAWriter(recipe, workers);
    }
  }
  return kvt::Finish();
}
