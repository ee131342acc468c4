// Prefill, layer by layer: blocks of tokens go through the matrices, blocks of queries through
// attention, both shared out over the threads.
#include "prefill.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "half.h"
#include "kernels.h"
#include "refusal.h"

namespace demo {
namespace {

constexpr size_t kTokenBlock = 48;  // tokens of one task
constexpr size_t kQueryRows = 48;   // rows of scores of one task: queries times heads of a group

/// Buffers of one thread.
struct Scratch {
  std::vector<float> normed, wide, gated, queries, scores, result, sums;
};

class PrefillRun {
 public:
  PrefillRun(const Model& model, ThreadPool& pool, std::span<const uint32_t> tokens)
      : model_(model), config_(model.config()), pool_(pool), tokens_(tokens.size()),
        padded_(PanelCount(tokens_) * kPanel), scratch_(pool.threads()) {
    x_.resize(tokens_ * config_.hidden);
    for (size_t t = 0; t < tokens_; ++t) {
      std::copy_n(model.Embedding(tokens[t]), config_.hidden, x_.data() + t * config_.hidden);
    }
    q_.resize(tokens_ * config_.q_width());
    positions_.resize(tokens_);
    std::iota(positions_.begin(), positions_.end(), uint64_t{0});
    key_panels_.resize(padded_ * config_.kv_width());
    value_panels_.resize(PanelCount(config_.head_dim) * kPanel * config_.kv_heads * tokens_);
  }

  std::vector<KvRows> Run(const Pruning& pruning, const Recording& recording) {
    std::vector<KvRows> out(config_.layers);
    for (uint32_t l = 0; l < config_.layers; ++l) {
      const Layer& layer = model_.layers()[l];
      KvRows& rows = out[l];
      rows.k.resize(tokens_ * config_.kv_width());
      rows.unrotated_k.resize(rows.k.size());
      rows.v.resize(tokens_ * config_.kv_width());
      rows.q.resize((tokens_ + step_ - 1) / step_ * config_.q_width());
      ForTokenBlocks([&](size_t first, size_t count, Scratch& s) {
        Project(layer, first, count, rows, s);
        if (recording) recording(l, first, count, s.normed.data());
      });
      rows.all_q.assign(q_.begin(), q_.begin() + static_cast<std::ptrdiff_t>(tokens_ * config_.q_width()));
      std::vector<uint64_t> next;
      if (pruning) next = pruning(l, rows, positions_);
      if (l + 1 == config_.layers) break;  // nothing reads what the last layer computes of these
      Attention();
      ForTokenBlocks([&](size_t first, size_t count, Scratch& s) {
        layer.output.Apply(q_.data() + first * config_.q_width(), config_.q_width(), count, 0,
                           layer.output.panels(), x_.data() + first * config_.hidden,
                           config_.hidden, true);
        Mlp(layer, first, count, s);
      });
      if (pruning) KeepOnly(next);
    }
    return out;
  }

 private:
  template <class Body>
  void ForTokenBlocks(const Body& body) {
    pool_.Run((tokens_ + kTokenBlock - 1) / kTokenBlock, [&](size_t task, size_t thread) {
      const size_t first = task * kTokenBlock;
      body(first, std::min(kTokenBlock, tokens_ - first), scratch_[thread]);
    });
  }

  /// The hidden states of these tokens are all that is left.
  void KeepOnly(const std::vector<uint64_t>& kept) {
    for (size_t i = 0; i < kept.size(); ++i) {
      std::copy_n(x_.data() + kept[i] * config_.hidden, config_.hidden,
                  x_.data() + i * config_.hidden);
      positions_[i] = positions_[kept[i]];
    }
    tokens_ = kept.size();
    positions_.resize(tokens_);
    padded_ = PanelCount(tokens_) * kPanel;
  }

  void Norm(const std::vector<float>& weight, size_t first, size_t count, Scratch& s) const {
    s.normed.resize(kTokenBlock * config_.hidden);
    for (size_t r = 0; r < count; ++r) {
      RmsNorm(x_.data() + (first + r) * config_.hidden, weight.data(), config_.hidden,
              config_.rms_norm_eps, s.normed.data() + r * config_.hidden);
    }
  }

  /// Queries, keys and values of some tokens; keys and values also into panels.
  void Project(const Layer& layer, size_t first, size_t count, KvRows& rows, Scratch& s) {
    Norm(layer.attention_norm, first, count, s);
    const size_t width = layer.qkv.outputs;
    s.wide.resize(kTokenBlock * width);
    layer.qkv.Apply(s.normed.data(), config_.hidden, count, 0, layer.qkv.panels(), s.wide.data(),
                    width, false);
    for (size_t r = 0; r < count; ++r) {
      const size_t token = first + r;
      float* row = s.wide.data() + r * width;
      std::transform(row + config_.q_width(), row + config_.q_width() + config_.kv_width(),
                     rows.unrotated_k.begin() + static_cast<std::ptrdiff_t>(token * config_.kv_width()),
                     FloatToHalf);
      model_.Rotate(row, config_.q_heads + config_.kv_heads, positions_[token]);
      std::copy_n(row, config_.q_width(), q_.data() + token * config_.q_width());
      if (token % step_ == 0) {
        std::copy_n(row, config_.q_width(), rows.q.data() + token / step_ * config_.q_width());
      }
      const float* k = row + config_.q_width();
      const float* v = k + config_.kv_width();
      const size_t at = token * config_.kv_width();
      for (size_t i = 0; i < config_.kv_width(); ++i) {
        rows.k[at + i] = FloatToHalf(k[i]);
        rows.v[at + i] = FloatToHalf(v[i]);
        KeyPanel(i / config_.head_dim, token, i % config_.head_dim) = HalfToFloat(rows.k[at + i]);
        ValuePanel(i / config_.head_dim, token, i % config_.head_dim) = HalfToFloat(rows.v[at + i]);
      }
    }
  }

