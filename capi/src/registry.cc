// See registry.h.
#include "capi/src/registry.h"

#include <new>
#include <type_traits>

namespace kvg::capi {

bool HandleRegistry::Add(const void* handle, HandleKind kind) noexcept {
  const uintptr_t entry = Entry(handle, kind);
  Chunk* chunk = &buckets_[BucketOf(handle)];
  while (true) {
    for (std::atomic<uintptr_t>& slot : chunk->slots) {
      uintptr_t expected = kFree;
      if (slot.compare_exchange_strong(expected, entry, std::memory_order_release,
                                       std::memory_order_relaxed)) {
        return true;
      }
    }
    Chunk* next = chunk->next.load(std::memory_order_acquire);
    if (next == nullptr) {
      Chunk* fresh = new (std::nothrow) Chunk;
      if (fresh == nullptr) return false;
      if (chunk->next.compare_exchange_strong(next, fresh, std::memory_order_acq_rel,
                                              std::memory_order_acquire)) {
        next = fresh;
      } else {
        delete fresh;  // another thread was faster; `next` is its chunk
      }
    }
    chunk = next;
  }
}

bool HandleRegistry::Remove(const void* handle, HandleKind kind) noexcept {
  const uintptr_t entry = Entry(handle, kind);
  for (Chunk* chunk = &buckets_[BucketOf(handle)]; chunk != nullptr;
       chunk = chunk->next.load(std::memory_order_acquire)) {
    for (std::atomic<uintptr_t>& slot : chunk->slots) {
      uintptr_t expected = entry;
      if (slot.compare_exchange_strong(expected, kFree, std::memory_order_acq_rel,
                                       std::memory_order_relaxed)) {
        return true;
      }
    }
  }
  return false;
}

HandleKind HandleRegistry::Find(const void* handle) const noexcept {
  for (const Chunk* chunk = &buckets_[BucketOf(handle)]; chunk != nullptr;
       chunk = chunk->next.load(std::memory_order_acquire)) {
    for (const std::atomic<uintptr_t>& slot : chunk->slots) {
      const uintptr_t entry = ~slot.load(std::memory_order_acquire);
      if ((entry & ~(kAlignment - 1)) == reinterpret_cast<uintptr_t>(handle)) {
        return static_cast<HandleKind>(entry & (kAlignment - 1));
      }
    }
  }
  return HandleKind::kNone;
}

HandleRegistry& Handles() noexcept {
  static_assert(std::is_trivially_destructible_v<HandleRegistry>);
  static constinit HandleRegistry registry;
  return registry;
}

}  // namespace kvg::capi
