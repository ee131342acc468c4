// Attention weights and rankings in double precision; see select_oracle.h.
#include "tests/support/select_oracle.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace kvg::oracle {

std::vector<double> Weights(const Tensor& q, size_t row, size_t q_head, const Tensor& k,
                            const std::vector<uint64_t>& kept, uint64_t position) {
  const size_t group = q.heads / k.heads;
  std::vector<double> weights(kept.size(), 0);
  double sum = 0;
  for (size_t i = 0; i < kept.size() && kept[i] <= position; ++i) {
    double logit = 0;
    for (size_t d = 0; d < q.dim; ++d) {
      logit += q(row, q_head, d) * k(kept[i], q_head / group, d);
    }
    weights[i] = std::exp(logit / std::sqrt(static_cast<double>(q.dim)));
    sum += weights[i];
  }
  for (double& w : weights) w /= sum;
  return weights;
}

std::vector<double> GroupWeights(const Tensor& q, size_t row, size_t kv_head, const Tensor& k,
                                 const std::vector<uint64_t>& kept, uint64_t position) {
  const size_t group = q.heads / k.heads;
  std::vector<double> mean(kept.size(), 0);
  for (size_t j = 0; j < group; ++j) {
    const std::vector<double> one = Weights(q, row, kv_head * group + j, k, kept, position);
    for (size_t i = 0; i < mean.size(); ++i) mean[i] += one[i] / static_cast<double>(group);
  }
  return mean;
}

std::vector<size_t> Best(const std::vector<double>& scores, size_t count) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  order.resize(std::min(count, order.size()));
  std::sort(order.begin(), order.end());
  return order;
}

Tensor AttendKept(const Tensor& q, const Tensor& k, const Tensor& v,
                  const std::vector<std::vector<uint64_t>>& kept) {
  Tensor out(1, q.heads, q.dim);
  for (size_t h = 0; h < q.heads; ++h) {
    const size_t kv = h / (q.heads / k.heads);
    const std::vector<double> weights = Weights(q, 0, h, k, kept[kv], UINT64_MAX);
    for (size_t i = 0; i < kept[kv].size(); ++i) {
      for (size_t d = 0; d < q.dim; ++d) out(0, h, d) += weights[i] * v(kept[kv][i], kv, d);
    }
  }
  return out;
}

}  // namespace kvg::oracle