  // Keys as a matrix with tokens as outputs, values as a matrix with tokens as inputs, per head.
  float& KeyPanel(size_t head, size_t token, size_t i) {
    return key_panels_[head * padded_ * config_.head_dim +
                       (token / kPanel * config_.head_dim + i) * kPanel + token % kPanel];
  }
  float& ValuePanel(size_t head, size_t token, size_t i) {
    return value_panels_[((head * PanelCount(config_.head_dim) + i / kPanel) * tokens_ + token) *
                             kPanel + i % kPanel];
  }

  /// q_ becomes the output of attention. A task reads and writes the same part of q_.
  void Attention() {
    const size_t group = config_.q_heads / config_.kv_heads;
    const size_t block = std::max<size_t>(1, kQueryRows / group);
    const size_t blocks = (tokens_ + block - 1) / block;
    pool_.Run(blocks * config_.kv_heads, [&](size_t task, size_t thread) {
      // The longest rows come first, so that the threads end together.
      const size_t first = (blocks - 1 - task / config_.kv_heads) * block;
      AttendBlock(task % config_.kv_heads, first, std::min(block, tokens_ - first),
                  scratch_[thread]);
    });
  }

  void AttendBlock(size_t kv_head, size_t first, size_t count, Scratch& s) {
    const size_t dim = config_.head_dim;
    const size_t group = config_.q_heads / config_.kv_heads;
    const size_t rows = count * group;
    const size_t seen = first + count;  // tokens that the last of these queries sees
    const size_t stride = PanelCount(seen) * kPanel;
    s.queries.resize(rows * dim);
    s.scores.resize(rows * stride);
    s.result.resize(rows * dim);
    s.sums.resize(rows);
    float* heads = q_.data() + first * config_.q_width() + kv_head * group * dim;
    for (size_t r = 0; r < rows; ++r) {
      std::copy_n(heads + r / group * config_.q_width() + r % group * dim, dim,
                  s.queries.data() + r * dim);
    }
    const PanelView keys = {key_panels_.data() + kv_head * padded_ * dim, dim, stride, dim * kPanel};
    Multiply(s.queries.data(), dim, rows, keys, 0, stride / kPanel, s.scores.data(), stride, false);
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (size_t r = 0; r < rows; ++r) {
      s.sums[r] = SoftmaxRow(s.scores.data() + r * stride, first + r / group + 1, stride, scale);
    }
    const size_t value_panels = PanelCount(dim);
    const PanelView values = {value_panels_.data() + kv_head * value_panels * tokens_ * kPanel,
                              seen, dim, tokens_ * kPanel};
    Multiply(s.scores.data(), stride, rows, values, 0, value_panels, s.result.data(), dim, false);
    for (size_t r = 0; r < rows; ++r) {
      float* out = heads + r / group * config_.q_width() + r % group * dim;
      for (size_t i = 0; i < dim; ++i) out[i] = s.result[r * dim + i] / s.sums[r];
    }
  }

  void Mlp(const Layer& layer, size_t first, size_t count, Scratch& s) {
    Norm(layer.mlp_norm, first, count, s);
    const size_t inner = config_.intermediate;
    s.wide.resize(kTokenBlock * std::max(2 * inner, layer.qkv.outputs));
    s.gated.resize(kTokenBlock * inner);
    layer.gate_up.Apply(s.normed.data(), config_.hidden, count, 0, layer.gate_up.panels(),
                        s.wide.data(), 2 * inner, false);
    for (size_t r = 0; r < count; ++r) {
      const float* gate = s.wide.data() + r * 2 * inner;
      Gate(gate, gate + inner, inner, s.gated.data() + r * inner);
    }
    layer.down.Apply(s.gated.data(), inner, count, 0, layer.down.panels(),
                     x_.data() + first * config_.hidden, config_.hidden, true);
  }

  const Model& model_;
  const ModelConfig& config_;
  ThreadPool& pool_;
  size_t tokens_;
  size_t padded_;
  std::vector<uint64_t> positions_;  // of the tokens that are left
  const size_t step_ = (tokens_ + kShownQueries - 1) / kShownQueries;  // of the queries to be shown
  std::vector<Scratch> scratch_;
  std::vector<float> x_;  // [tokens, hidden]
  std::vector<float> q_;  // [tokens, q_heads, head_dim]
  std::vector<float> key_panels_, value_panels_;
};

}  // namespace

std::vector<KvRows> Prefill(Model& model, ThreadPool& pool, std::span<const uint32_t> tokens,
                            const Pruning& pruning, const Recording& recording) {
  for (const uint32_t token : tokens) {
    if (token >= model.config().vocab) {
      Refuse("Token ", token, " is not below the model's vocabulary of ", model.config().vocab,
             ".");
    }
  }
  model.PrepareRotary(tokens.size());
  return PrefillRun(model, pool, tokens).Run(pruning, recording);
}

}  // namespace demo
