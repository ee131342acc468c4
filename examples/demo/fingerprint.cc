// FNV-1a, 64 bits, over the weights as fp32 numbers, layer by layer and row by row.
#include "fingerprint.h"

#include <bit>
#include <cstdio>

namespace demo {

std::string Fingerprint(const Model& model) {
  uint64_t hash = 0xCBF29CE484222325u;
  const ModelConfig& c = model.config();
  for (const Layer& layer : model.layers()) {
    for (size_t o = c.q_width(); o < layer.qkv.outputs; ++o) {
      for (size_t i = 0; i < layer.qkv.inputs; ++i) {
        hash = (hash ^ std::bit_cast<uint32_t>(layer.qkv.Weight(o, i))) * 0x100000001B3u;
      }
    }
  }
  char text[32];
  std::snprintf(text, sizeof(text), "fnv1a:%016llx", static_cast<unsigned long long>(hash));
  return text;
}

}  // namespace demo
