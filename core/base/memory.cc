// Memory, Buffer and MemoryResource: how bytes are fetched, counted and given back. See memory.h.
#include "core/base/memory.h"

#include <stdlib.h>

#include <limits>

#include "kernels/ops.h"

namespace kvg {
namespace {

constexpr size_t kAlignment = ops::kAlign;

void* SystemAlloc(void*, size_t size, size_t alignment) {
  // posix_memalign asks for at least the alignment of a pointer.
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  void* ptr = nullptr;
  return posix_memalign(&ptr, alignment, size) == 0 ? ptr : nullptr;
}

void SystemRelease(void*, void* ptr, size_t, size_t) { free(ptr); }

// Standard containers may ask for nothing, and expect a pointer all the same.
size_t AtLeastOne(size_t bytes) { return bytes == 0 ? 1 : bytes; }

}  // namespace

AllocatorTable SystemAllocator() { return {nullptr, SystemAlloc, SystemRelease}; }

void* Memory::AllocateScratch(size_t size) {
  if (size == 0) return nullptr;
  void* ptr = table_.alloc(table_.user, size, kAlignment);
  if (ptr == nullptr) throw std::bad_alloc();
  // A host's allocator that ignores the alignment would make the kernels fault much later.
  if (reinterpret_cast<uintptr_t>(ptr) % kAlignment != 0) {
    table_.release(table_.user, ptr, size, kAlignment);
    throw std::bad_alloc();
  }
  return ptr;
}

void Memory::ReleaseScratch(void* ptr, size_t size) noexcept {
  if (ptr != nullptr) table_.release(table_.user, ptr, size, kAlignment);
}

void* Memory::Allocate(size_t size) {
  // The bytes are taken from the budget before they are asked for, so that threads that allocate at
  // the same time cannot pass it together, not even for a moment.
  const uint64_t limit = budget_ != 0 ? budget_ : std::numeric_limits<uint64_t>::max();
  uint64_t held = ledger_.held_.load(std::memory_order_relaxed);
  do {
    if (size > limit - held) throw BudgetExceeded();
  } while (!ledger_.held_.compare_exchange_weak(held, held + size, std::memory_order_relaxed));
  try {
    return AllocateScratch(size);
  } catch (...) {
    ledger_.held_.fetch_sub(size, std::memory_order_relaxed);
    throw;
  }
}

void Memory::Release(void* ptr, size_t size) noexcept {
  if (ptr == nullptr) return;
  ReleaseScratch(ptr, size);
  ledger_.held_.fetch_sub(size, std::memory_order_relaxed);
}

Buffer::Buffer(Memory& memory, size_t size, Use use)
    : memory_(&memory),
      data_(use == kCounted ? memory.Allocate(memory.Rounded(size))
                            : memory.AllocateScratch(memory.Rounded(size))),
      size_(memory.Rounded(size)),
      use_(use) {}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (use_ == kCounted) {
    memory_->Release(data_, size_);
  } else {
    memory_->ReleaseScratch(data_, size_);
  }
}

void* MemoryResource::do_allocate(size_t bytes, size_t alignment) {
  if (alignment > kAlignment) throw std::bad_alloc();
  return memory_.Allocate(AtLeastOne(bytes));
}

void MemoryResource::do_deallocate(void* p, size_t bytes, size_t) {
  memory_.Release(p, AtLeastOne(bytes));
}

}  // namespace kvg
