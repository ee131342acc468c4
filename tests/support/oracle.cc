// See oracle.h.
#include "tests/support/oracle.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

namespace kvg::oracle {
namespace {

constexpr double kMaxF16 = 65504;
constexpr size_t kMaxOutliersPerRow = 255;  // of one head of one token

// Marks the k smallest and k largest of the entries at `index`, ordered by value, then position.
void MarkEnds(const std::vector<double>& x, const std::vector<size_t>& index, uint64_t k,
              std::vector<uint8_t>& mark) {
  std::vector<size_t> order(index.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return x[index[a]] < x[index[b]]; });
  for (size_t i = 0; i < k; ++i) {
    mark[index[order[i]]] = 1;
    mark[index[order[order.size() - 1 - i]]] = 1;
  }
}

// Quantises the entries of one group.
void QuantiseGroup(const Tensor& x, const std::vector<size_t>& group, uint32_t bits,
                   Backbone& out) {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (size_t i : group) {
    if (out.outlier[i]) continue;
    low = std::min(low, x.data[i]);
    high = std::max(high, x.data[i]);
  }
  double scale = 0, minimum = 0;
  const double top = std::exp2(bits) - 1;
  if (low <= high) {
    minimum = low;
    const float range = static_cast<float>(high) - static_cast<float>(low);
    scale = RoundToF16(range / static_cast<float>(top));
  }
  for (size_t i : group) {
    out.scale.data[i] = scale;
    double code = 0, second = 0;
    if (scale > 0) {
      const double exact = std::clamp((x.data[i] - minimum) / scale, 0.0, top);
      code = second = std::nearbyint(exact);
      // fp32 may see the quotient up to three roundings away from here.
      const double tie = std::floor(exact) + 0.5;
      if (std::abs(exact - tie) <= exact * 0x1p-22) {
        second = code > tie ? tie - 0.5 : tie + 0.5;
      }
    }
    out.value.data[i] = scale * code + minimum;
    out.other.data[i] = scale * second + minimum;
  }
}

}  // namespace

Tensor Tensor::Tokens(size_t first, size_t count) const {
  Tensor part(count, heads, dim);
  const auto from = data.begin() + static_cast<std::ptrdiff_t>(first * heads * dim);
  std::copy(from, from + static_cast<std::ptrdiff_t>(count * heads * dim), part.data.begin());
  return part;
}

double F16Ulp(double x) {
  const double magnitude = std::abs(x);
  if (magnitude < 0x1p-14) return 0x1p-24;
  return std::exp2(std::floor(std::log2(magnitude)) - 10);
}

double RoundToF16(double x) {
  const double ulp = F16Ulp(x);
  return std::clamp(std::nearbyint(x / ulp) * ulp, -kMaxF16, kMaxF16);
}

Schedule ScheduleOf(const SideRecipe& side, const std::vector<uint64_t>& appends) {
  Schedule schedule;
  for (uint64_t tokens : appends) {
    schedule.length += tokens;
    if (side.bits == 16) continue;  // sealed or not, the rows are as they came
    uint64_t pending = schedule.length - schedule.sealed;
    while (pending >= uint64_t{side.window} + side.block) {
      const uint64_t blocks = (pending - side.window) / side.block;
      const uint64_t take = std::min<uint64_t>(blocks * side.block, side.segment);
      const uint32_t rank = take > side.block ? side.rank : side.decode_rank;
      schedule.segments.push_back({schedule.sealed, take, rank});
      schedule.sealed += take;
      pending -= take;
    }
  }
  if (side.bits == 16) schedule.sealed = 0;
  if (side.block == 1 && schedule.sealed > 0) {
    schedule.segments.assign(1, {0, schedule.sealed, 0});
  }
  return schedule;
}

uint32_t RankOf(const SideRecipe& side, const Segment& segment, size_t head_dim) {
  if (side.rank_fit == 0) return segment.rank;
  const size_t padded = (head_dim + 15) / 16 * 16;
  const uint32_t more_bits = side.bits == 4 || side.bits == 6 ? 2 : side.bits == 8 ? 8 : 1;
  const uint64_t wider = segment.tokens * padded * more_bits;
  uint32_t rank = segment.rank;
  while (rank > 0 && 16 * rank * (segment.tokens + padded) >= wider) --rank;
  return rank;
}

uint64_t OutlierCount(double share, uint64_t n) {
  // The share as the decimal fraction it was written as, then in whole numbers.
  return static_cast<uint64_t>(std::llround(share * 1e9)) * n / 2000000000u;
}

