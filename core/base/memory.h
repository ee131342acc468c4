// Memory of a runtime, on the host or on a device: every byte that a cache holds comes through here.
//
// Called by core/runtime (owner), core/cache and core/codec (users). Counts bytes held by caches
// against the budget; scratch memory of a running call comes from the same allocator, uncounted.
#ifndef KVGEAR_CORE_BASE_MEMORY_H_
#define KVGEAR_CORE_BASE_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <new>
#include <utility>

namespace kvg {

// Thrown in place of std::bad_alloc when the budget, not the allocator, refused; capi maps it to
// KVG_E_LIMIT.
class BudgetExceeded : public std::bad_alloc {
 public:
  const char* what() const noexcept override { return "memory budget exceeded"; }
};

struct AllocatorTable {
  void* user = nullptr;
  void* (*alloc)(void* user, size_t size, size_t alignment) = nullptr;
  void (*release)(void* user, void* ptr, size_t size, size_t alignment) = nullptr;
};

// The system's aligned allocator.
AllocatorTable SystemAllocator();

// Thread-safe. Outlives everything allocated from it.
class Memory {
 public:
  // budget 0 = no limit.
  Memory(const AllocatorTable& table, uint64_t budget) : table_(table), budget_(budget) {}
  // Another kind of memory whose bytes count as those of `ledger`, which outlives it. The allocator
  // gives it whole multiples of `granule` bytes.
  Memory(const AllocatorTable& table, Memory& ledger, size_t granule)
      : table_(table), budget_(ledger.budget_), ledger_(ledger), granule_(granule) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // Throws std::bad_alloc or BudgetExceeded; never returns nullptr for size > 0. 64-byte aligned.
  void* Allocate(size_t size);
  void Release(void* ptr, size_t size) noexcept;
  void* AllocateScratch(size_t size);
  void ReleaseScratch(void* ptr, size_t size) noexcept;

  uint64_t held() const { return ledger_.held_.load(std::memory_order_relaxed); }
  uint64_t budget() const { return budget_; }
  // What is taken from the allocator for `size` bytes.
  size_t Rounded(size_t size) const { return (size + granule_ - 1) / granule_ * granule_; }

 private:
  const AllocatorTable table_;
  const uint64_t budget_;
  Memory& ledger_ = *this;
  const size_t granule_ = 1;
  std::atomic<uint64_t> held_{0};  // of the ledger
};

// One owned block of counted (or, with kScratch, uncounted) memory. Move-only; may be empty.
class Buffer {
 public:
  enum Use { kCounted, kScratch };

  Buffer() = default;
  Buffer(Memory& memory, size_t size, Use use = kCounted);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  ~Buffer();

  void swap(Buffer& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(use_, other.use_);
  }
  template <typename T = std::byte>
  T* data() const {
    return static_cast<T*>(data_);
  }
  size_t size() const { return size_; }

 private:
  Memory* memory_ = nullptr;
  void* data_ = nullptr;
  size_t size_ = 0;
  Use use_ = kCounted;
};

// Lets standard containers draw on a Memory: std::pmr::vector<T> v(&resource).
class MemoryResource : public std::pmr::memory_resource {
 public:
  explicit MemoryResource(Memory& memory) : memory_(memory) {}

 private:
  void* do_allocate(size_t bytes, size_t alignment) override;
  void do_deallocate(void* p, size_t bytes, size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }
  Memory& memory_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_BASE_MEMORY_H_
