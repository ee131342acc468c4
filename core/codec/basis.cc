// See basis.h.
#include "core/codec/basis.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <new>

#include "core/codec/eigen.h"
#include "kernels/half.h"

namespace kvg {
namespace {

// Queries are summed in units of 2^-12, their products in units of 2^-24, at most 2^44 each.
constexpr float kQueryUnit = 0x1p-12f;
constexpr float kMostQuery = 1024;
constexpr uint64_t kMostRows = 1 << 16;
// And of one call, so that no sum overflows: the rows of all calls stay below 2^18.
constexpr uint64_t kMostAtOnce = 1 << 17;

// What quantising leaves of a normal distribution's variance, by width, with the best uniform
// levels.
constexpr double kLeft[] = {1, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.00104, 0.000304, 0.0000877};
constexpr uint8_t kWidths[] = {0, 1, 2, 3, 4, 6, 8};

// Rows that are longer might be mapped to numbers beyond fp16: |L^T x| is at most 16 |x|.
constexpr double kMostLength = 65504.0 / 32;

// Rows less their mean are rounded to 13 bits of the head's largest number, and products of two summed
// over this many tokens as 32-bit integers: 2^24 * 64 = 2^30.
constexpr double kMostUnit = 4095;
constexpr size_t kRunTokens = 64;

// Sums over the rows of one head: cov[i][j] around the mean, divided by the number of rows. Returns
// the square of the longest row. `units` has room for kRunTokens * dim numbers. In whole numbers, because
// compilers turn those into wide instructions without changing a result.
double Covariance(const RowsView& x, uint64_t head, uint64_t tokens, size_t dim, int16_t* units,
                  double* mean, double* cov) {
  std::fill_n(mean, dim, 0.0);
  const uint16_t* const first = x.rows + head * x.head_stride;
  double longest = 0;
  for (uint64_t t = 0; t < tokens; ++t) {
    double length = 0;
    for (size_t d = 0; d < dim; ++d) {
      const double value = F16ToF32(first[t * dim + d]);
      mean[d] += value;
      length += value * value;
    }
    longest = std::max(longest, length);
  }
  const double share = 1.0 / static_cast<double>(tokens);
  for (size_t d = 0; d < dim; ++d) mean[d] *= share;
  float largest = 0;
  for (uint64_t t = 0; t < tokens; ++t) {
    for (size_t d = 0; d < dim; ++d) {
      largest = std::max(largest, std::abs(F16ToF32(first[t * dim + d]) - static_cast<float>(mean[d])));
    }
  }
  std::fill_n(cov, dim * dim, 0.0);
  if (largest == 0) return longest;
  const float to_units = static_cast<float>(kMostUnit) / largest;
  for (uint64_t begin = 0; begin < tokens; begin += kRunTokens) {
    const size_t count = std::min<uint64_t>(kRunTokens, tokens - begin);
    for (size_t d = 0; d < dim; ++d) {  // one direction of all tokens after the other
      const auto centre = static_cast<float>(mean[d]);
      int16_t* const to = units + d * kRunTokens;
      for (size_t t = 0; t < count; ++t) {
        to[t] = static_cast<int16_t>(
            std::lrint((F16ToF32(first[(begin + t) * dim + d]) - centre) * to_units));
      }
      std::fill(to + count, to + kRunTokens, int16_t{0});
    }
    for (size_t i = 0; i < dim; ++i) {
      const int16_t* const a = units + i * kRunTokens;
      for (size_t j = 0; j <= i; ++j) {
        const int16_t* const b = units + j * kRunTokens;
        int32_t sum = 0;
        for (size_t t = 0; t < kRunTokens; ++t) sum += a[t] * b[t];
        cov[i * dim + j] += sum;
      }
    }
  }
  const double unit = static_cast<double>(largest) / kMostUnit;
  for (size_t i = 0; i < dim; ++i) {
    for (size_t j = 0; j <= i; ++j) {
      cov[i * dim + j] = cov[j * dim + i] = cov[i * dim + j] * share * unit * unit;
    }
  }
  return longest;
}

// The work of Make for one head after the other.
struct Work {
  Work(Memory& memory, size_t dim)
      : buffer(memory,
               (4 * dim * dim + 5 * dim) * sizeof(double) + kRunTokens * dim * sizeof(int16_t),
               Buffer::kScratch),
        factor(buffer.data<double>()),
        cov(factor + dim * dim),
        product(cov + dim * dim),
        vectors(product + dim * dim),
        values(vectors + dim * dim),
        mean(values + dim),
        row(mean + dim),
        rest(row + dim),
        units(reinterpret_cast<int16_t*>(rest + 2 * dim)) {}
  const Buffer buffer;
  double *factor, *cov, *product, *vectors;  // [dim][dim]
  double *values, *mean, *row;               // [dim]
  double* rest;                              // [2 dim]
  int16_t* units;                            // [dim][kRunTokens]
};

// factor = L of the second moment of the queries, divided by its mean, which is returned.
double QueryFactor(const Shape& shape, const SeenQueries& seen, uint32_t head, double prior,
                   double* factor) {
  const size_t dim = shape.head_dim;
  double mean = 0;
  for (uint32_t i = 0; seen && i < dim; ++i) mean += seen.Moment(shape, head, i, i);
  mean /= static_cast<double>(dim);
  const bool any = seen && seen.rows() > 0 && mean > 0;
  for (uint32_t i = 0; i < dim; ++i) {
    for (uint32_t j = 0; j < dim; ++j) {
      double& to = factor[i * dim + j];
      to = i == j ? 1 : 0;
      if (any) to = prior * to + (1 - prior) * seen.Moment(shape, head, i, j) / mean;
    }
  }
  Cholesky(factor, dim, prior / 2);
  // The rows of L are as long as the roots of C's diagonal, of which the sum is dim; those of a moment
  // that was stored, and that no queries have, may be any length, and then count for nothing.
  for (uint32_t i = 0; any && i < dim; ++i) {
    double square = 0;
    for (uint32_t j = 0; j <= i; ++j) square += factor[i * dim + j] * factor[i * dim + j];
    if (square <= static_cast<double>(dim) + 1) continue;
    for (uint32_t j = 0; j < dim * dim; ++j) factor[j] = j % (dim + 1) == 0 ? 1 : 0;
    return 1;
  }
  return any ? mean : 1;
}

// out = L^T S L
void Weigh(const double* factor, const double* cov, size_t dim, double* half, double* out) {
  for (size_t i = 0; i < dim; ++i) {  // half = S L
    std::fill_n(half + i * dim, dim, 0.0);
    for (size_t k = 0; k < dim; ++k) {
      for (size_t j = 0; j <= k; ++j) half[i * dim + j] += cov[i * dim + k] * factor[k * dim + j];
    }
  }
  std::fill_n(out, dim * dim, 0.0);
  for (size_t k = 0; k < dim; ++k) {
    for (size_t i = 0; i <= k; ++i) {
      for (size_t j = 0; j < dim; ++j) out[i * dim + j] += factor[k * dim + i] * half[k * dim + j];
    }
  }
}

uint16_t Half(double x) { return F32ToF16Saturate(static_cast<float>(x)); }

// Reverse water-filling: whoever loses most error per bit goes up one width, until nothing fits.
void GiveBits(const double* energies, size_t tiles, const SideRecipe& recipe, uint8_t* widths) {
  const double wanted = recipe.rate * static_cast<double>(tiles);
  double left = wanted - static_cast<double>(recipe.floor) * static_cast<double>(tiles);
  std::fill_n(widths, tiles, static_cast<uint8_t>(recipe.floor));
  for (;;) {
    size_t best = tiles;
    uint8_t best_width = 0;
    double best_gain = 0;
    for (size_t i = 0; i < tiles; ++i) {
      const uint8_t* const now = std::find(std::begin(kWidths), std::end(kWidths), widths[i]);
      if (now + 1 == std::end(kWidths)) continue;
      const uint8_t next = now[1];
      if (next - *now > left + 1e-9) continue;
      const double gain = energies[i] * (kLeft[*now] - kLeft[next]) / (next - *now);
      if (gain > best_gain) {
        best = i;
        best_width = next;
        best_gain = gain;
      }
    }
    if (best == tiles) return;
    left -= best_width - widths[best];
    widths[best] = best_width;
  }
}

}  // namespace

SeenQueries::SeenQueries(Memory& memory, const Shape& shape)
    : sums_(memory, shape.kv_dim() * shape.head_dim * sizeof(int64_t)) {
  std::memset(sums_.data(), 0, sums_.size());
}

bool SeenQueries::full() const { return rows_ >= kMostRows; }

uint64_t SeenQueries::MostAtOnce() { return kMostAtOnce; }

void SeenQueries::Add(const Shape& shape, uint32_t kv_head, const float* q) {
  const uint32_t dim = shape.head_dim;
  int64_t units[ops::kMaxHeadDim];
  for (uint32_t i = 0; i < dim; ++i) {
    // Written so that NaN counts as nothing.
    const float inside = q[i] > -kMostQuery ? std::min(q[i], kMostQuery) : -kMostQuery;
    units[i] = q[i] == q[i] ? std::lrint(inside / kQueryUnit) : 0;
  }
  int64_t* sums = sums_.data<int64_t>() + uint64_t{kv_head} * dim * dim;
  for (uint32_t i = 0; i < dim; ++i, sums += dim) {
    for (uint32_t j = 0; j <= i; ++j) sums[j] += units[i] * units[j];
  }
}

double SeenQueries::Moment(const Shape& shape, uint32_t kv_head, uint32_t i, uint32_t j) const {
  const uint64_t dim = shape.head_dim;
  const int64_t* const sums = sums_.data<const int64_t>() + kv_head * dim * dim;
  const int64_t sum = sums[std::max(i, j) * dim + std::min(i, j)];
  constexpr double kUnit = double{kQueryUnit} * double{kQueryUnit};
  return static_cast<double>(sum) * kUnit / static_cast<double>(std::max<uint64_t>(rows_, 1));
}

size_t SeenQueries::StoredBytes(const Shape& shape) {
  const size_t dim = shape.head_dim;
  return sizeof(uint64_t) + shape.kv_heads * (dim * (dim + 1) / 2) * sizeof(int64_t);
}

void SeenQueries::Store(const Shape& shape, std::byte* out) const {
  std::memcpy(out, &rows_, sizeof(rows_));
  out += sizeof(rows_);
  const size_t dim = shape.head_dim;
  for (size_t i = 0; i < shape.kv_heads * dim; ++i) {
    const size_t bytes = (i % dim + 1) * sizeof(int64_t);
    std::memcpy(out, sums_.data<int64_t>() + i * dim, bytes);
    out += bytes;
  }
}

bool SeenQueries::Restore(const Shape& shape, const std::byte* in) {
  std::memcpy(&rows_, in, sizeof(rows_));
  in += sizeof(rows_);
  const size_t dim = shape.head_dim;
  for (size_t i = 0; i < shape.kv_heads * dim; ++i) {
    const size_t bytes = (i % dim + 1) * sizeof(int64_t);
    std::memcpy(sums_.data<int64_t>() + i * dim, in, bytes);
    in += bytes;
  }
  if (rows_ > kMostRows + kMostAtOnce) return false;
  // Squares do not go down, and no product is more than the squares allow.
  const auto most = static_cast<int64_t>(rows_) << 44;
  for (size_t head = 0; head < shape.kv_heads; ++head) {
    const int64_t* const sums = sums_.data<int64_t>() + head * dim * dim;
    for (size_t i = 0; i < dim; ++i) {
      const int64_t square = sums[i * dim + i];
      if (square < 0 || square > most) return false;
      for (size_t j = 0; j < i; ++j) {
        const auto product = static_cast<double>(sums[i * dim + j]);
        const double bound = static_cast<double>(square) * static_cast<double>(sums[j * dim + j]);
        if (product * product > bound * (1 + 1e-9)) return false;
      }
    }
  }
  return true;
}

// Eigenvectors are orthogonal: the matrix that maps values is the one that maps them back.
BasisRef Basis::Empty(Memory& memory, const Shape& shape, ops::Side side) {
  Buffer matrices(memory, ContentBytes(shape, side));
  void* const place = memory.Allocate(sizeof(Basis));
  BasisRef result(new (place) Basis(memory, std::move(matrices)));
  Basis& basis = *result.basis_;
  const auto* const forward = basis.matrices_.data<uint16_t>();
  std::memset(basis.matrices_.data(), 0, basis.matrices_.size());
  basis.map_ = {.kind = ops::kMapDense,
                .block = 0,
                .forward = forward,
                .back = side == ops::kSideK ? forward + MatrixElements(shape) : forward};
  basis.widths_ = reinterpret_cast<uint8_t*>(basis.matrices_.data() + WidthsAt(shape, side));
  return result;
}

BasisRef Basis::Restore(Memory& memory, const Shape& shape, ops::Side side,
                        const std::byte* content) {
  BasisRef result = Empty(memory, shape, side);
  std::memcpy(result.basis_->matrices_.data(), content, result.basis_->matrices_.size());
  return result;
}

BasisRef Basis::MakeScaled(Memory& memory, const Shape& shape, const SideRecipe& recipe,
                           const RowsView& x, uint64_t tokens) {
  const size_t dim = shape.head_dim, dirs = ops::PadDirs(shape.head_dim);
  BasisRef result = Empty(memory, shape, ops::kSideK);
  Basis& basis = *result.basis_;
  auto* const forward = basis.matrices_.data<uint16_t>();
  uint16_t* const back = forward + MatrixElements(shape);
  std::fill_n(basis.widths_, shape.kv_heads * Tiles(shape), static_cast<uint8_t>(recipe.bits));
  const auto value = [&](uint64_t head, uint64_t token, size_t d) {
    return static_cast<double>(F16ToF32(x.rows[head * x.head_stride + token * dim + d]));
  };
  if (recipe.map == SideRecipe::kChannels) {
    for (uint64_t head = 0; head < shape.kv_heads; ++head) {
      for (size_t d = 0; d < dim; ++d) {
        double most = 0;
        for (uint64_t t = 0; t < tokens; ++t) most = std::max(most, std::abs(value(head, t, d)));
        const double scale = most > 0 ? std::sqrt(most) : 1;
        forward[(head * dim + d) * dirs + d] = Half(1 / scale);
        back[(head * dim + d) * dirs + d] = Half(scale);
      }
    }
    return result;
  }
  const size_t chunk = recipe.chunk, runs = dim / chunk;
  const Buffer buffer(memory, (2 * chunk * chunk + 3 * chunk) * sizeof(double), Buffer::kScratch);
  double* const gram = buffer.data<double>();
  double* const vectors = gram + chunk * chunk;
  double* const values = vectors + chunk * chunk;
  std::fill_n(gram, chunk * chunk, 0.0);
  const double share = 1 / (static_cast<double>(tokens) * static_cast<double>(shape.kv_heads * runs));
  for (uint64_t head = 0; head < shape.kv_heads; ++head) {
    for (uint64_t t = 0; t < tokens; ++t) {
      for (size_t first = 0; first < dim; first += chunk) {
        for (size_t i = 0; i < chunk; ++i) {
          const double factor = share * value(head, t, first + i);
          for (size_t j = 0; j <= i; ++j) gram[i * chunk + j] += factor * value(head, t, first + j);
        }
      }
    }
  }
  for (size_t i = 0; i < chunk; ++i) {
    for (size_t j = 0; j < i; ++j) gram[j * chunk + i] = gram[i * chunk + j];
  }
  SymmetricEigen(gram, chunk, values, vectors, values + chunk);
  const double strongest = std::sqrt(std::max(values[0], 0.0));
  for (size_t k = 0; k < chunk; ++k) {
    constexpr double kLeast = 1e-3;
    const double singular = std::max(std::sqrt(std::max(values[k], 0.0)), kLeast * strongest);
    const double root = singular > 0 ? std::sqrt(singular) : 1;
    for (uint64_t run = 0; run < shape.kv_heads * runs; ++run) {
      const uint64_t head = run / runs;
      const size_t first = run % runs * chunk;
      for (size_t i = 0; i < chunk; ++i) {
        const size_t at = (head * dim + first + i) * dirs + first + k;
        forward[at] = Half(vectors[k * chunk + i] / root);
        back[at] = Half(vectors[k * chunk + i] * root);
      }
    }
  }
  return result;
}

BasisRef Basis::Make(Memory& memory, const Shape& shape, ops::Side side, const SideRecipe& recipe,
                     const RowsView& x, uint64_t tokens, const SeenQueries& seen) {
  if (recipe.map != SideRecipe::kOnline) return MakeScaled(memory, shape, recipe, x, tokens);
  const size_t dim = shape.head_dim;
  const size_t dirs = ops::PadDirs(shape.head_dim);
  const size_t tiles = Tiles(shape);
  const bool keys = side == ops::kSideK;
  BasisRef result = Empty(memory, shape, side);
  Basis& basis = *result.basis_;
  auto* const forward = basis.matrices_.data<uint16_t>();
  uint16_t* const back = keys ? forward + MatrixElements(shape) : forward;

  const Work work(memory, dim);
  const Buffer energies(memory, shape.kv_heads * tiles * sizeof(double), Buffer::kScratch);
  std::fill_n(energies.data<double>(), shape.kv_heads * tiles, 0.0);
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    const double longest = Covariance(x, head, tokens, dim, work.units, work.mean, work.cov);
    double weight = 1;
    if (longest > kMostLength * kMostLength) {  // this head is left as it is
      for (size_t j = 0; j < dim; ++j) {
        energies.data<double>()[head * tiles + j / ops::kTileDirs] += work.cov[j * dim + j];
        forward[head * dim * dirs + j * dirs + j] = back[head * dim * dirs + j * dirs + j] = Half(1);
      }
      continue;
    }
    if (keys) {
      weight = QueryFactor(shape, seen, head, recipe.prior, work.factor);
      Weigh(work.factor, work.cov, dim, work.vectors, work.product);
    } else {
      std::copy_n(work.cov, dim * dim, work.product);
    }
    SymmetricEigen(work.product, dim, work.values, work.vectors, work.rest);
    for (size_t j = 0; j < dim; ++j) {
      const double* const u = work.vectors + j * dim;
      double& energy = energies.data<double>()[head * tiles + j / ops::kTileDirs];
      energy += weight * std::max(work.values[j], 0.0);
      uint16_t* const forward_column = forward + head * dim * dirs + j;
      uint16_t* const back_column = back + head * dim * dirs + j;
      if (!keys) {
        for (size_t i = 0; i < dim; ++i) forward_column[i * dirs] = Half(u[i]);
        continue;
      }
      for (size_t i = 0; i < dim; ++i) {  // L u
        double sum = 0;
        for (size_t k = 0; k <= i; ++k) sum += work.factor[i * dim + k] * u[k];
        forward_column[i * dirs] = Half(sum);
      }
      for (size_t i = dim; i-- > 0;) {  // L^T z = u
        double rest = u[i];
        for (size_t k = i + 1; k < dim; ++k) rest -= work.factor[k * dim + i] * work.row[k];
        work.row[i] = rest / work.factor[i * dim + i];
        back_column[i * dirs] = Half(work.row[i]);
      }
    }
  }
  if (recipe.rate > 0) {
    GiveBits(energies.data<double>(), shape.kv_heads * tiles, recipe, basis.widths_);
  } else {
    std::fill_n(basis.widths_, shape.kv_heads * tiles, static_cast<uint8_t>(recipe.bits));
  }
  return result;
}

BasisRef::~BasisRef() {
  // The last one to let go must see what the others did before.
  if (basis_ == nullptr || basis_->references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Memory& memory = basis_->memory_;
  basis_->~Basis();
  memory.Release(basis_, sizeof(Basis));
}

}  // namespace kvg
