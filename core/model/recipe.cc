// The named recipes, and the text form of a recipe: its keys, how it is read, checked and printed.
#include "core/model/recipe.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <numeric>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/model/text.h"

namespace kvg {
namespace {

// ------------------------------------------------------------------------------ named recipes

constexpr uint32_t kWhole = SideRecipe::kWhole;
constexpr uint32_t kAllHeads = SideRecipe::kAllHeads;
constexpr ops::Axis kToken = ops::kAxisToken;
constexpr ops::Axis kChannel = ops::kAxisChannel;

struct NamedRecipe {
  const char* name;
  const char* summary;
  SideRecipe k, v;
};

constexpr SideRecipe Int(uint32_t bits) { return {.bits = bits, .window = 64}; }

// KIVI keeps the newest 1 to 128 keys and seals them 128 at a time; of the values it keeps exactly
// the newest 128, and each older one goes into an open page.
constexpr SideRecipe KiviK(uint32_t bits) {
  return {.bits = bits, .axis = kChannel, .group = 32, .window = 0, .block = 128};
}
constexpr SideRecipe KiviV(uint32_t bits) {
  return {.bits = bits, .axis = kToken, .group = 32, .window = 128, .block = 1};
}

// Keys by channel, values by token, in groups of 64: the backbone of GEAR.
constexpr SideRecipe BackboneK(uint32_t bits) {
  return {.bits = bits, .axis = kChannel, .group = 64, .window = 64};
}
constexpr SideRecipe BackboneV(uint32_t bits) {
  return {.bits = bits, .axis = kToken, .group = 64, .window = 64};
}

// Blocks that are sealed during decode get no low-rank part: for 64 tokens of a head of 128
// channels a rank of 2 takes 0.75 bits per element, more than the next larger code would.
constexpr SideRecipe WithRank(SideRecipe side, uint32_t rank) {
  side.rank = rank;
  side.rank_fit = 1;
  return side;
}
constexpr SideRecipe WithOutliers(SideRecipe side, double share) {
  side.outliers = share;
  return side;
}

constexpr double kOutliers = 0.02;

// The low-rank part of GEAR goes to the keys: on values a rank of 4 takes 0.5 to 1 bit per element
// and changes no answer (README.md). With 2 bits the keys get as much of it as costs less than a
// third bit would: 7 for heads of 128 in a long prompt, fewer for smaller heads or short prompts.
constexpr uint32_t kRank4 = 4, kRank2 = 7;

// Every direction of a block gets an equal share of each channel, so that no channel stands out.
constexpr SideRecipe Rotated(SideRecipe side) {
  side.map = SideRecipe::kHadamard;
  return side;
}

// Transform codes: directions of an even or of a well-ordered share of the variance, one scale for a
// direction of a segment, of least squared error. Measured on exact recall, keys need every direction
// alike: rotated, not weighted. Values get bits where their variance is.
constexpr SideRecipe TransformK(uint32_t bits) {
  return {.bits = bits,
          .axis = kChannel,
          .group = kWhole,
          .map = SideRecipe::kHadamard,
          .fit = ops::kFitLeast,
          .window = 64,
          .block = 128};
}
constexpr SideRecipe TransformV(double rate) {
  return {.bits = 4,
          .axis = kChannel,
          .group = kWhole,
          .map = SideRecipe::kOnline,
          .fit = ops::kFitLeast,
          .rate = rate,
          .floor = 0,
          .window = 64,
          .block = 128};
}

constexpr SideRecipe Kcvt(ops::Axis axis, uint32_t group) {
  return {.bits = 4, .axis = axis, .group = group, .window = 64};
}

constexpr NamedRecipe kNamed[] = {
    {"fp16", "Nothing is compressed; the yardstick.", Int(16), Int(16)},
    {"int8", "8 bits, keys and values by token, groups of 64 channels.", Int(8), Int(8)},
    {"int4", "4 bits, keys and values by token, groups of 64 channels.", Int(4), Int(4)},
    {"kivi-4",
     "KIVI with 4 bits: keys by channel, values by token, groups of 32, 128 newest exact.",
     KiviK(4), KiviV(4)},
    {"kivi-2",
     "KIVI with 2 bits: keys by channel, values by token, groups of 32, 128 newest exact.",
     KiviK(2), KiviV(2)},
    {"kcvt-4", "4 bits with one scale for a whole channel (keys) or a whole token (values).",
     Kcvt(kChannel, kWhole), Kcvt(kToken, kAllHeads)},
    {"gear-4", "GEAR with 4 bits: groups of 64, 2 % outliers, keys with rank 4.",
     WithOutliers(WithRank(BackboneK(4), kRank4), kOutliers),
     WithOutliers(BackboneV(4), kOutliers)},
    {"gear-2", "GEAR with 2 bits: groups of 64, 2 % outliers, keys with rank up to 7.",
     WithOutliers(WithRank(BackboneK(2), kRank2), kOutliers),
     WithOutliers(BackboneV(2), kOutliers)},
    {"gear-l-4", "GEAR with 4 bits, without outliers.", WithRank(BackboneK(4), kRank4),
     BackboneV(4)},
    {"gear-l-2", "GEAR with 2 bits, without outliers.", WithRank(BackboneK(2), kRank2),
     BackboneV(2)},
    {"k4v2", "Keys 4 bits by channel, values 2 bits by token, groups of 64.", BackboneK(4),
     BackboneV(2)},
    {"gear-k3v2", "Keys 3 bits with rank 4, values 2 bits, groups of 64.",
     WithRank(BackboneK(3), 4), BackboneV(2)},
    {"int4-rot", "int4 after a block Hadamard rotation of keys and values.", Rotated(Int(4)),
     Rotated(Int(4))},
    {"int2-rot", "2 bits by token, groups of 64, after a block Hadamard rotation.",
     Rotated(Int(2)), Rotated(Int(2))},
    {"tc-2", "Transform codes: keys rotated, 3 bits; values in their eigenbasis, 1 bit on average.",
     TransformK(3), TransformV(1)},
    {"tc-2.5", "Transform codes: keys rotated, 4 bits; values in their eigenbasis, 1 bit.",
     TransformK(4), TransformV(1)},
    {"tc-3", "Transform codes: keys rotated, 4 bits; values in their eigenbasis, 2 bits.",
     TransformK(4), TransformV(2)},
    {"tc-3.5", "Transform codes: keys rotated, 4 bits; values in their eigenbasis, 3 bits.",
     TransformK(4), TransformV(3)},
    {"tc-4", "Transform codes: keys rotated, 4 bits; values in their eigenbasis, 4 bits.",
     TransformK(4), TransformV(4)},
};

// Those that need factors, and so no part of what kvg_recipe_count counts: a plan of these comes from a
// file. One scale for a latent of a token; the rotation that evens latents out is part of the factors.
constexpr SideRecipe Latent(uint32_t bits) {
  return {.bits = bits, .group = bits == 16 ? SideRecipe().group : kWhole, .window = 64, .latent = 1};
}

constexpr NamedRecipe kOfFiles[] = {
    {"palu", "Palu: latents of groups of heads, fp16.", Latent(16), Latent(16)},
    {"palu-4", "Palu with 4 bits by token.", Latent(4), Latent(4)},
    {"palu-3", "Palu with 3 bits by token.", Latent(3), Latent(3)},
    {"palu-2", "Palu with 2 bits by token.", Latent(2), Latent(2)},
    {"lorc", "LoRC: latents of ranks that fall from layer to layer, fp16.", Latent(16), Latent(16)},
};

const NamedRecipe* FindNamed(std::string_view name) {
  const auto is_it = [name](const NamedRecipe& r) { return r.name == name; };
  const auto* found = std::find_if(std::begin(kNamed), std::end(kNamed), is_it);
  if (found != std::end(kNamed)) return found;
  found = std::find_if(std::begin(kOfFiles), std::end(kOfFiles), is_it);
  return found == std::end(kOfFiles) ? nullptr : found;
}

// What the policy ZipCache seals: each tier of a run of tokens has one scale for a channel of keys and
// one for the values of a token and head.
constexpr SideRecipe Tier(ops::Axis axis) {
  return {.bits = 4, .axis = axis, .group = kWhole, .window = 0, .block = 32, .segment = 8192};
}

// What a text begins with: a named recipe, or a policy, by itself with what it was published with.
std::optional<Recipe> BaseRecipe(std::string_view name) {
  if (const NamedRecipe* named = FindNamed(name)) return Recipe{named->name, named->k, named->v, {}};
  const PolicyInfo* policy = FindPolicy(name);
  if (policy == nullptr) return std::nullopt;
  if (policy->phase == Phase::kTiers) {
    return Recipe{policy->name, Tier(kChannel), Tier(kToken), policy->defaults};
  }
  return Recipe{policy->name, Int(16), Int(16), policy->defaults};
}

// ----------------------------------------------------------------------------------------- keys

constexpr double kMostOutliers = 0.5;
constexpr double kLeastPrior = 0.01;
constexpr double kMostRate = 8;
constexpr uint32_t kMostSweeps = 8;
constexpr uint32_t kMostTokens = 8192;      // of a segment
constexpr uint32_t kMostWindow = 1u << 20;  // tokens

// One key of the text form. `parse` returns false when the text is none of `allowed`.
struct Key {
  const char* name;
  const char* allowed;
  bool with_codes;  // means something only where there are codes, that is, where bits < 16
  bool (*parse)(std::string_view text, SideRecipe& side);
  std::string (*print)(const SideRecipe& side);
};

bool ParseUpTo(std::string_view text, uint32_t least, uint32_t most, uint32_t& out) {
  const std::optional<uint32_t> value = ParseDigits(text);
  if (!value || *value < least || *value > most) return false;
  out = *value;
  return true;
}

bool ParseBits(std::string_view text, SideRecipe& side) {
  const std::optional<uint32_t> value = ParseDigits(text);
  constexpr uint32_t kAllowed[] = {1, 2, 3, 4, 6, 8, 16};
  if (!value || std::count(std::begin(kAllowed), std::end(kAllowed), *value) == 0) return false;
  side.bits = *value;
  return true;
}

bool ParseFloor(std::string_view text, SideRecipe& side) {
  const std::optional<uint32_t> value = ParseDigits(text);
  constexpr uint32_t kAllowed[] = {0, 1, 2, 3, 4, 6, 8};
  if (!value || std::count(std::begin(kAllowed), std::end(kAllowed), *value) == 0) return false;
  side.floor = *value;
  return true;
}

bool ParseAxis(std::string_view text, SideRecipe& side) {
  if (text != "token" && text != "channel") return false;
  side.axis = text == "token" ? kToken : kChannel;
  return true;
}

bool ParseGroup(std::string_view text, SideRecipe& side) {
  if (text == "whole" || text == "all") {
    side.group = text == "whole" ? kWhole : kAllHeads;
    return true;
  }
  return ParseUpTo(text, 1, kMostTokens, side.group);
}

constexpr const char* kMaps[] = {"none", "hadamard", "online", "channels", "deco"};  // by SideRecipe::Map

bool ParseMap(std::string_view text, SideRecipe& side) {
  const auto* const found = std::find(std::begin(kMaps), std::end(kMaps), text);
  if (found == std::end(kMaps)) return false;
  side.map = static_cast<SideRecipe::Map>(found - kMaps);
  return true;
}

bool ParseFit(std::string_view text, SideRecipe& side) {
  if (text != "range" && text != "least") return false;
  side.fit = text == "range" ? ops::kFitRange : ops::kFitLeast;
  return true;
}

std::string PrintGroup(const SideRecipe& side) {
  if (side.group == kWhole) return "whole";
  return side.group == kAllHeads ? "all" : absl::StrCat(side.group);
}

bool ParseShare(std::string_view text, double most, double& out) {
  double value = 0;
  const char* end = text.data() + text.size();
  const auto [ptr, error] = std::from_chars(text.data(), end, value, std::chars_format::fixed);
  // Written so that NaN fails too. Minus zero is zero.
  if (error != std::errc() || ptr != end || !(value >= 0 && value <= most)) return false;
  out = value == 0 ? 0 : value;
  return true;
}

bool ParseOutliers(std::string_view text, SideRecipe& side) {
  return ParseShare(text, kMostOutliers, side.outliers);
}
bool ParseRate(std::string_view text, SideRecipe& side) {
  return ParseShare(text, kMostRate, side.rate);
}

bool ParsePrior(std::string_view text, SideRecipe& side) {
  double value = 0;
  if (!ParseShare(text, 1, value) || value < kLeastPrior) return false;
  side.prior = value;
  return true;
}

// The shortest text that reads back as the same number; whatever the locale.
template <double SideRecipe::*field>
std::string PrintShare(const SideRecipe& side) {
  char text[1200];  // fits any double in fixed notation
  const auto [end, error] =
      std::to_chars(text, text + sizeof(text), side.*field, std::chars_format::fixed);
  return std::string(text, error == std::errc() ? end : text);
}

// For the fields that are plain numbers.
template <uint32_t SideRecipe::*field, uint32_t least, uint32_t most>
bool ParseNumber(std::string_view text, SideRecipe& side) {
  return ParseUpTo(text, least, most, side.*field);
}
template <uint32_t SideRecipe::*field>
std::string PrintNumber(const SideRecipe& side) {
  return absl::StrCat(side.*field);
}

// In the order of the canonical text.
constexpr Key kKeys[] = {
    {"bits", "1, 2, 3, 4, 6, 8 or 16", false, ParseBits, PrintNumber<&SideRecipe::bits>},
    {"axis", "token or channel", true, ParseAxis,
     [](const SideRecipe& side) { return std::string(side.axis == kToken ? "token" : "channel"); }},
    {"group", "a number from 1 to 8192, whole or all", true, ParseGroup, PrintGroup},
    {"map", "none, hadamard, online, channels or deco", true, ParseMap,
     [](const SideRecipe& side) { return std::string(kMaps[side.map]); }},
    {"fit", "range or least", true, ParseFit,
     [](const SideRecipe& side) {
       return std::string(side.fit == ops::kFitRange ? "range" : "least");
     }},
    {"rate", "a mean width from 0 to 8, such as 2.5", true, ParseRate,
     PrintShare<&SideRecipe::rate>},
    {"prior", "a share from 0.01 to 1, such as 0.25", true, ParsePrior,
     PrintShare<&SideRecipe::prior>},
    {"floor", "a width: 0, 1, 2, 3, 4, 6 or 8", true, ParseFloor,
     PrintNumber<&SideRecipe::floor>},
    {"run", "a number of channels from 2 to 64", true, ParseNumber<&SideRecipe::chunk, 2, 64>,
     PrintNumber<&SideRecipe::chunk>},
    {"outliers", "a share from 0 to 0.5, such as 0.02", true, ParseOutliers, PrintShare<&SideRecipe::outliers>},
    {"rank", "a number from 0 to 16", true, ParseNumber<&SideRecipe::rank, 0, ops::kMaxRank>,
     PrintNumber<&SideRecipe::rank>},
    {"decode_rank", "a number from 0 to 16", true,
     ParseNumber<&SideRecipe::decode_rank, 0, ops::kMaxRank>,
     PrintNumber<&SideRecipe::decode_rank>},
    {"rank_fit", "0 or 1", true, ParseNumber<&SideRecipe::rank_fit, 0, 1>,
     PrintNumber<&SideRecipe::rank_fit>},
    {"sweeps", "a number from 1 to 8", true, ParseNumber<&SideRecipe::sweeps, 1, kMostSweeps>,
     PrintNumber<&SideRecipe::sweeps>},
    {"window", "a number of tokens from 0 to 1048576", false,
     ParseNumber<&SideRecipe::window, 0, kMostWindow>, PrintNumber<&SideRecipe::window>},
    {"block", "1 or a multiple of 32 tokens up to 8192", false,
     ParseNumber<&SideRecipe::block, 1, kMostTokens>, PrintNumber<&SideRecipe::block>},
    {"segment", "a multiple of block up to 8192 tokens", false,
     ParseNumber<&SideRecipe::segment, 1, kMostTokens>, PrintNumber<&SideRecipe::segment>},
    {"latent", "none or plan", false,
     [](std::string_view text, SideRecipe& side) {
       if (text != "none" && text != "plan") return false;
       side.latent = text == "plan" ? 1 : 0;
       return true;
     },
     [](const SideRecipe& side) { return std::string(side.latent == 0 ? "none" : "plan"); }},
};

// The names in a row, as "a, b, c".
template <typename Table>
std::string Names(const Table& table) {
  std::string names;
  for (const auto& entry : table) absl::StrAppend(&names, names.empty() ? "" : ", ", entry.name);
  return names;
}

std::string AllKeys() {
  return absl::StrCat(Names(kKeys), ", each alone or behind k. or v., and ", SelectKeyNames());
}

// ----------------------------------------------------------------------------- reading, checking

absl::Status Apply(std::string_view setting, Recipe& recipe) {
  const size_t equals = setting.find('=');
  if (equals == std::string_view::npos) {
    return InvalidError("the recipe has ", Quoted(setting),
                        " where KEY=VALUE is needed; the keys are ", AllKeys());
  }
  const std::string_view full_name = absl::StripAsciiWhitespace(setting.substr(0, equals));
  const std::string_view value = absl::StripAsciiWhitespace(setting.substr(equals + 1));
  std::string_view name = full_name;
  if (absl::Status status; ApplySelectKey(name, value, recipe.select, &status)) return status;
  const bool only_k = absl::ConsumePrefix(&name, "k.");
  const bool only_v = !only_k && absl::ConsumePrefix(&name, "v.");
  const auto* key = std::find_if(std::begin(kKeys), std::end(kKeys),
                                 [name](const Key& k) { return k.name == name; });
  if (key == std::end(kKeys)) {
    return InvalidError("the recipe has no key ", Quoted(full_name), "; the keys are ", AllKeys());
  }
  if ((!only_v && !key->parse(value, recipe.k)) || (!only_k && !key->parse(value, recipe.v))) {
    return InvalidError(full_name, " is ", Quoted(value), "; it may be ", key->allowed);
  }
  return absl::OkStatus();
}

// Whether the parts fit together. Leaves unused fields at their defaults, so that recipes which do
// the same compare equal.
absl::Status CheckSide(std::string_view prefix, SideRecipe& side) {
  const uint32_t block = side.block;
  if (block != 1 && block % ops::kBlockTokens != 0) {
    return InvalidError(prefix, "block is ", block, "; it may be 1 or a multiple of ",
                        ops::kBlockTokens, " tokens");
  }
  if (side.segment % block != 0 || (block == 1 && side.segment % ops::kBlockTokens != 0)) {
    return InvalidError(prefix, "segment is ", side.segment, "; it may be a multiple of ",
                        block == 1 ? ops::kBlockTokens : block,
                        block == 1 ? " tokens" : " tokens, the block");
  }
  if (side.bits == 16) {
    if (block == 1) {
      return InvalidError(prefix,
                          "block is 1, which needs codes; with bits=16 it may be a multiple"
                          " of ",
                          ops::kBlockTokens);
    }
    const SideRecipe given = side;
    side = SideRecipe();
    side.window = given.window;
    side.block = given.block;
    side.segment = given.segment;
    side.latent = given.latent;
    return absl::OkStatus();
  }
  if (side.axis == kChannel) {
    if (block == 1) {
      return InvalidError(prefix,
                          "block is 1, which needs axis=token: the channels of a single"
                          " token have no group of tokens");
    }
    if (side.group == kAllHeads) {
      return InvalidError(prefix,
                          "group is all, which needs axis=token; with axis=channel it may be"
                          " whole or a multiple of ",
                          ops::kBlockTokens);
    }
    if (side.group != kWhole && side.group % ops::kBlockTokens != 0) {
      return InvalidError(prefix, "group is ", side.group,
                          "; with axis=channel it may be whole or a"
                          " multiple of ",
                          ops::kBlockTokens, " tokens");
    }
    if (side.group != kWhole && block % side.group != 0) {
      return InvalidError(prefix, "block is ", block,
                          "; with axis=channel it may be a multiple of"
                          " the group, ",
                          side.group, " tokens");
    }
  } else if (side.group != kWhole && side.group != kAllHeads && side.group % ops::kTileDirs != 0 &&
             side.group < ops::kMaxHeadDim) {
    return InvalidError(prefix, "group is ", side.group,
                        "; with axis=token it may be whole, all or a"
                        " multiple of ",
                        ops::kTileDirs, " channels");
  }
  if (side.fit == ops::kFitLeast && side.axis != kChannel) {
    return InvalidError(prefix, "fit is least, which needs axis=channel");
  }
  if (side.map == SideRecipe::kOnline && side.axis != kChannel) {
    return InvalidError(prefix,
                        "map is online, which needs axis=channel: each direction of the basis has a"
                        " scale of its own");
  }
  if (side.learns() && side.map != SideRecipe::kOnline && side.axis != kToken) {
    return InvalidError(prefix, "map is ", kMaps[side.map], ", which needs axis=token: it evens channels "
                        "out for the scale of a token");
  }
  if (side.map != SideRecipe::kDeco) side.chunk = SideRecipe().chunk;
  if (side.learns() && side.latent != 0) {
    return InvalidError(prefix, "map is ", kMaps[side.map], " and ", prefix, "latent is plan, whose factors are a basis "
                        "already; map may be none or hadamard");
  }
  if (side.rate > 0 && side.map != SideRecipe::kOnline) {
    return InvalidError(prefix, "rate needs map=online; without it set bits");
  }
  if (side.rate > 0 && side.rate < side.floor) {
    return InvalidError(prefix, "rate is below floor, which is ", side.floor);
  }
  if (side.rate == 0) side.floor = SideRecipe().floor;
  if (block == 1 && (side.outliers > 0 || side.rank > 0 || side.decode_rank > 0)) {
    return InvalidError(
        prefix,
        "block is 1, where tokens are sealed one by one and have no outliers"
        " and no rank; set outliers=0, rank=0 and decode_rank=0, or a larger block");
  }
  return absl::OkStatus();
}

}  // namespace

uint32_t RecipeCount() { return static_cast<uint32_t>(std::size(kNamed)); }

const char* RecipeName(uint32_t index) {
  return index < RecipeCount() ? kNamed[index].name : nullptr;
}

const char* RecipeSummary(uint32_t index) {
  return index < RecipeCount() ? kNamed[index].summary : nullptr;
}

uint32_t FileRecipeCount() { return static_cast<uint32_t>(std::size(kOfFiles)); }

const char* FileRecipeName(uint32_t index) {
  return index < FileRecipeCount() ? kOfFiles[index].name : nullptr;
}

absl::StatusOr<Recipe> ParseRecipe(std::string_view text) {
  std::optional<std::string_view> rest = text;
  const std::string_view name = TakePart(rest, ',');
  std::optional<Recipe> base = BaseRecipe(name);
  if (!base) {
    return InvalidError("there is no recipe ", Quoted(name), "; the recipes are ", Names(kNamed),
                        ", ", PolicyNames(), ", and with a plan file ", Names(kOfFiles));
  }
  Recipe recipe = *std::move(base);
  while (rest) KVG_RETURN_IF_ERROR(Apply(TakePart(rest, ','), recipe));
  KVG_RETURN_IF_ERROR(CheckSide("k.", recipe.k));
  KVG_RETURN_IF_ERROR(CheckSide("v.", recipe.v));
  if (!recipe.select.none() &&
      (recipe.k.learns() || recipe.v.learns())) {
    return InvalidError("map is ", kMaps[std::max(recipe.k.map, recipe.v.map)], ", which learns from all tokens of a layer, and select is ",
                        recipe.select.policy, "; with it map may be none or hadamard");
  }
  if (!recipe.select.none() && (recipe.k.latent != 0 || recipe.v.latent != 0)) {
    return UnsupportedError("select is ", recipe.select.policy, " and latent is plan; tokens cannot be "
                            "selected among latents yet, so leave one of the two out");
  }
  KVG_RETURN_IF_ERROR(CheckSelect(recipe.select, recipe.k.bits < 16 || recipe.v.bits < 16));
  if (!recipe.select.none() && std::lcm(recipe.k.block, recipe.v.block) > kMostTokens) {
    return InvalidError("k.block is ", recipe.k.block, " and v.block is ", recipe.v.block,
                        "; where tokens are selected one must be a multiple of the other");
  }
  return recipe;
}

std::string PrintRecipe(const Recipe& recipe) {
  std::string text = recipe.name;
  const std::optional<Recipe> named = BaseRecipe(recipe.name);
  if (!named) return text;
  for (const Key& key : kKeys) {
    const auto differs = [&key](const SideRecipe& side, const SideRecipe& base) {
      if (key.with_codes && side.bits == 16) return false;
      return key.print(side) != key.print(base);
    };
    const bool k = differs(recipe.k, named->k);
    const bool v = differs(recipe.v, named->v);
    const std::string k_value = key.print(recipe.k);
    const std::string v_value = key.print(recipe.v);
    if (k && v && k_value == v_value) {
      absl::StrAppend(&text, ",", key.name, "=", k_value);
      continue;
    }
    if (k) absl::StrAppend(&text, ",k.", key.name, "=", k_value);
    if (v) absl::StrAppend(&text, ",v.", key.name, "=", v_value);
  }
  absl::StrAppend(&text, PrintSelect(recipe.select, named->select));
  return text;
}

}  // namespace kvg
