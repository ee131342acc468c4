// Loading: every weight is looked up by its Hugging Face name, checked, converted and packed.
#include "model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "half.h"
#include "refusal.h"
#include "safetensors.h"

namespace demo {
namespace {

/// One element of a mapped tensor, whose data need not be aligned.
float Element(const unsigned char* data, DType type, size_t index) {
  if (type == DType::kF32) {
    float value;
    std::memcpy(&value, data + index * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, data + index * 2, 2);
  return type == DType::kF16 ? HalfToFloat(bits) : BrainToFloat(bits);
}

class Loader {
 public:
  Loader(const Checkpoint& checkpoint, ThreadPool& pool) : checkpoint_(checkpoint), pool_(pool) {}

  uint64_t parameters() const { return parameters_; }

  std::vector<float> Plain(const std::string& name, const std::vector<uint64_t>& shape) {
    DType type;
    const TensorView& tensor = checkpoint_.Get(name, shape, &type);
    const size_t count = tensor.bytes / DTypeBytes(type);
    std::vector<float> out(count);
    for (size_t i = 0; i < count; ++i) {
      out[i] = Element(tensor.data, type, i);
      if (!std::isfinite(out[i])) RefuseNumber(tensor);
    }
    parameters_ += count;
    return out;
  }

  /// Stacks matrices [outputs of each, inputs] with the names PREFIX.weight (and PREFIX.bias).
  struct Part {
    std::string prefix;
    uint32_t outputs;
    bool needs_bias;
  };
  Linear Stack(const std::vector<Part>& parts, uint32_t inputs) {
    Linear linear;
    linear.inputs = inputs;
    for (const Part& part : parts) {
      DType type;
      checkpoint_.Get(part.prefix + ".weight", {part.outputs, inputs}, &type);  // before the memory
      linear.outputs += part.outputs;
    }
    linear.data.assign(linear.panels() * kPanel * inputs, 0.0f);
    size_t row = 0;
    for (const Part& part : parts) {
      Pack(part.prefix + ".weight", part.outputs, inputs, row, linear);
      const std::string bias = part.prefix + ".bias";
      if (part.needs_bias || checkpoint_.Has(bias)) {
        linear.bias.resize(linear.outputs, 0.0f);
        const std::vector<float> values = Plain(bias, {part.outputs});
        std::copy(values.begin(), values.end(), linear.bias.begin() + static_cast<long>(row));
      }
      row += part.outputs;
    }
    return linear;
  }

 private:
  [[noreturn]] static void RefuseNumber(const TensorView& tensor) {
    Refuse(*tensor.file, " is damaged: tensor '", tensor.name,
           "' holds infinity or something that is no number.");
  }

  void Pack(const std::string& name, uint32_t outputs, uint32_t inputs, size_t first_row,
            Linear& linear) {
    DType type;
    const TensorView& tensor = checkpoint_.Get(name, {outputs, inputs}, &type);
    std::atomic<bool> bad{false};
    constexpr size_t kRows = 64;
    pool_.Run((outputs + kRows - 1) / kRows, [&](size_t task, size_t) {
      const size_t end = std::min<size_t>(outputs, (task + 1) * kRows);
      for (size_t o = task * kRows; o < end; ++o) {
        const size_t row = first_row + o;
        float* to = linear.data.data() + (row / kPanel * inputs) * kPanel + row % kPanel;
        for (size_t i = 0; i < inputs; ++i) {
          const float value = Element(tensor.data, type, o * inputs + i);
          if (!std::isfinite(value)) bad = true;
          to[i * kPanel] = value;
        }
      }
    });
    if (bad) RefuseNumber(tensor);
    parameters_ += uint64_t{outputs} * inputs;
  }

  const Checkpoint& checkpoint_;
  ThreadPool& pool_;
  uint64_t parameters_ = 0;
};

}  // namespace

void Linear::Apply(const float* x, size_t x_stride, size_t rows, size_t first_panel,
                   size_t last_panel, float* y, size_t y_stride, bool add) const {
  if (!bias.empty()) {
    const size_t begin = first_panel * kPanel;
    const size_t end = std::min(outputs, last_panel * kPanel);
    for (size_t r = 0; r < rows; ++r) {
      float* row = y + r * y_stride;
      for (size_t o = begin; o < end; ++o) row[o] = add ? row[o] + bias[o] : bias[o];
    }
    add = true;
  }
  Multiply(x, x_stride, rows, view(), first_panel, last_panel, y, y_stride, add);
}

Model::Model(const std::string& dir, ThreadPool& pool) : config_(ReadConfig(dir + "/config.json")) {
  const Checkpoint checkpoint(dir);
  Loader loader(checkpoint, pool);
  const ModelConfig& c = config_;
  // Qwen2 always has biases on q, k and v and none on the output, and does not say so.
  const bool qwen = c.model_type == "qwen2";
  const bool qkv_bias = qwen || c.attention_bias;
  const bool output_bias = !qwen && c.attention_bias;
  embedding_ = loader.Plain("model.embed_tokens.weight", {c.vocab, c.hidden});
  layers_.reserve(c.layers);
  for (uint32_t i = 0; i < c.layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const std::string attention = prefix + "self_attn.";
    const std::string mlp = prefix + "mlp.";
    Layer layer;
    layer.attention_norm = loader.Plain(prefix + "input_layernorm.weight", {c.hidden});
    layer.mlp_norm = loader.Plain(prefix + "post_attention_layernorm.weight", {c.hidden});
    layer.qkv = loader.Stack({{attention + "q_proj", c.q_width(), qkv_bias},
                              {attention + "k_proj", c.kv_width(), qkv_bias},
                              {attention + "v_proj", c.kv_width(), qkv_bias}},
                             c.hidden);
    layer.output = loader.Stack({{attention + "o_proj", c.hidden, output_bias}}, c.q_width());
    layer.gate_up = loader.Stack({{mlp + "gate_proj", c.intermediate, c.mlp_bias},
                                  {mlp + "up_proj", c.intermediate, c.mlp_bias}},
                                 c.hidden);
    layer.down = loader.Stack({{mlp + "down_proj", c.hidden, c.mlp_bias}}, c.intermediate);
    layers_.push_back(std::move(layer));
  }
  final_norm_ = loader.Plain("model.norm.weight", {c.hidden});
  // A tied head is not counted twice.
  parameters_ = loader.parameters();
  head_ = loader.Stack({{c.tied ? "model.embed_tokens" : "lm_head", c.vocab, false}}, c.hidden);
  if (!c.tied) parameters_ = loader.parameters();
}

void Model::PrepareRotary(size_t positions) {
  const std::vector<double>& frequencies = config_.rope_frequencies;
  for (size_t p = cosines_.size() / frequencies.size(); p < positions; ++p) {
    for (const double frequency : frequencies) {
      const double angle = static_cast<double>(p) * frequency;
      cosines_.push_back(static_cast<float>(std::cos(angle)));
      sines_.push_back(static_cast<float>(std::sin(angle)));
    }
  }
}

void Model::Rotate(float* x, size_t heads, size_t position) const {
  const size_t half = config_.head_dim / 2;
  const float* cosine = cosines_.data() + position * half;
  const float* sine = sines_.data() + position * half;
  for (size_t h = 0; h < heads; ++h, x += config_.head_dim) {
    for (size_t i = 0; i < half; ++i) {
      const float a = x[i];
      const float b = x[i + half];
      x[i] = a * cosine[i] - b * sine[i];
      x[i + half] = b * cosine[i] + a * sine[i];
    }
  }
}

}  // namespace demo
