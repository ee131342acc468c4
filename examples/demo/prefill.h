// Reading a prompt in full precision: exact attention, all tokens at once. What comes out are the
// keys and values that every recipe's cache is then given. Used by evaluate.cc and generate.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_PREFILL_H_
#define KVGEAR_EXAMPLES_DEMO_PREFILL_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "model.h"
#include "threads.h"

namespace demo {

/// fp16 keys (after rotary embedding) and values of one layer, [tokens, kv_heads, head_dim], and its
/// queries, [tokens, q_heads, head_dim], for those who choose tokens by the attention they get.
struct KvRows {
  std::vector<uint16_t> k;
  std::vector<uint16_t> unrotated_k;  ///< keys before rotary embedding, for caches that keep latents
  std::vector<uint16_t> v;
  std::vector<float> q;  ///< queries of about kShownQueries tokens, [tokens, q_heads, head_dim]
  std::vector<float> all_q;  ///< queries of all tokens, for those who choose among them
};

/// Queries, evenly spaced in the prompt, that caches are shown which learn from them.
inline constexpr size_t kShownQueries = 384;

/// Which tokens of a layer go on to the next one, ascending, given the layer's rows and the positions
/// of its tokens.
using Pruning = std::function<std::vector<uint64_t>(uint32_t layer, const KvRows& rows,
                                                    std::span<const uint64_t> positions)>;

/// Shown what the projections of a layer are given for `count` tokens from `first` on, [count, hidden]; on any
/// of the threads.
using Recording =
    std::function<void(uint32_t layer, size_t first, size_t count, const float* inputs)>;

/// Keys and values of `tokens` from position 0 on, one KvRows per layer. Attention itself computes
/// with the same fp16 values, so that an fp16 cache continues exactly what was computed here.
/// With `pruning` a layer sees only the tokens that the one before it let through.
std::vector<KvRows> Prefill(Model& model, ThreadPool& pool, std::span<const uint32_t> tokens,
                            const Pruning& pruning = nullptr,
                            const Recording& recording = nullptr);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_PREFILL_H_
