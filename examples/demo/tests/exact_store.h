// A KvStore that keeps everything and computes attention plainly in double precision: what every
// compressed cache is measured against in these tests.
#ifndef KVGEAR_EXAMPLES_DEMO_TESTS_EXACT_STORE_H_
#define KVGEAR_EXAMPLES_DEMO_TESTS_EXACT_STORE_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "config.h"
#include "decode.h"
#include "half.h"

namespace demo {

class ExactStore : public KvStore {
 public:
  explicit ExactStore(const ModelConfig& config) : config_(config), k_(config.layers),
                                                   v_(config.layers) {}

  void Append(uint32_t layer, const uint16_t* k, const uint16_t* v, size_t tokens) override {
    for (size_t i = 0; i < tokens * config_.kv_width(); ++i) {
      k_[layer].push_back(HalfToFloat(k[i]));
      v_[layer].push_back(HalfToFloat(v[i]));
    }
  }

  void Attend(uint32_t layer, const float* q, float* out) override {
    const size_t dim = config_.head_dim;
    const size_t tokens = k_[layer].size() / config_.kv_width();
    std::vector<double> weights(tokens);
    for (size_t h = 0; h < config_.q_heads; ++h) {
      const size_t column = h / (config_.q_heads / config_.kv_heads) * dim;
      for (size_t t = 0; t < tokens; ++t) {
        const float* k = k_[layer].data() + t * config_.kv_width() + column;
        double dot = 0;
        for (size_t i = 0; i < dim; ++i) dot += double{q[h * dim + i]} * k[i];
        weights[t] = dot / std::sqrt(static_cast<double>(dim));
      }
      const double most = *std::max_element(weights.begin(), weights.end());
      double sum = 0;
      for (double& w : weights) sum += w = std::exp(w - most);
      std::vector<double> result(dim, 0.0);
      for (size_t t = 0; t < tokens; ++t) {
        const float* v = v_[layer].data() + t * config_.kv_width() + column;
        for (size_t i = 0; i < dim; ++i) result[i] += weights[t] * v[i];
      }
      for (size_t i = 0; i < dim; ++i) out[h * dim + i] = static_cast<float>(result[i] / sum);
    }
  }

 private:
  const ModelConfig& config_;
  std::vector<std::vector<float>> k_, v_;
};

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_TESTS_EXACT_STORE_H_
