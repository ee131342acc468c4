// Exports of recipes and of the noun kvg_plan.
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "capi/src/arguments.h"
#include "capi/src/guard.h"
#include "capi/src/handles.h"
#include "capi/src/structs.h"
#include "core/model/factors.h"
#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "core/select/policy.h"
#include "kvgear/kvgear.h"

using kvg::capi::CheckHandle;
using kvg::capi::CheckPointer;
using kvg::capi::EndHandle;
using kvg::capi::Guard;
using kvg::capi::GuardValue;
using kvg::capi::InitStruct;
using kvg::capi::NewHandle;
using kvg::capi::Outcome;
using kvg::capi::WriteText;

uint32_t kvg_recipe_count(void) {
  return GuardValue(uint32_t{0}, [] { return kvg::RecipeCount(); });
}

const char* kvg_recipe_name(uint32_t index) {
  return GuardValue(static_cast<const char*>(nullptr), [&] { return kvg::RecipeName(index); });
}

const char* kvg_recipe_summary(uint32_t index) {
  return GuardValue(static_cast<const char*>(nullptr), [&] { return kvg::RecipeSummary(index); });
}

uint32_t kvg_policy_count(void) {
  return GuardValue(uint32_t{0}, [] { return kvg::PolicyCount(); });
}

const char* kvg_policy_name(uint32_t index) {
  return GuardValue(static_cast<const char*>(nullptr), [&]() -> const char* {
    const kvg::PolicyInfo* policy = kvg::PolicyAt(index);
    return policy == nullptr ? nullptr : policy->name;
  });
}

const char* kvg_policy_summary(uint32_t index) {
  return GuardValue(static_cast<const char*>(nullptr), [&]() -> const char* {
    const kvg::PolicyInfo* policy = kvg::PolicyAt(index);
    return policy == nullptr ? nullptr : policy->summary;
  });
}

kvg_status kvg_recipe_canonical(const char* recipe, char* text, size_t text_len, size_t* needed,
                                kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(recipe, "recipe"));
    const absl::StatusOr<kvg::Recipe> parsed = kvg::ParseRecipe(recipe);
    KVG_RETURN_IF_ERROR(parsed.status());
    return WriteText(kvg::PrintRecipe(*parsed), text, text_len, needed);
  });
}

void kvg_shape_init(kvg_shape* shape) { InitStruct(shape); }

kvg_status kvg_plan_create(const kvg_shape* shape, const char* recipes, kvg_plan** out,
                           kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    KVG_RETURN_IF_ERROR(CheckPointer(recipes, "recipes"));
    kvg_shape ours;
    InitStruct(&ours);
    KVG_RETURN_IF_ERROR(kvg::capi::ReadStruct(shape, &ours));
    const kvg::Shape core_shape = {ours.layers, ours.q_heads, ours.kv_heads, ours.head_dim};
    absl::StatusOr<std::shared_ptr<const kvg::Plan>> plan =
        kvg::Plan::Create(core_shape, recipes);
    KVG_RETURN_IF_ERROR(plan.status());
    *out = NewHandle(*std::move(plan));
    return absl::OkStatus();
  });
}

kvg_status kvg_plan_load(const char* path, const kvg_shape* shape, const char* recipes,
                         const void* fingerprint, size_t fingerprint_bytes, kvg_plan** out,
                         kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckPointer(out, "out"));
    KVG_RETURN_IF_ERROR(CheckPointer(path, "path"));
    KVG_RETURN_IF_ERROR(CheckPointer(recipes, "recipes"));
    if (fingerprint_bytes > 0) KVG_RETURN_IF_ERROR(CheckPointer(fingerprint, "fingerprint"));
    constexpr size_t kMostFingerprint = 256;
    if (fingerprint_bytes > kMostFingerprint) {
      return kvg::InvalidError("fingerprint_bytes is ", fingerprint_bytes, "; it may be 0 to ",
                               kMostFingerprint);
    }
    kvg_shape ours;
    InitStruct(&ours);
    if (shape != nullptr) KVG_RETURN_IF_ERROR(kvg::capi::ReadStruct(shape, &ours));
    const kvg::Shape core_shape = {ours.layers, ours.q_heads, ours.kv_heads, ours.head_dim};
    const std::string_view mark(static_cast<const char*>(fingerprint), fingerprint_bytes);
    absl::StatusOr<std::shared_ptr<const kvg::Plan>> plan =
        kvg::Plan::Load(path, shape == nullptr ? nullptr : &core_shape, recipes, mark);
    KVG_RETURN_IF_ERROR(plan.status());
    *out = NewHandle(*std::move(plan));
    return absl::OkStatus();
  });
}

kvg_status kvg_plan_latent(const kvg_plan* plan, uint32_t layer, kvg_side side, uint32_t* rank,
                           uint32_t* group_heads, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(plan));
    KVG_RETURN_IF_ERROR(CheckPointer(rank, "rank"));
    KVG_RETURN_IF_ERROR(CheckPointer(group_heads, "group_heads"));
    const uint32_t layers = plan->plan->shape().layers;
    if (layer >= layers) {
      return kvg::InvalidError("layer is ", layer, " but the plan has ", layers, " (0 to ",
                               layers - 1, ")");
    }
    if (side > KVG_SIDE_V) {
      return kvg::InvalidError("side is ", side, "; it may be KVG_SIDE_K or KVG_SIDE_V");
    }
    const kvg::LatentSide* const latent =
        plan->plan->latent(layer, static_cast<kvg::ops::Side>(side));
    *rank = latent == nullptr ? 0 : latent->rank;
    *group_heads = latent == nullptr ? 0 : latent->head_group;
    return absl::OkStatus();
  });
}

void kvg_plan_destroy(kvg_plan* plan) { EndHandle(plan); }

kvg_status kvg_plan_shape(const kvg_plan* plan, kvg_shape* out, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(plan));
    uint32_t size = 0;
    KVG_RETURN_IF_ERROR(kvg::capi::CheckStruct(out, &size));
    const kvg::Shape& shape = plan->plan->shape();
    kvg_shape ours;
    InitStruct(&ours);
    ours.layers = shape.layers;
    ours.q_heads = shape.q_heads;
    ours.kv_heads = shape.kv_heads;
    ours.head_dim = shape.head_dim;
    kvg::capi::WriteStruct(ours, size, out);
    return absl::OkStatus();
  });
}

kvg_status kvg_plan_recipe(const kvg_plan* plan, uint32_t layer, char* text, size_t text_len,
                           size_t* needed, kvg_error* err) {
  return Guard(err, [&]() -> Outcome {
    KVG_RETURN_IF_ERROR(CheckHandle(plan));
    const uint32_t layers = plan->plan->shape().layers;
    if (layer >= layers) {
      return kvg::InvalidError("layer is ", layer, " but the plan has ", layers, " (0 to ",
                               layers - 1, ")");
    }
    return WriteText(kvg::PrintRecipe(plan->plan->recipe(layer)), text, text_len, needed);
  });
}
