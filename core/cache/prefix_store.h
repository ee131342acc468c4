// Caches of prompts that were seen, kept by their token ids, so that the next prompt with the same
// beginning need not be computed again.
//
// Called by capi. Thread-safe. Each length to which a stored cache can be cut is found by a hash of the
// tokens before it, which are then compared: of a prompt the longest length that is known. Stored caches are forks and share what they can; their bytes are
// counted once, however many of them hold them.
#ifndef KVGEAR_CORE_CACHE_PREFIX_STORE_H_
#define KVGEAR_CORE_CACHE_PREFIX_STORE_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "absl/functional/function_ref.h"
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
  // same plan and tokens. Those that were not used for longest make room; KVG_E_LIMIT if that is not enough.
  absl::Status Insert(absl::Span<const uint32_t> tokens, const Cache& cache);

  struct Match {
    std::unique_ptr<Cache> cache;  // a fork, cut to `tokens`; empty: nothing was found
    uint64_t tokens = 0;
  };
  // The longest beginning of `tokens` to which anything stored for the same plan can be cut. Takes time
  // that grows with the tokens, not with what is stored.
  // `take` gets the fork, if there is one, before the call counts as a hit: what it throws leaves the
  // store as it was.
  using Take = absl::FunctionRef<void(std::unique_ptr<Cache>& fork)>;
  absl::StatusOr<Match> Find(absl::Span<const uint32_t> tokens,
                             const std::shared_ptr<const Plan>& plan,
                             Take take = [](std::unique_ptr<Cache>&) {});
  void Clear() noexcept;
  PrefixStats GetStats() const;

 private:
  // A length to which an entry can be cut, by the hash of its first so many tokens. Links those of
  // one place of the index.
  struct Entry;
  struct Cut {
    uint64_t hash = 0, tokens = 0;
    const Entry* entry = nullptr;
    Cut *before = nullptr, *after = nullptr;
  };
  using Entries = std::list<Entry>;  // the one that was used last is first
  struct Entry {
    std::vector<uint32_t> tokens;
    std::unique_ptr<Cache> cache;
    std::vector<Cut> cuts;  // stays where it is: other entries link to it
    Entries::iterator place;
  };
  struct Held {
    uint64_t bytes = 0;
    uint32_t holders = 0;
  };

  const Cut* FindCut(absl::Span<const uint32_t> tokens, const Plan* plan, uint64_t hash,
                     bool whole) const;
  static uint64_t OwnBytes(const Entry& entry);
  uint64_t Count(const Entry& entry);
  void Uncount(const Entry& entry) noexcept;
  void Reserve(size_t cuts);
  void Link(Entry& entry) noexcept;
  void Unlink(Entry& entry) noexcept;
  void Remove(Entries::iterator entry) noexcept;

  const std::shared_ptr<Runtime> runtime_;
  const uint64_t budget_;
  mutable std::mutex mutex_;
  Entries entries_;
  // The first cut of each place: a power of two of them, at least one for every cut. Not Abseil's maps,
  // which are broken when the memory to grow them is refused.
  std::vector<Cut*> index_;
  size_t cuts_ = 0;  // in the index
  std::unordered_map<const void*, Held> held_;
  PrefixStats stats_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_PREFIX_STORE_H_
