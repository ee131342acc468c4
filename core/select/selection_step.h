// What one act of a policy decides, and the tokens that it moves: between the files of SelectedLayer.
//
// Included by core/select/*.cc alone.
#ifndef KVGEAR_CORE_SELECT_SELECTION_STEP_H_
#define KVGEAR_CORE_SELECT_SELECTION_STEP_H_

#include <cstdint>

#include "core/base/memory.h"
#include "core/select/selected_layer.h"

namespace kvg {

// Which slots stay. One list for each head, or one for all; without `kept` every slot does.
struct SelectedLayer::Decision {
  bool due = false;          // anything at all is to be done
  bool prompt_ends = false;
  uint64_t keep = 0;         // slots kept
  Buffer kept;               // uint32 [lists][keep], ascending
  uint64_t seal = 0;         // of the pool, after eviction
  bool tiers = false;        // what is sealed is divided by score
  bool again = false;        // and what was sealed before is sealed anew
  uint64_t pruned = 0;       // kChunks: slots that are decided on afterwards

  uint32_t at(uint32_t list, uint64_t i) const {
    return kept.size() == 0 ? static_cast<uint32_t>(i) : kept.data<uint32_t>()[list * keep + i];
  }
};

// The slots that are written anew, in the order in which they will lie: all but whole segments that
// stay as they are.
struct SelectedLayer::Region {
  uint64_t tokens = 0;
  Buffer slots;         // uint32 [lists][tokens], slots of the old state
  uint64_t fixed = 0;   // sinks at the front, which stay in the pool
  uint64_t seal = 0;    // those that are sealed, behind them
  uint64_t tiered = 0;  // of these the first, which stay in the tier they have
  uint64_t first = 0;   // old slots from here to `sealed` were read back
  Buffer decoded[2];    // fp16 [sealed - first][kv_heads][head_dim]
  double error[2] = {0, 0};  // relative, of what was read back

  uint32_t* list(uint32_t i) const { return slots.data<uint32_t>() + i * tokens; }
};

}  // namespace kvg

#endif  // KVGEAR_CORE_SELECT_SELECTION_STEP_H_
