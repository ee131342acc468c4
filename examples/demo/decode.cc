// The decode step: products are shared out by panels of outputs, attention by lanes.
#include "decode.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "half.h"
#include "kernels.h"
#include "refusal.h"

namespace demo {

double Decoder::attention_seconds() const {
  return std::accumulate(attention_seconds_.begin(), attention_seconds_.end(), 0.0);
}

void Decoder::Product(const Linear& linear, const std::vector<float>& x, size_t rows,
                      std::vector<float>& y, bool add) {
  y.resize(rows * linear.outputs);
  const size_t panels = linear.panels();
  const size_t tasks = std::min(panels, pool_.threads() == 1 ? 1 : 2 * pool_.threads());
  pool_.Run(tasks, [&](size_t task, size_t) {
    linear.Apply(x.data(), linear.inputs, rows, panels * task / tasks, panels * (task + 1) / tasks,
                 y.data(), linear.outputs, add);
  });
}

void Decoder::Norm(const std::vector<float>& weight, size_t rows) {
  const size_t hidden = model_.config().hidden;
  normed_.resize(rows * hidden);
  for (size_t r = 0; r < rows; ++r) {
    RmsNorm(x_.data() + r * hidden, weight.data(), hidden, model_.config().rms_norm_eps,
            normed_.data() + r * hidden);
  }
}

void Decoder::Attention(uint32_t layer, std::vector<Lane>& lanes) {
  const ModelConfig& c = model_.config();
  const size_t width = c.q_width() + 2 * c.kv_width();
  attended_.resize(lanes.size() * c.q_width());
  pool_.Run(lanes.size(), [&](size_t lane, size_t thread) {
    float* q = qkv_.data() + lane * width;
    const bool unrotated = lanes[lane].store->TakesUnrotatedKeys(layer);
    model_.Rotate(q, c.q_heads + (unrotated ? 0 : c.kv_heads), lanes[lane].position);
    std::vector<uint16_t> kv(2 * c.kv_width());
    std::transform(q + c.q_width(), q + width, kv.begin(), FloatToHalf);
    const auto start = std::chrono::steady_clock::now();
    lanes[lane].store->Append(layer, kv.data(), kv.data() + c.kv_width(), 1);
    lanes[lane].store->Attend(layer, q, attended_.data() + lane * c.q_width());
    attention_seconds_[thread] +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  });
}

const float* Decoder::Step(std::vector<Lane>& lanes) {
  const ModelConfig& c = model_.config();
  const size_t rows = lanes.size();
  attention_seconds_.resize(pool_.threads(), 0.0);
  x_.resize(rows * c.hidden);
  size_t last = 0;
  for (size_t r = 0; r < rows; ++r) {
    if (lanes[r].token >= c.vocab) {
      Refuse("Token ", lanes[r].token, " is not below the model's vocabulary of ", c.vocab, ".");
    }
    std::copy_n(model_.Embedding(lanes[r].token), c.hidden, x_.data() + r * c.hidden);
    last = std::max(last, lanes[r].position);
  }
  model_.PrepareRotary(last + 1);
  for (uint32_t l = 0; l < c.layers; ++l) {
    const Layer& layer = model_.layers()[l];
    Norm(layer.attention_norm, rows);
    Product(layer.qkv, normed_, rows, qkv_, false);
    Attention(l, lanes);
    Product(layer.output, attended_, rows, x_, true);
    Norm(layer.mlp_norm, rows);
    Product(layer.gate_up, normed_, rows, wide_, false);
    gated_.resize(rows * c.intermediate);
    for (size_t r = 0; r < rows; ++r) {
      const float* gate = wide_.data() + r * 2 * c.intermediate;
      Gate(gate, gate + c.intermediate, c.intermediate, gated_.data() + r * c.intermediate);
    }
    Product(layer.down, gated_, rows, x_, true);
  }
  Norm(model_.final_norm(), rows);
  Product(model_.head(), normed_, rows, logits_, false);
  for (Lane& lane : lanes) ++lane.position;
  return logits_.data();
}

}  // namespace demo
