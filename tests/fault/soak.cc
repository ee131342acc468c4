// Load: many caches, also with a basis that is learnt and with tokens that are selected, appended to, forked, cut, saved, restored, stored by prefix and dropped at random under a budget, on
// several threads. Every restored cache attends to the same bits; at the end all memory is back.
//   soak [SECONDS]   5 unless said otherwise
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "kit.h"

namespace {

constexpr uint32_t kLayers = 2, kQ = 4, kKv = 2, kDim = 64;
constexpr uint64_t kBudget = uint64_t{48} << 20;

class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(seed) {}
  uint64_t Roll(uint64_t sides) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return (state_ >> 33) % sides;
  }

 private:
  uint64_t state_;
};

struct Counts {
  std::atomic<unsigned long> calls{0}, refused{0}, restored{0}, found{0};
  bool selects = false;  // the recipe that is on now does
};

std::vector<float> Attend(const kvg_cache* cache, uint32_t layer) {
  std::vector<float> q(kQ * kDim), out(q.size());
  kvt_fill(q.data(), q.size(), 5, 0);
  kvg_attend_desc desc;
  kvg_attend_desc_init(&desc);
  desc.q_dtype = desc.out_dtype = KVG_F32;
  const size_t bytes = q.size() * sizeof(float);
  CHECK(kvg_cache_attend(cache, layer, q.data(), bytes, out.data(), bytes, &desc, nullptr) == KVG_OK);
  return out;
}

// What a policy may be waiting for. Others get nothing from it.
kvg_status Observe(kvg_cache* cache, uint32_t layer) {
  std::vector<float> q(kQ * kDim), out(q.size());
  kvt_fill(q.data(), q.size(), 6, 0);
  kvg_attend_desc desc;
  kvg_attend_desc_init(&desc);
  desc.q_dtype = desc.out_dtype = KVG_F32;
  const size_t bytes = q.size() * sizeof(float);
  return kvg_cache_attend_observe(cache, layer, q.data(), bytes, out.data(), bytes, &desc, nullptr);
}

// A status that a budget or a cut inside a segment may give, or the selection of tokens; anything else is wrong.
bool Fine(Counts& counts, kvg_status status) {
  ++counts.calls;
  if (status == KVG_OK) return true;
  CHECK(status == KVG_E_LIMIT || status == KVG_E_INVALID ||
        (counts.selects && (status == KVG_E_STATE || status == KVG_E_UNSUPPORTED)));
  ++counts.refused;
  return false;
}

void Work(const kvt_rig& rig, kvg_prefix* prefix, uint64_t seed, const std::atomic<bool>& stop, Counts& counts) {
  Dice dice(seed);
  std::vector<kvg_cache*> caches;
  std::vector<unsigned char> bytes;
  const auto drop = [&](size_t i) {
    kvg_cache_destroy(caches[i]);
    caches[i] = caches.back();
    caches.pop_back();
  };
  while (!stop) {
    kvg_cache* made = nullptr;
    if (caches.empty() || (caches.size() < 12 && dice.Roll(8) == 0)) {
      if (Fine(counts, kvg_cache_create(rig.runtime, rig.plan, &made, nullptr))) caches.push_back(made);
      continue;
    }
    const size_t i = dice.Roll(caches.size());
    kvg_cache* const cache = caches[i];
    const uint64_t length = kvt_length(cache, 0);
    switch (dice.Roll(8)) {
      case 0:
      case 1:
      case 2: {
        const uint64_t tokens = 1 + dice.Roll(dice.Roll(4) == 0 ? 700 : 20);
        bool all = true;
        for (uint32_t layer = 0; layer < kLayers; ++layer) {
          all = all && Fine(counts, kvt_append(&rig, cache, layer, length, tokens, 1, nullptr)) &&
                Fine(counts, Observe(cache, layer));
        }
        if (!all) drop(i);
        break;
      }
      case 3:
        if (Fine(counts, kvg_cache_fork(cache, &made, nullptr))) caches.push_back(made);
        break;
      case 4:
        Fine(counts, kvg_cache_truncate(cache, KVG_ALL_LAYERS, length - dice.Roll(length / 4 + 1), nullptr));
        break;
      case 5: {
        size_t needed = 0;
        if (!Fine(counts, kvg_cache_save_buffer(cache, nullptr, 0, &needed, nullptr, nullptr))) break;
        bytes.resize(needed);
        if (!Fine(counts, kvg_cache_save_buffer(cache, bytes.data(), needed, &needed, nullptr, nullptr))) break;
        if (!Fine(counts, kvg_cache_load_buffer(rig.runtime, rig.plan, bytes.data(), needed, nullptr, &made, nullptr))) break;
        for (uint32_t layer = 0; layer < kLayers && length > 0; ++layer) {
          CHECK(Attend(made, layer) == Attend(cache, layer));
        }
        ++counts.restored;
        kvg_cache_destroy(cache);
        caches[i] = made;
        break;
      }
      case 6: {
        std::vector<uint32_t> ids(length, 7);
        uint64_t matched = 0;
        if (length == 0) break;
        if (dice.Roll(2) == 0) {
          Fine(counts, kvg_prefix_insert(prefix, ids.data(), ids.size(), cache, nullptr));
        } else if (Fine(counts, kvg_prefix_find(prefix, rig.plan, ids.data(), ids.size(), &matched, &made, nullptr)) &&
                   made != nullptr) {
          CHECK(kvt_length(made, 1) == matched && matched <= length);
          caches.push_back(made);
          ++counts.found;
        }
        break;
      }
      case 7:
        if (caches.size() > 4) drop(i);
        break;
    }
  }
  for (kvg_cache* cache : caches) kvg_cache_destroy(cache);
}

