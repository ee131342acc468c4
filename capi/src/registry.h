// Which handles are alive, and of what kind: lets a destroyed or foreign pointer be refused before
// it is followed.
//
// Called by handles.h. Find costs a few loads of lines that only create and destroy write to; there
// is no lock, so readers on many threads do not disturb one another.
#ifndef KVGEAR_CAPI_SRC_REGISTRY_H_
#define KVGEAR_CAPI_SRC_REGISTRY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace kvg::capi {

enum class HandleKind : uintptr_t { kNone = 0, kRuntime = 1, kPlan = 2, kCache = 3, kPrefix = 4 };

// A hash table with fixed buckets. A bucket is a list of chunks that grows to the most handles it
// ever held at once and is never freed, which is what makes reading without a lock safe.
// Trivially destructible on purpose: handles may be destroyed during the exit of the process.
class HandleRegistry {
 public:
  // Handles are aligned to this, so that the kind fits in the low bits of the address.
  static constexpr uintptr_t kAlignment = 8;

  // Returns false when there was no memory for a further chunk.
  bool Add(const void* handle, HandleKind kind) noexcept;

  // Returns false when it is not there (any more). Of two racing callers one gets true.
  bool Remove(const void* handle, HandleKind kind) noexcept;

  // kNone when the handle is not alive.
  HandleKind Find(const void* handle) const noexcept;

 private:
  static constexpr size_t kSlots = 7;
  static constexpr uintptr_t kFree = 0;
  struct alignas(64) Chunk {
    std::atomic<uintptr_t> slots[kSlots] = {};
    std::atomic<Chunk*> next{nullptr};
  };
  static constexpr int kBucketBits = 9;

  // Stored inverted: a leak checker would take a plain address for an owner of the handle, and so
  // hide that a program forgot to destroy it.
  static uintptr_t Entry(const void* handle, HandleKind kind) {
    return ~(reinterpret_cast<uintptr_t>(handle) | static_cast<uintptr_t>(kind));
  }
  static size_t BucketOf(const void* handle) {
    const uint64_t mixed = reinterpret_cast<uintptr_t>(handle) * uint64_t{0x9E3779B97F4A7C15};
    return static_cast<size_t>(mixed >> (64 - kBucketBits));
  }

  Chunk buckets_[size_t{1} << kBucketBits];
};

// The registry of this copy of the library.
HandleRegistry& Handles() noexcept;

}  // namespace kvg::capi

#endif  // KVGEAR_CAPI_SRC_REGISTRY_H_
