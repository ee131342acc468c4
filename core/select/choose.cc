// Budgets, schedules, rankings and probes; see choose.h.
#include "core/select/choose.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <numeric>

namespace kvg {
namespace {

// floor(share * n), where the product of the two, not its rounding, is meant.
uint64_t Floor(double share, uint64_t n) {
  return static_cast<uint64_t>(std::floor(share * static_cast<double>(n) + 1e-9));
}

// An amount of `whole`: a share of it, or a number.
uint64_t Amount(double amount, uint64_t whole) {
  return amount < 1 ? Floor(amount, whole) : static_cast<uint64_t>(amount);
}

// Half a cosine, from 1 in the first layer towards `last` in the layer behind the last.
double Cosine(double last, uint32_t layer, uint32_t layers) {
  const double turn = std::numbers::pi * layer / layers;
  return (1 - last) * (std::cos(turn) + 1) / 2 + last;
}

uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t RecentTokens(const SelectRecipe& recipe, uint64_t budget) {
  return std::min(budget, Amount(recipe.recent, budget));
}

uint64_t BudgetTokens(const SelectRecipe& recipe, uint32_t layer, uint32_t layers,
                      uint64_t appended) {
  const uint64_t all = std::max<uint64_t>(1, Amount(recipe.budget, appended));
  if (recipe.beta == 0 || layers < 2) return all;
  const uint64_t window = RecentTokens(recipe, all);
  const uint64_t mean = all - window;
  if (appended < all || appended < 2 * mean) return all;
  uint64_t least = mean / recipe.beta;
  uint64_t most = 2 * mean - least;
  if (most >= appended - window) {
    most = appended - window;
    least = 2 * mean - most;
  }
  const uint64_t step = (most - least) / (layers - 1);
  return most - layer * step + window;
}

void Pool(const float* in, uint64_t count, uint32_t width, Pooling pooling, float* out) {
  const uint64_t half = width / 2;
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t first = i < half ? 0 : i - half;
    const uint64_t end = std::min(count, i + half + 1);
    float value = in[first];
    for (uint64_t j = first + 1; j < end; ++j) {
      value = pooling == Pooling::kAverage ? value + in[j] : std::max(value, in[j]);
    }
    out[i] = pooling == Pooling::kAverage ? value / static_cast<float>(width) : value;
  }
}

void KeepBest(const float* scores, uint64_t n, uint64_t count, uint32_t* order, uint32_t* kept) {
  std::iota(order, order + n, 0u);
  if (count < n) {
    std::nth_element(order, order + count, order + n, [scores](uint32_t a, uint32_t b) {
      return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
    });
  }
  std::copy_n(order, count, kept);
  std::sort(kept, kept + count);
}

uint64_t PruneWindow(const SelectRecipe& recipe, uint64_t prompt) {
  return 1 + Amount(recipe.recent, prompt);
}

Pruning PruneLayer(const SelectRecipe& recipe, uint32_t layer, uint32_t layers, uint64_t prompt,
                   uint64_t held) {
  Pruning result{};
  result.window = std::min(held, PruneWindow(recipe, prompt));
  result.context = held - result.window;
  result.kept = result.context;
  const double keep = Cosine(recipe.decay, layer, layers);
  const uint64_t least = std::min<uint64_t>(recipe.least, result.context);
  if (layer % recipe.interval != 0 || result.context <= least || keep >= 1) return result;
  const auto count = static_cast<uint64_t>(static_cast<double>(result.context) * keep);
  if (count > least) result.kept = count;
  return result;
}

uint64_t ChunkKeeps(const SelectRecipe& recipe, uint32_t layer, uint32_t layers) {
  const double keep = Cosine(recipe.chunk_decay, layer, layers) * recipe.chunk_keep;
  return std::max<uint64_t>(1, Floor(keep, recipe.chunk));
}

float RowWeight(const SelectRecipe& recipe, uint64_t row, uint64_t window) {
  if (window < 2) return static_cast<float>(recipe.distance);
  const double part = static_cast<double>(row) / static_cast<double>(window - 1);
  return static_cast<float>(1 + (recipe.distance - 1) * part);
}

uint64_t LowTokens(const SelectRecipe& recipe, uint64_t tokens, uint64_t unit) {
  const double units = recipe.low * static_cast<double>(tokens) / static_cast<double>(unit);
  return std::min(tokens, static_cast<uint64_t>(std::llround(units)) * unit);
}

uint64_t ProbeRoom(const SelectRecipe& recipe, uint64_t begin, uint64_t end) {
  const uint64_t n = end - begin;
  return std::max<uint64_t>(1, n - Floor(1 - recipe.probe_recent, n)) +
         Floor(recipe.probe_random, n);
}

uint64_t DrawProbes(const SelectRecipe& recipe, uint64_t begin, uint64_t end, uint64_t seed,
                    uint64_t* positions) {
  if (begin == end) return 0;
  const uint64_t n = end - begin;
  // The newest token is always among them, so that a short input has probes too.
  const uint64_t rest = std::min(Floor(1 - recipe.probe_recent, n), n - 1);
  uint64_t count = 0;
  const uint64_t draws = rest == 0 ? 0 : Floor(recipe.probe_random, n);
  for (uint64_t i = 0; i < draws; ++i) positions[count++] = begin + Mix(seed ^ Mix(i)) % rest;
  std::sort(positions, positions + count);
  for (uint64_t i = rest; i < n; ++i) positions[count++] = begin + i;
  return count;
}

}  // namespace kvg
