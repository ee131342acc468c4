// Executors: the host's kernels, or a device's queue. See executor.h.
#include "core/runtime/executor.h"

#include <cstring>

#include "core/runtime/runtime.h"

namespace kvg {

void HostExecutor::Write(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }

void HostExecutor::Copy(const ops::DeviceCopy& copy) {
  auto* to = static_cast<std::byte*>(copy.to);
  auto* from = static_cast<const std::byte*>(copy.from);
  for (uint64_t row = 0; row < copy.rows; ++row) {
    std::memcpy(to + row * copy.to_pitch, from + row * copy.from_pitch, copy.bytes);
  }
}

void HostExecutor::Seal(std::span<ops::DeviceSealJob> jobs) {
  for (ops::DeviceSealJob& job : jobs) {
    const Buffer scratch(memory_, table_.seal_scratch(&job.args, &job.out, parallel_.workers),
                         Buffer::kScratch);
    job.args.scratch = scratch.data<void>();
    table_.seal(&job.args, &job.out, &parallel_);
  }
}

void DeviceExecutor::Write(void* to, const void* from, size_t bytes) {
  call_.Check(call_.plugin().write(call_.context(), call_.stream(), to, from, bytes));
}

void DeviceExecutor::Copy(const ops::DeviceCopy& copy) {
  if (copy.bytes == 0 || copy.rows == 0) return;
  call_.Check(call_.plugin().copy(call_.context(), call_.stream(), &copy));
}

bool DeviceExecutor::Ingest(const ops::IngestArgs& args) {
  call_.Check(call_.plugin().ingest(call_.context(), call_.stream(), &args, marked_, mark_));
  return true;
}

void DeviceExecutor::Seal(std::span<ops::DeviceSealJob> jobs) {
  const auto count = static_cast<uint32_t>(jobs.size());
  const Buffer scratch(memory(), call_.plugin().seal_scratch(call_.context(), jobs.data(), count),
                       Buffer::kScratch);
  call_.Check(call_.plugin().seal(call_.context(), call_.stream(), jobs.data(), count,
                                  scratch.data<void>()));
}

Turn::Turn(Runtime& runtime, void* stream) {
  if (Device* const device = runtime.device(); device != nullptr) {
    call_.emplace(*device, stream);
    device_.emplace(runtime.memory(), *device, *call_);
  } else {
    lease_.emplace(runtime.pool().Acquire());
    host_.emplace(runtime.memory(), runtime.table(), lease_->parallel());
  }
}

Turn::Turn(Runtime& runtime) {
  if (Device* const device = runtime.device(); device != nullptr) {
    call_.emplace(*device);
    device_.emplace(runtime.memory(), *device, *call_);
  } else {
    lease_.emplace(runtime.pool().Acquire());
    host_.emplace(runtime.memory(), runtime.table(), lease_->parallel());
  }
}

absl::Status Turn::status() const { return call_ ? call_->status() : absl::OkStatus(); }

Executor& Turn::executor() {
  if (device_) return *device_;
  return *host_;
}

}  // namespace kvg
