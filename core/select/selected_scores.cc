// The scores of a selecting layer: where they come from, how they are kept, which queries are wanted.
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>

#include "core/select/choose.h"
#include "core/select/selection_step.h"

namespace kvg {

bool SelectedLayer::wants_scores() const { return state_.scores.size() > 0; }

// The newest rows that a window takes in.
uint64_t SelectedLayer::WindowRows() const {
  if (policy_.phase == Phase::kChunks) {
    return PruneWindow(recipe_.select, state_.prompt > 0 ? state_.prompt : state_.length);
  }
  return RecentTokens(recipe_.select,
                      std::max<uint64_t>(1, BudgetTokens(recipe_.select, 0, 1, state_.length)));
}

absl::Status SelectedLayer::Observe(Runtime& runtime, const float* scores, size_t count,
                                    uint64_t rows) {
  const uint64_t needed = held() * shape_.kv_heads;
  if (count != needed) {
    return InvalidError("scores_len is ", count, " but layer ", layer_, " holds ", held(),
                        " tokens for each of ", shape_.kv_heads, " KV heads, which makes ", needed);
  }
  if (rows == 0 || rows > state_.length) {
    return InvalidError("rows is ", rows, "; it may be 1 to ", state_.length,
                        ", the tokens that layer ", layer_, " has seen");
  }
  for (size_t i = 0; i < count; ++i) {
    if (!std::isfinite(scores[i]) || scores[i] < 0) {
      return NonFiniteError("scores[", i, "] is negative or not finite; sums of attention weights"
                            " are neither");
    }
  }
  if (!wants_scores()) return absl::OkStatus();
  Observation observation;
  const size_t bytes = needed * sizeof(float);
  observation.sums = Buffer(runtime.memory(), bytes, Buffer::kScratch);
  std::memcpy(observation.sums.data(), scores, bytes);
  if (state_.counts.size() > 0) {
    observation.counts = Buffer(runtime.memory(), bytes, Buffer::kScratch);
    auto* to = observation.counts.data<uint32_t>();
    for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
      const uint32_t* const positions = PositionsOf(state_, list_of(head));
      for (uint64_t slot = 0; slot < held(); ++slot) {
        *to++ = static_cast<uint32_t>(std::min(rows, state_.length - positions[slot]));
      }
    }
  }
  observation.rows = rows;
  Add(observation);
  return absl::OkStatus();
}

absl::Status SelectedLayer::Probe(Runtime& runtime, ops::ScoreArgs args, const uint64_t* positions,
                                  Observation& out) const {
  const uint32_t all = args.queries;
  for (uint32_t i = 0; i < all; ++i) {
    const uint64_t least = std::max(i == 0 ? 0 : positions[i - 1],
                                    state_.sealed_end == 0 ? 0 : state_.sealed_end - 1);
    if (positions[i] < least || positions[i] >= state_.length) {
      return InvalidError("positions[", i, "] is ", positions[i], "; it may be ", least, " to ",
                          state_.length - std::min<uint64_t>(1, state_.length),
                          ": positions do not descend, are of tokens that layer ", layer_,
                          " has seen, and of none in front of those it has compressed");
    }
  }
  // Only the rows that the rule reads.
  uint32_t first = 0;
  const uint64_t window = policy_.rule == ScoreRule::kWindow ? WindowRows() : 0;
  if (policy_.rule == ScoreRule::kLast) first = all - 1;
  if (policy_.rule == ScoreRule::kWindow) {
    while (first < all && positions[first] + window < state_.length) ++first;
  }
  if (!wants_scores() || first == all) return absl::OkStatus();
  args.queries = all - first;
  const size_t element = args.q_dtype == ops::kF32 ? 4 : 2;
  args.q = static_cast<const std::byte*>(args.q) +
           static_cast<int64_t>(first) * args.q_token_stride * static_cast<int64_t>(element);
  Memory& memory = runtime.memory();
  const uint64_t n = held();
  const Buffer sees(memory, shape_.kv_heads * args.queries * sizeof(uint64_t), Buffer::kScratch);
  const Buffer weights(memory, args.queries * sizeof(float), Buffer::kScratch);
  out.sums = Buffer(memory, shape_.kv_heads * n * sizeof(float), Buffer::kScratch);
  std::memset(out.sums.data(), 0, out.sums.size());
  if (state_.counts.size() > 0) {
    out.counts = Buffer(memory, shape_.kv_heads * n * sizeof(uint32_t), Buffer::kScratch);
    std::memset(out.counts.data(), 0, out.counts.size());
  }
  for (uint32_t i = 0; i < args.queries; ++i) {
    float weight = 1;
    if (policy_.rule == ScoreRule::kWindow && recipe_.select.distance > 1) {
      const uint64_t in_window = positions[first + i] + window - state_.length;
      weight = RowWeight(recipe_.select, in_window, window);
    }
    weights.data<float>()[i] = weight;
  }
  for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
    // All that is sealed is older than any probe, and so are the sinks; the rest ascends.
    const uint32_t* const slots = PositionsOf(state_, list_of(head));
    const uint32_t* rest = slots + state_.sealed;
    while (rest < slots + n && *rest < recipe_.select.sinks) ++rest;
    for (uint32_t i = 0; i < args.queries; ++i) {
      const uint64_t position = positions[first + i];
      const uint64_t seen = static_cast<uint64_t>(
          std::upper_bound(rest, slots + n, position,
                           [](uint64_t p, uint32_t slot) { return p < slot; }) - slots);
      if (seen == 0 || slots[0] > position) {
        return InvalidError("positions[", first + i, "] is ", position, ", and KV head ", head,
                            " of layer ", layer_, " holds no token as old as that");
      }
      sees.data<uint64_t>()[uint64_t{head} * args.queries + i] = seen;
      if (out.counts.size() == 0) continue;
      uint32_t* const counts = out.counts.data<uint32_t>() + head * n;
      for (uint64_t slot = 0; slot < seen; ++slot) ++counts[slot];
    }
  }
  const PieceList pieces = Pieces(ops::kSideK, memory);
  args.k = pieces.sequence();
  args.length = n;
  args.sees = sees.data<uint64_t>();
  args.weight = weights.data<float>();
  args.sums = out.sums.data<float>();
  ThreadPool::Lease lease = runtime.pool().Acquire();
  const ops::Parallel parallel = lease.parallel();
  const ops::Table& table = runtime.table();
  const Buffer scratch(memory, table.score_scratch(&args, parallel.workers), Buffer::kScratch);
  args.scratch = scratch.data<void>();
  table.score(&args, &parallel);
  const float* const sums = out.sums.data<float>();
  for (uint64_t i = 0; i < shape_.kv_heads * n; ++i) {
    if (!std::isfinite(sums[i])) {
      return NonFiniteError("q holds NaN or infinity, or its products with k overflow; the scores of"
                            " layer ", layer_, " are as they were");
    }
  }
  out.rows = args.queries;
  return absl::OkStatus();
}

