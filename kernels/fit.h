// Scale and minimum of least squared error: the constants of the search that every backend makes.
//
// Used by the Seal operations. The search, for one group, in fp32, entries in ascending order and
// without fused operations: count n, sum and range; mean = sum / n; deviation = sqrt(sum of
// (x - mean)^2 / n). Candidates are the range, as kFitRange has it, and for each of kFitSteps the
// step = deviation * kGaussStep[width] * that, minimum = mean - step * levels / 2; both rounded to
// fp16. Of those the first of least squared error is kept. Then, kFitRounds times, the line of
// least squares through what the codes of the kept one stand for takes its place if it is better:
//   c the codes, x' = x - mean, centre = sum c / n,
//   scale = (sum c x' - centre * sum x') / (sum c^2 - centre * sum c),
//   minimum = mean + (sum x' / n - scale * centre).
#ifndef KVGEAR_KERNELS_FIT_H_
#define KVGEAR_KERNELS_FIT_H_

#include <cstdint>

namespace kvg::ops {

// The best step of a uniform quantiser of 2^width levels for a normal distribution of deviation 1.
inline constexpr float kGaussStep[] = {0,       1.596f, 0.9957f, 0.586f, 0.3352f,
                                       0.1881f, 0.1041f, 0.0569f, 0.0308f};
// Shares of it that are tried: tails that are shorter or longer than those of that distribution.
inline constexpr float kFitSteps[] = {0.6f, 0.85f, 1.0f, 1.2f};
inline constexpr uint32_t kFitCandidates = 5;
inline constexpr uint32_t kFitRounds = 2;

}  // namespace kvg::ops

#endif  // KVGEAR_KERNELS_FIT_H_
