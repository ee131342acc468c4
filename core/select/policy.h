// Selection recipes: which rule decides what becomes of a token, with which numbers.
//
// Called by core/model/recipe (text form), core/select and capi. The table of policies is in
// policy.cc and is the one place to add one; README.md of this folder shows how.
#ifndef KVGEAR_CORE_SELECT_POLICY_H_
#define KVGEAR_CORE_SELECT_POLICY_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"

namespace kvg {

// What a policy makes of the attention that a token received. One accumulator serves all.
enum class ScoreRule : uint8_t {
  kNone,    // reads no scores
  kSum,     // of all rows observed
  kLast,    // the newest row alone
  kWindow,  // weighted sum over the newest rows
  kMean,    // sum by number of rows
};

// When a policy acts.
enum class Phase : uint8_t {
  kAlways,       // whenever more tokens are held than it keeps
  kAfterPrompt,  // the same, once the prompt has ended
  kOnce,         // at the end of the prompt, and never again
  kChunks,       // on decoded tokens as they leave the window, `chunk` at a time
  kTiers,        // evicts nothing: at the end of the prompt, then every `gap` tokens
};

enum class Norm : uint8_t { kProbes, kCausal };    // what a mean is divided by; see norm below
enum class Pooling : uint8_t { kAverage, kMaximum };

// The numbers of a policy. Every field has a key in the text form; see kSelectKeys in policy.cc.
// An amount below 1 is a share, else a number of tokens.
struct SelectRecipe {
  const char* policy = nullptr;  // name in the table; nullptr = every token is kept
  double budget = 0;     // tokens kept in a layer; a share is of the tokens appended. 0 = all
  double recent = 0;     // of these the newest; a share is of the budget (kChunks: of the prompt)
  uint32_t sinks = 0;    // of these the oldest
  bool shared = false;   // all KV heads keep the same tokens
  uint32_t pool = 1;     // scores are pooled over so many neighbours, an odd number
  Pooling pooling = Pooling::kAverage;
  uint32_t beta = 0;     // the first layer gets about 2 budgets, the last 1 / beta; 0 = all the same
  double low = 0;        // share of the tokens sealed that gets low_bits
  uint32_t low_bits = 2;
  uint32_t gap = 0;      // decoded tokens from one sealing to the next; 0 = as the codec says
  Norm norm = Norm::kProbes;  // probes: rows that saw the token; causal: all that could have
  bool again = false;    // seal what was sealed again with the new, as ZipCache's program does
  double probe_recent = 0;  // newest tokens whose queries are probes; share of the tokens
  double probe_random = 0;  // further probes, drawn from the rest
  double decay = 1;      // kChunks: share of a prompt's context kept by the last layer
  uint32_t interval = 1; // kChunks: layers from one pruning to the next
  uint32_t least = 0;    // kChunks: context that is not pruned further
  double distance = 1;   // weight of the newest row of a window; the oldest has 1
  uint32_t chunk = 0;    // kChunks: decoded tokens pruned together
  double chunk_keep = 1; // of which this share is kept in the first layer
  double chunk_decay = 1;// and this share of that in the last

  bool operator==(const SelectRecipe&) const;
  bool none() const { return policy == nullptr; }
};

struct PolicyInfo {
  const char* name;
  const char* summary;
  const char* source;  // the publication
  ScoreRule rule;
  Phase phase;
  SelectRecipe defaults;  // those published
};

uint32_t PolicyCount();
const PolicyInfo* PolicyAt(uint32_t index);             // nullptr when out of range
const PolicyInfo* FindPolicy(std::string_view name);    // nullptr when there is none
// Of a recipe that selects.
const PolicyInfo& PolicyOf(const SelectRecipe& recipe);
std::string PolicyNames();  // as "a, b, c"

// The text form. False when `key` is none of selection's; else *status says whether `value` is one
// of its values. The key "select" takes the name of a policy, or "none", and sets its defaults.
bool ApplySelectKey(std::string_view key, std::string_view value, SelectRecipe& recipe,
                    absl::Status* status);
std::string SelectKeyNames();
// ",key=value" for what differs from `base`.
std::string PrintSelect(const SelectRecipe& recipe, const SelectRecipe& base);
// Whether the numbers fit together. `codes`: some side has fewer than 16 bits.
absl::Status CheckSelect(const SelectRecipe& recipe, bool codes);

}  // namespace kvg

#endif  // KVGEAR_CORE_SELECT_POLICY_H_
