// Memory, Buffer, MemoryResource: exact counting, an exact budget, and allocators that misbehave.
#include "core/base/memory.h"

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory_resource>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/ops.h"

namespace kvg {
namespace {

// An allocator that keeps book and can be told to fail.
struct Host {
  std::atomic<int64_t> live_bytes{0};
  std::atomic<uint64_t> calls{0};
  uint64_t fail_at = 0;   // the n-th call fails; 0 = none
  size_t shift = 0;       // added to every pointer handed out
  AllocatorTable inner = SystemAllocator();

  AllocatorTable Table() {
    return {this,
            [](void* user, size_t size, size_t alignment) -> void* {
              Host& host = *static_cast<Host*>(user);
              if (++host.calls == host.fail_at) return nullptr;
              void* ptr = host.inner.alloc(nullptr, size + host.shift, alignment);
              if (ptr == nullptr) return nullptr;
              host.live_bytes += static_cast<int64_t>(size);
              return static_cast<std::byte*>(ptr) + host.shift;
            },
            [](void* user, void* ptr, size_t size, size_t alignment) {
              Host& host = *static_cast<Host*>(user);
              host.live_bytes -= static_cast<int64_t>(size);
              host.inner.release(nullptr, static_cast<std::byte*>(ptr) - host.shift,
                                 size + host.shift, alignment);
            }};
  }
};

bool IsAligned(const void* ptr) { return reinterpret_cast<uintptr_t>(ptr) % ops::kAlign == 0; }

TEST(Memory, CountsWhatIsHeld) {
  Host host;
  Memory memory(host.Table(), 0);
  void* a = memory.Allocate(100);
  void* b = memory.Allocate(1);
  EXPECT_TRUE(IsAligned(a));
  EXPECT_TRUE(IsAligned(b));
  EXPECT_EQ(memory.held(), 101u);
  EXPECT_EQ(host.live_bytes, 101);
  memory.Release(a, 100);
  EXPECT_EQ(memory.held(), 1u);
  memory.Release(b, 1);
  memory.Release(nullptr, 5);
  EXPECT_EQ(memory.held(), 0u);
  EXPECT_EQ(host.live_bytes, 0);
}

TEST(Memory, ScratchIsNotCountedNorLimited) {
  Host host;
  Memory memory(host.Table(), 10);
  void* scratch = memory.AllocateScratch(1000);
  EXPECT_TRUE(IsAligned(scratch));
  EXPECT_EQ(memory.held(), 0u);
  EXPECT_EQ(host.live_bytes, 1000);
  memory.ReleaseScratch(scratch, 1000);
  EXPECT_EQ(host.live_bytes, 0);
}

TEST(Memory, BudgetIsExact) {
  Memory memory(SystemAllocator(), 256);
  void* a = memory.Allocate(200);
  EXPECT_THROW(memory.Allocate(57), BudgetExceeded);
  EXPECT_EQ(memory.held(), 200u);
  void* b = memory.Allocate(56);
  EXPECT_THROW(memory.Allocate(1), BudgetExceeded);
  memory.Release(a, 200);
  a = memory.Allocate(200);
  EXPECT_EQ(memory.held(), 256u);
  memory.Release(a, 200);
  memory.Release(b, 56);
}

TEST(Memory, SizesThatOverflowAreRefused) {
  Memory limited(SystemAllocator(), 1000);
  void* a = limited.Allocate(10);
  EXPECT_THROW(limited.Allocate(std::numeric_limits<size_t>::max()), BudgetExceeded);
  EXPECT_THROW(limited.Allocate(std::numeric_limits<size_t>::max() - 9), BudgetExceeded);
  limited.Release(a, 10);
  Host host;
  host.fail_at = 2;
  Memory unlimited(host.Table(), 0);
  void* b = unlimited.Allocate(10);
  EXPECT_THROW(unlimited.Allocate(std::numeric_limits<size_t>::max() - 10), std::bad_alloc);
  EXPECT_EQ(unlimited.held(), 10u);
  unlimited.Release(b, 10);
}

TEST(Memory, AFailedAllocationIsNotCounted) {
  Host host;
  host.fail_at = 1;
  Memory memory(host.Table(), 100);
  try {
    memory.Allocate(60);
    FAIL() << "the allocator failed, Allocate did not";
  } catch (const BudgetExceeded&) {
    FAIL() << "the allocator refused, not the budget";
  } catch (const std::bad_alloc&) {
  }
  EXPECT_EQ(memory.held(), 0u);
  memory.Release(memory.Allocate(100), 100);  // the whole budget is still there
}

TEST(Memory, MisalignedMemoryIsRefusedAndGivenBack) {
  Host host;
  host.shift = 16;
  Memory memory(host.Table(), 0);
  EXPECT_THROW(memory.Allocate(64), std::bad_alloc);
  EXPECT_THROW(memory.AllocateScratch(64), std::bad_alloc);
  EXPECT_EQ(memory.held(), 0u);
  EXPECT_EQ(host.live_bytes, 0);
}

TEST(Memory, ThreadsCannotPassTheBudgetTogether) {
  constexpr uint64_t kBudget = 1000;
  Memory memory(SystemAllocator(), kBudget);
  std::atomic<uint64_t> worst{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < 2000; ++i) {
        const size_t size = 200 + 50 * t + i % 7;  // four at once do not fit
        try {
          const Buffer buffer(memory, size);
          const uint64_t held = memory.held();
          uint64_t seen = worst.load();
          while (held > seen && !worst.compare_exchange_weak(seen, held)) {
          }
          std::this_thread::yield();
        } catch (const BudgetExceeded&) {
          // Somebody else holds too much just now.
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(worst.load(), kBudget);
  EXPECT_EQ(memory.held(), 0u);
}

TEST(Buffer, OwnsAndMoves) {
  Host host;
  Memory memory(host.Table(), 0);
  {
    Buffer a(memory, 32);
    EXPECT_TRUE(IsAligned(a.data()));
    void* where = a.data();
    Buffer b(std::move(a));
    EXPECT_EQ(b.data(), where);
    EXPECT_EQ(a.data(), nullptr);
    EXPECT_EQ(a.size(), 0u);
    Buffer c(memory, 8);
    c = std::move(b);
    EXPECT_EQ(c.data(), where);
    EXPECT_EQ(c.size(), 32u);
    EXPECT_EQ(memory.held(), 32u);
    Buffer& alias = c;
    c = std::move(alias);
    EXPECT_EQ(c.data(), where);
  }
  EXPECT_EQ(memory.held(), 0u);
  EXPECT_EQ(host.live_bytes, 0);
}

TEST(Buffer, ScratchAndEmpty) {
  Host host;
  Memory memory(host.Table(), 0);
  {
    const Buffer scratch(memory, 100, Buffer::kScratch);
    EXPECT_EQ(memory.held(), 0u);
    EXPECT_EQ(host.live_bytes, 100);
    const Buffer none(memory, 0);
    EXPECT_EQ(none.data(), nullptr);
    EXPECT_EQ(host.calls, 1u);
    Buffer counted(memory, 40);
    Buffer other(memory, 60, Buffer::kScratch);
    counted.swap(other);  // each keeps how it was counted
  }
  EXPECT_EQ(memory.held(), 0u);
  EXPECT_EQ(host.live_bytes, 0);
}

TEST(MemoryResource, ContainersAreCounted) {
  Host host;
  Memory memory(host.Table(), 4096);
  MemoryResource resource(memory);
  {
    std::pmr::vector<uint64_t> v(&resource);
    v.reserve(100);
    EXPECT_EQ(memory.held(), 800u);
    v.assign(100, 7);
    EXPECT_THROW(v.reserve(1000), BudgetExceeded);
    EXPECT_EQ(v.size(), 100u);
    EXPECT_EQ(v[99], 7u);
  }
  void* none = resource.allocate(0);
  EXPECT_NE(none, nullptr);
  resource.deallocate(none, 0);
  EXPECT_THROW(static_cast<void>(resource.allocate(8, 4096)), std::bad_alloc);
  EXPECT_EQ(memory.held(), 0u);
  EXPECT_EQ(host.live_bytes, 0);
  EXPECT_TRUE(resource == resource);
  MemoryResource other(memory);
  EXPECT_FALSE(resource == other);
}

TEST(SystemAllocator, ServesEveryAlignment) {
  const AllocatorTable table = SystemAllocator();
  for (size_t alignment = 1; alignment <= 4096; alignment *= 2) {
    void* ptr = table.alloc(table.user, 10, alignment);
    ASSERT_NE(ptr, nullptr);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(ptr) % alignment, 0u);
    table.release(table.user, ptr, 10, alignment);
  }
}

}  // namespace
}  // namespace kvg