void SelectedLayer::Add(const Observation& observation) noexcept {
  if (observation.rows == 0) return;
  const uint64_t n = held();
  const uint64_t heads = shape_.kv_heads;
  const float* const sums = observation.sums.data<float>();
  for (uint32_t list = 0; list < lists(); ++list) {
    const uint64_t at = list * ScoreStride(state_) - state_.scored;  // of slot 0; may wrap around
    float* const scores = state_.scores.data<float>();
    for (uint64_t slot = state_.scored; slot < n; ++slot) {
      float sum = 0;
      if (recipe_.select.shared) {
        for (uint64_t head = 0; head < heads; ++head) sum += sums[head * n + slot];
        sum /= static_cast<float>(heads);
      } else {
        sum = sums[list * n + slot];
      }
      float& score = scores[at + slot];
      const float before = policy_.rule == ScoreRule::kLast ? 0 : score;
      score = std::min(before + sum, FLT_MAX / 2);
      if (state_.counts.size() > 0) {
        uint32_t& count = state_.counts.data<uint32_t>()[at + slot];
        const uint64_t more = observation.counts.data<uint32_t>()[list * n + slot];
        count = static_cast<uint32_t>(std::min<uint64_t>(count + more, UINT32_MAX));
      }
    }
  }
  state_.observed += observation.rows;
}

uint64_t SelectedLayer::ProbeRoom() const {
  if (!wants_scores() || held() == 0) return 0;
  switch (policy_.rule) {
    case ScoreRule::kNone:
      return 0;
    case ScoreRule::kLast:
      return 1;
    case ScoreRule::kSum:
      return state_.length - state_.selected;
    case ScoreRule::kWindow:
      return std::min(WindowRows(), state_.length - state_.selected);
    case ScoreRule::kMean:
      return kvg::ProbeRoom(recipe_.select, state_.sealed_end, state_.length);
  }
  return 0;
}

uint64_t SelectedLayer::ProbePositions(uint64_t* positions) const {
  const uint64_t room = ProbeRoom();
  if (room == 0) return 0;
  if (policy_.rule == ScoreRule::kMean) {
    return DrawProbes(recipe_.select, state_.sealed_end, state_.length,
                      seed_ + state_.length, positions);
  }
  for (uint64_t i = 0; i < room; ++i) positions[i] = state_.length - room + i;
  return room;
}

absl::Status SelectedLayer::NextTokens(Runtime& runtime, uint64_t* slots, uint64_t* count) const {
  if (policy_.phase != Phase::kChunks) {
    return StateError(policy_.name, " passes all tokens on from layer to layer; only pyramidinfer"
                      " prunes a prompt so");
  }
  if (state_.prompt > 0) {
    return StateError("the prompt of layer ", layer_,
                      " has ended; ask which tokens go on before the first decoded one");
  }
  const uint64_t n = held();
  const Pruning pruning = PruneLayer(recipe_.select, layer_, shape_.layers, state_.length, n);
  const bool prunes = pruning.kept < pruning.context;
  if (prunes) KVG_RETURN_IF_ERROR(NeedScores("choose which tokens go on"));
  *count = pruning.kept + pruning.window;
  if (slots == nullptr) return absl::OkStatus();
  if (prunes) {
    Memory& memory = runtime.memory();
    const Buffer ranks(memory, pruning.context * sizeof(float), Buffer::kScratch);
    const Buffer order(memory, pruning.context * sizeof(uint32_t), Buffer::kScratch);
    const Buffer kept(memory, pruning.context * sizeof(uint32_t), Buffer::kScratch);
    float* const scores = ranks.data<float>();
    std::copy_n(state_.scores.data<float>(), pruning.context, scores);
    for (uint64_t i = 0; i < pruning.context; ++i) {
      if (PositionsOf(state_, 0)[i] < recipe_.select.sinks) scores[i] = FLT_MAX;
    }
    KeepBest(scores, pruning.context, pruning.kept, order.data<uint32_t>(), kept.data<uint32_t>());
    std::copy_n(kept.data<uint32_t>(), pruning.kept, slots);
  } else {
    for (uint64_t i = 0; i < pruning.kept; ++i) slots[i] = i;
  }
  for (uint64_t i = 0; i < pruning.window; ++i) slots[pruning.kept + i] = pruning.context + i;
  return absl::OkStatus();
}

}  // namespace kvg