std::vector<uint8_t> SelectOutliers(const Tensor& x, ops::Side side, double share) {
  std::vector<uint8_t> mark(x.data.size());
  std::vector<size_t> vector;
  if (side == ops::kSideK) {
    const uint64_t k = OutlierCount(share, x.tokens);
    for (size_t h = 0; h < x.heads; ++h) {
      for (size_t d = 0; d < x.dim; ++d) {
        vector.clear();
        for (size_t t = 0; t < x.tokens; ++t) vector.push_back(x.Index(t, h, d));
        MarkEnds(x.data, vector, k, mark);
      }
    }
  } else {
    const uint64_t k = OutlierCount(share, x.heads * x.dim);
    for (size_t t = 0; t < x.tokens; ++t) {
      vector.clear();
      for (size_t h = 0; h < x.heads; ++h) {
        for (size_t d = 0; d < x.dim; ++d) vector.push_back(x.Index(t, h, d));
      }
      MarkEnds(x.data, vector, k, mark);
    }
  }
  for (size_t t = 0; t < x.tokens; ++t) {
    for (size_t h = 0; h < x.heads; ++h) {
      size_t row = 0;
      for (size_t d = 0; d < x.dim; ++d) {
        uint8_t& m = mark[x.Index(t, h, d)];
        if (m && ++row > kMaxOutliersPerRow) m = 0;
      }
    }
  }
  return mark;
}

Tensor Rotate(const Tensor& x) {
  Tensor y = x;
  size_t block = 1;
  while (x.dim % (2 * block) == 0) block *= 2;
  std::vector<float> now(x.dim), next(x.dim);
  for (size_t row = 0; row < x.data.size(); row += x.dim) {
    for (size_t d = 0; d < x.dim; ++d) now[d] = static_cast<float>(x.data[row + d]);
    for (size_t bit = 1; bit < block; bit *= 2) {
      for (size_t d = 0; d < x.dim; ++d) {
        next[d] = (d & bit) == 0 ? now[d] + now[d | bit] : now[d & ~bit] - now[d];
      }
      now.swap(next);
    }
    for (size_t d = 0; d < x.dim; ++d) {
      y.data[row + d] = RoundToF16(static_cast<double>(now[d]) / static_cast<double>(block));
    }
  }
  return y;
}

Tensor RotateBack(const Tensor& y) {
  Tensor x = y;
  size_t block = 1;
  while (y.dim % (2 * block) == 0) block *= 2;
  for (size_t row = 0; row < y.data.size(); row += y.dim) {
    for (size_t i = 0; i < y.dim; ++i) {
      double sum = 0;
      for (size_t j = i / block * block; j < (i / block + 1) * block; ++j) {
        bool odd = false;
        for (size_t both = i & j & (block - 1); both != 0; both &= both - 1) odd = !odd;
        sum += odd ? -y.data[row + j] : y.data[row + j];
      }
      x.data[row + i] = sum;
    }
  }
  return x;
}

Backbone Quantise(const Tensor& x, ops::Side side, const SideRecipe& recipe) {
  Backbone out;
  out.value = out.other = out.scale = Tensor(x.tokens, x.heads, x.dim);
  out.outlier = SelectOutliers(x, side, recipe.outliers);
  std::vector<size_t> group;
  if (recipe.axis == ops::kAxisChannel) {
    const size_t length = recipe.group == SideRecipe::kWhole ? x.tokens : recipe.group;
    for (size_t h = 0; h < x.heads; ++h) {
      for (size_t d = 0; d < x.dim; ++d) {
        for (size_t first = 0; first < x.tokens; first += length) {
          group.clear();
          for (size_t t = first; t < std::min(first + length, x.tokens); ++t) {
            group.push_back(x.Index(t, h, d));
          }
          QuantiseGroup(x, group, recipe.bits, out);
        }
      }
    }
    return out;
  }
  for (size_t t = 0; t < x.tokens; ++t) {
    if (recipe.group == SideRecipe::kAllHeads) {
      group.resize(x.heads * x.dim);
      std::iota(group.begin(), group.end(), x.Index(t, 0, 0));
      QuantiseGroup(x, group, recipe.bits, out);
      continue;
    }
    const size_t length = recipe.group == SideRecipe::kWhole ? x.dim : recipe.group;
    for (size_t h = 0; h < x.heads; ++h) {
      for (size_t first = 0; first < x.dim; first += length) {
        group.resize(std::min(length, x.dim - first));
        std::iota(group.begin(), group.end(), x.Index(t, h, first));
        QuantiseGroup(x, group, recipe.bits, out);
      }
    }
  }
  return out;
}

