// One act of a policy: what it decides, and the state of the layer that comes of it.
#include "core/select/selection_step.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/select/choose.h"

namespace kvg {

uint64_t SelectedLayer::Unit() const {
  return std::lcm(std::max<uint64_t>(recipe_.k.block, ops::kBlockTokens),
                  std::max<uint64_t>(recipe_.v.block, ops::kBlockTokens));
}

// How many of `tokens` tokens of the pool (sinks not counted) are due to be sealed.
uint64_t SelectedLayer::SealDue(uint64_t tokens, uint64_t prompt, bool prompt_ends) const {
  if (!codes() || (prompt == 0 && policy_.phase != Phase::kAlways)) return 0;
  const uint64_t unit = Unit();
  const uint64_t window = std::max(recipe_.k.window, recipe_.v.window);
  const uint64_t least = prompt_ends ? unit : std::max<uint64_t>(unit, recipe_.select.gap);
  return tokens < window + least ? 0 : (tokens - window) / unit * unit;
}

absl::Status SelectedLayer::NeedScores(const char* what) const {
  if (state_.observed > 0) return absl::OkStatus();
  return StateError(policy_.name, " needs scores to ", what, " in layer ", layer_,
                    " and has got none; after attention and before the next append call"
                    " kvg_cache_attend_observe, kvg_cache_probe or kvg_cache_observe");
}

absl::Status SelectedLayer::DecideChunks(Runtime& runtime, Decision& decision) const {
  const SelectRecipe& select = recipe_.select;
  decision.pruned = decision.prompt_ends ? held() : state_.pruned;
  if (state_.prompt == 0) return absl::OkStatus();
  const uint64_t window = PruneWindow(select, state_.prompt);
  const uint64_t chunk = select.chunk;
  const uint64_t left = held() - state_.pruned;
  const uint64_t chunks = left < window + chunk ? 0 : (left - window) / chunk;
  if (chunks == 0) return absl::OkStatus();
  const uint64_t stay = std::min(chunk, ChunkKeeps(select, layer_, shape_.layers));
  KVG_RETURN_IF_ERROR(NeedScores("choose among decoded tokens"));
  decision.due = true;
  decision.keep = held() - chunks * (chunk - stay);
  decision.pruned = state_.pruned + chunks * stay;
  Memory& memory = runtime.memory();
  decision.kept = Buffer(memory, lists() * decision.keep * sizeof(uint32_t), Buffer::kScratch);
  const Buffer order(memory, chunk * sizeof(uint32_t), Buffer::kScratch);
  for (uint32_t list = 0; list < lists(); ++list) {
    uint32_t* to = decision.kept.data<uint32_t>() + list * decision.keep;
    const float* const scores = state_.scores.data<float>();
    const uint64_t at = list * ScoreStride(state_) - state_.scored;  // of slot 0; may wrap around
    std::iota(to, to + state_.pruned, 0u);
    to += state_.pruned;
    for (uint64_t i = 0; i < chunks; ++i) {
      const uint64_t first = state_.pruned + i * chunk;
      KeepBest(scores + (at + first), chunk, stay, order.data<uint32_t>(), to);
      for (uint64_t j = 0; j < stay; ++j) to[j] += static_cast<uint32_t>(first);
      to += stay;
    }
    const uint64_t next = state_.pruned + chunks * chunk;
    std::iota(to, to + (held() - next), static_cast<uint32_t>(next));
  }
  return absl::OkStatus();
}

absl::Status SelectedLayer::Decide(Runtime& runtime, bool prompt_ends, Decision& decision) const {
  const SelectRecipe& select = recipe_.select;
  Memory& memory = runtime.memory();
  const uint64_t n = held();
  decision.prompt_ends = prompt_ends && state_.prompt == 0 && n > 0;
  decision.due = decision.prompt_ends;
  decision.keep = n;
  decision.pruned = state_.pruned;
  const bool ended = state_.prompt > 0 || decision.prompt_ends;
  const uint64_t prompt = ended ? std::max(state_.prompt, uint64_t{1}) : 0;

  const bool evicts = policy_.phase == Phase::kAlways ||
                      (policy_.phase == Phase::kAfterPrompt && ended) ||
                      (policy_.phase == Phase::kOnce && decision.prompt_ends);
  if (policy_.phase == Phase::kChunks) KVG_RETURN_IF_ERROR(DecideChunks(runtime, decision));
  if (evicts) {
    const uint64_t budget = BudgetTokens(select, layer_, shape_.layers, state_.length);
    // Sealed tokens are evicted by the block: each time the others are written anew.
    const bool by_unit = codes() && state_.sealed > 0;
    const uint64_t step = by_unit ? Unit() : 1;
    if (n >= budget + step) {
      uint64_t keep = budget;
      const bool fifo = policy_.rule == ScoreRule::kNone;
      if (fifo && by_unit) keep = n - (n - budget) / step * step;
      const uint64_t sinks = std::min<uint64_t>(select.sinks, keep);
      const uint64_t recent =
          std::min(fifo ? keep : RecentTokens(select, budget), keep - sinks);
      decision.due = true;
      decision.keep = keep;
      decision.kept = Buffer(memory, lists() * keep * sizeof(uint32_t), Buffer::kScratch);
      const uint64_t best = keep - sinks - recent;
      if (best > 0) KVG_RETURN_IF_ERROR(NeedScores("choose which tokens to keep"));
      // Sinks that lie among the newest slots, behind sealed ones, are none of the newest.
      uint64_t tail = recent;
      if (codes() && n - recent < state_.sealed + sinks) tail += sinks;
      const uint64_t ranked = n - tail, from_ranked = keep - tail;
      const Buffer order(memory, ranked * sizeof(uint32_t), Buffer::kScratch);
      const Buffer pooled(memory, ranked * sizeof(float), Buffer::kScratch);
      for (uint32_t list = 0; list < lists(); ++list) {
        uint32_t* const kept = decision.kept.data<uint32_t>() + list * keep;
        float* const scores = pooled.data<float>();
        if (best > 0) {
          const float* const own =
              state_.scores.data<float>() + list * ScoreStride(state_) - state_.scored;
          Pool(own, ranked, select.pool, select.pooling, scores);
        } else {
          std::fill_n(scores, ranked, 0.0f);
        }
        const uint32_t* const positions = PositionsOf(state_, list);
        for (uint64_t slot = 0; slot < ranked; ++slot) {
          if (positions[slot] < select.sinks) scores[slot] = FLT_MAX;
        }
        KeepBest(scores, ranked, from_ranked, order.data<uint32_t>(), kept);
        std::iota(kept + from_ranked, kept + keep, static_cast<uint32_t>(ranked));
      }
    }
  }

  // Tokens that will lie in the pool. When sealed ones are evicted the rest may come back to it,
  // which Build sees to.
  const uint64_t sinks =
      codes() ? std::min<uint64_t>({select.sinks, decision.keep, state_.length}) : 0;
  const uint64_t evicted = n - decision.keep;
  const uint64_t pool = state_.pool - std::min(evicted, state_.pool);
  const uint64_t free = pool - std::min(pool, sinks);
  const uint64_t seal = SealDue(free, prompt, decision.prompt_ends);
  if (seal > 0) {
    decision.due = true;
    const bool wanted = policy_.phase == Phase::kTiers ||
                        (policy_.phase == Phase::kOnce ? decision.prompt_ends : true);
    decision.tiers = select.low > 0 && wanted;
    decision.again = select.again && state_.sealed > 0;
    if (decision.tiers) KVG_RETURN_IF_ERROR(NeedScores("divide tokens among tiers"));
  }
  decision.seal = seal;
  return absl::OkStatus();
}

// ------------------------------------------------------------------------------- the next state

void SelectedLayer::Allocate(Memory& memory, uint64_t room, State& next) const {
  const uint64_t slots = next.sealed + next.pool;
  const uint64_t needed = next.pool + room;
  next.capacity = needed + std::max<uint64_t>(32, std::min<uint64_t>(needed / 16, 256));
  for (Buffer& rows : next.rows) {
    rows = Buffer(memory, shape_.kv_dim() * next.capacity * sizeof(uint16_t));
  }
  const uint64_t stride = next.sealed + next.capacity;
  next.positions = Buffer(memory, lists() * stride * sizeof(uint32_t));
  // A policy that is done with its scores keeps none.
  const bool scored = policy_.rule != ScoreRule::kNone &&
                      !(policy_.phase == Phase::kOnce && next.prompt > 0);
  switch (policy_.phase) {
    case Phase::kAlways:
    case Phase::kAfterPrompt:
    case Phase::kOnce:
      next.scored = 0;
      break;
    case Phase::kChunks:
      next.scored = next.prompt > 0 ? std::min(next.pruned, slots) : 0;
      break;
    case Phase::kTiers:
      next.scored = next.sealed;
      break;
  }
  if (!scored) return;
  const uint64_t bytes = lists() * (stride - next.scored) * sizeof(uint32_t);
  next.scores = Buffer(memory, bytes);
  std::memset(next.scores.data(), 0, bytes);
  if (policy_.rule == ScoreRule::kMean) {
    next.counts = Buffer(memory, bytes);
    std::memset(next.counts.data(), 0, bytes);
  }
}

// Puts the slots that are to be sealed in the order of their tiers: first those of full width, then
// the others, each in order of position. Returns how many are of full width.
uint64_t SelectedLayer::DivideTiers(Memory& memory, const Region& region) const {
  const SelectRecipe& select = recipe_.select;
  const uint64_t ranked = region.seal - region.tiered;
  const uint64_t high = ranked - LowTokens(select, ranked, Unit());
  const Buffer scores(memory, ranked * sizeof(float), Buffer::kScratch);
  const Buffer order(memory, ranked * sizeof(uint32_t), Buffer::kScratch);
  const Buffer best(memory, ranked * sizeof(uint32_t), Buffer::kScratch);
  const Buffer sorted(memory, region.seal * sizeof(uint32_t), Buffer::kScratch);
  uint64_t low_before = 0;
  for (uint64_t i = 0; i < state_.segments[0].size(); ++i) {
    if (region.tiered > 0 && LowSegment(i)) low_before += state_.segments[0][i]->piece().tokens;
  }
  const uint64_t full = region.tiered - low_before + high;
  const Buffer lows(memory, state_.sealed, Buffer::kScratch);  // of each old slot whether it is low
  uint8_t* low = lows.data<uint8_t>();
  for (uint64_t i = 0; i < state_.segments[0].size(); ++i) {
    low = std::fill_n(low, state_.segments[0][i]->piece().tokens, LowSegment(i) ? 1 : 0);
  }
  for (uint32_t list = 0; list < lists(); ++list) {
    uint32_t* const slots = region.list(list) + region.fixed;
    const uint32_t* const fresh = slots + region.tiered;
    const uint64_t at = list * ScoreStride(state_) - state_.scored;  // of slot 0; may wrap around
    const float* const own = state_.scores.data<float>();
    const uint32_t* const counts =
        state_.counts.size() == 0 ? nullptr : state_.counts.data<uint32_t>();
    for (uint64_t i = 0; i < ranked; ++i) {
      const uint32_t slot = fresh[i];
      float score = own[at + slot];
      if (counts != nullptr) {
        const uint64_t rows = select.norm == Norm::kProbes
                                  ? counts[at + slot]
                                  : state_.length - PositionsOf(state_, list)[slot];
        score = rows == 0 ? 0 : score / static_cast<float>(rows);
      }
      scores.data<float>()[i] = score;
    }
    KeepBest(scores.data<float>(), ranked, high, order.data<uint32_t>(), best.data<uint32_t>());
    uint32_t* to_full = sorted.data<uint32_t>();
    uint32_t* to_low = to_full + full;
    for (uint64_t i = 0; i < region.tiered; ++i) {
      *(lows.data<uint8_t>()[slots[i]] != 0 ? to_low++ : to_full++) = slots[i];
    }
    for (uint64_t i = 0, b = 0; i < ranked; ++i) {
      const bool is_best = b < high && best.data<uint32_t>()[b] == i;
      if (is_best) ++b;
      *(is_best ? to_full++ : to_low++) = fresh[i];
    }
    std::copy_n(sorted.data<uint32_t>(), region.seal, slots);
  }
  return full;
}

bool SelectedLayer::LowSegment(uint64_t i) const {
  return state_.segments[0][i]->bits() < recipe_.k.bits ||
         state_.segments[1][i]->bits() < recipe_.v.bits;
}

// A row of the old state. Tokens that were read back come from there.
const uint16_t* SelectedLayer::RowOf(const Region& region, uint32_t side, uint32_t head,
                                     uint64_t slot) const {
  const uint64_t dim = shape_.head_dim;
  if (slot < state_.sealed) {
    return region.decoded[side].data<uint16_t>() +
           ((slot - region.first) * shape_.kv_heads + head) * dim;
  }
  return state_.rows[side].data<uint16_t>() +
         (head * state_.capacity + slot - state_.sealed) * dim;
}

void SelectedLayer::Gather(const Region& region, uint32_t side, uint64_t first, uint64_t tokens,
                           uint16_t* rows, uint64_t head_stride) const {
  const uint64_t dim = shape_.head_dim;
  for (uint32_t head = 0; head < shape_.kv_heads; ++head) {
    const uint32_t* const slots = region.list(list_of(head)) + first;
    uint16_t* to = rows + head * head_stride;
    for (uint64_t i = 0; i < tokens; ++i, to += dim) {
      std::memcpy(to, RowOf(region, side, head, slots[i]), dim * sizeof(uint16_t));
    }
  }
}

// Tokens [first, first + tokens) of the region become segments of both sides.
void SelectedLayer::Seal(Runtime& runtime, const ops::Parallel& parallel, const Region& region,
                         bool low, uint64_t first, uint64_t tokens, State& next) const {
  const uint64_t dim = shape_.head_dim;
  const uint64_t unit = Unit();
  const bool fifo = policy_.rule == ScoreRule::kNone;
  const uint64_t longest = std::min<uint64_t>(recipe_.k.segment, recipe_.v.segment);
  const uint64_t most = fifo ? unit : std::max(longest / unit * unit, unit);
  while (tokens > 0) {
    const uint64_t take = std::min(tokens, most);
    const Buffer rows(runtime.memory(), shape_.kv_dim() * take * sizeof(uint16_t), Buffer::kScratch);
    for (uint32_t side = 0; side < 2; ++side) {
      Gather(region, side, first, take, rows.data<uint16_t>(), take * dim);
      SideRecipe recipe = side_recipe(side);
      if (low && recipe.bits < 16) recipe.bits = std::min(recipe.bits, recipe_.select.low_bits);
      const bool decode = take <= recipe.block && state_.prompt > 0;
      const SegmentForm form =
          SegmentForm::Of(recipe, shape_, static_cast<ops::Side>(side), take, decode);
      HostExecutor host(runtime.memory(), runtime.table(), parallel);
      SegmentRef segment = Segment::Create(host, form, next.sealed);
      SealedRun run = segment->Seal(host, {rows.data<uint16_t>(), take * dim}, take,
                                    seed_ * (2 + side) + next.sealed);
      // Errors of what was sealed before add up, at worst in the same direction.
      const double error = std::sqrt(run.error_sq) + region.error[side] * std::sqrt(run.norm_sq);
      run.error_sq = error * error;
      segment->Grow(run);
      next.segments[side].push_back(std::move(segment));
    }
    next.sealed += take;
    first += take;
    tokens -= take;
  }
}

// Fills the empty `next` with the state after the decision, with room for so many more tokens.
void SelectedLayer::Build(Runtime& runtime, const ops::Parallel& parallel, const Decision& decision,
                          uint64_t room, State& next) const {
  Memory& memory = runtime.memory();
  const State& old = state_;
  const auto kept_at = [&](uint64_t i, uint64_t slot) {
    for (uint32_t list = 0; list < lists(); ++list) {
      if (decision.at(list, i) != slot) return false;
    }
    return true;
  };
  // Leading segments of which no head keeps anything go; those behind that are whole stay.
  const auto tokens_of = [&](size_t i) { return old.segments[0][i]->piece().tokens; };
  size_t segment = 0;
  uint64_t gone = 0, whole = 0;  // slots
  if (!decision.again) {
    const auto none_kept = [&](uint64_t end) {
      for (uint32_t list = 0; list < lists(); ++list) {
        if (decision.keep > 0 && decision.at(list, 0) < end) return false;
      }
      return true;
    };
    while (segment < old.segments[0].size() && none_kept(gone + tokens_of(segment))) {
      gone += tokens_of(segment++);
    }
    for (; segment < old.segments[0].size(); ++segment) {
      const uint64_t end = whole + tokens_of(segment);
      bool all = end <= decision.keep;
      for (uint64_t i = whole; all && i < end; ++i) all = kept_at(i, gone + i);
      if (!all) break;
      for (uint32_t side = 0; side < 2; ++side) {
        next.segments[side].push_back(old.segments[side][segment]);
      }
      whole = end;
    }
  }
  next.sealed = whole;
  next.length = old.length;
  next.prompt = decision.prompt_ends ? old.length : old.prompt;
  next.pruned = decision.pruned;
  next.sealed_end = old.sealed_end;
  // Without a decision there is only more room.
  next.selected = decision.due ? old.length : old.selected;
  next.observed = decision.due && policy_.rule != ScoreRule::kSum ? 0 : old.observed;

  Region region;
  region.first = std::min(gone + whole, old.sealed);
  region.tokens = decision.keep - whole;
  region.slots = Buffer(memory, lists() * region.tokens * sizeof(uint32_t), Buffer::kScratch);
  const bool reads_back = region.first < old.sealed;
  const uint32_t sinks = codes() ? recipe_.select.sinks : 0;
  for (uint32_t list = 0; list < lists(); ++list) {
    uint32_t* const slots = region.list(list);
    for (uint64_t i = 0; i < region.tokens; ++i) slots[i] = decision.at(list, whole + i);
    const uint32_t* const positions = PositionsOf(old, list);
    if (reads_back) {
      std::sort(slots, slots + region.tokens, [&](uint32_t a, uint32_t b) {
        const bool sink_a = positions[a] < sinks, sink_b = positions[b] < sinks;
        return sink_a != sink_b ? sink_a : positions[a] < positions[b];
      });
    }
    region.fixed = 0;
    while (region.fixed < region.tokens && positions[slots[region.fixed]] < sinks) ++region.fixed;
  }
  region.seal = decision.seal;
  if (reads_back) {
    ReadBack(runtime, segment, region);
    const uint64_t prompt = std::max<uint64_t>(next.prompt, decision.prompt_ends ? 1 : 0);
    region.tiered = decision.again ? old.sealed : 0;
    region.seal = decision.again ? old.sealed + decision.seal
                                 : SealDue(region.tokens - region.fixed, prompt, true);
  }
  if (region.seal > 0) {
    const uint64_t full = decision.tiers ? DivideTiers(memory, region) : region.seal;
    Seal(runtime, parallel, region, false, region.fixed, full, next);
    Seal(runtime, parallel, region, true, region.fixed + full, region.seal - full, next);
  }

  next.pool = region.tokens - region.seal;
  Allocate(memory, room, next);
  const uint64_t dim = shape_.head_dim;
  const uint64_t rest = next.pool - region.fixed;
  for (uint32_t side = 0; side < 2; ++side) {
    uint16_t* const rows = next.rows[side].data<uint16_t>();
    Gather(region, side, 0, region.fixed, rows, next.capacity * dim);
    Gather(region, side, region.fixed + region.seal, rest, rows + region.fixed * dim,
           next.capacity * dim);
  }
  for (uint32_t list = 0; list < lists(); ++list) {
    const uint32_t* const from = PositionsOf(old, list);
    uint32_t* const to = const_cast<uint32_t*>(PositionsOf(next, list));
    const uint32_t* const slots = region.list(list);
    const bool scored = next.scores.size() > 0 && old.scores.size() > 0;
    const auto move = [&](uint64_t target, uint64_t slot) {
      to[target] = from[slot];
      if (!scored || target < next.scored || slot < old.scored) return;
      // Once the policy has acted only sums go on; the others start anew.
      if (decision.due && policy_.rule != ScoreRule::kSum) return;
      const uint64_t old_at = list * ScoreStride(old) + slot - old.scored;
      const uint64_t new_at = list * ScoreStride(next) + target - next.scored;
      next.scores.data<float>()[new_at] = old.scores.data<float>()[old_at];
      if (next.counts.size() > 0) {
        next.counts.data<uint32_t>()[new_at] = old.counts.data<uint32_t>()[old_at];
      }
    };
    for (uint64_t i = 0; i < whole; ++i) move(i, gone + i);
    for (uint64_t i = 0; i < region.seal; ++i) {
      move(whole + i, slots[region.fixed + i]);
      next.sealed_end = std::max<uint64_t>(next.sealed_end, to[whole + i] + uint64_t{1});
    }
    for (uint64_t i = 0; i < region.fixed; ++i) move(next.sealed + i, slots[i]);
    for (uint64_t i = 0; i < rest; ++i) {
      move(next.sealed + region.fixed + i, slots[region.fixed + region.seal + i]);
    }
  }
}

// Decompresses the slots from region.first on, the first of which begins segment `segment`.
void SelectedLayer::ReadBack(Runtime& runtime, size_t segment, Region& region) const {
  for (uint32_t side = 0; side < 2; ++side) {
    double error_sq = 0, norm_sq = 0;
    for (size_t i = segment; i < state_.segments[side].size(); ++i) {
      error_sq += state_.segments[side][i]->error_sq();
      norm_sq += state_.segments[side][i]->norm_sq();
    }
    region.error[side] = norm_sq > 0 ? std::sqrt(error_sq / norm_sq) : 0;
    const uint64_t tokens = state_.sealed - region.first;
    region.decoded[side] =
        Buffer(runtime.memory(), tokens * shape_.kv_dim() * sizeof(uint16_t), Buffer::kScratch);
    const PieceList pieces = Pieces(static_cast<ops::Side>(side), runtime.memory());
    ops::ReadArgs read{};
    read.side = pieces.sequence();
    read.kv_heads = shape_.kv_heads;
    read.head_dim = shape_.head_dim;
    read.first_token = region.first;
    read.tokens = tokens;
    read.dtype = ops::kF16;
    read.out = region.decoded[side].data<void>();
    runtime.table().read(&read);
  }
}

}  // namespace kvg
