// Where the caches of the demo lie: nowhere special on the CPU; for a CUDA device, the host memory
// through which tensors reach it. Used by compressed_store.
#ifndef KVGEAR_EXAMPLES_DEMO_DEVICE_H_
#define KVGEAR_EXAMPLES_DEMO_DEVICE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace demo {

/// A CUDA device, as the NVIDIA driver has it. kvgear takes tensors in memory that the device
/// reaches, and works behind the caller's back; so tensors are copied to pinned blocks of host
/// memory, and waited for. The driver's library is opened when a device is, so that the demo needs
/// none otherwise. Any number of threads may use it.
class CudaDevice {
 public:
  explicit CudaDevice(uint32_t ordinal);
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice();

  uint32_t ordinal() const { return ordinal_; }

  /// Pinned memory; goes back to the device's list of free blocks at its end.
  class Block {
   public:
    Block(CudaDevice& device, size_t bytes) : device_(device), block_(device.Take(bytes)) {}
    Block(const Block&) = delete;
    Block& operator=(const Block&) = delete;
    ~Block() { device_.Give(block_); }
    template <class T>
    T* data() const {
      return static_cast<T*>(block_.first);
    }

   private:
    CudaDevice& device_;
    const std::pair<void*, size_t> block_;
  };

  /// Waits until the device has done what was queued on its default stream.
  void Finish();

 private:
  struct Driver;
  using Memory = std::pair<void*, size_t>;
  void Enter() const;
  Memory Take(size_t bytes);
  void Give(const Memory& block);

  const uint32_t ordinal_;
  std::unique_ptr<Driver> driver_;  // none: the plugin needs no driver, plain memory will do
  std::mutex mutex_;
  std::vector<Memory> free_;
  std::vector<void*> all_;
};

/// nullptr stands for the CPU.
using DevicePtr = std::shared_ptr<CudaDevice>;

/// "cpu", "cuda" or "cuda:N".
DevicePtr OpenDevice(const std::string& name);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_DEVICE_H_
