// A Llama- or Qwen2-shaped decoder: its weights, packed for kernels.h, and its rotary embedding.
// Used by prefill.cc (many tokens of one text) and decode.cc (one token of many texts).
#ifndef KVGEAR_EXAMPLES_DEMO_MODEL_H_
#define KVGEAR_EXAMPLES_DEMO_MODEL_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "config.h"
#include "kernels.h"
#include "threads.h"

namespace demo {

/// A packed matrix with an optional bias. `data` is padded with zeros to whole panels.
struct Linear {
  std::vector<float> data;
  std::vector<float> bias;  // empty, or one number per output
  size_t inputs = 0;
  size_t outputs = 0;

  size_t panels() const { return PanelCount(outputs); }
  /// Weight of input i for output o.
  float Weight(size_t o, size_t i) const {
    return data[(o / kPanel * inputs + i) * kPanel + o % kPanel];
  }
  PanelView view() const { return {data.data(), inputs, outputs, inputs * kPanel}; }

  /// y = x W^T + bias for the outputs of some panels; with `add` that is added to y.
  void Apply(const float* x, size_t x_stride, size_t rows, size_t first_panel, size_t last_panel,
             float* y, size_t y_stride, bool add) const;
};

struct Layer {
  std::vector<float> attention_norm;
  std::vector<float> mlp_norm;
  Linear qkv;      // query rows, then key rows, then value rows
  Linear output;   // of attention
  Linear gate_up;  // gate rows, then up rows
  Linear down;
};

class Model {
 public:
  /// Reads DIR/config.json and the weights; what is wrong is a Refusal.
  Model(const std::string& dir, ThreadPool& pool);

  const ModelConfig& config() const { return config_; }
  const std::vector<Layer>& layers() const { return layers_; }
  const std::vector<float>& final_norm() const { return final_norm_; }
  const Linear& head() const { return head_; }
  uint64_t parameters() const { return parameters_; }

  /// The embedding of one token; token < vocab.
  const float* Embedding(uint32_t token) const {
    return embedding_.data() + size_t{token} * config_.hidden;
  }

  /// Turns `heads` heads at x by the angles of a position (pairs are i and i + head_dim / 2).
  void Rotate(float* x, size_t heads, size_t position) const;

  /// Makes the angles of all positions below `positions` ready; not to run beside Rotate.
  void PrepareRotary(size_t positions);

 private:
  ModelConfig config_;
  std::vector<float> embedding_;
  std::vector<Layer> layers_;
  std::vector<float> final_norm_;
  Linear head_;
  std::vector<float> cosines_, sines_;  // [positions, head_dim / 2]
  uint64_t parameters_ = 0;
};

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_MODEL_H_
