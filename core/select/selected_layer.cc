// How a selecting layer takes in tokens, shortens, copies, lists and accounts for itself.
#include "core/select/selected_layer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "core/select/choose.h"
#include "core/select/selection_step.h"

namespace kvg {

void SelectedLayer::State::swap(State& other) noexcept {
  for (uint32_t side = 0; side < 2; ++side) {
    segments[side].swap(other.segments[side]);
    rows[side].swap(other.rows[side]);
  }
  positions.swap(other.positions);
  scores.swap(other.scores);
  counts.swap(other.counts);
  std::swap(sealed, other.sealed);
  std::swap(pool, other.pool);
  std::swap(capacity, other.capacity);
  std::swap(scored, other.scored);
  std::swap(length, other.length);
  std::swap(selected, other.selected);
  std::swap(sealed_end, other.sealed_end);
  std::swap(prompt, other.prompt);
  std::swap(pruned, other.pruned);
  std::swap(observed, other.observed);
}

SelectedLayer::SelectedLayer(Runtime& runtime, const Shape& shape, const Recipe& recipe,
                             uint32_t layer)
    : shape_(shape),
      recipe_(recipe),
      policy_(PolicyOf(recipe.select)),
      layer_(layer),
      // Any fixed values do, as long as they differ.
      seed_((uint64_t{layer} * 4 + 1) * 0x9E3779B97F4A7C15u),
      state_(&runtime.resource()) {}

absl::Status SelectedLayer::Append(Runtime& runtime, const ops::IngestArgs& k,
                                   const ops::IngestArgs& v, const uint64_t* positions) {
  const uint64_t tokens = k.tokens;
  if (positions != nullptr) {
    for (uint64_t i = 0; i < tokens; ++i) {
      const uint64_t least = i == 0 ? state_.length : positions[i - 1] + 1;
      if (positions[i] < least) {
        return InvalidError("positions[", i, "] is ", positions[i], " but must be at least ", least,
                            ": positions ascend, beyond those that layer ", layer_, " has seen");
      }
    }
  }
  const uint64_t last = positions != nullptr ? positions[tokens - 1] : state_.length + tokens - 1;
  if (last >= kMaxPosition) {
    return InvalidError("the position of the last token would be ", last,
                        "; a layer that selects tokens takes positions below ", kMaxPosition);
  }
  Decision decision;
  KVG_RETURN_IF_ERROR(Decide(runtime, tokens == 1, decision));
  ThreadPool::Lease lease = runtime.pool().Acquire();
  State next(&runtime.resource());
  const bool moves = decision.due || state_.pool + tokens > state_.capacity;
  const bool in_place = moves && FitsInPlace(decision, tokens);
  if (moves && !in_place) Build(runtime, lease.parallel(), decision, tokens, next);
  // The new tokens go behind those that can be seen: of the old state, or of the next.
  State& state = moves && !in_place ? next : state_;
  for (const ops::IngestArgs* x : {&k, &v}) {
    ops::IngestArgs args = *x;
    const uint32_t side = x == &k ? ops::kSideK : ops::kSideV;
    args.rows = state.rows[side].data<uint16_t>() + state.pool * shape_.head_dim;
    args.rows_head_stride = state.capacity * shape_.head_dim;
    if (!runtime.table().ingest(&args)) {
      return NonFiniteError(side == ops::kSideK ? "k" : "v",
                            " holds NaN, infinity or a magnitude beyond 65504, the largest of fp16;"
                            " nothing was appended");
    }
  }
  const uint64_t first = state.sealed + state.pool;
  for (uint32_t list = 0; list < lists(); ++list) {
    uint32_t* const to = const_cast<uint32_t*>(PositionsOf(state, list)) + first;
    for (uint64_t i = 0; i < tokens; ++i) {
      to[i] = static_cast<uint32_t>(positions != nullptr ? positions[i] : state.length + i);
    }
    if (state.scores.size() == 0) continue;
    const uint64_t at = list * ScoreStride(state) + first - state.scored;
    std::fill_n(state.scores.data<float>() + at, tokens, 0.0f);
    if (state.counts.size() > 0) std::fill_n(state.counts.data<uint32_t>() + at, tokens, 0u);
  }
  state.pool += tokens;
  if (in_place) Compact(decision, tokens);
  state.length = last + 1;
  if (moves && !in_place) state_.swap(next);
  return absl::OkStatus();
}

// Whether the decision only takes tokens out of the pool, and the new ones fit behind the old.
bool SelectedLayer::FitsInPlace(const Decision& decision, uint64_t tokens) const {
  return decision.due && !decision.prompt_ends && decision.seal == 0 && state_.sealed == 0 &&
         policy_.phase != Phase::kChunks && state_.pool + tokens <= state_.capacity;
}

// Carries out such a decision, after the new tokens were added.
void SelectedLayer::Compact(const Decision& decision, uint64_t added) noexcept {
  const uint64_t dim = shape_.head_dim;
  const uint64_t before = held() - added;
  const uint64_t stride = ScoreStride(state_);
  // Moves slots of `width` elements up; runs of neighbours at once.
  const auto pack = [&](auto* array, uint64_t width, uint32_t list) {
    uint64_t to = 0;
    const auto move = [&](uint64_t from, uint64_t count) {
      if (to != from) {
        std::memmove(array + to * width, array + from * width, count * width * sizeof(*array));
      }
      to += count;
    };
    for (uint64_t i = 0; i < decision.keep;) {
      uint64_t end = i + 1;
      while (end < decision.keep && decision.at(list, end) == decision.at(list, end - 1) + 1) ++end;
      move(decision.at(list, i), end - i);
      i = end;
    }
    move(before, added);
  };
  for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
    for (Buffer& rows : state_.rows) {
      pack(rows.data<uint16_t>() + head * state_.capacity * dim, dim, list_of(head));
    }
  }
  for (uint32_t list = 0; list < lists(); ++list) {
    pack(const_cast<uint32_t*>(PositionsOf(state_, list)), 1, list);
    if (state_.scores.size() == 0) continue;
    float* const scores = state_.scores.data<float>() + list * stride;
    if (policy_.rule == ScoreRule::kSum) {
      pack(scores, 1, list);
    } else {  // the others start anew, as in Build
      std::fill_n(scores, decision.keep + added, 0.0f);
    }
  }
  state_.pool = decision.keep + added;
  state_.selected = state_.length;
  if (policy_.rule != ScoreRule::kSum) state_.observed = 0;
}

