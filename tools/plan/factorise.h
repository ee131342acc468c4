// Subspaces of projections and how many directions each gets: plain arithmetic, in double precision.
// Used by latent.cc.
#ifndef KVGEAR_TOOLS_PLAN_FACTORISE_H_
#define KVGEAR_TOOLS_PLAN_FACTORISE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvgplan {

/// The left singular vectors of W L, W being [rows, inputs] and L L^T = `moment`, [inputs, inputs], or of
/// W itself where that is empty. Found as eigenvectors of W moment W^T, so singular values below about
/// 1e-8 of the largest are rounding.
struct Subspace {
  size_t rows = 0;
  std::vector<double> singular;  ///< largest first
  std::vector<double> vectors;   ///< [rows, rows], row i belongs to singular[i]
};
Subspace Factorise(const std::vector<double>& w, size_t rows, size_t inputs,
                   const std::vector<double>& moment);

/// What a cut to `rank` loses, as a share: the norm of all singular values behind it by that of all.
double TailShare(const Subspace& subspace, size_t rank);

/// |W - U U^T W| / |W|, U being the first `rank` vectors: the loss in the plain norm.
double PlainLoss(const Subspace& subspace, const std::vector<double>& w, size_t inputs, size_t rank);

/// log(largest / least) of the singular values; those below 1e-8 of the largest count as that.
double LogCondition(const std::vector<double>& singular);

/// Turns the first `rank` vectors by block Hadamard matrices, of the largest power of two that divides
/// rank / split, over vectors spread so that each block has strong and weak ones: [rank, rows].
std::vector<double> Rotated(const Subspace& subspace, size_t rank, size_t split);

// ------------------------------------------------------------------------ ranks

/// How ranks come about: multiples of `step`, at least one step, at most `full`, each for one group.
struct RankLimits {
  uint32_t full = 0;    ///< rows of a group
  uint32_t groups = 1;  ///< of a matrix
  uint32_t step = 8;
};

uint32_t RoundedRank(double rank, const RankLimits& limits);

/// Palu's fisher_uniform: ranks of matrices in proportion to `importance`, `ratio` of all in sum before
/// they are rounded; what is left over goes round, least fraction first. All alike: uniform ranks.
std::vector<uint32_t> ShareRanks(const std::vector<double>& importance, double ratio,
                                 const RankLimits& limits);

/// LoRC: for each layer a share of the full rank between `most` and `least`, by the sum of
/// `log_conditions` (keys and values of a layer together) from it to the last one.
std::vector<double> ConditionShares(const std::vector<double>& log_conditions, double most,
                                    double least);

}  // namespace kvgplan

#endif  // KVGEAR_TOOLS_PLAN_FACTORISE_H_
