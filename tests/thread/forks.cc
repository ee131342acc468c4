// Forks on many threads: different handles are independent although they share segments.
#include <atomic>

#include "crew.h"

namespace {

constexpr int kThreads = 4;
constexpr uint64_t kPrompt = 290;

std::vector<float> OneFuture(const kvt_rig& rig, kvg_cache* cache, unsigned seed) {
  for (uint64_t length = kPrompt; length < kPrompt + 100; length += 20) {
    CHECK(kvt_append(&rig, cache, 0, length, 20, seed, nullptr) == KVG_OK);
  }
  return kvt::Attend(rig, cache, 3);
}

// Every thread forks the same prompt again and again and gives each fork a future of its own. Half
// of the way the prompt itself is destroyed; what forks share must outlive it.
void Futures(const char* recipe, uint32_t workers) {
  kvt_heap heap;
  kvg_allocator table;
  kvt_heap_table(&heap, &table);
  kvg_runtime_options options;
  kvg_runtime_options_init(&options);
  options.allocator = &table;
  options.threads = workers;
  kvt_rig rig;
  if (!kvt_rig_open(&rig, recipe, 1, 2, 1, 32, &options)) return;
  CHECK(kvt_append(&rig, rig.cache, 0, 0, kPrompt, 1, nullptr) == KVG_OK);
  const std::vector<float> prompt = kvt::Attend(rig, rig.cache, 3);
  std::vector<std::vector<float>> expected;
  for (int i = 0; i < kThreads; ++i) {
    kvg_cache* lone = nullptr;
    CHECK(kvg_cache_create(rig.runtime, rig.plan, &lone, nullptr) == KVG_OK);
    CHECK(kvt_append(&rig, lone, 0, 0, kPrompt, 1, nullptr) == KVG_OK);
    expected.push_back(OneFuture(rig, lone, static_cast<unsigned>(i) + 10));
    kvg_cache_destroy(lone);
  }
  std::atomic<int> holders{kThreads};
  kvt::RunTogether(kThreads, [&](int i) {
    kvg_cache* own = nullptr;
    CHECK(kvg_cache_fork(rig.cache, &own, nullptr) == KVG_OK);
    for (int round = 0; round < 4; ++round) {
      kvg_cache* fork = nullptr;
      CHECK(kvg_cache_fork(rig.cache, &fork, nullptr) == KVG_OK);
      CHECK(OneFuture(rig, fork, static_cast<unsigned>(i) + 10) ==
            expected[static_cast<size_t>(i)]);
      CHECK(kvt::Attend(rig, rig.cache, 3) == prompt);
      CHECK(kvt::Stats(fork).bytes_total > 0);
      kvg_cache_destroy(fork);
    }
    // The last one to say that it needs the parent no more ends it.
    if (holders.fetch_sub(1) == 1) {
      kvg_cache_destroy(rig.cache);
      rig.cache = nullptr;
    }
    for (int round = 0; round < 3; ++round) {
      CHECK(kvt::Attend(rig, own, 3) == prompt);
      kvg_cache* second = nullptr;
      CHECK(kvg_cache_fork(own, &second, nullptr) == KVG_OK);
      kvg_cache_destroy(own);
      own = second;
    }
    CHECK(OneFuture(rig, own, static_cast<unsigned>(i) + 10) == expected[static_cast<size_t>(i)]);
    kvg_cache_destroy(own);
  });
  uint64_t held = 1;
  CHECK(kvg_runtime_memory(rig.runtime, &held, nullptr) == KVG_OK && held == 0);
  kvt_rig_close(&rig);
  CHECK(heap.blocks == 0 && heap.bytes == 0);
}

}  // namespace

int main() {
  for (const char* recipe : {"int4", "kivi-4", "gear-2"}) {
    Futures(recipe, 0);
    Futures(recipe, 1);
  }
  return kvt::Finish();
}
