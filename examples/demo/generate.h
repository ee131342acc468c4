// --prompt: continues a text from a compressed cache and streams what comes. Used by main.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_GENERATE_H_
#define KVGEAR_EXAMPLES_DEMO_GENERATE_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "device.h"
#include "model.h"
#include "threads.h"

namespace demo {

struct Generation {
  std::string recipe;
  std::vector<uint32_t> prompt;
  size_t max_tokens = 0;
  double temperature = 0;  // 0 = greedy
  uint64_t seed = 0;
  DevicePtr device = nullptr;  // of the cache
};

/// Hands every new token to `emit` as it comes. Returns one line about memory and speed.
std::string Generate(Model& model, ThreadPool& pool, const Generation& generation,
                     const std::function<void(uint32_t)>& emit);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_GENERATE_H_
