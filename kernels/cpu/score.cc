// Score: the attention that each token gets from some queries, for every SIMD target.
//
// Called through the operation tables alone. A strip of rows (queries times heads) goes over the keys
// twice, in blocks of tokens that are decoded once for all its rows: the first time for the largest
// logit and the sum of each row, the second to add the probabilities up. Blocks are shared out over
// the workers; what they leave is merged in order, so the result does not depend on them.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/internal.h"
#include "kernels/ops.h"
#include "kernels/half.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/score.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "kernels/cpu/attend_base-inl.h"

#ifndef KVGEAR_KERNELS_CPU_SCORE_ONCE_
#define KVGEAR_KERNELS_CPU_SCORE_ONCE_
namespace kvg::cpu::scoring {

constexpr uint32_t kStripQueries = 16;
constexpr uint64_t kTaskTokens = 256;  // of one task
constexpr uint64_t kStepTokens = 32;   // decoded together

constexpr uint64_t Align(uint64_t bytes) {
  return (bytes + ops::kAlign - 1) / ops::kAlign * ops::kAlign;
}

// Where things lie in the scratch memory.
struct Layout {
  explicit Layout(const ops::ScoreArgs& args, uint32_t workers) {
    const uint64_t queries = std::min(args.queries, kStripQueries);
    dirs = ops::PadDirs(args.head_dim);
    rows = queries * args.q_heads;
    tasks = (args.length + kTaskTokens - 1) / kTaskTokens;
    q = 0;
    at_partial = Align(rows * dirs * sizeof(float));
    at_row = at_partial + Align(tasks * rows * 2 * sizeof(float));
    at_worker = at_row + Align(rows * 2 * sizeof(float));
    keys_bytes = Align(kStepTokens * args.kv_heads * uint64_t{args.head_dim} * sizeof(float));
    worker_bytes = keys_bytes + Align(kStepTokens * sizeof(float));
    total = at_worker + workers * worker_bytes;
  }
  uint64_t dirs, rows, tasks;
  uint64_t q, at_partial, at_row, at_worker, keys_bytes, worker_bytes, total;
};

}  // namespace kvg::cpu::scoring
#endif  // KVGEAR_KERNELS_CPU_SCORE_ONCE_

#if KVG_CPU_TARGET
HWY_BEFORE_NAMESPACE();
#if KVG_CPU_VNNI
KVG_CPU_VNNI_BEGIN
#endif
namespace kvg::cpu::HWY_NAMESPACE {
namespace score {

namespace hn = hwy::HWY_NAMESPACE;
using namespace scoring;
using attend::DF;
using attend::kN;
using attend::VF;

class Strip {
 public:
  Strip(const ops::ScoreArgs& args, const Layout& layout, uint32_t first, uint32_t queries)
      : args_(args),
        layout_(layout),
        first_(first),
        queries_(queries),
        group_(args.q_heads / args.kv_heads),
        base_(static_cast<uint8_t*>(args.scratch)),
        q_(reinterpret_cast<float*>(base_)),
        partial_(reinterpret_cast<float*>(base_ + layout.at_partial)),
        row_(reinterpret_cast<float*>(base_ + layout.at_row)) {}

  void Run(const ops::Parallel& parallel) {
    LoadQueries();
    Share(parallel, [](void* self, uint64_t task, uint32_t worker) {
      static_cast<Strip*>(self)->Measure(task, worker);
    });
    Merge();
    Share(parallel, [](void* self, uint64_t task, uint32_t worker) {
      static_cast<Strip*>(self)->AddUp(task, worker);
    });
  }

 private:
  // base-2 logits from here on
  static constexpr float kLog2E = 1.44269504088896340736f;
  static constexpr float kLowest = -1e30f;

  void Share(const ops::Parallel& parallel, void (*task)(void*, uint64_t, uint32_t)) {
    parallel.run(parallel.self, layout_.tasks, task, this);
  }

  uint64_t RowOf(uint32_t query, uint32_t head) const {
    return uint64_t{query} * args_.q_heads + head;
  }
  uint64_t Sees(uint32_t query, uint32_t kv_head) const {
    return args_.sees[uint64_t{kv_head} * args_.queries + first_ + query];
  }

