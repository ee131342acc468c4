// A runtime on a CUDA device, memory on it, and caches to compare with those of the CPU.
//
// Called by tests/gpu. Where there is no device a test says so and is skipped; with
// KVGEAR_PLUGIN_PATH pointing to the stand-in of tests/plugin the same tests run on any machine.
#ifndef KVGEAR_TESTS_GPU_DEVICE_FIXTURE_H_
#define KVGEAR_TESTS_GPU_DEVICE_FIXTURE_H_

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "core/cache/cache.h"
#include "gtest/gtest.h"
#include "tests/support/cache_fixture.h"

namespace kvg::test {

inline absl::StatusOr<std::shared_ptr<Runtime>> TryDeviceRuntime(uint64_t budget = 0,
                                                                const Device::Slabs& slabs = {}) {
  RuntimeOptions options;
  options.slabs = slabs;
  options.device = DeviceType::kCuda;
  options.memory_budget = budget;
  return Runtime::Create(options);
}

// Whether devices do not know the recipe yet.
inline bool OnCpuOnly(const std::string& recipe) {
  const Recipe parsed = MakeRecipe(recipe);
  return parsed.k.map == SideRecipe::kOnline || parsed.v.map == SideRecipe::kOnline ||
         parsed.k.fit != ops::kFitRange || parsed.v.fit != ops::kFitRange || !parsed.select.none();
}

// Device memory with a copy of some bytes of the host.
class OnDevice {
 public:
  OnDevice(Runtime& runtime, size_t bytes) : runtime_(runtime), bytes_(bytes) {
    const Device::Call call(*runtime.device());
    data_ = call.plugin().allocate(call.context(), bytes);
  }
  OnDevice(Runtime& runtime, const void* from, size_t bytes) : OnDevice(runtime, bytes) { Put(from); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;
  ~OnDevice() {
    const Device::Call call(*runtime_.device());
    call.plugin().release(call.context(), data_);
  }
  void* data() const { return data_; }
  size_t size() const { return bytes_; }
  void Put(const void* from) {
    Device::Call call(*runtime_.device());
    call.Check(call.plugin().write(call.context(), call.stream(), data_, from, bytes_));
    call.Wait();
  }
  std::vector<uint8_t> Get() const { return Fetch(runtime_, data_, bytes_); }

  static std::vector<uint8_t> Fetch(Runtime& runtime, const void* from, size_t bytes) {
    std::vector<uint8_t> to(bytes);
    Device::Call call(*runtime.device());
    call.Check(call.plugin().fetch(call.context(), call.stream(), to.data(), from, bytes));
    Must(call.status());
    return to;
  }

 private:
  Runtime& runtime_;
  const size_t bytes_;
  void* data_ = nullptr;
};

// Appends rows [first, first + tokens) of k and v, fp16 on the host, to a cache on either device.
inline absl::Status AppendRows(Cache& cache, uint32_t layer, const std::vector<uint16_t>& k,
                               const std::vector<uint16_t>& v, uint64_t first, uint64_t tokens) {
  const uint64_t width = cache.plan().shape().kv_dim();
  const uint16_t* const k_rows = k.data() + first * width;
  const uint16_t* const v_rows = v.data() + first * width;
  const size_t bytes = tokens * width * 2;
  if (cache.runtime().device() == nullptr) {
    return cache.Append(layer, {k_rows, bytes}, {v_rows, bytes}, ops::kF16, tokens);
  }
  const OnDevice on_k(cache.runtime(), k_rows, bytes), on_v(cache.runtime(), v_rows, bytes);
  const absl::Status status =
      cache.Append(layer, {on_k.data(), bytes}, {on_v.data(), bytes}, ops::kF16, tokens);
  if (status.ok()) {  // the memory goes when this returns
    Device::Call call(*cache.runtime().device());
    call.Wait();
  }
  return status;
}

inline std::vector<float> ReadAll(const Cache& cache, uint32_t layer, ops::Side side) {
  const uint64_t tokens = Value(cache.Length(layer));
  std::vector<float> out(tokens * cache.plan().shape().kv_dim());
  const size_t bytes = out.size() * 4;
  if (tokens == 0) return out;
  if (cache.runtime().device() == nullptr) {
    Must(cache.Read(layer, side, 0, tokens, ops::kF32, out.data(), bytes));
    return out;
  }
  const OnDevice on(cache.runtime(), bytes);
  Must(cache.Read(layer, side, 0, tokens, ops::kF32, on.data(), bytes));
  const std::vector<uint8_t> got = on.Get();
  std::memcpy(out.data(), got.data(), bytes);
  return out;
}

#define KVG_DEVICE_RUNTIME_OR_SKIP(runtime)                                             \
  auto runtime##_or = ::kvg::test::TryDeviceRuntime();                                  \
  if (!runtime##_or.ok()) GTEST_SKIP() << "skipped: no CUDA device; " << runtime##_or.status().message(); \
  const std::shared_ptr<::kvg::Runtime> runtime = *runtime##_or

}  // namespace kvg::test

#endif  // KVGEAR_TESTS_GPU_DEVICE_FIXTURE_H_
