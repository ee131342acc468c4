// See prefix_store.h.
#include "core/cache/prefix_store.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace kvg {
namespace {

uint64_t CommonLength(absl::Span<const uint32_t> a, absl::Span<const uint32_t> b) {
  const size_t most = std::min(a.size(), b.size());
  return static_cast<uint64_t>(
      std::mismatch(a.begin(), a.begin() + static_cast<ptrdiff_t>(most), b.begin()).first -
      a.begin());
}

// The largest length up to `tokens` to which all layers can be cut.
uint64_t CutOf(const Cache& cache, uint64_t tokens) {
  uint64_t cut = tokens;
  for (bool moved = true; moved && cut > 0;) {
    moved = false;
    for (uint32_t layer = 0; layer < cache.plan().shape().layers; ++layer) {
      const uint64_t below = cache.layer(layer).NearestCuts(cut).first;
      moved = moved || below < cut;
      cut = below;
    }
  }
  return cut;
}

}  // namespace

// Returns what the entry would hold by itself. On bad_alloc only the room of the table has changed.
uint64_t PrefixStore::Count(const Entries::value_type& entry) {
  std::vector<std::pair<const void*, uint64_t>> all;
  all.emplace_back(&entry, sizeof(entry) + entry.first.size() * sizeof(uint32_t));
  entry.second.cache->ForEachHeld(
      [&all](const void* identity, uint64_t bytes) { all.emplace_back(identity, bytes); });
  held_.reserve(held_.size() + all.size());
  uint64_t alone = 0;
  for (const auto& [identity, bytes] : all) {
    Held& held = held_[identity];
    alone += bytes;
    if (held.holders++ > 0) continue;
    held.bytes = bytes;
    stats_.bytes += bytes;
  }
  return alone;
}

void PrefixStore::Uncount(const Entries::value_type& entry) noexcept {
  const auto drop = [this](const void* identity) {
    const auto held = held_.find(identity);
    if (--held->second.holders > 0) return;
    stats_.bytes -= held->second.bytes;
    held_.erase(held);
  };
  drop(&entry);
  entry.second.cache->ForEachHeld([&drop](const void* identity, uint64_t) { drop(identity); });
}

void PrefixStore::Remove(Entries::iterator entry) noexcept {
  Uncount(*entry);
  order_.erase(entry->second.place);
  entries_.erase(entry);
}

absl::Status PrefixStore::Insert(absl::Span<const uint32_t> tokens, const Cache& cache) {
  KVG_RETURN_IF_ERROR(cache.CheckKeepsAll("a store of prefixes"));
  if (tokens.empty()) return InvalidError("tokens is 0; an empty prefix need not be stored");
  if (cache.shared_runtime() != runtime_) {
    return InvalidError("the cache is of another runtime than the prefix store");
  }
  for (uint32_t layer = 0; layer < cache.plan().shape().layers; ++layer) {
    const uint64_t length = cache.layer(layer).length();
    if (length == tokens.size()) continue;
    return InvalidError("tokens is ", tokens.size(), " but layer ", layer, " of the cache holds ",
                        length, "; store a cache when all its layers hold the prefix");
  }
  absl::StatusOr<std::unique_ptr<Cache>> fork = cache.Fork();
  KVG_RETURN_IF_ERROR(fork.status());
  const std::lock_guard<std::mutex> lock(mutex_);
  // Into containers of its own first; what follows moves nodes and cannot fail.
  Entries fresh;
  Order place;
  const auto entry = fresh.emplace(Key(tokens.begin(), tokens.end()), Entry()).first;
  entry->second.cache = *std::move(fork);
  place.push_front(entry);
  entry->second.place = place.begin();
  const uint64_t alone = Count(*entry);
  if (budget_ != 0 && alone > budget_) {
    Uncount(*entry);
    return LimitError("the cache takes ", alone, " bytes but the prefix store may hold ", budget_,
                      "; raise its budget, or store shorter prefixes");
  }
  const auto old = entries_.find(entry->first);
  if (old != entries_.end()) Remove(old);
  entries_.merge(fresh);
  order_.splice(order_.begin(), place);
  while (budget_ != 0 && stats_.bytes > budget_) {
    Remove(order_.back());
    ++stats_.evictions;
  }
  return absl::OkStatus();
}

absl::StatusOr<PrefixStore::Match> PrefixStore::Find(absl::Span<const uint32_t> tokens,
                                                     const std::shared_ptr<const Plan>& plan) {
  const Key key(tokens.begin(), tokens.end());
  const std::lock_guard<std::mutex> lock(mutex_);
  const Entries::iterator after = entries_.lower_bound(key);
  Match match;
  Entries::iterator best = entries_.end();
  // Outwards from where the tokens would stand: common beginnings only get shorter.
  const auto consider = [&](Entries::iterator entry) {
    const uint64_t common = CommonLength(tokens, entry->first);
    if (common <= match.tokens) return false;
    if (entry->second.cache->shared_plan() != plan) return true;
    const uint64_t cut = CutOf(*entry->second.cache, common);
    if (cut > match.tokens) {
      match.tokens = cut;
      best = entry;
    }
    return cut < common;
  };
  for (auto entry = after; entry != entries_.end() && consider(entry); ++entry) {
  }
  for (auto entry = after; entry != entries_.begin() && consider(std::prev(entry)); --entry) {
  }
  if (best == entries_.end()) {
    ++stats_.misses;
    return match;
  }
  absl::StatusOr<std::unique_ptr<Cache>> fork = best->second.cache->Fork();
  KVG_RETURN_IF_ERROR(fork.status());
  KVG_RETURN_IF_ERROR((*fork)->Truncate(kAllLayers, match.tokens));
  match.cache = *std::move(fork);
  order_.splice(order_.begin(), order_, best->second.place);
  ++stats_.hits;
  return match;
}

void PrefixStore::Clear() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  order_.clear();
  entries_.clear();
  held_.clear();
  stats_.bytes = 0;
}

PrefixStats PrefixStore::GetStats() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  PrefixStats stats = stats_;
  stats.entries = entries_.size();
  return stats;
}

}  // namespace kvg
