// The runtime: backend, memory, threads and log sink, shared by any number of caches.
//
// Called by core/cache and capi. Thread-safe.
#ifndef KVGEAR_CORE_RUNTIME_RUNTIME_H_
#define KVGEAR_CORE_RUNTIME_RUNTIME_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "core/base/memory.h"
#include "core/base/status.h"
#include "core/runtime/device.h"
#include "core/runtime/thread_pool.h"
#include "kernels/ops.h"

namespace kvg {

enum class DeviceType : uint32_t { kCpu = 0, kCuda = 1 };
enum class LogLevel : uint32_t { kDebug = 0, kInfo = 1, kWarn = 2, kError = 3 };
using LogFn = void (*)(void* user, uint32_t level, const char* message);

struct RuntimeOptions {
  DeviceType device = DeviceType::kCpu;
  uint32_t device_id = 0;
  uint32_t threads = 0;  // worker threads beside the caller's
  uint64_t memory_budget = 0;
  AllocatorTable allocator = SystemAllocator();
  Device::Slabs slabs;  // of a device
};

class Runtime {
 public:
  static absl::StatusOr<std::shared_ptr<Runtime>> Create(const RuntimeOptions& options);

  Memory& memory() { return memory_; }
  MemoryResource& resource() { return resource_; }
  const ops::Table& table() const { return *table_; }
  // nullptr on the CPU. What it does not do (saved bytes, tests) is done with table().
  Device* device() { return device_.get(); }
  // Work sharing for one call: the pool when it is free, else the caller's thread alone.
  ThreadPool& pool() { return pool_; }

  void SetLog(LogFn fn, void* user);
  void Log(LogLevel level, std::string_view message);
  // Whether a line would be heard: spares the making of it.
  bool has_log() const { return has_log_.load(std::memory_order_relaxed); }
  std::string Describe() const;

 private:
  Runtime(const RuntimeOptions& options, const ops::Table& table);

  Memory memory_;
  MemoryResource resource_;
  const ops::Table* table_;
  std::unique_ptr<Device> device_;
  ThreadPool pool_;
  std::mutex log_mutex_;
  std::atomic<bool> has_log_{false};
  LogFn log_ = nullptr;
  void* log_user_ = nullptr;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_RUNTIME_H_