  // Queries in fp32, padded with zeros to whole vectors.
  void LoadQueries() {
    for (uint32_t i = 0; i < queries_; ++i) {
      for (uint32_t head = 0; head < args_.q_heads; ++head) {
        float* const to = q_ + RowOf(i, head) * layout_.dirs;
        const int64_t at = static_cast<int64_t>(first_ + i) * args_.q_token_stride +
                           static_cast<int64_t>(head) * args_.q_head_stride;
        for (uint32_t d = 0; d < args_.head_dim; ++d) {
          if (args_.q_dtype == ops::kF32) {
            to[d] = static_cast<const float*>(args_.q)[at + d];
          } else {
            const uint16_t bits = static_cast<const uint16_t*>(args_.q)[at + d];
            to[d] = args_.q_dtype == ops::kF16 ? F16ToF32(bits) : BF16ToF32(bits);
          }
        }
        std::fill(to + args_.head_dim, to + layout_.dirs, 0.0f);
      }
    }
  }

  // Calls f(row, kv head, first token of the step, tokens seen in the step, logits of these).
  template <typename F>
  void ForLogits(uint64_t task, uint32_t worker, const F& f) {
    auto* const keys =
        reinterpret_cast<float*>(base_ + layout_.at_worker + worker * layout_.worker_bytes);
    float* const logits = keys + layout_.keys_bytes / sizeof(float);
    const uint64_t end = std::min(args_.length, (task + 1) * kTaskTokens);
    for (uint64_t begin = task * kTaskTokens; begin < end; begin += kStepTokens) {
      ops::ReadArgs read{};
      read.side = args_.k;
      read.kv_heads = args_.kv_heads;
      read.head_dim = args_.head_dim;
      read.first_token = begin;
      read.tokens = std::min(kStepTokens, end - begin);
      read.dtype = ops::kF32;
      read.out = keys;
      Read(&read);
      for (uint32_t head = 0; head < args_.q_heads; ++head) {
        const uint32_t kv_head = head / group_;
        for (uint32_t query = 0; query < queries_; ++query) {
          const uint64_t sees = Sees(query, kv_head);
          if (sees <= begin) continue;
          const uint64_t tokens = std::min(read.tokens, sees - begin);
          const uint64_t row = RowOf(query, head);
          Logits(q_ + row * layout_.dirs, keys + uint64_t{kv_head} * args_.head_dim, tokens, logits);
          f(row, kv_head, begin, tokens, logits);
        }
      }
    }
  }

  void Logits(const float* q, const float* keys, uint64_t tokens, float* logits) const {
    const DF df;
    const uint64_t stride = uint64_t{args_.kv_heads} * args_.head_dim;
    const size_t whole = args_.head_dim / kN * kN;
    const float scale = args_.scale;
    uint64_t t = 0;
    for (; t + 4 <= tokens; t += 4) {
      const float* const k = keys + t * stride;
      VF sums[4] = {hn::Zero(df), hn::Zero(df), hn::Zero(df), hn::Zero(df)};
      for (size_t d = 0; d < whole; d += kN) {
        const VF x = hn::LoadU(df, q + d);
        for (size_t j = 0; j < 4; ++j) {
          sums[j] = hn::MulAdd(x, hn::LoadU(df, k + j * stride + d), sums[j]);
        }
      }
      attend::SumRows<4>(sums, logits + t);
      for (size_t j = 0; j < 4; ++j) {
        for (size_t d = whole; d < args_.head_dim; ++d) logits[t + j] += q[d] * k[j * stride + d];
      }
    }
    for (; t < tokens; ++t) {
      const float* const k = keys + t * stride;
      VF sum = hn::Zero(df);
      for (size_t d = 0; d < whole; d += kN) {
        sum = hn::MulAdd(hn::LoadU(df, q + d), hn::LoadU(df, k + d), sum);
      }
      logits[t] = attend::SumLanes(sum);
      for (size_t d = whole; d < args_.head_dim; ++d) logits[t] += q[d] * k[d];
    }
    const float cap = args_.softcap;
    for (t = 0; t < tokens; ++t) {
      const float logit = logits[t] * scale;
      logits[t] = (cap > 0 ? cap * std::tanh(logit / cap) : logit) * kLog2E;
    }
    // Whole vectors follow, of which nothing behind the tokens may count.
    std::fill(logits + tokens, logits + kStepTokens, -HUGE_VALF);
  }

