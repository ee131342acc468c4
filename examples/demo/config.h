// config.json of a Llama- or Qwen2-shaped checkpoint, checked. Used by model.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_CONFIG_H_
#define KVGEAR_EXAMPLES_DEMO_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

namespace demo {

struct ModelConfig {
  std::string model_type;  // "llama" or "qwen2"
  uint32_t vocab = 0;
  uint32_t hidden = 0;
  uint32_t intermediate = 0;
  uint32_t layers = 0;
  uint32_t q_heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t max_positions = 0;
  float rms_norm_eps = 0;
  bool tied = false;            // the head is the embedding
  bool attention_bias = false;  // biases that must be there; others are taken where they are
  bool mlp_bias = false;
  std::vector<double> rope_frequencies;  // head_dim / 2 angles per position, rope_scaling applied

  uint32_t q_width() const { return q_heads * head_dim; }
  uint32_t kv_width() const { return kv_heads * head_dim; }
};

/// Reads and checks a config.json. What this decoder does not know is a Refusal, never a guess.
ModelConfig ReadConfig(const std::string& path);

/// The same from its text; `path` is for the sentences.
ModelConfig ParseConfig(const std::string& text, const std::string& path);

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_CONFIG_H_
