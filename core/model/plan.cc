// How the text of a plan is read: one recipe for all layers, then overrides for some of them.
#include "core/model/plan.h"

#include <algorithm>
#include <optional>

#include "core/model/factors.h"
#include "core/model/plan_file.h"
#include "core/model/text.h"
#include "kernels/ops.h"

namespace kvg {
namespace {

constexpr uint32_t kMaxLayers = 65536;
constexpr uint32_t kMaxKvHeads = 1024;
constexpr uint32_t kMaxGroup = 64;  // query heads of one KV head
constexpr uint32_t kMinHeadDim = 32;
constexpr uint32_t kHeadDimStep = 8;

absl::Status CheckShape(const Shape& shape) {
  if (shape.layers < 1 || shape.layers > kMaxLayers) {
    return InvalidError("layers is ", shape.layers, "; it may be 1 to ", kMaxLayers);
  }
  if (shape.kv_heads < 1 || shape.kv_heads > kMaxKvHeads) {
    return InvalidError("kv_heads is ", shape.kv_heads, "; it may be 1 to ", kMaxKvHeads);
  }
  if (shape.q_heads == 0 || shape.q_heads % shape.kv_heads != 0 || shape.group() > kMaxGroup) {
    return InvalidError("q_heads is ", shape.q_heads, "; it may be 1 to ", kMaxGroup,
                        " times kv_heads, which is ", shape.kv_heads);
  }
  if (shape.head_dim < kMinHeadDim || shape.head_dim > ops::kMaxHeadDim ||
      shape.head_dim % kHeadDimStep != 0) {
    return InvalidError("head_dim is ", shape.head_dim, "; it may be ", kMinHeadDim, " to ",
                        ops::kMaxHeadDim, " in steps of ", kHeadDimStep);
  }
  return absl::OkStatus();
}

absl::Status CheckChunks(const Recipe& recipe, const Shape& shape) {
  for (const SideRecipe& side : {recipe.k, recipe.v}) {
    if (side.map != SideRecipe::kDeco || shape.head_dim % side.chunk == 0) continue;
    return InvalidError("map is deco and run is ", side.chunk, ", which does not divide head_dim, ",
                        shape.head_dim);
  }
  return absl::OkStatus();
}

struct LayerRange {
  uint32_t first = 0, last = 0;
};

absl::StatusOr<LayerRange> ParseLayers(std::string_view text, uint32_t layers) {
  const size_t dash = text.find('-');
  const std::string_view first = absl::StripAsciiWhitespace(text.substr(0, dash));
  const std::string_view last =
      dash == std::string_view::npos ? first : absl::StripAsciiWhitespace(text.substr(dash + 1));
  const std::optional<uint32_t> from = ParseDigits(first), to = ParseDigits(last);
  if (!from || !to || *from > *to || *to >= layers) {
    return InvalidError("the plan has layers ", Quoted(text),
                        "; write a number such as 7 or a range such as 0-3, within 0 to ",
                        layers - 1);
  }
  return LayerRange{*from, *to};
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Plan>> Plan::Create(const Shape& shape,
                                                         std::string_view recipes) {
  absl::StatusOr<std::shared_ptr<Plan>> plan = Parse(shape, recipes);
  KVG_RETURN_IF_ERROR(plan.status());
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    if (!(*plan)->has_latents(layer)) continue;
    return InvalidError("the recipe of layer ", layer, ", ", PrintRecipe((*plan)->recipe(layer)),
                        ", keeps latents, which need the factors of a plan file; load one with "
                        "kvg_plan_load, or set latent=none");
  }
  return std::shared_ptr<const Plan>(*std::move(plan));
}

absl::StatusOr<std::shared_ptr<const Plan>> Plan::Load(const char* path, const Shape* shape,
                                                       std::string_view recipes,
                                                       std::string_view fingerprint) {
  const absl::StatusOr<PlanFile> file = PlanFile::Open(path);
  KVG_RETURN_IF_ERROR(file.status());
  Shape found;
  struct Field {
    const char* name;
    uint32_t Shape::*member;
  };
  for (const Field& field : {Field{"layers", &Shape::layers}, Field{"q_heads", &Shape::q_heads},
                             Field{"kv_heads", &Shape::kv_heads},
                             Field{"head_dim", &Shape::head_dim}}) {
    const absl::StatusOr<uint32_t> number = file->Number(field.name);
    KVG_RETURN_IF_ERROR(number.status());
    found.*field.member = *number;
    if (shape == nullptr || shape->*field.member == *number) continue;
    return InvalidError("the plan file is for another model: its ", field.name, " is ", *number,
                        ", and yours is ", shape->*field.member);
  }
  const std::string* const theirs = file->Text("fingerprint");
  if (!fingerprint.empty() && (theirs == nullptr || *theirs != fingerprint)) {
    return InvalidError("the plan file is for another model: its fingerprint is ",
                        theirs == nullptr ? "missing" : Quoted(*theirs), ", and yours is ",
                        Quoted(fingerprint));
  }
  if (recipes.empty()) {
    const std::string* const own = file->Text("recipes");
    if (own == nullptr) {
      return InvalidError("the plan file has no text recipes; name them in the call");
    }
    recipes = *own;
  }
  absl::StatusOr<std::shared_ptr<Plan>> plan = Parse(found, recipes);
  KVG_RETURN_IF_ERROR(plan.status());
  absl::StatusOr<Factors> factors = ReadFactors(*file, **plan);
  KVG_RETURN_IF_ERROR(factors.status());
  (*plan)->factors_ = std::make_shared<const Factors>(*std::move(factors));
  return std::shared_ptr<const Plan>(*std::move(plan));
}

const LatentSide* Plan::latent(uint32_t layer, ops::Side side) const {
  if (factors_ == nullptr) return nullptr;
  const LatentSide& latent = (side == ops::kSideK ? factors_->k : factors_->v)[layer];
  return latent.rank == 0 ? nullptr : &latent;
}

const Rotary& Plan::rotary() const { return factors_->rotary; }

uint64_t Plan::file_bytes(uint32_t layer, ops::Side side) const {
  if (factors_ == nullptr) return 0;
  const bool common = layer == 0 && side == ops::kSideK;
  return (side == ops::kSideK ? factors_->k : factors_->v)[layer].bytes() +
         (common ? factors_->rotary.bytes() : 0);
}

absl::StatusOr<std::shared_ptr<Plan>> Plan::Parse(const Shape& shape, std::string_view recipes) {
  KVG_RETURN_IF_ERROR(CheckShape(shape));
  const std::shared_ptr<Plan> plan(new Plan());
  plan->shape_ = shape;

  std::optional<std::string_view> rest = recipes;
  absl::StatusOr<Recipe> base = ParseRecipe(TakePart(rest, ';'));
  if (!base.ok()) return base.status();
  plan->recipes_.push_back(*std::move(base));
  plan->layer_recipe_.assign(shape.layers, 0);

  KVG_RETURN_IF_ERROR(CheckChunks(plan->recipes_.back(), shape));
  while (rest) {
    const std::string_view part = TakePart(rest, ';');
    const size_t colon = part.find(':');
    if (colon == std::string_view::npos) {
      return InvalidError("the plan has ", Quoted(part),
                          " behind a semicolon, where LAYERS:RECIPE is needed, such as 0-1:int8");
    }
    const absl::StatusOr<LayerRange> range =
        ParseLayers(absl::StripAsciiWhitespace(part.substr(0, colon)), shape.layers);
    if (!range.ok()) return range.status();
    absl::StatusOr<Recipe> recipe = ParseRecipe(absl::StripAsciiWhitespace(part.substr(colon + 1)));
    if (!recipe.ok()) return recipe.status();
    KVG_RETURN_IF_ERROR(CheckChunks(*recipe, shape));
    const auto found = std::find(plan->recipes_.begin(), plan->recipes_.end(), *recipe);
    const auto index = static_cast<uint32_t>(found - plan->recipes_.begin());
    if (found == plan->recipes_.end()) plan->recipes_.push_back(*std::move(recipe));
    std::fill(plan->layer_recipe_.begin() + range->first,
              plan->layer_recipe_.begin() + range->last + 1, index);
  }
  return plan;
}

}  // namespace kvg
