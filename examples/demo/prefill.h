// Reading a prompt in full precision: exact attention, all tokens at once. What comes out are the
// keys and values that every recipe's cache is then given. Used by evaluate.cc and generate.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_PREFILL_H_
#define KVGEAR_EXAMPLES_DEMO_PREFILL_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "model.h"
#include "threads.h"

namespace demo {

/// fp16 keys (after rotary embedding) and values of one layer, [tokens, kv_heads, head_dim].
struct KvRows {
  std::vector<uint16_t> k;
  std::vector<uint16_t> v;
  std::vector<float> q;  ///< queries of about kShownQueries tokens, [tokens, q_heads, head_dim]
};

/// Queries, evenly spaced in the prompt, that caches are shown which learn from them.
inline constexpr size_t kShownQueries = 384;

/// Keys and values of `tokens` from position 0 on, one KvRows per layer. Attention itself computes
/// with the same fp16 values, so that an fp16 cache continues exactly what was computed here.
std::vector<KvRows> Prefill(Model& model, ThreadPool& pool, std::span<const uint32_t> tokens);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_PREFILL_H_