void Soak(const char* recipe, double seconds, Counts& counts) {
  kvt_heap heap;
  kvg_allocator table;
  kvt_heap_table(&heap, &table);
  kvg_runtime_options options;
  kvg_runtime_options_init(&options);
  options.allocator = &table;
  options.threads = 1;
  options.memory_budget = kBudget;
  kvt_rig rig;
  if (!kvt_rig_open(&rig, recipe, kLayers, kQ, kKv, kDim, &options)) return;
  kvg_cache_destroy(rig.cache);
  rig.cache = nullptr;
  kvg_prefix* prefix = nullptr;
  CHECK(kvg_prefix_create(rig.runtime, kBudget / 4, &prefix, nullptr) == KVG_OK);
  std::atomic<bool> stop{false};
  std::vector<std::thread> crew;
  for (uint64_t i = 0; i < 3; ++i) {
    crew.emplace_back([&, i] { Work(rig, prefix, i + 1, stop, counts); });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (std::thread& thread : crew) thread.join();
  kvg_prefix_destroy(prefix);
  uint64_t held = 1;
  CHECK(kvg_runtime_memory(rig.runtime, &held, nullptr) == KVG_OK && held == 0);
  kvt_rig_close(&rig);
  CHECK(heap.blocks == 0 && heap.bytes == 0);
}

// Of the process, in KiB.
long Resident() {
  long pages = 0, resident = 0;
  std::FILE* const file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  if (std::fscanf(file, "%ld %ld", &pages, &resident) != 2) resident = 0;
  std::fclose(file);
  return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

}  // namespace

int main(int argc, char** argv) {
  const double seconds = argc > 1 ? std::atof(argv[1]) : 5;
  Counts counts;
  const char* const recipes[] = {"gear-2", "kivi-2", "tc-2,k.map=online", "gear-4,window=32,select=h2o,budget=0.4",
                                 "zipcache"};
  for (const char* recipe : recipes) {
    counts.selects = std::strstr(recipe, "select") != nullptr || std::strcmp(recipe, "zipcache") == 0;
    const long before = Resident();
    Soak(recipe, seconds / 5, counts);
    std::printf("%s: resident %ld KiB before, %ld KiB after\n", recipe, before, Resident());
  }
  std::printf("%lu calls, %lu refused, %lu restored, %lu prefixes found, %d failed\n", counts.calls.load(),
              counts.refused.load(), counts.restored.load(), counts.found.load(), kvt_failures());
  return kvt_failures() == 0 && counts.restored > 0 ? 0 : 1;
}
