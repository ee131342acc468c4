// Score: the attention that each token gets, row by row of the matrix that is never kept.
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "kernels/ops.h"
#include "kernels/reference/convert.h"
#include "kernels/reference/decode.h"
#include "kernels/reference/reference.h"

namespace kvg::reference {

// One row of logits.
uint64_t ScoreScratch(const ops::ScoreArgs* args, uint32_t) { return args->length * sizeof(double); }

void Score(const ops::ScoreArgs* args, const ops::Parallel*) {
  auto* const logits = static_cast<double*>(args->scratch);
  const uint32_t group = args->q_heads / args->kv_heads;
  float k[ops::kMaxHeadDim];
  float q[ops::kMaxHeadDim];
  for (uint32_t head = 0; head < args->q_heads; ++head) {
    const uint32_t kv_head = head / group;
    float* const sums = args->sums + kv_head * args->length;
    for (uint32_t query = 0; query < args->queries; ++query) {
      const int64_t first = static_cast<int64_t>(query) * args->q_token_stride +
                            static_cast<int64_t>(head) * args->q_head_stride;
      for (uint32_t d = 0; d < args->head_dim; ++d) {
        q[d] = LoadElement(args->q, args->q_dtype, first + d);
      }
      const uint64_t sees = args->sees[uint64_t{kv_head} * args->queries + query];
      SequenceReader keys(args->k);
      double top = -HUGE_VAL;
      for (uint64_t t = 0; t < sees; ++t) {
        keys.Row(kv_head, t, k);
        double logit = 0;
        for (uint32_t d = 0; d < args->head_dim; ++d) {
          logit += static_cast<double>(q[d]) * static_cast<double>(k[d]);
        }
        logit *= static_cast<double>(args->scale);
        const auto cap = static_cast<double>(args->softcap);
        logits[t] = cap > 0 ? cap * std::tanh(logit / cap) : logit;
        top = std::max(top, logits[t]);
      }
      double all = 0;
      for (uint64_t t = 0; t < sees; ++t) all += logits[t] = std::exp(logits[t] - top);
      const double factor = static_cast<double>(args->weight[query]) / (all * group);
      for (uint64_t t = 0; t < sees; ++t) sums[t] += static_cast<float>(factor * logits[t]);
    }
  }
}

}  // namespace kvg::reference
