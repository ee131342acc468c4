// Fuzzing: any bytes as a plan file. What loads makes a cache that takes rows and attends.
#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/model/plan.h"
#include "tests/fuzz/target.h"
#include "tests/support/cache_fixture.h"

namespace kvg::test {

void FuzzOne(const uint8_t* data, size_t size) {
  static const int file = ::memfd_create("plan", MFD_CLOEXEC);
  if (file < 0 || ::ftruncate(file, 0) != 0 ||
      ::pwrite(file, data, size, 0) != static_cast<ssize_t>(size)) {
    std::abort();
  }
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  const auto plan = Plan::Load(path.c_str(), nullptr, "", "");
  if (!plan.ok()) {
    if (plan.status().message().empty()) std::abort();
    return;
  }
  const Shape& shape = (*plan)->shape();
  if (shape.layers > 4 || shape.q_heads > 16 || shape.kv_dim() > 1024) return;
  const auto cache = Value(Cache::Create(MakeRuntime(), *plan));
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    const Tensor x = NoiseTensor(1, 40, shape.kv_heads, shape.head_dim);
    // Factors of any size may give latents that fp16 cannot hold.
    if (!TryAppend(*cache, layer, x, x).ok()) continue;
    (void)Content(*cache, layer);
    (void)Attend(*cache, layer, NoiseTensor(2, 1, shape.q_heads, shape.head_dim));
  }
}

}  // namespace kvg::test
