// The codecs once more, in double precision and straight from their definitions.
//
// Called by tests only. Shares no code with kernels/ or core/: the recipe struct is read for what
// was asked, everything else is worked out here, slowly. The one place where single precision
// appears is the scale of a group, because its fp32 quotient is part of the definition of what is
// stored.
#ifndef KVGEAR_TESTS_SUPPORT_ORACLE_H_
#define KVGEAR_TESTS_SUPPORT_ORACLE_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/model/recipe.h"

namespace kvg::oracle {

// Values [tokens, heads, dim], as the public interface takes and gives them.
struct Tensor {
  Tensor() = default;
  Tensor(size_t tokens_, size_t heads_, size_t dim_)
      : tokens(tokens_), heads(heads_), dim(dim_), data(tokens_ * heads_ * dim_) {}

  size_t Index(size_t t, size_t h, size_t d) const { return (t * heads + h) * dim + d; }
  double& operator()(size_t t, size_t h, size_t d) { return data[Index(t, h, d)]; }
  double operator()(size_t t, size_t h, size_t d) const { return data[Index(t, h, d)]; }
  Tensor Tokens(size_t first, size_t count) const;  // a copy of these tokens

  size_t tokens = 0, heads = 0, dim = 0;
  std::vector<double> data;
};

// The nearest fp16 value, ties to even; beyond the range +-65504.
double RoundToF16(double x);

// The distance from |x| to the next larger fp16 value.
double F16Ulp(double x);

// --------------------------------------------------------------------------------- schedule

struct Segment {
  uint64_t first, tokens;
  uint32_t rank;  // as the recipe says; see RankOf
};

// What one side of a layer looks like after appends of these lengths.
struct Schedule {
  std::vector<Segment> segments;  // in order; pages of single tokens are given as one
  uint64_t length = 0;
  uint64_t sealed = 0;  // tokens from here on are stored as they came
};
Schedule ScheduleOf(const SideRecipe& side, const std::vector<uint64_t>& appends);

// The rank that a segment has: with rank_fit, less where the factors would not be smaller than what
// the next width takes more than these codes.
uint32_t RankOf(const SideRecipe& side, const Segment& segment, size_t head_dim);

// --------------------------------------------------------------------- quantiser and outliers

// Outliers at each end of a vector of n entries.
uint64_t OutlierCount(double share, uint64_t n);

// Flags the entries of one segment that are kept exact.
std::vector<uint8_t> SelectOutliers(const Tensor& x, ops::Side side, double share);

struct Backbone {
  Tensor value;  // scale * code + minimum
  Tensor
      other;  // the second admissible value where the code lies on a tie to within fp32, else value
  Tensor scale;  // of the entry's group
  std::vector<uint8_t> outlier;
};

// H x / block of every row, as it is stored: sums in fp32 stage by stage, rounded to fp16; the
// blocks are of the largest power of two that divides dim. And H y in double precision.
Tensor Rotate(const Tensor& x);
Tensor RotateBack(const Tensor& y);

// Codes of one segment (`x`, turned already if the recipe says so), all heads; the groups are counted from the segment's first token.
Backbone Quantise(const Tensor& x, ops::Side side, const SideRecipe& recipe);

// -------------------------------------------------------------------------------- low rank

// Singular values, largest first, of a row-major matrix: one-sided Jacobi.
std::vector<double> SingularValues(std::vector<double> matrix, size_t rows, size_t cols);

// Frobenius norm of what the best approximation of this rank leaves.
double BestError(const std::vector<double>& singular_values, size_t rank);

// x - backbone of one head of a segment, [tokens][dim], 0 where an outlier is kept exact.
std::vector<double> Residual(const Tensor& x, const Backbone& backbone, size_t head);

double Norm(const std::vector<double>& v);

// -------------------------------------------------------------------------------- attention

struct AttendSpec {
  double scale = 0;    // 0 = 1 / sqrt(dim)
  double softcap = 0;  // 0 = none
  uint64_t sliding_window = 0;
  bool causal = true;
};

// q is [queries, q_heads, dim]; the queries belong to the newest tokens.
Tensor Attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendSpec& spec);

}  // namespace kvg::oracle

#endif  // KVGEAR_TESTS_SUPPORT_ORACLE_H_
