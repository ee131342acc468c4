// One layer of which only some tokens are kept: K and V together, under one policy.
//
// Called by core/cache/layer_cache, in place of its two sides, when the recipe selects. Tokens lie in
// slots, the same number for every KV head, though not the same tokens:
//     sealed segments (compressed, immutable, shared with forks)   then the pool (fp16 rows, owned).
// The original position of every slot is kept. Slots ascend in position, except that sinks stay at
// the front of the pool when others are sealed, and that a sealed run lists its tiers one by one.
// A policy acts on the tokens of earlier steps when the next tokens come, or when asked: so attention
// of a step sees all of the step.
#ifndef KVGEAR_CORE_SELECT_SELECTED_LAYER_H_
#define KVGEAR_CORE_SELECT_SELECTED_LAYER_H_

#include <cstdint>
#include <memory_resource>
#include <vector>

#include "core/base/memory.h"
#include "core/base/status.h"
#include "core/cache/side_cache.h"
#include "core/codec/segment.h"
#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "core/runtime/runtime.h"
#include "core/select/policy.h"
#include "kernels/ops.h"

namespace kvg {

class SelectedLayer {
 public:
  static constexpr uint64_t kMaxPosition = 0xFFFFFFFF;

  // `recipe` outlives the object.
  SelectedLayer(Runtime& runtime, const Shape& shape, const Recipe& recipe, uint32_t layer);
  SelectedLayer(const SelectedLayer&) = delete;
  SelectedLayer& operator=(const SelectedLayer&) = delete;

  // Lets the policy act if it is due, then takes in the tokens. positions: of each token, ascending
  // and beyond all that came before; nullptr = length() and on.
  absl::Status Append(Runtime& runtime, const ops::IngestArgs& k, const ops::IngestArgs& v,
                      const uint64_t* positions);
  // Ends the prompt, and lets the policy act if it is due.
  absl::Status Select(Runtime& runtime);

  absl::Status CheckTruncate(uint64_t tokens) const;
  void Truncate(uint64_t tokens) noexcept;
  void Clear() noexcept;
  // Makes this empty layer a copy of `other`.
  void CopyFrom(const SelectedLayer& other, Runtime& runtime);

  uint64_t length() const { return state_.length; }  // positions that came, kept or not
  uint64_t held() const { return state_.sealed + state_.pool; }
  uint64_t sealed() const { return state_.sealed; }
  // How many of the newest slots are of the same tokens for every head, one behind the other.
  uint64_t intact() const;
  bool ascending() const;  // all slots in the order of their positions

  // Good until the next change. Throws std::bad_alloc.
  PieceList Pieces(ops::Side side, Memory& memory) const;

  // Position of the slot `back` in front of the end, back < intact().
  uint64_t NewestPosition(uint64_t back) const {
    return PositionsOf(state_, 0)[held() - 1 - back];
  }
  // Positions of the slots of a head; as many as held().
  void CopyPositions(uint32_t head, uint64_t* out) const;
  // Bits of each slot of a side: 16 where it is not compressed.
  void CopyBits(ops::Side side, uint8_t* out) const;

  // ------------------------------------------------------------------------------------ scores

  // Scores that were worked out and not yet added, so that adding them cannot fail.
  struct Observation {
    Buffer sums;    // float [kv_heads][held]
    Buffer counts;  // uint32 [kv_heads][held], where the policy divides by them
    uint64_t rows = 0;
  };
  bool wants_scores() const;
  // From the caller: [kv_heads][held], sums over the newest `rows` queries.
  absl::Status Observe(Runtime& runtime, const float* scores, size_t count, uint64_t rows);
  // From queries: `args` says what and where they are; positions[i] is that of query i.
  absl::Status Probe(Runtime& runtime, ops::ScoreArgs args, const uint64_t* positions,
                     Observation& out) const;
  void Add(const Observation& observation) noexcept;
  // Which queries the policy wants to see now.
  uint64_t ProbeRoom() const;
  uint64_t ProbePositions(uint64_t* positions) const;

  // PyramidInfer: the slots of the prompt that go on to the next layer, ascending. With `slots`
  // nullptr only *count is stored.
  absl::Status NextTokens(Runtime& runtime, uint64_t* slots, uint64_t* count) const;

  SideStats Stats(ops::Side side) const;

  // -------------------------------------------------------------------------------- for core/format

