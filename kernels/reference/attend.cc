// Attend: softmax(scale * q.k) V over the decoded rows, with running max, sum and accumulator.
//
// Sums are carried in double, so that what a kernel differs by is the kernel's own rounding.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/ops.h"
#include "kernels/reference/convert.h"
#include "kernels/reference/decode.h"
#include "kernels/reference/reference.h"

namespace kvg::reference {
namespace {

// Queries that share one pass over the tokens; bounds the scratch memory of long prompts.
constexpr uint32_t kQueriesPerPass = 16;

// Numbers of one (query, head) state: max, sum, accumulator[head_dim], query[head_dim].
uint64_t StateSize(const ops::AttendArgs& args) { return 2 + 2 * uint64_t{args.head_dim}; }

class Attention {
 public:
  Attention(const ops::AttendArgs& args, const ops::AttendItem& item, uint32_t kv_head)
      : args_(args),
        item_(item),
        kv_head_(kv_head),
        group_(args.q_heads / args.kv_heads),
        states_(static_cast<double*>(args.scratch)) {}

  // Queries [first, end) of all query heads of the KV head.
  void Run(uint32_t first, uint32_t end) {
    for (uint32_t query = first; query < end; ++query) {
      for (uint32_t j = 0; j < group_; ++j) Begin(query, j, State(query - first, j));
    }
    float k[ops::kMaxHeadDim];
    float v[ops::kMaxHeadDim];
    SequenceReader keys(item_.k);
    SequenceReader values(item_.v);
    for (uint64_t token = 0; token < item_.length; ++token) {
      bool read = false;
      for (uint32_t query = first; query < end; ++query) {
        if (!Sees(query, token)) continue;
        if (!read) {
          keys.Row(kv_head_, token, k);
          values.Row(kv_head_, token, v);
          read = true;
        }
        for (uint32_t j = 0; j < group_; ++j) Add(k, v, State(query - first, j));
      }
    }
    for (uint32_t query = first; query < end; ++query) {
      for (uint32_t j = 0; j < group_; ++j) Finish(query, j, State(query - first, j));
    }
  }

 private:
  double* State(uint32_t query, uint32_t j) const {
    return states_ + (uint64_t{query} * group_ + j) * StateSize(args_);
  }

  bool Sees(uint32_t query, uint64_t token) const {
    const uint64_t own = item_.length - args_.queries + query;
    if (args_.causal && token > own) return false;
    // token > own - window, which may be below zero
    return args_.sliding_window == 0 || token > own || own - token < args_.sliding_window;
  }

  void Begin(uint32_t query, uint32_t j, double* state) const {
    state[0] = -std::numeric_limits<double>::infinity();
    std::fill_n(state + 1, 1 + args_.head_dim, 0.0);
    const int64_t first = static_cast<int64_t>(query) * args_.q_token_stride +
                          static_cast<int64_t>(kv_head_ * group_ + j) * args_.q_head_stride;
    for (uint32_t d = 0; d < args_.head_dim; ++d) {
      state[2 + args_.head_dim + d] = LoadElement(item_.q, args_.q_dtype, first + d);
    }
  }

  void Add(const float* k, const float* v, double* state) const {
    double* const sums = state + 2;
    const double* const q = sums + args_.head_dim;
    double logit = 0;
    for (uint32_t d = 0; d < args_.head_dim; ++d) logit += q[d] * static_cast<double>(k[d]);
    logit *= static_cast<double>(args_.scale);
    const auto cap = static_cast<double>(args_.softcap);
    if (cap > 0) logit = cap * std::tanh(logit / cap);
    if (logit > state[0]) {  // what was summed up was relative to a lower maximum
      const double shrink = std::exp(state[0] - logit);
      state[0] = logit;
      state[1] *= shrink;
      for (uint32_t d = 0; d < args_.head_dim; ++d) sums[d] *= shrink;
    }
    const double weight = std::exp(logit - state[0]);
    state[1] += weight;
    for (uint32_t d = 0; d < args_.head_dim; ++d) sums[d] += weight * static_cast<double>(v[d]);
  }

  void Finish(uint32_t query, uint32_t j, const double* state) const {
    const int64_t first = static_cast<int64_t>(query) * args_.out_token_stride +
                          static_cast<int64_t>(kv_head_ * group_ + j) * args_.out_head_stride;
    for (uint32_t d = 0; d < args_.head_dim; ++d) {
      StoreElement(item_.out, args_.out_dtype, first + d,
                   static_cast<float>(state[2 + d] / state[1]));
    }
  }

  const ops::AttendArgs& args_;
  const ops::AttendItem& item_;
  const uint32_t kv_head_;
  const uint32_t group_;
  double* const states_;
};

}  // namespace

uint64_t AttendScratch(const ops::AttendArgs* args, uint32_t) {
  const uint64_t queries = std::min(args->queries, kQueriesPerPass);
  return queries * (args->q_heads / args->kv_heads) * StateSize(*args) * sizeof(double);
}

void Attend(const ops::AttendArgs* args, const ops::Parallel*) {
  for (uint64_t i = 0; i < args->count; ++i) {
    for (uint32_t kv_head = 0; kv_head < args->kv_heads; ++kv_head) {
      Attention attention(*args, args->items[i], kv_head);
      for (uint32_t first = 0; first < args->queries; first += kQueriesPerPass) {
        attention.Run(first, std::min(first + kQueriesPerPass, args->queries));
      }
    }
  }
}

}  // namespace kvg::reference
