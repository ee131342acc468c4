// A crew of threads that start together, and what the thread tests ask of a cache.
#ifndef KVGEAR_TESTS_THREAD_CREW_H_
#define KVGEAR_TESTS_THREAD_CREW_H_

#include <cstdio>
#include <latch>
#include <thread>
#include <vector>

#include "kit.h"

namespace kvt {

// Runs work(0) .. work(n - 1), each on a thread of its own, all at the same time; waits for them.
template <typename Work>
void RunTogether(int n, const Work& work) {
  std::latch start(n);
  std::vector<std::thread> crew;
  for (int i = 0; i < n; ++i) {
    crew.emplace_back([&start, &work, i] {
      start.arrive_and_wait();
      work(i);
    });
  }
  for (std::thread& thread : crew) thread.join();
}

// The rows of attention of `queries` newest queries; empty when the call fails.
inline std::vector<float> Attend(const kvt_rig& rig, const kvg_cache* cache, uint32_t queries) {
  std::vector<float> q(size_t{queries} * rig.q_heads * rig.head_dim), out(q.size());
  const size_t bytes = q.size() * sizeof(float);
  kvt_fill(q.data(), q.size(), 5, 0);
  kvg_attend_desc desc;
  kvg_attend_desc_init(&desc);
  desc.q_dtype = desc.out_dtype = KVG_F32;
  desc.queries = queries;
  const kvg_status status =
      kvg_cache_attend(cache, 0, q.data(), bytes, out.data(), bytes, &desc, nullptr);
  CHECK(status == KVG_OK);
  if (status != KVG_OK) out.clear();
  return out;
}

inline std::vector<float> Read(const kvt_rig& rig, const kvg_cache* cache, kvg_side side,
                               uint64_t first, uint64_t tokens) {
  std::vector<float> out(kvt_elements(&rig, tokens));
  CHECK(kvg_cache_read(cache, 0, side, first, tokens, KVG_F32, out.data(),
                       out.size() * sizeof(float), nullptr) == KVG_OK);
  return out;
}

inline kvg_stats Stats(const kvg_cache* cache) {
  kvg_stats stats;
  kvg_stats_init(&stats);
  CHECK(kvg_cache_stats(cache, KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, nullptr) == KVG_OK);
  return stats;
}

// Says what happened; the exit status of a test program.
inline int Finish() {
  std::printf("%ld checks, %d failed\n", kvt_checks(), kvt_failures());
  return kvt_checks() > 0 && kvt_failures() == 0 ? 0 : 1;
}

}  // namespace kvt

#endif  // KVGEAR_TESTS_THREAD_CREW_H_
