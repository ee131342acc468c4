// Eigenvectors of Gram matrices, Hadamard blocks, and the rules by which ranks are shared out.
#include "factorise.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "core/codec/eigen.h"

namespace kvgplan {
namespace {

constexpr double kFloor = 1e-8;  // of the largest singular value

double Dot(const double* a, const double* b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

}  // namespace

Subspace Factorise(const std::vector<double>& w, size_t rows, size_t inputs,
                   const std::vector<double>& moment) {
  std::vector<double> weighed = w;  // W moment
  if (!moment.empty()) {
    for (size_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < inputs; ++i) {
        weighed[r * inputs + i] = Dot(w.data() + r * inputs, moment.data() + i * inputs, inputs);
      }
    }
  }
  std::vector<double> gram(rows * rows), values(rows), work(2 * rows);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t s = 0; s <= r; ++s) {
      gram[r * rows + s] = gram[s * rows + r] =
          Dot(weighed.data() + r * inputs, w.data() + s * inputs, inputs);
    }
  }
  Subspace subspace{rows, {}, std::vector<double>(rows * rows)};
  kvg::SymmetricEigen(gram.data(), rows, values.data(), subspace.vectors.data(), work.data());
  for (const double value : values) subspace.singular.push_back(std::sqrt(std::max(value, 0.0)));
  return subspace;
}

double TailShare(const Subspace& subspace, size_t rank) {
  double all = 0, tail = 0;
  for (size_t i = 0; i < subspace.singular.size(); ++i) {
    const double square = subspace.singular[i] * subspace.singular[i];
    all += square;
    if (i >= rank) tail += square;
  }
  return all > 0 ? std::sqrt(tail / all) : 0;
}

double PlainLoss(const Subspace& subspace, const std::vector<double>& w, size_t inputs, size_t rank) {
  const double all = Dot(w.data(), w.data(), w.size());
  double kept = 0;
  std::vector<double> row(inputs);
  for (size_t k = 0; k < rank; ++k) {
    std::fill(row.begin(), row.end(), 0.0);
    for (size_t r = 0; r < subspace.rows; ++r) {
      const double factor = subspace.vectors[k * subspace.rows + r];
      for (size_t i = 0; i < inputs; ++i) row[i] += factor * w[r * inputs + i];
    }
    kept += Dot(row.data(), row.data(), inputs);
  }
  return all > 0 ? std::sqrt(std::max(0.0, 1 - kept / all)) : 0;
}

double LogCondition(const std::vector<double>& singular) {
  const auto [least, most] = std::minmax_element(singular.begin(), singular.end());
  return *most > 0 ? std::log(*most / std::max(*least, kFloor * *most)) : 0;
}

std::vector<double> Rotated(const Subspace& subspace, size_t rank, size_t split) {
  const size_t block = size_t{1} << std::countr_zero(rank / split);
  const size_t blocks = rank / block;
  const size_t n = subspace.rows;
  const double scale = 1 / std::sqrt(static_cast<double>(block));
  std::vector<double> out(rank * n, 0.0);
  for (size_t b = 0; b < blocks; ++b) {
    for (size_t i = 0; i < block; ++i) {
      for (size_t j = 0; j < block; ++j) {
        const double factor = std::popcount(i & j) % 2 == 0 ? scale : -scale;
        const double* const vector = subspace.vectors.data() + (j * blocks + b) * n;
        for (size_t r = 0; r < n; ++r) out[(b * block + i) * n + r] += factor * vector[r];
      }
    }
  }
  return out;
}

uint32_t RoundedRank(double rank, const RankLimits& limits) {
  const double step = limits.step;
  const double rounded = std::max(step, std::round(rank / step) * step);
  // The largest multiple that the matrix has room for.
  return static_cast<uint32_t>(std::min(rounded, std::floor(limits.full / step) * step));
}

std::vector<uint32_t> ShareRanks(const std::vector<double>& importance, double ratio,
                                 const RankLimits& limits) {
  const size_t count = importance.size();
  const uint64_t full = uint64_t{limits.full} * limits.groups;
  const double target = ratio * static_cast<double>(full * count);
  const double sum = std::accumulate(importance.begin(), importance.end(), 0.0);
  std::vector<uint64_t> ranks(count);
  std::vector<double> fraction(count);
  uint64_t given = 0;
  for (size_t m = 0; m < count; ++m) {
    const double share = sum > 0 ? importance[m] / sum : 1 / static_cast<double>(count);
    const double wanted = std::min(target * share, static_cast<double>(full));
    ranks[m] = static_cast<uint64_t>(wanted);
    fraction[m] = wanted - std::floor(wanted);
    given += ranks[m];
  }
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return fraction[a] < fraction[b]; });
  const auto wanted = static_cast<uint64_t>(target);
  for (bool moved = true; moved && given < wanted;) {
    moved = false;
    for (const size_t m : order) {
      if (given >= wanted || ranks[m] >= full) continue;
      ++ranks[m];
      ++given;
      moved = true;
    }
  }
  std::vector<uint32_t> out;
  for (const uint64_t rank : ranks) {
    out.push_back(RoundedRank(static_cast<double>(rank) / limits.groups, limits));
  }
  return out;
}

std::vector<double> ConditionShares(const std::vector<double>& log_conditions, double most,
                                    double least) {
  std::vector<double> sums(log_conditions.size());
  double sum = 0;
  for (size_t l = sums.size(); l-- > 0;) sums[l] = sum += log_conditions[l];
  const auto [low, high] = std::minmax_element(sums.begin(), sums.end());
  std::vector<double> out;
  for (const double one : sums) {
    const double fall = *high > *low ? (*high - one) / (*high - *low) : 0;
    out.push_back(most * (1 - fall * (1 - least / most)));
  }
  return out;
}

}  // namespace kvgplan
