// Decoding: one token for each of several texts ("lanes") at a time, so that the weights are read
// once for all of them. The cache of a lane is whatever implements KvStore. Used by evaluate.cc and
// generate.cc.
#ifndef KVGEAR_EXAMPLES_DEMO_DECODE_H_
#define KVGEAR_EXAMPLES_DEMO_DECODE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "model.h"
#include "threads.h"

namespace demo {

/// The keys and values of one text. Different stores may be used by different threads at once.
class KvStore {
 public:
  virtual ~KvStore() = default;
  /// Whether a layer is to be given keys before their rotary embedding.
  virtual bool TakesUnrotatedKeys(uint32_t) const { return false; }
  /// Appends fp16 rows [tokens, kv_heads, head_dim].
  virtual void Append(uint32_t layer, const uint16_t* k, const uint16_t* v, size_t tokens) = 0;
  /// Attention of the newest token: q and out are [q_heads, head_dim].
  virtual void Attend(uint32_t layer, const float* q, float* out) = 0;
};

struct Lane {
  KvStore* store = nullptr;
  uint32_t token = 0;   // the token to read now
  size_t position = 0;  // how many tokens the store holds
};

class Decoder {
 public:
  Decoder(Model& model, ThreadPool& pool) : model_(model), pool_(pool) {}

  /// Reads the token of every lane and counts the lanes' positions up. Returns the logits of the
  /// next tokens, [lanes, vocab], valid until the next call.
  const float* Step(std::vector<Lane>& lanes);

  /// Seconds spent in the stores' Append and Attend so far, summed over threads.
  double attention_seconds() const;

 private:
  void Product(const Linear& linear, const std::vector<float>& x, size_t rows,
               std::vector<float>& y, bool add);
  void Norm(const std::vector<float>& weight, size_t rows);
  void Attention(uint32_t layer, std::vector<Lane>& lanes);

  Model& model_;
  ThreadPool& pool_;
  std::vector<float> x_, normed_, qkv_, attended_, wide_, gated_, logits_;
  std::vector<double> attention_seconds_;  // by thread
};

}  // namespace demo

#endif  // KVGEAR_EXAMPLES_DEMO_DECODE_H_
