// Device: pools of memory, order among streams, the first error. See device.h.
#include "core/runtime/device.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"

namespace kvg {
namespace {

// Of pinned memory little is needed: a few marks for each cache.
constexpr size_t kPinnedSlab = size_t{1} << 18;

// What a slab of a caller's allocator is aligned to: as much as cudaMalloc promises.
constexpr size_t kSlabAlignment = 256;

const char* MissingPart(ops::OpenResult result) {
  switch (result) {
    case ops::kNoDriver:
      return "driver: no usable NVIDIA driver on this machine";
    case ops::kNoDevice:
      return "device: no such CUDA device on this machine";
    default:
      return "device: the CUDA device could not be opened";
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> Device::Open(const ops::Plugin& plugin, uint32_t ordinal,
                                                     Memory& ledger, const Slabs& slabs) {
  ops::DeviceContext* context = nullptr;
  char why[300] = {};
  const ops::OpenResult result = plugin.open(ordinal, &context, why, sizeof(why) - 1);
  if (result != ops::kOpened) {
    return BackendError(MissingPart(result), " (", static_cast<const char*>(why), ")");
  }
  std::unique_ptr<Device> device(new Device(plugin, Context(context, {&plugin}), ledger, slabs));
  KVG_RETURN_IF_ERROR(device->status());
  return device;
}

AllocatorTable Device::TableOf(Device* device, bool pinned) {
  AllocatorTable table;
  table.user = device;
  if (pinned) {
    table.alloc = [](void* user, size_t size, size_t) {
      auto& self = *static_cast<Device*>(user);
      return self.Allocate(self.pinned_pool_, size);
    };
    table.release = [](void* user, void* ptr, size_t size, size_t) {
      auto& self = *static_cast<Device*>(user);
      const std::lock_guard<std::recursive_mutex> lock(self.mutex_);
      self.pinned_pool_.Release(ptr, size);
      self.released_ = self.calls_;
    };
  } else {
    table.alloc = [](void* user, size_t size, size_t) {
      auto& self = *static_cast<Device*>(user);
      return self.Allocate(self.pool_, size);
    };
    table.release = [](void* user, void* ptr, size_t size, size_t) {
      auto& self = *static_cast<Device*>(user);
      const std::lock_guard<std::recursive_mutex> lock(self.mutex_);
      self.pool_.Release(ptr, size);
      self.released_ = self.calls_;
    };
  }
  return table;
}

void* Device::NewSlab(const Device& device, bool pinned, size_t bytes) {
  const AllocatorTable& own = pinned ? device.slabs_.pinned : device.slabs_.device;
  if (own.alloc != nullptr) return own.alloc(own.user, bytes, kSlabAlignment);
  const auto allocate = pinned ? device.plugin_.allocate_host : device.plugin_.allocate;
  return allocate(device.context_.get(), bytes);
}

void Device::EndSlab(const Device& device, bool pinned, void* slab, size_t bytes) {
  const AllocatorTable& own = pinned ? device.slabs_.pinned : device.slabs_.device;
  if (own.alloc != nullptr) {
    own.release(own.user, slab, bytes, kSlabAlignment);
    return;
  }
  const auto release = pinned ? device.plugin_.release_host : device.plugin_.release;
  release(device.context_.get(), slab);
}

Device::Device(const ops::Plugin& plugin, Context context, Memory& ledger, const Slabs& slabs)
    : plugin_(plugin),
      context_(std::move(context)),
      slabs_(slabs),
      pool_({this,
             [](void* self, size_t bytes) {
               return NewSlab(*static_cast<Device*>(self), false, bytes);
             },
             [](void* self, void* slab, size_t bytes) {
               EndSlab(*static_cast<Device*>(self), false, slab, bytes);
             }}),
      pinned_pool_({this,
                    [](void* self, size_t bytes) {
                      return NewSlab(*static_cast<Device*>(self), true, bytes);
                    },
                    [](void* self, void* slab, size_t bytes) {
                      EndSlab(*static_cast<Device*>(self), true, slab, bytes);
                    }},
                   kPinnedSlab),
      memory_(TableOf(this, false), ledger, PagePool::kPage),
      pinned_(TableOf(this, true), ledger, PagePool::kPage) {
  StreamOf(plugin_.own_stream(context_.get()));
}

Device::~Device() {
  for (Stream& stream : streams_) {
    if (stream.worked > 0) Check(plugin_.event_wait(context_.get(), stream.event));
    plugin_.event_destroy(context_.get(), stream.event);
  }
}

std::string Device::Describe() const { return plugin_.describe(context_.get()); }

void Device::Check(ops::Failure failure) noexcept {
  if (failure == nullptr || failed_) return;
  failed_ = true;
  std::snprintf(error_, sizeof(error_), "%s", failure);
}

absl::Status Device::FirstError() const {
  if (!failed_) return absl::OkStatus();
  return BackendError("CUDA failed: ", static_cast<const char*>(error_),
                      "; this runtime is of no more use: destroy its caches and create another");
}

absl::Status Device::status() {
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  return FirstError();
}

size_t Device::StreamOf(void* stream) {
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (streams_[i].stream == stream) return i;
  }
  streams_.reserve(streams_.size() + 1);
  Stream entry;
  entry.stream = stream;
  Check(plugin_.event_create(context_.get(), &entry.event));
  streams_.push_back(std::move(entry));
  return streams_.size() - 1;
}

// Has `index` wait for all work of the other streams that it has not waited for.
void Device::WaitForAll(size_t index) {
  Stream& self = streams_[index];
  for (size_t i = 0; i < streams_.size(); ++i) {
    if (i == index || streams_[i].worked <= self.waited_all) continue;
    if (capturing_) {  // a graph cannot wait for an event from outside
      Check(plugin_.event_wait(context_.get(), streams_[i].event));
    } else {
      Check(plugin_.stream_wait(context_.get(), self.stream, streams_[i].event));
    }
  }
  self.waited_all = calls_;
}

void* Device::Allocate(PagePool& pool, size_t size) noexcept {
  const std::lock_guard<std::recursive_mutex> lock(mutex_);
  bool recycled = false;
  void* run = nullptr;
  try {
    run = pool.Allocate(size, &recycled);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
  if (recycled && released_ > streams_[current_].waited_all) WaitForAll(current_);
  return run;
}

Device::Call::Call(Device& device, void* stream) : device_(device), lock_(device.mutex_) {
  stream_ = device_.StreamOf(stream);
  Enter();
}

Device::Call::Call(Device& device) : device_(device), lock_(device.mutex_) { Enter(); }

void Device::Call::Enter() {
  device_.current_ = stream_;
  device_.capturing_ = false;
  ++device_.calls_;
  if (device_.failed_) return;
  Stream& self = device_.streams_[stream_];
  if (stream_ == 0) {
    device_.WaitForAll(0);
    return;
  }
  Check(plugin().is_capturing(context(), self.stream, &capturing_));
  device_.capturing_ = capturing_;
  const Stream& own = device_.streams_[0];
  if (own.worked > self.waited_own) {
    if (capturing_) {  // a graph cannot wait for an event from outside
      Check(plugin().event_wait(context(), own.event));
    } else {
      Check(plugin().stream_wait(context(), self.stream, own.event));
      self.waited_own = own.worked;
    }
  }
}

Device::Call::~Call() {
  if (device_.failed_ || capturing_) return;
  Stream& self = device_.streams_[stream_];
  Check(plugin().event_record(context(), self.event, self.stream));
  self.worked = device_.calls_;
}

void* Device::Call::stream() const { return device_.streams_[stream_].stream; }

void Device::Call::Wait() {
  if (device_.failed_) return;
  Stream& self = device_.streams_[stream_];
  Check(plugin().event_record(context(), self.event, self.stream));
  Check(plugin().event_wait(context(), self.event));
}

const ops::Map* Device::Call::Map(const ops::Map* map) {
  for (const auto& [of, copy] : device_.maps_) {
    if (of == map) return copy.data<ops::Map>();
  }
  device_.maps_.reserve(device_.maps_.size() + 1);
  Buffer copy(device_.memory_, sizeof(ops::Map), Buffer::kScratch);
  Check(plugin().write(context(), stream(), copy.data(), map, sizeof(ops::Map)));
  Wait();  // once: calls on other streams may read it from now on
  device_.maps_.emplace_back(map, std::move(copy));
  return device_.maps_.back().second.data<ops::Map>();
}

void* Device::Call::StreamScratch(size_t bytes) {
  Stream& self = device_.streams_[stream_];
  if (self.scratch.size() < bytes) {
    // Twice as much as now, so that it is seldom replaced.
    Buffer longer(device_.memory_, std::max(bytes, 2 * self.scratch.size()), Buffer::kScratch);
    if (self.scratch_captured) {
      device_.kept_.reserve(device_.kept_.size() + 1);
      device_.kept_.push_back(std::move(self.scratch));
    }
    self.scratch = std::move(longer);
    self.scratch_captured = false;
  }
  self.scratch_captured |= capturing_;
  return self.scratch.data<void>();
}

}  // namespace kvg
