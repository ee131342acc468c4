// The few functions of the NVIDIA driver that the demo calls.
#include "device.h"

#include <dlfcn.h>

#include <charconv>
#include <cstdlib>
#include <new>

#include "refusal.h"

namespace demo {

// Types as cuda.h has them: results, devices and flags are ints, the rest are pointers.
struct CudaDevice::Driver {
  int (*init)(unsigned flags);
  int (*device_get)(int* device, int ordinal);
  int (*retain)(void** context, int device);
  int (*release)(int device);
  int (*set_current)(void* context);
  int (*host_alloc)(void** memory, size_t bytes, unsigned flags);
  int (*host_free)(void* memory);
  int (*synchronize)(void* stream);
  int device = 0;
  void* context = nullptr;

  static constexpr unsigned kPortable = 1, kMapped = 2;
};

namespace {

void Check(int result, const char* what) {
  if (result != 0) Refuse("The NVIDIA driver's ", what, " failed with error ", result, ".");
}

}  // namespace

CudaDevice::CudaDevice(uint32_t ordinal) : ordinal_(ordinal) {
  void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  // Without a driver kvgear refuses a runtime with a better sentence than could be given here.
  if (library == nullptr) return;
  driver_ = std::make_unique<Driver>();
  const auto find = [library]<class Function>(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (function == nullptr) Refuse("libcuda.so.1 has no function ", name, ".");
  };
  find(driver_->init, "cuInit");
  find(driver_->device_get, "cuDeviceGet");
  find(driver_->retain, "cuDevicePrimaryCtxRetain");
  find(driver_->release, "cuDevicePrimaryCtxRelease_v2");
  find(driver_->set_current, "cuCtxSetCurrent");
  find(driver_->host_alloc, "cuMemHostAlloc");
  find(driver_->host_free, "cuMemFreeHost");
  find(driver_->synchronize, "cuStreamSynchronize");
  Check(driver_->init(0), "cuInit");
  Check(driver_->device_get(&driver_->device, static_cast<int>(ordinal)), "cuDeviceGet");
  Check(driver_->retain(&driver_->context, driver_->device), "cuDevicePrimaryCtxRetain");
}

CudaDevice::~CudaDevice() {
  if (driver_ == nullptr) {
    for (void* memory : all_) std::free(memory);
    return;
  }
  if (driver_->context == nullptr) return;
  driver_->set_current(driver_->context);
  for (void* memory : all_) driver_->host_free(memory);
  driver_->release(driver_->device);
}

/// Contexts belong to threads, and the demo has several.
void CudaDevice::Enter() const { Check(driver_->set_current(driver_->context), "cuCtxSetCurrent"); }

CudaDevice::Memory CudaDevice::Take(size_t bytes) {
  const std::lock_guard lock(mutex_);
  for (size_t i = free_.size(); i-- > 0;) {
    if (free_[i].second < bytes) continue;
    const Memory block = free_[i];
    free_.erase(free_.begin() + static_cast<ptrdiff_t>(i));
    return block;
  }
  constexpr size_t kPage = 65536;
  const size_t size = (bytes + kPage - 1) / kPage * kPage;
  all_.reserve(all_.size() + 1);
  free_.reserve(all_.capacity());  // so that Give cannot fail
  void* memory = nullptr;
  if (driver_ == nullptr) {
    memory = std::malloc(size);
    if (memory == nullptr) throw std::bad_alloc();
  } else {
    Enter();
    Check(driver_->host_alloc(&memory, size, Driver::kPortable | Driver::kMapped),
          "cuMemHostAlloc");
  }
  all_.push_back(memory);
  return {memory, size};
}

void CudaDevice::Give(const Memory& block) {
  const std::lock_guard lock(mutex_);
  free_.push_back(block);
}

void CudaDevice::Finish() {
  if (driver_ == nullptr) return;
  Enter();
  Check(driver_->synchronize(nullptr), "cuStreamSynchronize");
}

DevicePtr OpenDevice(const std::string& name) {
  if (name == "cpu") return nullptr;
  uint32_t ordinal = 0;
  const std::string prefix = "cuda:";
  if (name != "cuda") {
    const char* const begin = name.data() + std::min(prefix.size(), name.size());
    const char* const end = name.data() + name.size();
    const auto [stopped, error] = std::from_chars(begin, end, ordinal);
    if (name.compare(0, prefix.size(), prefix) != 0 || error != std::errc() || stopped != end ||
        ordinal > 1023) {
      Refuse("--device needs cpu, cuda or cuda:N, not '", Shown(name), "'.");
    }
  }
  return std::make_shared<CudaDevice>(ordinal);
}

}  // namespace demo
