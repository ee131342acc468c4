// Recipes: what is done to one side (K or V) of a layer, their names and their text form.
//
// Called by core/model/plan, core/codec, core/cache and capi. A recipe is a plain value; the table
// of named recipes is in recipe.cc and is the one place to add one.
#ifndef KVGEAR_CORE_MODEL_RECIPE_H_
#define KVGEAR_CORE_MODEL_RECIPE_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/status.h"
#include "core/select/policy.h"
#include "kernels/ops.h"

namespace kvg {

// One side of a recipe. Every field has a key in the text form; see kKeys in recipe.cc.
struct SideRecipe {
  // A group that is as long as its vector.
  static constexpr uint32_t kWhole = 0;           // channel axis: the segment; token axis: the head
  static constexpr uint32_t kAllHeads = 0xFFFFFFFF;  // token axis: all heads of the token (KCVT's V)

  enum Map : uint32_t {
    kNoMap,
    kHadamard,  // blocks of the largest power of two that divides head_dim
    kOnline,    // a basis that the cache learns once, from its first tokens and queries
    kChannels,  // the scale of each channel, learnt once from the first tokens: ZipCache's, for values
    kDeco,      // DecoQuant's small factor: one matrix for every run of `chunk` channels, learnt once
  };

  uint32_t bits = 16;  // 16 = fp16 rows, stored as they are; else 1, 2, 3, 4, 6 or 8
  ops::Axis axis = ops::kAxisToken;
  uint32_t group = 64;       // tokens (channel axis) or channels (token axis)
  Map map = kNoMap;          // what turns a row before it is quantised; see MAP in kernels/ops.h
  ops::Fit fit = ops::kFitRange;
  double rate = 0;     // kOnline: mean width of the tiles of a layer's side; 0 = all have `bits`
  double prior = 0.02;  // kOnline, keys: share of a direction's weight that is owed to no query
  uint32_t floor = 2;  // with a rate: least width of a tile
  uint32_t chunk = 16;  // kDeco: channels of a run
  double outliers = 0;       // share s of entries kept exact: floor(s * n / 2) at each end of a vector
  uint32_t rank = 0;         // of segments longer than one block (a prompt)
  uint32_t decode_rank = 0;  // of segments of one block (decode)
  uint32_t rank_fit = 0;     // 1: fewer than asked for where the factors would cost a wider code
  uint32_t sweeps = 3;       // of the power iteration
  uint32_t window = 0;       // newest tokens always kept in fp16
  uint32_t latent = 0;       // 1: what is kept, in the window too, are latents of a plan file's factors
  uint32_t block = 64;       // tokens sealed together; 1 = one by one into an open page (KIVI's V)
  uint32_t segment = 1024;   // most tokens of one segment

  // Whether the map is learnt from tokens.
  bool learns() const { return map >= kOnline; }

  bool operator==(const SideRecipe&) const = default;
};

struct Recipe {
  std::string name;  // of the named recipe it started from
  SideRecipe k, v;
  SelectRecipe select;  // which tokens are kept

  bool operator==(const Recipe&) const = default;
};

// The table of named recipes, but for those that need the factors of a plan file.
uint32_t RecipeCount();
const char* RecipeName(uint32_t index);     // nullptr when out of range
const char* RecipeSummary(uint32_t index);  // nullptr when out of range

// Those that need a plan file.
uint32_t FileRecipeCount();
const char* FileRecipeName(uint32_t index);  // nullptr when out of range

// Parses NAME[,KEY=VALUE]..., NAME being that of a recipe or of a policy (see core/select/policy.h). Wrong names and values are refused with the list of right ones.
absl::StatusOr<Recipe> ParseRecipe(std::string_view text);

// Canonical text: the name, then the settings that differ from it in a fixed order, written once
// for both sides where they agree. ParseRecipe(PrintRecipe(r)) == r.
std::string PrintRecipe(const Recipe& recipe);

}  // namespace kvg

#endif  // KVGEAR_CORE_MODEL_RECIPE_H_