absl::Status SelectedLayer::Select(Runtime& runtime) {
  Decision decision;
  KVG_RETURN_IF_ERROR(Decide(runtime, true, decision));
  if (!decision.due) return absl::OkStatus();
  ThreadPool::Lease lease = runtime.pool().Acquire();
  State next(&runtime.resource());
  Build(runtime, lease.parallel(), decision, 0, next);
  state_.swap(next);
  return absl::OkStatus();
}

absl::Status SelectedLayer::CheckTruncate(uint64_t tokens) const {
  if (tokens > state_.length) {
    return InvalidError("layer ", layer_, " has seen ", state_.length,
                        " tokens and cannot be truncated to ", tokens);
  }
  if (tokens == 0 || tokens >= state_.selected) return absl::OkStatus();
  return InvalidError("layer ", layer_, " cannot be truncated to ", tokens, " tokens: at ",
                      state_.selected, " ", policy_.name,
                      " chose among them; the nearest lengths are 0 and ", state_.selected);
}

void SelectedLayer::Truncate(uint64_t tokens) noexcept {
  if (tokens >= state_.length) return;
  if (tokens == 0) return Clear();
  // No token since has been moved, so what goes is the end of the pool, the same for every head.
  const uint32_t* const positions = PositionsOf(state_, 0) + state_.sealed;
  while (state_.pool > 0 && positions[state_.pool - 1] >= tokens) --state_.pool;
  state_.length = tokens;
}

void SelectedLayer::Clear() noexcept {
  State empty(state_.segments[0].get_allocator().resource());
  state_.swap(empty);
}

