// Caches of prompts that were seen, kept by their token ids, so that the next prompt with the same
// beginning need not be computed again.
//
// Called by capi. Thread-safe. Stored caches are forks and share what they can; their bytes are
// counted once, however many of them hold them.
#ifndef KVGEAR_CORE_CACHE_PREFIX_STORE_H_
#define KVGEAR_CORE_CACHE_PREFIX_STORE_H_

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "core/base/status.h"
#include "core/cache/cache.h"

namespace kvg {

struct PrefixStats {
  uint64_t entries = 0;  // stored caches
  uint64_t bytes = 0;    // that they and their keys hold, shared ones once
  uint64_t hits = 0;     // calls of Find that found something
  uint64_t misses = 0;
  uint64_t evictions = 0;
};

class PrefixStore {
 public:
  // budget: most bytes of all entries together; 0 = no limit.
  PrefixStore(std::shared_ptr<Runtime> runtime, uint64_t budget)
      : runtime_(std::move(runtime)), budget_(budget) {}

  // Stores a fork of `cache`, whose layers must all hold tokens.size() tokens, in place of one of the
  // same tokens. Those that were not used for longest make room; KVG_E_LIMIT if that is not enough.
  absl::Status Insert(absl::Span<const uint32_t> tokens, const Cache& cache);

  struct Match {
    std::unique_ptr<Cache> cache;  // a fork, cut to `tokens`; empty: nothing was found
    uint64_t tokens = 0;
  };
  // The longest common beginning of `tokens` and anything stored for the same plan, to the nearest
  // length below at which a cache can be cut.
  absl::StatusOr<Match> Find(absl::Span<const uint32_t> tokens,
                             const std::shared_ptr<const Plan>& plan);
  void Clear() noexcept;
  PrefixStats GetStats() const;

 private:
  using Key = std::vector<uint32_t>;
  struct Entry;
  // In the order of their tokens, so that the one with the longest common beginning is a neighbour.
  using Entries = std::map<Key, Entry>;
  using Order = std::list<Entries::iterator>;  // the one that was used last is first
  struct Entry {
    std::unique_ptr<Cache> cache;
    Order::iterator place;
  };
  struct Held {
    uint64_t bytes = 0;
    uint32_t holders = 0;
  };

  uint64_t Count(const Entries::value_type& entry);
  void Uncount(const Entries::value_type& entry) noexcept;
  void Remove(Entries::iterator entry) noexcept;

  const std::shared_ptr<Runtime> runtime_;
  const uint64_t budget_;
  mutable std::mutex mutex_;
  Entries entries_;
  Order order_;
  absl::flat_hash_map<const void*, Held> held_;
  PrefixStats stats_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_PREFIX_STORE_H_
