// Calls of the C ABI, each with its status checked.
#include "compressed_store.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "refusal.h"

namespace demo {
namespace {

void Check(kvg_status status, const kvg_error& error) {
  if (status != KVG_OK) Refuse("kvgear: ", error.message, " (", kvg_status_string(status), ")");
}

}  // namespace

RuntimePtr MakeRuntime(uint32_t workers, const DevicePtr& device) {
  kvg_runtime_options options;
  kvg_runtime_options_init(&options);
  if (device != nullptr) {
    options.device = KVG_CUDA;
    options.device_id = device->ordinal();
  }
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

PlanPtr MakePlan(const ModelConfig& config, const std::string& recipe,
                 const std::string& fingerprint) {
  kvg_shape shape;
  kvg_shape_init(&shape);
  shape.layers = config.layers;
  shape.q_heads = config.q_heads;
  shape.kv_heads = config.kv_heads;
  shape.head_dim = config.head_dim;
  kvg_plan* plan = nullptr;
  kvg_error error;
  const std::string text = WithoutFile(recipe);
  if (text.size() == recipe.size()) {
    Check(kvg_plan_create(&shape, text.c_str(), &plan, &error), error);
  } else {
    const std::string file = recipe.substr(text.size() + 1);
    Check(kvg_plan_load(file.c_str(), &shape, text.c_str(), fingerprint.data(), fingerprint.size(),
                        &plan, &error),
          error);
  }
  return PlanPtr(plan, kvg_plan_destroy);
}

std::string WithoutFile(const std::string& recipe) { return recipe.substr(0, recipe.find('@')); }

std::vector<std::string> RecipeNames() {
  std::vector<std::string> names;
  for (uint32_t i = 0; i < kvg_recipe_count(); ++i) names.push_back(kvg_recipe_name(i));
  for (uint32_t i = 0; i < kvg_policy_count(); ++i) names.push_back(kvg_policy_name(i));
  return names;
}

bool Knows(const RuntimePtr& runtime, const ModelConfig& config, const std::string& recipe) {
  const PlanPtr plan = MakePlan(config, recipe);
  kvg_cache* cache = nullptr;
  kvg_error error;
  const kvg_status status = kvg_cache_create(runtime.get(), plan.get(), &cache, &error);
  kvg_cache_destroy(cache);
  if (status != KVG_E_UNSUPPORTED) Check(status, error);
  return status == KVG_OK;
}

bool HasPolicy(const std::string& recipe) {
  const std::string name = recipe.substr(0, recipe.find_first_of(",;"));
  for (uint32_t i = 0; i < kvg_policy_count(); ++i) {
    if (name == kvg_policy_name(i)) return true;
  }
  return recipe.find(",select=") != std::string::npos;
}

CompressedStore::CompressedStore(const RuntimePtr& runtime, const PlanPtr& plan, DevicePtr device)
    : device_(std::move(device)) {
  kvg_shape shape;
  kvg_shape_init(&shape);
  kvg_error error;
  Check(kvg_plan_shape(plan.get(), &shape, &error), error);
  kv_width_ = size_t{shape.kv_heads} * shape.head_dim;
  q_width_ = size_t{shape.q_heads} * shape.head_dim;
  for (uint32_t layer = 0; layer < shape.layers; ++layer) {
    uint32_t rank = 0, heads = 0;
    Check(kvg_plan_latent(plan.get(), layer, KVG_SIDE_K, &rank, &heads, &error), error);
    latent_keys_.push_back(rank > 0);
  }
  kvg_cache* cache = nullptr;
  Check(kvg_cache_create(runtime.get(), plan.get(), &cache, &error), error);
  cache_.reset(cache);
  std::string recipe(1024, '\0');
  size_t needed = 0;
  Check(kvg_plan_recipe(plan.get(), 0, recipe.data(), recipe.size(), &needed, &error), error);
  prunes_ = recipe.find("pyramidinfer") != std::string::npos;
  selects_ = recipe.find("select=") != std::string::npos;
  for (uint32_t i = 0; i < kvg_policy_count(); ++i) {
    selects_ = selects_ || recipe.rfind(kvg_policy_name(i), 0) == 0;
  }
}

void CompressedStore::Append(uint32_t layer, const uint16_t* k, const uint16_t* v, size_t tokens) {
  kvg_append_desc desc;
  kvg_append_desc_init(&desc);
  desc.dtype = KVG_F16;
  desc.tokens = tokens;
  const size_t bytes = tokens * kv_width_ * sizeof(uint16_t);
  kvg_error error;
  if (device_ == nullptr) {
    Check(kvg_cache_append(cache_.get(), layer, k, bytes, v, bytes, &desc, &error), error);
    return;
  }
  const CudaDevice::Block block(*device_, 2 * bytes);
  auto* const k_there = block.data<uint16_t>();
  uint16_t* const v_there = k_there + tokens * kv_width_;
  std::memcpy(k_there, k, bytes);
  std::memcpy(v_there, v, bytes);
  Check(kvg_cache_append(cache_.get(), layer, k_there, bytes, v_there, bytes, &desc, &error), error);
  device_->Finish();
}

void CompressedStore::Attend(uint32_t layer, const float* q, float* out, size_t queries) {
  kvg_attend_desc desc;
  kvg_attend_desc_init(&desc);
  desc.q_dtype = KVG_F32;
  desc.out_dtype = KVG_F32;
  desc.queries = static_cast<uint32_t>(queries);
  const size_t bytes = queries * q_width_ * sizeof(float);
  kvg_error error;
  if (device_ == nullptr) {
    Check(kvg_cache_attend_observe(cache_.get(), layer, q, bytes, out, bytes, &desc, &error), error);
    return;
  }
  const CudaDevice::Block block(*device_, 2 * bytes);
  auto* const q_there = block.data<float>();
  float* const out_there = q_there + queries * q_width_;
  std::memcpy(q_there, q, bytes);
  Check(kvg_cache_attend_observe(cache_.get(), layer, q_there, bytes, out_there, bytes, &desc,
                                 &error),
        error);
  device_->Finish();
  std::memcpy(out, out_there, bytes);
}

void CompressedStore::AppendPrompt(std::span<const KvRows> layers) {
  for (size_t l = 0; l < layers.size(); ++l) {
    const size_t tokens = layers[l].k.size() / kv_width_;
    const auto layer = static_cast<uint32_t>(l);
    const std::vector<uint16_t>& k = TakesUnrotatedKeys(layer) ? layers[l].unrotated_k : layers[l].k;
    Append(layer, k.data(), layers[l].v.data(), tokens);
    std::vector<uint64_t> positions(tokens);
    std::iota(positions.begin(), positions.end(), uint64_t{0});
    Probe(static_cast<uint32_t>(l), layers[l], positions);
  }
  kvg_error error;
  Check(kvg_cache_select(cache_.get(), KVG_ALL_LAYERS, &error), error);
  if (selects_ || Stats().bytes_state == 0) return;
  std::vector<float> out;
  for (size_t l = 0; l < layers.size(); ++l) {
    out.resize(layers[l].q.size());
    Attend(static_cast<uint32_t>(l), layers[l].q.data(), out.data(), out.size() / q_width_);
  }
}

/// Shows the policy of a layer the queries that it asks for. `positions` are those of the rows.
void CompressedStore::Probe(uint32_t layer, const KvRows& rows,
                            std::span<const uint64_t> positions) {
  size_t needed = 0;
  kvg_error error;
  Check(kvg_cache_probe_positions(cache_.get(), layer, nullptr, 0, &needed, &error), error);
  if (needed == 0) return;
  std::vector<uint64_t> wanted(needed);
  Check(kvg_cache_probe_positions(cache_.get(), layer, wanted.data(), needed, &needed, &error),
        error);
  std::vector<float> q;
  std::vector<uint64_t> found;
  for (const uint64_t position : wanted) {
    const auto at = std::lower_bound(positions.begin(), positions.end(), position);
    if (at == positions.end() || *at != position) continue;  // pruned before this layer
    const auto row = static_cast<size_t>(at - positions.begin());
    q.insert(q.end(), rows.all_q.data() + row * q_width_,
             rows.all_q.data() + (row + 1) * q_width_);
    found.push_back(position);
  }
  kvg_attend_desc desc;
  kvg_attend_desc_init(&desc);
  desc.q_dtype = KVG_F32;
  desc.queries = static_cast<uint32_t>(found.size());
  Check(kvg_cache_probe(cache_.get(), layer, q.data(), q.size() * sizeof(float), found.data(),
                        found.size(), &desc, &error),
        error);
}

void CompressedStore::ReadPrompt(Model& model, ThreadPool& pool, std::span<const uint32_t> tokens) {
  kvg_error error;
  Prefill(model, pool, tokens,
          [&](uint32_t layer, const KvRows& rows, std::span<const uint64_t> positions) {
            kvg_append_desc desc;
            kvg_append_desc_init(&desc);
            desc.tokens = positions.size();
            const size_t bytes = rows.k.size() * sizeof(uint16_t);
            Check(kvg_cache_append_at(cache_.get(), layer, rows.k.data(), bytes, rows.v.data(),
                                      bytes, positions.data(), positions.size(), &desc, &error),
                  error);
            Probe(layer, rows, positions);
            std::vector<uint64_t> next(positions.size());
            size_t needed = 0;
            Check(kvg_cache_next_tokens(cache_.get(), layer, next.data(), next.size(), &needed,
                                        &error),
                  error);
            next.resize(needed);
            return next;
          });
  Check(kvg_cache_select(cache_.get(), KVG_ALL_LAYERS, &error), error);
}

kvg_stats CompressedStore::Stats() const {
  kvg_stats stats;
  kvg_stats_init(&stats);
  kvg_error error;
  Check(kvg_cache_stats(cache_.get(), KVG_ALL_LAYERS, KVG_SIDE_BOTH, &stats, &error), error);
  return stats;
}

}  // namespace demo