std::vector<double> SingularValues(std::vector<double> matrix, size_t rows, size_t cols) {
  // Works on the shorter side's vectors, each contiguous: rotates pairs until all are orthogonal;
  // their lengths are then the singular values.
  const bool by_columns = cols < rows;
  const size_t count = by_columns ? cols : rows, length = by_columns ? rows : cols;
  std::vector<double> a(matrix.size());
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < length; ++j) {
      a[i * length + j] = by_columns ? matrix[j * cols + i] : matrix[i * cols + j];
    }
  }
  for (int sweep = 0; sweep < 60; ++sweep) {
    bool rotated = false;
    for (size_t p = 0; p + 1 < count; ++p) {
      for (size_t q = p + 1; q < count; ++q) {
        double* u = &a[p * length];
        double* w = &a[q * length];
        double uu = 0, ww = 0, uw = 0;
        for (size_t j = 0; j < length; ++j) {
          uu += u[j] * u[j];
          ww += w[j] * w[j];
          uw += u[j] * w[j];
        }
        if (uw == 0 || std::abs(uw) <= 1e-13 * std::sqrt(uu * ww)) continue;
        rotated = true;
        const double zeta = (ww - uu) / (2 * uw);
        const double t = (zeta >= 0 ? 1 : -1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
        const double c = 1 / std::sqrt(1 + t * t), s = c * t;
        for (size_t j = 0; j < length; ++j) {
          const double old = u[j];
          u[j] = c * old - s * w[j];
          w[j] = s * old + c * w[j];
        }
      }
    }
    if (!rotated) break;
  }
  std::vector<double> values(count);
  for (size_t i = 0; i < count; ++i) {
    double sum = 0;
    for (size_t j = 0; j < length; ++j) sum += a[i * length + j] * a[i * length + j];
    values[i] = std::sqrt(sum);
  }
  std::sort(values.rbegin(), values.rend());
  return values;
}

double BestError(const std::vector<double>& singular_values, size_t rank) {
  double sum = 0;
  for (size_t i = rank; i < singular_values.size(); ++i) {
    sum += singular_values[i] * singular_values[i];
  }
  return std::sqrt(sum);
}

std::vector<double> Residual(const Tensor& x, const Backbone& backbone, size_t head) {
  std::vector<double> e;
  e.reserve(x.tokens * x.dim);
  for (size_t t = 0; t < x.tokens; ++t) {
    for (size_t d = 0; d < x.dim; ++d) {
      const size_t i = x.Index(t, head, d);
      e.push_back(backbone.outlier[i] ? 0 : x.data[i] - backbone.value.data[i]);
    }
  }
  return e;
}

double Norm(const std::vector<double>& v) {
  double sum = 0;
  for (double x : v) sum += x * x;
  return std::sqrt(sum);
}

Tensor Attend(const Tensor& q, const Tensor& k, const Tensor& v, const AttendSpec& spec) {
  Tensor out(q.tokens, q.heads, q.dim);
  const size_t group = q.heads / k.heads;
  const double scale = spec.scale != 0 ? spec.scale : 1 / std::sqrt(static_cast<double>(q.dim));
  std::vector<double> weight(k.tokens);
  for (size_t i = 0; i < q.tokens; ++i) {
    const size_t own = k.tokens - q.tokens + i;
    const size_t end = spec.causal ? own + 1 : k.tokens;
    size_t begin = 0;
    if (spec.sliding_window != 0 && own + 1 > spec.sliding_window) {
      begin = own + 1 - static_cast<size_t>(spec.sliding_window);
    }
    for (size_t h = 0; h < q.heads; ++h) {
      const size_t kv = h / group;
      double top = -std::numeric_limits<double>::infinity();
      for (size_t t = begin; t < end; ++t) {
        double logit = 0;
        for (size_t d = 0; d < q.dim; ++d) logit += q(i, h, d) * k(t, kv, d);
        logit *= scale;
        if (spec.softcap > 0) logit = spec.softcap * std::tanh(logit / spec.softcap);
        weight[t] = logit;
        top = std::max(top, logit);
      }
      double sum = 0;
      for (size_t t = begin; t < end; ++t) sum += weight[t] = std::exp(weight[t] - top);
      for (size_t t = begin; t < end; ++t) {
        for (size_t d = 0; d < q.dim; ++d) out(i, h, d) += weight[t] / sum * v(t, kv, d);
      }
    }
  }
  return out;
}

}  // namespace kvg::oracle
