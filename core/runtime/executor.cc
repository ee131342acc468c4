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
  Flush();  // it may be of rows that are held back
  call_.Check(call_.plugin().copy(call_.context(), call_.stream(), &copy));
}

bool DeviceExecutor::Ingest(const ops::IngestArgs& args) {
  const ops::DeviceIngestJob job{args, marked_, mark_};
  if (gathered_) {
    gathered_->rows.push_back(job);
  } else {
    call_.Check(call_.plugin().ingest(call_.context(), call_.stream(), &job, 1));
  }
  return true;
}

void DeviceExecutor::Seal(std::span<ops::DeviceSealJob> jobs) {
  if (gathered_) {
    gathered_->segments.insert(gathered_->segments.end(), jobs.begin(), jobs.end());
    return;
  }
  const auto count = static_cast<uint32_t>(jobs.size());
  const Buffer scratch(memory(), call_.plugin().seal_scratch(call_.context(), jobs.data(), count),
                       Buffer::kScratch);
  call_.Check(call_.plugin().seal(call_.context(), call_.stream(), jobs.data(), count,
                                  scratch.data<void>()));
}

void DeviceExecutor::Gather(std::pmr::memory_resource* resource, size_t jobs) {
  gathered_.emplace(Gathered{std::pmr::vector<ops::DeviceIngestJob>(resource),
                             std::pmr::vector<ops::DeviceSealJob>(resource),
                             std::pmr::vector<ops::DeviceSealJob>(resource)});
  gathered_->rows.reserve(jobs);
}

namespace {

// Whether the two may be sealed together.
bool Alike(const ops::DeviceSealJob& a, const ops::DeviceSealJob& b) {
  const ops::SealSpec &x = a.args.spec, &y = b.args.spec;
  return x.side == y.side && x.axis == y.axis && x.group == y.group &&
         x.heads_share_scale == y.heads_share_scale && x.rank == y.rank && x.sweeps == y.sweeps &&
         x.outliers == y.outliers && x.map == y.map && x.fit == y.fit &&
         a.args.tokens == b.args.tokens && a.args.at == b.args.at &&
         a.out.kv_heads == b.out.kv_heads && a.out.head_dim == b.out.head_dim &&
         a.out.padded_tokens == b.out.padded_tokens;
}

}  // namespace

void DeviceExecutor::Flush() {
  if (!gathered_) return;
  Gathered& all = *gathered_;
  if (!all.rows.empty()) {
    call_.Check(call_.plugin().ingest(call_.context(), call_.stream(), all.rows.data(),
                                      static_cast<uint32_t>(all.rows.size())));
    all.rows.clear();
  }
  while (!all.segments.empty()) {
    all.alike.clear();
    const ops::DeviceSealJob first = all.segments.front();
    size_t left = 0;
    for (const ops::DeviceSealJob& job : all.segments) {
      if (Alike(job, first)) {
        all.alike.push_back(job);
      } else {
        all.segments[left++] = job;
      }
    }
    all.segments.resize(left);
    const auto count = static_cast<uint32_t>(all.alike.size());
    const Buffer scratch(memory(),
                         call_.plugin().seal_scratch(call_.context(), all.alike.data(), count),
                         Buffer::kScratch);
    call_.Check(call_.plugin().seal(call_.context(), call_.stream(), all.alike.data(), count,
                                    scratch.data<void>()));
  }
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
