// The arithmetic of selection: budgets, schedules, the best of many scores, and which queries probe.
//
// Called by core/select/selected_layer and tests. Pure functions of numbers; nothing here knows of
// caches. Ties are always for the older token.
#ifndef KVGEAR_CORE_SELECT_CHOOSE_H_
#define KVGEAR_CORE_SELECT_CHOOSE_H_

#include <cstdint>

#include "core/select/policy.h"

namespace kvg {

// Tokens that a layer of `appended` tokens keeps, the newest `RecentTokens` of them included.
uint64_t BudgetTokens(const SelectRecipe& recipe, uint32_t layer, uint32_t layers,
                      uint64_t appended);
uint64_t RecentTokens(const SelectRecipe& recipe, uint64_t budget);

// SnapKV's smoothing, over `width` neighbours and zeros beyond the ends: in[0, count) to out.
void Pool(const float* in, uint64_t count, uint32_t width, Pooling pooling, float* out);

// Writes to `kept` in ascending order the `count` best indices of [0, n) by score.
// `order` has room for n.
void KeepBest(const float* scores, uint64_t n, uint64_t count, uint32_t* order, uint32_t* kept);

// PyramidInfer. A prompt of `prompt` tokens of which `held` came to this layer: how many of those in
// front of the window go on to the next layer.
struct Pruning {
  uint64_t window;   // newest tokens, which all go on
  uint64_t context;  // tokens in front of it
  uint64_t kept;     // of those
};
Pruning PruneLayer(const SelectRecipe& recipe, uint32_t layer, uint32_t layers, uint64_t prompt,
                   uint64_t held);
// Its window, and how many of each `chunk` decoded tokens a layer keeps.
uint64_t PruneWindow(const SelectRecipe& recipe, uint64_t prompt);
uint64_t ChunkKeeps(const SelectRecipe& recipe, uint32_t layer, uint32_t layers);
// The factor of row `row` of a window of `window`, the newest being the last.
float RowWeight(const SelectRecipe& recipe, uint64_t row, uint64_t window);

// How many of `tokens` get low_bits: the share, to the nearest multiple of `unit`.
uint64_t LowTokens(const SelectRecipe& recipe, uint64_t tokens, uint64_t unit);

// ZipCache's probes among positions [begin, end): how many, at most, and which, in ascending order.
// The random ones are drawn with replacement, as the published program does.
uint64_t ProbeRoom(const SelectRecipe& recipe, uint64_t begin, uint64_t end);
uint64_t DrawProbes(const SelectRecipe& recipe, uint64_t begin, uint64_t end, uint64_t seed,
                    uint64_t* positions);

}  // namespace kvg

#endif  // KVGEAR_CORE_SELECT_CHOOSE_H_
