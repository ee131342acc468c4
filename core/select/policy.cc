// The table of policies with their published defaults, and the keys of their text form.
#include "core/select/policy.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>
#include <optional>

#include "absl/strings/str_cat.h"
#include "core/model/text.h"

namespace kvg {
namespace {

constexpr PolicyInfo kPolicies[] = {
    {"streaming-llm", "The first 4 tokens and the newest 1020.", "arXiv 2309.17453",
     ScoreRule::kNone, Phase::kAlways,
     {.policy = "streaming-llm", .budget = 1024, .sinks = 4, .shared = true}},
    {"h2o", "A tenth of the tokens by the attention they ever got, and the newest tenth.",
     "arXiv 2306.14048", ScoreRule::kSum, Phase::kAfterPrompt,
     {.policy = "h2o", .budget = 0.2, .recent = 0.5}},
    {"tova", "The 512 tokens that the newest query attends to most, the same for all heads.",
     "arXiv 2401.06104", ScoreRule::kLast, Phase::kAfterPrompt,
     {.policy = "tova", .budget = 512, .shared = true}},
    {"snapkv", "Of a prompt the newest 64 tokens and 256 that these attend to most.",
     "arXiv 2404.14469", ScoreRule::kWindow, Phase::kOnce,
     {.policy = "snapkv", .budget = 320, .recent = 64, .pool = 5}},
    {"pyramidkv", "As snapkv, with larger budgets for the first layers than for the last.",
     "arXiv 2406.02069", ScoreRule::kWindow, Phase::kOnce,
     {.policy = "pyramidkv", .budget = 320, .recent = 64, .pool = 5, .beta = 20}},
    {"pyramidinfer", "Fewer tokens of the prompt from layer to layer, and few of those decoded.",
     "arXiv 2405.12532", ScoreRule::kWindow, Phase::kChunks,
     {.policy = "pyramidinfer", .recent = 0.2, .sinks = 4, .shared = true, .decay = 0.9,
      .interval = 1, .least = 64, .distance = 1.2, .chunk = 16, .chunk_keep = 0.9,
      .chunk_decay = 0.1}},
    {"zipcache", "No token is lost: 60 % at 4 bits, the others at 2; sealed once.",
     "arXiv 2405.14256", ScoreRule::kMean, Phase::kTiers,
     {.policy = "zipcache", .low = 0.4, .low_bits = 2, .gap = 100, .probe_recent = 0.05,
      .probe_random = 0.05}},
    {"zipcache-requant", "As zipcache, but with its program's norm, and sealing all anew each time.",
     "arXiv 2405.14256", ScoreRule::kMean, Phase::kTiers,
     {.policy = "zipcache-requant", .low = 0.4, .low_bits = 2, .gap = 100, .norm = Norm::kCausal,
      .again = true, .probe_recent = 0.05, .probe_random = 0.05}},
};

constexpr double kMostTokens = 1u << 30;

// One key of the text form.
struct Key {
  const char* name;
  const char* allowed;
  bool (*parse)(std::string_view text, SelectRecipe& recipe);
  std::string (*print)(const SelectRecipe& recipe);
};

// Digits, or a share in fixed notation; whatever the locale.
bool ParseDouble(std::string_view text, double least, double most, double& out) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [ptr, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  if (error != std::errc() || ptr != end || !(value >= least && value <= most)) return false;
  out = value == 0 ? 0 : value;
  return true;
}

std::string PrintDouble(double value) {
  char text[1200];  // fits any double in fixed notation
  const auto [end, error] =
      std::to_chars(text, text + sizeof(text), value, std::chars_format::fixed);
  return std::string(text, error == std::errc() ? end : text);
}

// A share below 1, or a whole number of tokens.
template <double SelectRecipe::*field>
bool ParseAmount(std::string_view text, SelectRecipe& recipe) {
  double value = 0;
  if (!ParseDouble(text, 0, kMostTokens, value)) return false;
  if (value >= 1 && value != static_cast<double>(static_cast<uint64_t>(value))) return false;
  recipe.*field = value;
  return true;
}
template <double SelectRecipe::*field>
bool ParseShare(std::string_view text, SelectRecipe& recipe) {
  return ParseDouble(text, 0, 1, recipe.*field);
}
template <double SelectRecipe::*field>
std::string PrintReal(const SelectRecipe& recipe) {
  return PrintDouble(recipe.*field);
}
template <uint32_t SelectRecipe::*field, uint32_t least, uint32_t most>
bool ParseCount(std::string_view text, SelectRecipe& recipe) {
  const std::optional<uint32_t> value = ParseDigits(text);
  if (!value || *value < least || *value > most) return false;
  recipe.*field = *value;
  return true;
}
template <uint32_t SelectRecipe::*field>
std::string PrintCount(const SelectRecipe& recipe) {
  return absl::StrCat(recipe.*field);
}

// One of two words.
template <auto field, auto first, auto second>
bool ParseWord(std::string_view text, const char* a, const char* b, SelectRecipe& recipe) {
  if (text != a && text != b) return false;
  recipe.*field = text == a ? first : second;
  return true;
}

// In the order of the canonical text.
constexpr Key kSelectKeys[] = {
    {"select", "",
     [](std::string_view text, SelectRecipe& recipe) {
       const PolicyInfo* info = FindPolicy(text);
       if (info == nullptr && text != "none") return false;
       recipe = info == nullptr ? SelectRecipe() : info->defaults;
       return true;
     },
     [](const SelectRecipe& r) { return std::string(r.none() ? "none" : r.policy); }},
    {"budget", "a number of tokens, or a share of them such as 0.2",
     ParseAmount<&SelectRecipe::budget>, PrintReal<&SelectRecipe::budget>},
    {"recent", "a number of tokens, or a share of the budget such as 0.5",
     ParseAmount<&SelectRecipe::recent>, PrintReal<&SelectRecipe::recent>},
    {"sinks", "a number of tokens up to 1024", ParseCount<&SelectRecipe::sinks, 0, 1024>,
     PrintCount<&SelectRecipe::sinks>},
    {"heads", "own or shared",
     [](std::string_view text, SelectRecipe& r) {
       return ParseWord<&SelectRecipe::shared, true, false>(text, "shared", "own", r);
     },
     [](const SelectRecipe& r) { return std::string(r.shared ? "shared" : "own"); }},
    {"pool", "an odd number from 1 to 63",
     [](std::string_view text, SelectRecipe& r) {
       return ParseCount<&SelectRecipe::pool, 1, 63>(text, r) && r.pool % 2 == 1;
     },
     PrintCount<&SelectRecipe::pool>},
    {"pooling", "average or maximum",
     [](std::string_view text, SelectRecipe& r) {
       return ParseWord<&SelectRecipe::pooling, Pooling::kAverage, Pooling::kMaximum>(
           text, "average", "maximum", r);
     },
     [](const SelectRecipe& r) {
       return std::string(r.pooling == Pooling::kAverage ? "average" : "maximum");
     }},
    {"beta", "0 or a number from 1 to 1000", ParseCount<&SelectRecipe::beta, 0, 1000>,
     PrintCount<&SelectRecipe::beta>},
    {"low", "a share from 0 to 1", ParseShare<&SelectRecipe::low>, PrintReal<&SelectRecipe::low>},
    {"low_bits", "2, 3, 4 or 8",
     [](std::string_view text, SelectRecipe& r) {
       return ParseCount<&SelectRecipe::low_bits, 2, 8>(text, r) &&
              (r.low_bits <= 4 || r.low_bits == 8);
     },
     PrintCount<&SelectRecipe::low_bits>},
    {"gap", "a number of tokens from 0 to 8192", ParseCount<&SelectRecipe::gap, 0, 8192>,
     PrintCount<&SelectRecipe::gap>},
    {"norm", "probes or causal",
     [](std::string_view text, SelectRecipe& r) {
       return ParseWord<&SelectRecipe::norm, Norm::kProbes, Norm::kCausal>(text, "probes", "causal",
                                                                           r);
     },
     [](const SelectRecipe& r) {
       return std::string(r.norm == Norm::kProbes ? "probes" : "causal");
     }},
    {"seal", "once or again",
     [](std::string_view text, SelectRecipe& r) {
       return ParseWord<&SelectRecipe::again, true, false>(text, "again", "once", r);
     },
     [](const SelectRecipe& r) { return std::string(r.again ? "again" : "once"); }},
    {"probe_recent", "a share from 0 to 1", ParseShare<&SelectRecipe::probe_recent>,
     PrintReal<&SelectRecipe::probe_recent>},
    {"probe_random", "a share from 0 to 1", ParseShare<&SelectRecipe::probe_random>,
     PrintReal<&SelectRecipe::probe_random>},
    {"decay", "a share from 0 to 1", ParseShare<&SelectRecipe::decay>,
     PrintReal<&SelectRecipe::decay>},
    {"interval", "a number of layers from 1 to 1024", ParseCount<&SelectRecipe::interval, 1, 1024>,
     PrintCount<&SelectRecipe::interval>},
    {"least", "a number of tokens up to 1048576", ParseCount<&SelectRecipe::least, 0, 1u << 20>,
     PrintCount<&SelectRecipe::least>},
    {"distance", "a number from 1 to 100",
     [](std::string_view text, SelectRecipe& r) { return ParseDouble(text, 1, 100, r.distance); },
     PrintReal<&SelectRecipe::distance>},
    {"chunk", "a number of tokens from 1 to 8192", ParseCount<&SelectRecipe::chunk, 1, 8192>,
     PrintCount<&SelectRecipe::chunk>},
    {"chunk_keep", "a share from 0 to 1", ParseShare<&SelectRecipe::chunk_keep>,
     PrintReal<&SelectRecipe::chunk_keep>},
    {"chunk_decay", "a share from 0 to 1", ParseShare<&SelectRecipe::chunk_decay>,
     PrintReal<&SelectRecipe::chunk_decay>},
};

}  // namespace

bool SelectRecipe::operator==(const SelectRecipe& other) const {
  return std::all_of(std::begin(kSelectKeys), std::end(kSelectKeys),
                     [&](const Key& key) { return key.print(*this) == key.print(other); });
}

uint32_t PolicyCount() { return static_cast<uint32_t>(std::size(kPolicies)); }

const PolicyInfo* PolicyAt(uint32_t index) {
  return index < PolicyCount() ? &kPolicies[index] : nullptr;
}

const PolicyInfo* FindPolicy(std::string_view name) {
  const auto* found = std::find_if(std::begin(kPolicies), std::end(kPolicies),
                                   [name](const PolicyInfo& p) { return p.name == name; });
  return found == std::end(kPolicies) ? nullptr : found;
}

const PolicyInfo& PolicyOf(const SelectRecipe& recipe) { return *FindPolicy(recipe.policy); }

std::string PolicyNames() {
  std::string names;
  for (const PolicyInfo& p : kPolicies) absl::StrAppend(&names, names.empty() ? "" : ", ", p.name);
  return names;
}

bool ApplySelectKey(std::string_view name, std::string_view value, SelectRecipe& recipe,
                    absl::Status* status) {
  const auto* key = std::find_if(std::begin(kSelectKeys), std::end(kSelectKeys),
                                 [name](const Key& k) { return k.name == name; });
  if (key == std::end(kSelectKeys)) return false;
  if (key == kSelectKeys) {
    *status = key->parse(value, recipe)
                  ? absl::OkStatus()
                  : InvalidError("select is ", Quoted(value), "; it may be none, ", PolicyNames());
  } else if (recipe.none()) {
    *status = InvalidError("the recipe has ", key->name,
                           " but selects no tokens; write select=POLICY in front of it");
  } else {
    *status = key->parse(value, recipe)
                  ? absl::OkStatus()
                  : InvalidError(key->name, " is ", Quoted(value), "; it may be ", key->allowed);
  }
  return true;
}

std::string SelectKeyNames() {
  std::string names;
  for (const Key& k : kSelectKeys) absl::StrAppend(&names, names.empty() ? "" : ", ", k.name);
  return names;
}

std::string PrintSelect(const SelectRecipe& recipe, const SelectRecipe& base) {
  std::string text;
  const SelectRecipe* from = &base;
  const Key& select = kSelectKeys[0];
  if (select.print(recipe) != select.print(base)) {
    absl::StrAppend(&text, ",select=", select.print(recipe));
    static const SelectRecipe kNone;
    from = recipe.none() ? &kNone : &PolicyOf(recipe).defaults;
  }
  for (const Key* key = kSelectKeys + 1; key != std::end(kSelectKeys); ++key) {
    const std::string value = key->print(recipe);
    if (value != key->print(*from)) absl::StrAppend(&text, ",", key->name, "=", value);
  }
  return text;
}

absl::Status CheckSelect(const SelectRecipe& recipe, bool codes) {
  if (recipe.none()) return absl::OkStatus();
  const PolicyInfo& policy = PolicyOf(recipe);
  const bool evicts = policy.phase != Phase::kTiers && policy.phase != Phase::kChunks;
  if (evicts && recipe.budget == 0) {
    return InvalidError("budget is 0, and ", policy.name,
                        " would keep nothing; give a number of tokens or a share");
  }
  if (recipe.budget >= 1) {
    const double recent = recipe.recent < 1 ? recipe.recent * recipe.budget : recipe.recent;
    if (recent + recipe.sinks > recipe.budget) {
      return InvalidError("budget is ", PrintDouble(recipe.budget), " tokens but recent and sinks"
                          " alone are ", PrintDouble(recent + recipe.sinks),
                          "; raise the budget or lower those");
    }
  } else if (evicts && recipe.recent >= 1 && policy.phase != Phase::kOnce) {
    return InvalidError("recent is ", PrintDouble(recipe.recent),
                        " tokens; with a budget that is a share it must be a share too");
  }
  if (recipe.low > 0 && policy.rule == ScoreRule::kNone) {
    return InvalidError("low is set, but ", policy.name, " has no scores to divide tokens by");
  }
  if (recipe.low > 0 && !codes) {
    return InvalidError("low is set, but nothing is compressed; set bits below 16, or low=0");
  }
  if (recipe.beta > 0 && policy.phase != Phase::kOnce) {
    return InvalidError("beta is set, but ", policy.name, " has the same budget in every layer");
  }
  if (recipe.again && policy.phase != Phase::kTiers) {
    return InvalidError("seal is again, which only tiers have; leave it out with ", policy.name);
  }
  return absl::OkStatus();
}

}  // namespace kvg
