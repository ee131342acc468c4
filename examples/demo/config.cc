// Reading config.json: sizes, rotary frequencies, and the refusal of everything unknown.
#include "config.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "files.h"
#include "refusal.h"

namespace demo {
namespace {

using nlohmann::json;

/// A value for a sentence. Lists and objects are named only: they may be nested to any depth.
std::string Brief(const json& value) {
  return value.is_structured() ? std::string("of type ") + value.type_name() : Shown(value.dump());
}

/// Typed, checked access to the keys of one JSON object. A null value counts as absent.
class Keys {
 public:
  Keys(const json& object, const std::string& path) : object_(object), path_(path) {}

  const json* Find(const char* key) const {
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }

  uint32_t Size(const char* key, uint32_t most, std::optional<uint32_t> absent = {}) const {
    const json* value = Find(key);
    if (value == nullptr) {
      if (!absent) Refuse(path_, " has no '", key, "'.");
      return *absent;
    }
    if (!value->is_number_unsigned() || value->get<uint64_t>() < 1 ||
        value->get<uint64_t>() > most) {
      Refuse(path_, ": '", key, "' is ", Brief(*value),
             ", but must be a whole number from 1 to ", most, ".");
    }
    return value->get<uint32_t>();
  }

  double Positive(const char* key, std::optional<double> absent = {}) const {
    const json* value = Find(key);
    if (value == nullptr) {
      if (!absent) Refuse(path_, " has no '", key, "'.");
      return *absent;
    }
    if (!value->is_number() || !(value->get<double>() > 0) || value->get<double>() > 1e12) {
      Refuse(path_, ": '", key, "' is ", Brief(*value), ", but must be a positive number.");
    }
    return value->get<double>();
  }

  bool Flag(const char* key, bool absent) const {
    const json* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) {
      Refuse(path_, ": '", key, "' is ", Brief(*value), ", but must be true or false.");
    }
    return value->get<bool>();
  }

  std::string Word(const char* key, const char* absent) const {
    const json* value = Find(key);
    if (value == nullptr) return absent;
    if (!value->is_string()) {
      Refuse(path_, ": '", key, "' is ", Brief(*value), ", but must be a text.");
    }
    return value->get<std::string>();
  }

 private:
  const json& object_;
  const std::string& path_;
};

/// Angles per position after rope_scaling (newer files: rope_parameters, with rope_theta in it).
std::vector<double> RopeFrequencies(const Keys& config, const std::string& path,
                                    uint32_t head_dim) {
  const json* scaling = config.Find("rope_scaling");
  if (scaling == nullptr) scaling = config.Find("rope_parameters");
  static const json nothing = json::object();
  if (scaling != nullptr && !scaling->is_object()) {
    Refuse(path, ": 'rope_scaling' is not an object.");
  }
  const Keys rope(scaling == nullptr ? nothing : *scaling, path);
  const double theta = rope.Positive("rope_theta", config.Positive("rope_theta", 10000.0));
  const double rotated =
      rope.Positive("partial_rotary_factor", config.Positive("partial_rotary_factor", 1.0));
  if (rotated != 1.0) {
    Refuse(path, ": 'partial_rotary_factor' is ", rotated, "; this decoder rotates whole heads.");
  }
  std::vector<double> frequencies(head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(theta, -2.0 * static_cast<double>(i) / head_dim);
  }
  const std::string type = rope.Word("rope_type", rope.Word("type", "default").c_str());
  if (type == "default") return frequencies;
  if (type == "linear") {
    const double factor = rope.Positive("factor");
    for (double& f : frequencies) f /= factor;
    return frequencies;
  }
  if (type == "llama3") {
    // Long waves are slowed down by `factor`, short ones are kept, those between are blended.
    const double factor = rope.Positive("factor");
    const double low = rope.Positive("low_freq_factor");
    const double high = rope.Positive("high_freq_factor");
    const double trained = rope.Positive("original_max_position_embeddings");
    if (!(high > low)) {
      Refuse(path, ": 'high_freq_factor' must be greater than 'low_freq_factor'.");
    }
    for (double& f : frequencies) {
      const double wave = 2.0 * M_PI / f;
      if (wave > trained / low) {
        f /= factor;
      } else if (wave >= trained / high) {
        const double kept = (trained / wave - low) / (high - low);
        f = (1.0 - kept) * f / factor + kept * f;
      }
    }
    return frequencies;
  }
  Refuse(path, ": rope_scaling of type '", Shown(type),
         "' is not supported; this decoder knows default, linear and llama3.");
}

}  // namespace

ModelConfig ReadConfig(const std::string& path) { return ParseConfig(ReadWholeFile(path), path); }

ModelConfig ParseConfig(const std::string& text, const std::string& path) {
  const json parsed = json::parse(text, nullptr, false);  // not a number: no JSON, so refused
  if (parsed.is_discarded() || !parsed.is_object()) Refuse(path, " is not a JSON object.");
  const Keys keys(parsed, path);

  ModelConfig config;
  config.model_type = keys.Word("model_type", "");
  if (config.model_type != "llama" && config.model_type != "qwen2") {
    Refuse(path, ": model_type '", Shown(config.model_type),
           "' is not supported; this decoder knows llama and qwen2.");
  }
  const std::string activation = keys.Word("hidden_act", "silu");
  if (activation != "silu" && activation != "swish") {
    Refuse(path, ": hidden_act '", Shown(activation),
           "' is not supported; this decoder knows silu.");
  }
  bool sliding = keys.Flag("use_sliding_window", false);
  if (const json* types = keys.Find("layer_types")) {
    for (const json& type : *types) sliding = sliding || type == "sliding_attention";
  }
  if (sliding) Refuse(path, ": sliding-window attention is not supported.");
  if (keys.Find("quantization_config") != nullptr) {
    Refuse(path, ": quantised weights are not supported; use the checkpoint in f16, bf16 or f32.");
  }

  config.vocab = keys.Size("vocab_size", 1u << 24);
  config.hidden = keys.Size("hidden_size", 1u << 17);
  config.intermediate = keys.Size("intermediate_size", 1u << 19);
  config.layers = keys.Size("num_hidden_layers", 4096);
  config.q_heads = keys.Size("num_attention_heads", 4096);
  config.kv_heads = keys.Size("num_key_value_heads", 1024, config.q_heads);
  if (keys.Find("head_dim") == nullptr && config.hidden % config.q_heads != 0) {
    Refuse(path, ": 'hidden_size' is not a multiple of 'num_attention_heads', and 'head_dim' is ",
           "absent.");
  }
  config.head_dim = keys.Size("head_dim", 4096, config.hidden / config.q_heads);
  if (config.q_heads % config.kv_heads != 0) {
    Refuse(path, ": 'num_attention_heads' is not a multiple of 'num_key_value_heads'.");
  }
  if (config.head_dim < 32 || config.head_dim > 256 || config.head_dim % 8 != 0) {
    Refuse(path, ": heads of ", config.head_dim,
           " numbers are not supported; kvgear takes 32 to 256 in steps of 8.");
  }
  config.max_positions = keys.Size("max_position_embeddings", 1u << 27, 2048);
  config.rms_norm_eps = static_cast<float>(keys.Positive("rms_norm_eps", 1e-6));
  config.tied = keys.Flag("tie_word_embeddings", false);
  config.attention_bias = keys.Flag("attention_bias", false);
  config.mlp_bias = keys.Flag("mlp_bias", false);
  config.rope_frequencies = RopeFrequencies(keys, path, config.head_dim);
  return config;
}

}  // namespace demo
