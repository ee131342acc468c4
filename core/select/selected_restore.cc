// What of a selecting layer is stored, and when stored numbers make a layer again.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "core/select/selection_step.h"

namespace kvg {
namespace {

absl::Status Wrong(uint32_t layer, const char* what) {
  return CorruptError("layer ", layer, " of the saved cache is damaged: ", what,
                      "; nothing was loaded");
}

// Whether no number comes twice.
bool AllDifferent(const uint32_t* numbers, uint64_t count) {
  const uint32_t* const end = numbers + count;
  const auto rises = [](uint32_t a, uint32_t b) { return a >= b; };
  if (std::adjacent_find(numbers, end, rises) == end) return true;
  std::vector<uint32_t> sorted(numbers, end);
  std::sort(sorted.begin(), sorted.end());
  return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end();
}

}  // namespace

SelectedLayer::Numbers SelectedLayer::numbers() const {
  Numbers numbers;
  numbers.length = state_.length;
  numbers.selected = state_.selected;
  numbers.sealed_end = state_.sealed_end;
  numbers.prompt = state_.prompt;
  numbers.pruned = state_.pruned;
  numbers.observed = state_.observed;
  numbers.held = held();
  numbers.lists = lists();
  numbers.scores = state_.scores.size() > 0;
  numbers.counts = state_.counts.size() > 0;
  numbers.scored = numbers.scores ? state_.scored : 0;
  return numbers;
}

const float* SelectedLayer::scores(uint32_t list) const {
  return state_.scores.data<float>() + list * ScoreStride(state_);
}

const uint32_t* SelectedLayer::counts(uint32_t list) const {
  return state_.counts.data<uint32_t>() + list * ScoreStride(state_);
}

absl::Status SelectedLayer::Restore(Runtime& runtime, Restored& restored) {
  const Numbers& numbers = restored.numbers;
  if (numbers.lists != lists()) return Wrong(layer_, "its heads do not choose as the recipe says");
  if (numbers.length > kMaxPosition || numbers.selected > numbers.length ||
      numbers.sealed_end > numbers.length || numbers.prompt > numbers.selected ||
      numbers.held > numbers.length || numbers.pruned > numbers.held) {
    return Wrong(layer_, "its lengths contradict one another");
  }
  State next(&runtime.resource());
  const auto& keys = restored.segments[ops::kSideK];
  const auto& values = restored.segments[ops::kSideV];
  for (size_t i = 0; i < keys.size() || i < values.size(); ++i) {
    if (keys.size() != values.size() || keys[i]->piece().tokens != values[i]->piece().tokens ||
        keys[i]->piece().tokens % Unit() != 0 || !codes()) {
      return Wrong(layer_, "its keys and values are not compressed as the recipe says");
    }
    next.sealed += keys[i]->piece().tokens;
  }
  if (next.sealed > numbers.held) return Wrong(layer_, "it has more tokens than it holds");
  next.pool = numbers.held - next.sealed;
  for (uint32_t list = 0; list < lists(); ++list) {
    const uint32_t* const positions = restored.positions + list * numbers.held;
    const uint32_t* const pool = positions + next.sealed;
    const auto descends = [](uint32_t a, uint32_t b) { return a >= b; };
    if (std::any_of(positions, positions + numbers.held,
                    [&numbers](uint32_t position) { return position >= numbers.length; }) ||
        std::any_of(positions, pool,
                    [&numbers](uint32_t position) { return position >= numbers.sealed_end; }) ||
        std::adjacent_find(pool, pool + next.pool, descends) != pool + next.pool ||
        !AllDifferent(positions, numbers.held)) {
      return Wrong(layer_, "its positions are not those of tokens that it holds");
    }
  }
  next.length = numbers.length;
  next.selected = numbers.selected;
  next.sealed_end = numbers.sealed_end;
  next.prompt = numbers.prompt;
  next.pruned = numbers.pruned;
  next.observed = numbers.observed;
  if (numbers.length > 0) Allocate(runtime.memory(), 0, next);
  const bool scores = next.scores.size() > 0, counts = next.counts.size() > 0;
  if (numbers.scores != scores || numbers.counts != counts ||
      numbers.scored != (scores ? next.scored : 0) || (numbers.observed > 0 && !scores)) {
    return Wrong(layer_, "its scores are not those of the policy");
  }
  const uint64_t with_score = scores ? numbers.held - numbers.scored : 0;
  // Sums of attention weights, with the bound that Add puts to them.
  if (!std::all_of(restored.scores, restored.scores + lists() * with_score,
                   [](float score) { return score >= 0 && score <= FLT_MAX / 2; })) {
    return Wrong(layer_, "a score is negative or not finite");
  }
  for (uint32_t list = 0; list < lists() && numbers.held > 0; ++list) {
    std::copy_n(restored.positions + list * numbers.held, numbers.held,
                const_cast<uint32_t*>(PositionsOf(next, list)));
    if (with_score == 0) continue;
    const uint64_t to = list * ScoreStride(next);
    std::copy_n(restored.scores + list * with_score, with_score, next.scores.data<float>() + to);
    if (!counts) continue;
    std::copy_n(restored.counts + list * with_score, with_score,
                next.counts.data<uint32_t>() + to);
  }
  for (uint32_t side = 0; side < 2; ++side) {
    next.segments[side] = std::move(restored.segments[side]);
    const uint64_t bytes = next.pool * shape_.head_dim * sizeof(uint16_t);
    for (uint32_t head = 0; head < shape_.kv_heads && bytes > 0; ++head) {
      std::memcpy(next.rows[side].data<uint16_t>() + head * next.capacity * shape_.head_dim,
                  restored.rows[side].data<std::byte>() + head * bytes, bytes);
    }
  }
  state_.swap(next);
  return absl::OkStatus();
}

}  // namespace kvg
