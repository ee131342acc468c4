// Selection once more, in double precision: attention weights, who stays, and attention over those.
//
// Called by tests only. Shares no code with core/select; works on the tensors that were appended.
#ifndef KVGEAR_TESTS_SUPPORT_SELECT_ORACLE_H_
#define KVGEAR_TESTS_SUPPORT_SELECT_ORACLE_H_

#include <cstdint>
#include <set>
#include <vector>

#include "tests/support/oracle.h"

namespace kvg::oracle {

// Softmax weights of query row `row`, head `q_head` over the tokens of `kept` (ascending) that are
// not newer than `position`, scale 1 / sqrt(dim).
std::vector<double> Weights(const Tensor& q, size_t row, size_t q_head, const Tensor& k,
                            const std::vector<uint64_t>& kept, uint64_t position);

// Mean over the query heads of a KV head.
std::vector<double> GroupWeights(const Tensor& q, size_t row, size_t kv_head, const Tensor& k,
                                 const std::vector<uint64_t>& kept, uint64_t position);

// Indices of the `count` largest, ties for the smaller index; ascending.
std::vector<size_t> Best(const std::vector<double>& scores, size_t count);

// Attention of one query over the kept tokens of its KV head: [q_heads][dim] in one token.
Tensor AttendKept(const Tensor& q, const Tensor& k, const Tensor& v,
                  const std::vector<std::vector<uint64_t>>& kept);

}  // namespace kvg::oracle

#endif  // KVGEAR_TESTS_SUPPORT_SELECT_ORACLE_H_