  // Everything but what has a length.
  struct Numbers {
    uint64_t length = 0, selected = 0, sealed_end = 0, prompt = 0, pruned = 0, observed = 0;
    uint64_t held = 0, scored = 0;  // scored: first slot that has a score
    uint32_t lists = 0;
    bool scores = false, counts = false;
  };
  Numbers numbers() const;
  // Of the slots of a list: [held], and [held - scored] where there are any.
  const uint32_t* positions(uint32_t list) const { return PositionsOf(state_, list); }
  const float* scores(uint32_t list) const;
  const uint32_t* counts(uint32_t list) const;
  const std::pmr::vector<SegmentRef>& segments(ops::Side side) const {
    return state_.segments[side];
  }
  // The rows of a head, slots from sealed() on.
  const uint16_t* pool_rows(ops::Side side, uint64_t head) const {
    return state_.rows[side].data<uint16_t>() + head * state_.capacity * shape_.head_dim;
  }

  // What was stored; segments and rows are whole in themselves, the numbers may be any.
  struct Restored {
    explicit Restored(std::pmr::memory_resource* resource)
        : segments{std::pmr::vector<SegmentRef>(resource), std::pmr::vector<SegmentRef>(resource)} {}
    Numbers numbers;
    std::pmr::vector<SegmentRef> segments[2];
    Buffer rows[2];                       // fp16 [kv_heads][held - sealed][head_dim]
    const uint32_t* positions = nullptr;  // [lists][held]
    const float* scores = nullptr;        // [lists][held - scored]
    const uint32_t* counts = nullptr;
  };
  // Into an empty layer, unless the numbers contradict one another. Throws std::bad_alloc, and then
  // nothing changed.
  absl::Status Restore(Runtime& runtime, Restored& restored);

 private:
  struct State {
    explicit State(std::pmr::memory_resource* resource)
        : segments{std::pmr::vector<SegmentRef>(resource), std::pmr::vector<SegmentRef>(resource)} {}
    void swap(State& other) noexcept;

    std::pmr::vector<SegmentRef> segments[2];  // by side, of equal tokens
    uint64_t sealed = 0;       // slots in segments
    uint64_t pool = 0;         // slots behind them
    uint64_t capacity = 0;     // of the pool
    Buffer rows[2];            // fp16 [kv_heads][capacity][head_dim]
    Buffer positions;          // uint32 [lists][sealed + capacity]
    uint64_t scored = 0;       // slots from here on have a score
    Buffer scores;             // float [lists][sealed + capacity - scored]
    Buffer counts;             // uint32, of the same shape
    uint64_t length = 0;       // positions that came
    uint64_t selected = 0;     // length when the policy last acted
    uint64_t sealed_end = 0;   // one more than the newest position sealed
    uint64_t prompt = 0;       // length of the prompt; 0 = it has not ended
    uint64_t pruned = 0;       // kChunks: slots that are decided on
    uint64_t observed = 0;     // rows seen since the policy last acted
  };
  struct Decision;
  struct Region;

  absl::Status Decide(Runtime& runtime, bool prompt_ends, Decision& decision) const;
  absl::Status DecideChunks(Runtime& runtime, Decision& decision) const;
  void Build(Runtime& runtime, const ops::Parallel& parallel, const Decision& decision,
             uint64_t room, State& next) const;
  void Seal(Runtime& runtime, const ops::Parallel& parallel, const Region& region, bool low,
            uint64_t first, uint64_t tokens, State& next) const;
  uint64_t DivideTiers(Memory& memory, const Region& region) const;
  bool LowSegment(uint64_t i) const;
  void ReadBack(Runtime& runtime, size_t segment, Region& region) const;
  const uint16_t* RowOf(const Region& region, uint32_t side, uint32_t head, uint64_t slot) const;
  void Gather(const Region& region, uint32_t side, uint64_t first, uint64_t tokens, uint16_t* rows,
              uint64_t head_stride) const;
  void Allocate(Memory& memory, uint64_t room, State& next) const;
  bool FitsInPlace(const Decision& decision, uint64_t tokens) const;
  void Compact(const Decision& decision, uint64_t added) noexcept;
  absl::Status NeedScores(const char* what) const;
  uint64_t SealDue(uint64_t tokens, uint64_t prompt, bool prompt_ends) const;
  uint64_t WindowRows() const;
  uint64_t Unit() const;
  bool codes() const { return recipe_.k.bits < 16 || recipe_.v.bits < 16; }
  const SideRecipe& side_recipe(uint32_t side) const {
    return side == ops::kSideK ? recipe_.k : recipe_.v;
  }
  uint32_t lists() const { return recipe_.select.shared ? 1 : shape_.kv_heads; }
  uint32_t list_of(uint32_t head) const { return recipe_.select.shared ? 0 : head; }
  const uint32_t* PositionsOf(const State& state, uint32_t list) const {
    return state.positions.data<uint32_t>() + list * (state.sealed + state.capacity);
  }
  uint64_t ScoreStride(const State& state) const {
    return state.sealed + state.capacity - state.scored;
  }

  const Shape shape_;
  const Recipe& recipe_;
  const PolicyInfo& policy_;
  const uint32_t layer_;
  const uint64_t seed_;
  State state_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_SELECT_SELECTED_LAYER_H_