void SelectedLayer::CopyFrom(const SelectedLayer& other, Runtime& runtime) {
  State next(&runtime.resource());
  const State& from = other.state_;
  const auto copy = [&runtime](const Buffer& source) {
    Buffer result(runtime.memory(), source.size());
    if (source.size() > 0) std::memcpy(result.data(), source.data(), source.size());
    return result;
  };
  for (uint32_t side = 0; side < 2; ++side) {
    next.segments[side].assign(from.segments[side].begin(), from.segments[side].end());
    next.rows[side] = copy(from.rows[side]);
  }
  next.positions = copy(from.positions);
  next.scores = copy(from.scores);
  next.counts = copy(from.counts);
  next.sealed = from.sealed;
  next.pool = from.pool;
  next.capacity = from.capacity;
  next.scored = from.scored;
  next.length = from.length;
  next.selected = from.selected;
  next.sealed_end = from.sealed_end;
  next.prompt = from.prompt;
  next.pruned = from.pruned;
  next.observed = from.observed;
  state_.swap(next);
}

uint64_t SelectedLayer::intact() const {
  if (held() == state_.length && ascending()) return held();
  const uint32_t* const positions = PositionsOf(state_, 0) + state_.sealed;
  uint64_t count = 0;
  while (count < state_.pool && positions[state_.pool - 1 - count] >= state_.selected) ++count;
  return count;
}

bool SelectedLayer::ascending() const {
  for (uint32_t list = 0; list < lists(); ++list) {
    const uint32_t* const positions = PositionsOf(state_, list);
    if (!std::is_sorted(positions, positions + held())) return false;
  }
  return true;
}

PieceList SelectedLayer::Pieces(ops::Side side, Memory& memory) const {
  const auto& segments = state_.segments[side];
  const uint64_t count = segments.size() + (state_.pool > 0 ? 1 : 0);
  Buffer buffer(memory, count * (sizeof(ops::Piece*) + sizeof(ops::Piece)), Buffer::kScratch);
  auto** const list = buffer.data<const ops::Piece*>();
  auto* const pieces = reinterpret_cast<ops::Piece*>(list + count);
  uint64_t first = 0;
  for (size_t i = 0; i < segments.size(); ++i) {
    // Segments move up when others in front of them go.
    pieces[i] = segments[i]->piece();
    pieces[i].first_token = first;
    first += pieces[i].tokens;
    list[i] = &pieces[i];
  }
  if (state_.pool > 0) {
    ops::Piece rows{};
    rows.kind = ops::kRows;
    rows.side = side;
    rows.first_token = first;
    rows.tokens = state_.pool;
    rows.padded_tokens = state_.capacity;
    rows.kv_heads = shape_.kv_heads;
    rows.head_dim = shape_.head_dim;
    rows.dirs = ops::PadDirs(shape_.head_dim);
    rows.rows = state_.rows[side].data<uint16_t>();
    rows.rows_head_stride = state_.capacity * shape_.head_dim;
    pieces[segments.size()] = rows;
    list[segments.size()] = &pieces[segments.size()];
  }
  return PieceList(std::move(buffer), count);
}

void SelectedLayer::CopyPositions(uint32_t head, uint64_t* out) const {
  if (held() > 0) std::copy_n(PositionsOf(state_, list_of(head)), held(), out);
}

void SelectedLayer::CopyBits(ops::Side side, uint8_t* out) const {
  for (const SegmentRef& segment : state_.segments[side]) {
    out = std::fill_n(out, segment->piece().tokens, static_cast<uint8_t>(segment->bits()));
  }
  std::fill_n(out, state_.pool, uint8_t{16});
}

SideStats SelectedLayer::Stats(ops::Side side) const {
  SideStats stats;
  const auto& segments = state_.segments[side];
  stats.tokens = held();
  stats.appended = state_.length;
  stats.segments = segments.size();
  for (const SegmentRef& segment : segments) {
    stats.Add(*segment, segment->shared(), segment->piece().tokens);
  }
  stats.bytes.bookkeeping += segments.capacity() * sizeof(SegmentRef);
  stats.window_allocated = state_.rows[side].size();
  stats.window_used = state_.pool * shape_.kv_dim() * sizeof(uint16_t);
  // What both sides share is counted with the keys.
  if (side == ops::kSideK) {
    stats.bytes.bookkeeping += sizeof(SelectedLayer);
    stats.positions = state_.positions.size();
    stats.state = state_.scores.size() + state_.counts.size();
  }
  return stats;
}

}  // namespace kvg