  // The largest logit of each row within a task, and the sum relative to it.
  void Measure(uint64_t task, uint32_t worker) {
    const DF df;
    float* const partial = partial_ + task * layout_.rows * 2;
    for (uint64_t row = 0; row < layout_.rows; ++row) {
      partial[2 * row] = kLowest;
      partial[2 * row + 1] = 0;
    }
    ForLogits(task, worker,
              [&](uint64_t row, uint32_t, uint64_t, uint64_t tokens, const float* logits) {
                const float top =
                    std::max(partial[2 * row], *std::max_element(logits, logits + tokens));
                VF sum = hn::Zero(df);
                for (uint64_t t = 0; t < tokens; t += kN) {
                  sum = hn::Add(sum, attend::Exp2(hn::Sub(hn::LoadU(df, logits + t),
                                                          hn::Set(df, top))));
                }
                partial[2 * row + 1] = partial[2 * row + 1] * attend::Exp2(partial[2 * row] - top) +
                                       attend::SumLanes(sum);
                partial[2 * row] = top;
              });
  }

  // Of each row the largest logit, and what its weight is divided by.
  void Merge() {
    for (uint64_t row = 0; row < uint64_t{queries_} * args_.q_heads; ++row) {
      float top = kLowest;
      for (uint64_t task = 0; task < layout_.tasks; ++task) {
        top = std::max(top, partial_[(task * layout_.rows + row) * 2]);
      }
      float sum = 0;
      for (uint64_t task = 0; task < layout_.tasks; ++task) {
        const float* const part = partial_ + (task * layout_.rows + row) * 2;
        sum += part[1] * attend::Exp2(part[0] - top);
      }
      row_[2 * row] = top;
      row_[2 * row + 1] = args_.weight[first_ + row / args_.q_heads] /
                          (sum * static_cast<float>(group_));
    }
  }

  void AddUp(uint64_t task, uint32_t worker) {
    const DF df;
    ForLogits(task, worker,
              [&](uint64_t row, uint32_t kv_head, uint64_t begin, uint64_t tokens, float* logits) {
                const VF top = hn::Set(df, row_[2 * row]);
                const VF factor = hn::Set(df, row_[2 * row + 1]);
                for (uint64_t t = 0; t < tokens; t += kN) {
                  const VF logit = hn::LoadU(df, logits + t);
                  hn::StoreU(hn::Mul(factor, attend::Exp2(hn::Sub(logit, top))), df, logits + t);
                }
                float* const sums = args_.sums + kv_head * args_.length + begin;
                for (uint64_t t = 0; t < tokens; ++t) sums[t] += logits[t];
              });
  }

  const ops::ScoreArgs& args_;
  const Layout& layout_;
  const uint32_t first_, queries_, group_;
  uint8_t* const base_;
  float* const q_;
  float* const partial_;
  float* const row_;
};

}  // namespace score

uint64_t ScoreScratch(const ops::ScoreArgs* args, uint32_t workers) {
  return scoring::Layout(*args, workers).total;
}

void Score(const ops::ScoreArgs* args, const ops::Parallel* parallel) {
  const scoring::Layout layout(*args, parallel->workers);
  for (uint32_t first = 0; first < args->queries; first += scoring::kStripQueries) {
    const uint32_t queries = std::min(scoring::kStripQueries, args->queries - first);
    score::Strip(*args, layout, first, queries).Run(*parallel);
  }
}

}  // namespace kvg::cpu::HWY_NAMESPACE
#if KVG_CPU_VNNI
KVG_CPU_VNNI_END
#endif
HWY_AFTER_NAMESPACE();
#endif  // KVG_CPU_TARGET
