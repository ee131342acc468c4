// The demo's only door to kvgear: owners for the handles of the C ABI, and the KvStore that keeps
// a text in a kvg_cache. A failed call becomes a Refusal with kvgear's own sentence.
#ifndef KVGEAR_EXAMPLES_DEMO_COMPRESSED_STORE_H_
#define KVGEAR_EXAMPLES_DEMO_COMPRESSED_STORE_H_

#include <kvgear/kvgear.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "config.h"
#include "decode.h"
#include "device.h"
#include "prefill.h"

namespace demo {

using RuntimePtr = std::shared_ptr<kvg_runtime>;
using PlanPtr = std::shared_ptr<kvg_plan>;

/// A runtime on the device, with this many worker threads beside the caller's.
RuntimePtr MakeRuntime(uint32_t workers, const DevicePtr& device = nullptr);

/// One line about the runtime, such as its instruction set.
std::string Describe(const kvg_runtime& runtime);

/// The plan that keeps every layer of the model by this recipe. "RECIPE@FILE" takes the factors of a plan
/// file, which must be of the model with this fingerprint.
PlanPtr MakePlan(const ModelConfig& config, const std::string& recipe,
                 const std::string& fingerprint = "");

/// The part in front of the '@' of a plan file.
std::string WithoutFile(const std::string& recipe);

/// The names of all named recipes, then those of all policies, in kvgear's order.
std::vector<std::string> RecipeNames();

/// Whether the runtime's device knows the recipe.
bool Knows(const RuntimePtr& runtime, const ModelConfig& config, const std::string& recipe);

/// Whether a recipe has a policy, which keeps fewer tokens or gives some fewer bits.
bool HasPolicy(const std::string& recipe);

class CompressedStore : public KvStore {
 public:
  /// `device` is the runtime's.
  CompressedStore(const RuntimePtr& runtime, const PlanPtr& plan, DevicePtr device = nullptr);

  bool TakesUnrotatedKeys(uint32_t layer) const override { return latent_keys_[layer]; }
  void Append(uint32_t layer, const uint16_t* k, const uint16_t* v, size_t tokens) override;
  void Attend(uint32_t layer, const float* q, float* out) override { Attend(layer, q, out, 1); }

  /// Appends what Prefill made, to every layer, and lets the recipe's policy, if it has one, choose
  /// among the tokens by the queries that it asks for. A cache
  /// that learns from queries is shown some of the prompt's, as it would be all of them if kvgear
  /// computed the prompt's attention.
  void AppendPrompt(std::span<const KvRows> layers);

  /// Whether the recipe prunes a prompt from layer to layer, so that it must go through the model
  /// with ReadPrompt.
  bool prunes() const { return prunes_; }
  void ReadPrompt(Model& model, ThreadPool& pool, std::span<const uint32_t> tokens);

  /// Statistics over all layers and both sides.
  kvg_stats Stats() const;

 private:
  void Attend(uint32_t layer, const float* q, float* out, size_t queries);

  struct Destroy {
    void operator()(kvg_cache* cache) const { kvg_cache_destroy(cache); }
  };
  void Probe(uint32_t layer, const KvRows& rows, std::span<const uint64_t> positions);

  const DevicePtr device_;  // outlives the cache's work on it
  std::unique_ptr<kvg_cache, Destroy> cache_;
  size_t kv_width_ = 0;
  size_t q_width_ = 0;
  std::vector<bool> latent_keys_;  // by layer
  bool prunes_ = false;
  bool selects_ = false;
};

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_COMPRESSED_STORE_H_
