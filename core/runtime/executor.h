// What does the work of one call: the kernels of the host, at once, or a device, on a stream.
//
// Called by core/cache and core/codec, which are the same for both. On a device nothing has been done
// when a function returns; errors of the device show in Turn::status().
#ifndef KVGEAR_CORE_RUNTIME_EXECUTOR_H_
#define KVGEAR_CORE_RUNTIME_EXECUTOR_H_

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <optional>
#include <span>
#include <vector>

#include "core/base/memory.h"
#include "core/base/status.h"
#include "core/runtime/device.h"
#include "core/runtime/thread_pool.h"
#include "kernels/ops.h"
#include "kernels/plugin.h"

namespace kvg {

class Runtime;

class Executor {
 public:
  virtual ~Executor() = default;

  // Of headers and lists, which the host reads.
  virtual Memory& host_memory() = 0;
  // Of payloads, windows and scratch.
  virtual Memory& memory() = 0;
  // nullptr on the host.
  virtual Device::Call* device() { return nullptr; }

  // Copies a little from the host.
  virtual void Write(void* to, const void* from, size_t bytes) = 0;
  // Copies within memory(); the two may not overlap.
  virtual void Copy(const ops::DeviceCopy& copy) = 0;
  // False if an element is not finite. A device finds out later, and sets the mark: see Turn.
  virtual bool Ingest(const ops::IngestArgs& args) = 0;
  // Segments of one spec and shape. On the host out.error_sq and out.norm_sq are set, on a device
  // the sums of the jobs. Throws std::bad_alloc, before anything was done.
  virtual void Seal(std::span<ops::DeviceSealJob> jobs) = 0;
  // What Ingest and Seal held back, see DeviceExecutor::Gather, is queued. Throws std::bad_alloc.
  virtual void Flush() {}
};

class HostExecutor final : public Executor {
 public:
  HostExecutor(Memory& memory, const ops::Table& table, const ops::Parallel& parallel)
      : memory_(memory), table_(table), parallel_(parallel) {}

  Memory& host_memory() override { return memory_; }
  Memory& memory() override { return memory_; }
  void Write(void* to, const void* from, size_t bytes) override;
  void Copy(const ops::DeviceCopy& copy) override;
  bool Ingest(const ops::IngestArgs& args) override { return table_.ingest(&args); }
  void Seal(std::span<ops::DeviceSealJob> jobs) override;

  const ops::Table& table() const { return table_; }
  const ops::Parallel& parallel() const { return parallel_; }

 private:
  Memory& memory_;
  const ops::Table& table_;
  const ops::Parallel parallel_;
};

class DeviceExecutor final : public Executor {
 public:
  DeviceExecutor(Memory& host_memory, Device& device, Device::Call& call)
      : host_memory_(host_memory), device_(device), call_(call) {}

  Memory& host_memory() override { return host_memory_; }
  Memory& memory() override { return device_.memory(); }
  Device::Call* device() override { return &call_; }
  void Write(void* to, const void* from, size_t bytes) override;
  void Copy(const ops::DeviceCopy& copy) override;
  bool Ingest(const ops::IngestArgs& args) override;
  void Seal(std::span<ops::DeviceSealJob> jobs) override;
  void Flush() override;

  // From now on Ingest and Seal hold their work back until Flush, which queues all rows, then all
  // segments, as few pieces of work. For work on memory that nothing else touches in between. Throws
  // std::bad_alloc.
  void Gather(std::pmr::memory_resource* resource, size_t jobs);

  // Where Ingest leaves word of elements that are not finite, and what.
  void SetMark(uint64_t* marked, uint64_t mark) {
    marked_ = marked;
    mark_ = mark;
  }

 private:
  Memory& host_memory_;
  Device& device_;
  Device::Call& call_;
  uint64_t* marked_ = nullptr;
  uint64_t mark_ = 0;
  struct Gathered {
    std::pmr::vector<ops::DeviceIngestJob> rows;
    std::pmr::vector<ops::DeviceSealJob> segments, alike;
  };
  std::optional<Gathered> gathered_;
};

// One call's hold on the means to do its work: worker threads, or the device. Throws std::bad_alloc.
//
//   Turn turn(runtime, stream);
//   KVG_RETURN_IF_ERROR(turn.status());
//   ... turn.executor() ...
//   KVG_RETURN_IF_ERROR(turn.status());   // before anything becomes visible
class Turn {
 public:
  Turn(Runtime& runtime, void* stream);  // the stream is for devices
  explicit Turn(Runtime& runtime);       // a device's own stream
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  absl::Status status() const;
  Executor& executor();
  // One of the two is there.
  HostExecutor* host() { return host_ ? &*host_ : nullptr; }
  DeviceExecutor* device() { return device_ ? &*device_ : nullptr; }

 private:
  std::optional<ThreadPool::Lease> lease_;
  std::optional<HostExecutor> host_;
  std::optional<Device::Call> call_;
  std::optional<DeviceExecutor> device_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_EXECUTOR_H_
