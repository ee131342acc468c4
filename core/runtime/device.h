// One device of a runtime: its memory, the order of the work on it, and its first error.
//
// Called by core/runtime (owner) and core/runtime/executor. Nothing here waits for the device,
// except where a function says so.
//
// ORDER. A call works on the caller's stream and holds the device's lock while it queues its work.
// Behind each call an event is recorded. A call without a stream of its own (fork, truncate, clear,
// stats, read) works on the device's own stream, behind the events of all others, and the next call
// on each other stream waits for it. Memory given back is handed out again at once: where the last
// user may have been another stream, the new one first waits for the others.
#ifndef KVGEAR_CORE_RUNTIME_DEVICE_H_
#define KVGEAR_CORE_RUNTIME_DEVICE_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/base/memory.h"
#include "core/base/status.h"
#include "core/runtime/page_pool.h"
#include "kernels/plugin.h"

namespace kvg {

class Device {
 public:
  // Where slabs of its memory come from, instead of the plugin; without functions: the plugin.
  struct Slabs {
    AllocatorTable device, pinned;
  };
  // `ledger` counts the bytes and has the budget; it outlives the device.
  static absl::StatusOr<std::unique_ptr<Device>> Open(const ops::Plugin& plugin, uint32_t ordinal,
                                                      Memory& ledger, const Slabs& slabs = {});
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device();  // waits for the device

  Memory& memory() { return memory_; }  // device memory; for allocation a Call must be open
  Memory& pinned() { return pinned_; }  // host memory that the device reaches; likewise
  std::string Describe() const;
  // KVG_E_BACKEND with the first error of the device, once there was one.
  absl::Status status();

  // The right to queue work, for as long as it lives. Throws std::bad_alloc.
  class Call {
   public:
    Call(Device& device, void* stream);  // on a caller's stream
    explicit Call(Device& device);       // on the device's own
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;
    ~Call();

    const ops::Plugin& plugin() const { return device_.plugin_; }
    ops::DeviceContext* context() const { return device_.context_.get(); }
    void* stream() const;
    bool capturing() const { return capturing_; }
    // Takes note of what a function of the plugin gave.
    void Check(ops::Failure failure) { device_.Check(failure); }
    absl::Status status() const { return device_.FirstError(); }
    // The host waits until the work of this stream is done.
    void Wait();
    // The stream waits for what was queued so far on all others.
    void WaitForOthers() { device_.WaitForAll(stream_); }
    // A copy of a map of the host, for pieces; it lives as long as the device.
    const ops::Map* Map(const ops::Map* map);
    // Scratch memory that belongs to the stream and stays as it is until its next call.
    void* StreamScratch(size_t bytes);

   private:
    void Enter();
    Device& device_;
    const std::unique_lock<std::recursive_mutex> lock_;
    size_t stream_ = 0;  // index in streams_
    bool capturing_ = false;
  };

 private:
  struct Closer {
    const ops::Plugin* plugin;
    void operator()(ops::DeviceContext* context) const { plugin->close(context); }
  };
  using Context = std::unique_ptr<ops::DeviceContext, Closer>;

  // A stream that calls came on; number 0 is the device's own.
  struct Stream {
    void* stream = nullptr;
    void* event = nullptr;   // behind its last call
    uint64_t worked = 0;     // number of that call, 0 = none
    uint64_t waited_own = 0;  // up to which call of the own stream this one has waited
    uint64_t waited_all = 0;  // up to which call of any other stream
    Buffer scratch;
    bool scratch_captured = false;
  };

  Device(const ops::Plugin& plugin, Context context, Memory& ledger, const Slabs& slabs);
  static void* NewSlab(const Device& device, bool pinned, size_t bytes);
  static void EndSlab(const Device& device, bool pinned, void* slab, size_t bytes);
  size_t StreamOf(void* stream);
  void WaitForAll(size_t stream);
  void Check(ops::Failure failure) noexcept;
  absl::Status FirstError() const;
  static AllocatorTable TableOf(Device* device, bool pinned);
  void* Allocate(PagePool& pool, size_t size) noexcept;

  const ops::Plugin& plugin_;
  const Context context_;  // closed after everything below is gone
  const Slabs slabs_;
  std::recursive_mutex mutex_;
  PagePool pool_, pinned_pool_;
  Memory memory_, pinned_;
  std::vector<Stream> streams_;
  std::vector<Buffer> kept_;  // scratch that captured graphs may still use
  std::vector<std::pair<const ops::Map*, Buffer>> maps_;  // those of the host, and their copies
  size_t current_ = 0;        // the stream of the call that holds the lock
  bool capturing_ = false;    // and whether it is under capture
  uint64_t calls_ = 0;
  uint64_t released_ = 0;     // number of the call in or before which memory was last given back
  bool failed_ = false;
  char error_[400] = {};
};

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_DEVICE_H_
