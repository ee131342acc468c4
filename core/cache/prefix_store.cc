// See prefix_store.h.
#include "core/cache/prefix_store.h"

#include <algorithm>
#include <bit>
#include <iterator>
#include <utility>

namespace kvg {
namespace {

// Of a beginning that is one token longer.
uint64_t Extend(uint64_t hash, uint32_t token) {
  uint64_t x = hash ^ (token + 0x9E3779B97F4A7C15u);
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

uint64_t StartOf(const Plan* plan) { return Extend(reinterpret_cast<uintptr_t>(plan), 0); }

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

uint64_t PrefixStore::OwnBytes(const Entry& entry) {
  return sizeof(Entry) + entry.tokens.capacity() * sizeof(uint32_t) +
         entry.cuts.capacity() * (sizeof(Cut) + 2 * sizeof(Cut*));
}

// Returns what the entry would hold by itself. On bad_alloc nothing has changed.
uint64_t PrefixStore::Count(const Entry& entry) {
  std::vector<std::pair<const void*, uint64_t>> all;
  all.emplace_back(&entry, OwnBytes(entry));
  entry.cache->ForEachHeld(
      [&all](const void* identity, uint64_t bytes) { all.emplace_back(identity, bytes); });
  try {
    for (const auto& [identity, bytes] : all) held_.try_emplace(identity);
  } catch (...) {
    for (const auto& [identity, bytes] : all) {
      const auto held = held_.find(identity);
      if (held != held_.end() && held->second.holders == 0) held_.erase(held);
    }
    throw;
  }
  uint64_t alone = 0;
  for (const auto& [identity, bytes] : all) {
    Held& held = held_.find(identity)->second;
    alone += bytes;
    if (held.holders++ > 0) continue;
    held.bytes = bytes;
    stats_.bytes += bytes;
  }
  return alone;
}

void PrefixStore::Uncount(const Entry& entry) noexcept {
  const auto drop = [this](const void* identity) {
    const auto held = held_.find(identity);
    if (--held->second.holders > 0) return;
    stats_.bytes -= held->second.bytes;
    held_.erase(held);
  };
  drop(&entry);
  entry.cache->ForEachHeld([&drop](const void* identity, uint64_t) { drop(identity); });
}

// Room for so many cuts. On bad_alloc nothing has changed.
void PrefixStore::Reserve(size_t cuts) {
  if (cuts <= index_.size()) return;
  std::vector<Cut*> larger(std::bit_ceil(cuts));
  index_.swap(larger);
  cuts_ = 0;
  for (Entry& entry : entries_) Link(entry);
}

// There is room in the index for all cuts of the entry.
void PrefixStore::Link(Entry& entry) noexcept {
  for (Cut& cut : entry.cuts) {
    Cut*& first = index_[cut.hash & (index_.size() - 1)];
    cut.before = nullptr;
    cut.after = first;
    if (first != nullptr) first->before = &cut;
    first = &cut;
  }
  cuts_ += entry.cuts.size();
}

void PrefixStore::Unlink(Entry& entry) noexcept {
  for (Cut& cut : entry.cuts) {
    if (cut.after != nullptr) cut.after->before = cut.before;
    (cut.before != nullptr ? cut.before->after : index_[cut.hash & (index_.size() - 1)]) = cut.after;
  }
  cuts_ -= entry.cuts.size();
}

void PrefixStore::Remove(Entries::iterator entry) noexcept {
  Uncount(*entry);
  Unlink(*entry);
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
  // Into a list of its own first; once it is counted, and the index has room, nothing can fail.
  Entries fresh(1);
  Entry& entry = fresh.front();
  entry.tokens.assign(tokens.begin(), tokens.end());
  entry.cache = *std::move(fork);
  std::vector<uint64_t> lengths;
  for (uint64_t cut = tokens.size(); cut > 0; cut = CutOf(*entry.cache, cut - 1)) {
    lengths.push_back(cut);
  }
  entry.cuts.resize(lengths.size());
  uint64_t hash = StartOf(&cache.plan());
  for (uint64_t length = 0, i = 0; i < lengths.size(); ++length) {
    hash = Extend(hash, tokens[length]);
    if (length + 1 != lengths[lengths.size() - 1 - i]) continue;
    entry.cuts[i++] = {.hash = hash, .tokens = length + 1, .entry = &entry};
  }
  Reserve(cuts_ + entry.cuts.size());
  const uint64_t alone = Count(entry);
  if (budget_ != 0 && alone > budget_) {
    Uncount(entry);
    return LimitError("the cache takes ", alone, " bytes but the prefix store may hold ", budget_,
                      "; raise its budget, or store shorter prefixes");
  }
  const Cut* const same = FindCut(tokens, &cache.plan(), hash, true);
  if (same != nullptr) Remove(same->entry->place);
  Link(entry);
  entries_.splice(entries_.begin(), fresh);
  entry.place = entries_.begin();
  while (budget_ != 0 && stats_.bytes > budget_) {
    Remove(std::prev(entries_.end()));
    ++stats_.evictions;
  }
  return absl::OkStatus();
}

// Any cut of these tokens, or one that is a whole entry.
const PrefixStore::Cut* PrefixStore::FindCut(absl::Span<const uint32_t> tokens, const Plan* plan,
                                             uint64_t hash, bool whole) const {
  const Cut* cut = index_.empty() ? nullptr : index_[hash & (index_.size() - 1)];
  for (; cut != nullptr; cut = cut->after) {
    const Entry& entry = *cut->entry;
    if (cut->hash == hash && cut->tokens == tokens.size() && entry.cache->shared_plan().get() == plan &&
        (!whole || entry.tokens.size() == tokens.size()) &&
        std::equal(tokens.begin(), tokens.end(), entry.tokens.begin())) {
      return cut;
    }
  }
  return nullptr;
}

absl::StatusOr<PrefixStore::Match> PrefixStore::Find(absl::Span<const uint32_t> tokens,
                                                     const std::shared_ptr<const Plan>& plan,
                                                     Take take) {
  std::vector<uint64_t> hashes;  // of each beginning
  hashes.reserve(tokens.size());
  uint64_t hash = StartOf(plan.get());
  for (const uint32_t token : tokens) hashes.push_back(hash = Extend(hash, token));
  const std::lock_guard<std::mutex> lock(mutex_);
  Match match;
  const Cut* best = nullptr;
  for (uint64_t length = tokens.size(); best == nullptr && length > 0; --length) {
    best = FindCut(tokens.first(length), plan.get(), hashes[length - 1], false);
  }
  if (best == nullptr) {
    ++stats_.misses;
    return match;
  }
  const Entry& entry = *best->entry;
  absl::StatusOr<std::unique_ptr<Cache>> fork = entry.cache->Fork();
  KVG_RETURN_IF_ERROR(fork.status());
  KVG_RETURN_IF_ERROR((*fork)->Truncate(kAllLayers, best->tokens));
  match.tokens = best->tokens;
  match.cache = *std::move(fork);
  take(match.cache);
  entries_.splice(entries_.begin(), entries_, entry.place);
  ++stats_.hits;
  return match;
}

void PrefixStore::Clear() noexcept {
  const std::lock_guard<std::mutex> lock(mutex_);
  index_.clear();
  cuts_ = 0;
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
