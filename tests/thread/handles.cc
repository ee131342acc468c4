// Handles made, used and ended on many threads at once, and the settings of a runtime that may be
// changed from any thread.
#include <memory>

#include "crew.h"

namespace {

constexpr int kThreads = 4;

// Each thread has handles of its own, of all three kinds; what they have in common is the library.
void OwnHandles() {
  kvt::RunTogether(kThreads, [](int i) {
    uint64_t not_a_handle[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (int round = 0; round < 25; ++round) {
      kvg_runtime_options options;
      kvg_runtime_options_init(&options);
      options.threads = static_cast<uint32_t>(round % 8 == 0);
      kvg_runtime* runtime = nullptr;
      CHECK(kvg_runtime_create(&options, &runtime, nullptr) == KVG_OK);
      kvg_shape shape;
      kvg_shape_init(&shape);
      shape.layers = 1;
      shape.q_heads = shape.kv_heads = 1;
      shape.head_dim = 32;
      kvg_plan* plan = nullptr;
      CHECK(kvg_plan_create(&shape, i % 2 == 0 ? "int4" : "gear-2;0:int8", &plan, nullptr) ==
            KVG_OK);
      std::vector<kvg_cache*> caches(20);
      for (kvg_cache*& cache : caches) {
        CHECK(kvg_cache_create(runtime, plan, &cache, nullptr) == KVG_OK);
      }
      CHECK(kvg_cache_clear(reinterpret_cast<kvg_cache*>(not_a_handle), nullptr) == KVG_E_STATE);
      CHECK(kvg_cache_clear(reinterpret_cast<kvg_cache*>(plan), nullptr) == KVG_E_STATE);
      // In an order that differs from thread to thread.
      if (i % 2 == 0) kvg_runtime_destroy(runtime);
      if (i % 3 == 0) kvg_plan_destroy(plan);
      for (kvg_cache* cache : caches) CHECK(kvt_length(cache, 0) == 0);
      for (kvg_cache* cache : caches) kvg_cache_destroy(cache);
      if (i % 3 != 0) kvg_plan_destroy(plan);
      if (i % 2 != 0) kvg_runtime_destroy(runtime);
    }
  });
}

// Caches of one runtime and one plan, made and ended by all threads; the handles of both are ended
// by one of the threads in the middle of it, as soon as nobody needs them to make a cache.
void SharedHandles() {
  kvt_heap heap;
  kvg_allocator table;
  kvt_heap_table(&heap, &table);
  kvg_runtime_options options;
  kvg_runtime_options_init(&options);
  options.allocator = &table;
  options.threads = 2;
  kvt_rig rig;
  if (!kvt_rig_open(&rig, "gear-l-2", 1, 2, 1, 32, &options)) return;
  std::latch made(kThreads);
  kvt::RunTogether(kThreads, [&](int i) {
    std::vector<kvg_cache*> caches(12);
    for (int round = 0; round < 10; ++round) {
      for (kvg_cache*& cache : caches) {
        kvg_cache_destroy(cache);
        CHECK(kvg_cache_create(rig.runtime, rig.plan, &cache, nullptr) == KVG_OK);
        CHECK(kvt_append(&rig, cache, 0, 0, 5, 1, nullptr) == KVG_OK);
      }
    }
    made.arrive_and_wait();
    if (i == 0) kvg_runtime_destroy(rig.runtime);
    if (i == 1) kvg_plan_destroy(rig.plan);
    for (kvg_cache* cache : caches) {
      CHECK(kvt_append(&rig, cache, 0, 5, 190, 1, nullptr) == KVG_OK);
      CHECK(kvt_length(cache, 0) == 195);
      kvg_cache_destroy(cache);
    }
  });
  kvg_cache_destroy(rig.cache);
  CHECK(heap.blocks == 0 && heap.bytes == 0);
}

void CountLine(void* user, kvg_log_level, const char* message) {
  CHECK(message != nullptr);
  ++*static_cast<long*>(user);
}

// The former sink is never called again once the call that replaces it has returned, so that its
// user data may go. The library works on meanwhile.
void LogSinks() {
  kvt_rig rig;
  if (!kvt_rig_open(&rig, "int4", 1, 2, 1, 32, nullptr)) return;
  kvt::RunTogether(kThreads, [&](int i) {
    kvg_cache* cache = nullptr;
    CHECK(kvg_cache_create(rig.runtime, rig.plan, &cache, nullptr) == KVG_OK);
    for (int round = 0; round < 30; ++round) {
      if (i < 2) {
        // Two threads at once: after each removal only the other's sink may be set.
        const auto lines = std::make_unique<long>(0);
        CHECK(kvg_runtime_set_log(rig.runtime, CountLine, lines.get(), nullptr) == KVG_OK);
        CHECK(kvg_runtime_set_log(rig.runtime, nullptr, nullptr, nullptr) == KVG_OK);
      }
      CHECK(kvt_append(&rig, cache, 0, static_cast<uint64_t>(round) * 9, 9, 1, nullptr) == KVG_OK);
      char text[128];
      CHECK(kvg_runtime_describe(rig.runtime, text, sizeof(text), nullptr, nullptr) == KVG_OK);
    }
    kvg_cache_destroy(cache);
  });
  kvt_rig_close(&rig);
}

}  // namespace

int main() {
  OwnHandles();
  SharedHandles();
  LogSinks();
  return kvt::Finish();
}
