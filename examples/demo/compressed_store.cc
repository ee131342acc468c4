// Calls of the C ABI, each with its status checked.
#include "compressed_store.h"

#include "refusal.h"

namespace demo {
namespace {

void Check(kvg_status status, const kvg_error& error) {
  if (status != KVG_OK) Refuse("kvgear: ", error.message, " (", kvg_status_string(status), ")");
}

}  // namespace

RuntimePtr MakeRuntime(uint32_t workers) {
  kvg_runtime_options options;
  kvg_runtime_options_init(&options);
  options.threads = workers;
  kvg_runtime* runtime = nullptr;
  kvg_error error;
  Check(kvg_runtime_create(&options, &runtime, &error), error);
  return RuntimePtr(runtime, kvg_runtime_destroy);
}

std::string Describe(const kvg_runtime& runtime) {
  std::string text(256, '\0');
  size_t needed = 0;
  kvg_error error;
  Check(kvg_runtime_describe(&runtime, text.data(), text.size(), &needed, &error), error);
  return text.c_str();
}

PlanPtr MakePlan(const ModelConfig& config, const std::string& recipe) {
  kvg_shape shape;
  kvg_shape_init(&shape);
  shape.layers = config.layers;
  shape.q_heads = config.q_heads;
  shape.kv_heads = config.kv_heads;
  shape.head_dim = config.head_dim;
  kvg_plan* plan = nullptr;
  kvg_error error;
  Check(kvg_plan_create(&shape, recipe.c_str(), &plan, &error), error);
  return PlanPtr(plan, kvg_plan_destroy);
}

std::vector<std::string> RecipeNames() {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < kvg_recipe_count(); ++i) names.push_back(kvg_recipe_name(i));
  return names;
}

CompressedStore::CompressedStore(const RuntimePtr& runtime, const PlanPtr& plan) {
  kvg_shape shape;
  kvg_shape_init(&shape);
  kvg_error error;
  Check(kvg_plan_shape(plan.get(), &shape, &error), error);
  kv_width_ = size_t{shape.kv_heads} * shape.head_dim;
  q_width_ = size_t{shape.q_heads} * shape.head_dim;
  kvg_cache* cache = nullptr;
  Check(kvg_cache_create(runtime.get(), plan.get(), &cache, &error), error);
  cache_.reset(cache);
}

void CompressedStore::Append(uint32_t layer, const uint16_t* k, const uint16_t* v, size_t tokens) {
  kvg_append_desc desc;
  kvg_append_desc_init(&desc);
  desc.dtype = KVG_F16;
  desc.tokens = tokens;
  const size_t bytes = tokens * kv_width_ * sizeof(uint16_t);
  kvg_error error;
  Check(kvg_cache_append(cache_.get(), layer, k, bytes, v, bytes, &desc, &error), error);
}

void CompressedStore::Attend(uint32_t layer, const float* q, float* out, size_t queries) {
  kvg_attend_desc desc;
  kvg_attend_desc_init(&desc);
  desc.q_dtype = KVG_F32;
  desc.out_dtype = KVG_F32;
  desc.queries = static_cast<uint32_t>(queries);
  const size_t bytes = queries * q_width_ * sizeof(float);
  kvg_error error;
  Check(kvg_cache_attend(cache_.get(), layer, q, bytes, out, bytes, &desc, &error), error);
}

void CompressedStore::AppendPrompt(std::span<const KvRows> layers) {
  for (size_t l = 0; l < layers.size(); ++l) {
    Append(static_cast<uint32_t>(l), layers[l].k.data(), layers[l].v.data(),
           layers[l].k.size() / kv_width_);
  }
  if (Stats().bytes_state == 0) return;
  std::vector<float> out;
  for (size_t l = 0; l < layers.size(); ++l) {
    out.resize(layers[l].q.size());
    Attend(static_cast<uint32_t>(l), layers[l].q.data(), out.data(), out.size() / q_width_);
  }
}

kvg_stats CompressedStore::Stats() const {
  kvg_stats stats;
  kvg_stats_init(&stats);
  kvg_error error;
  Check(kvg_cache_stats(cache_.get(), KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &error), error);
  return stats;
}

}  // namespace demo
