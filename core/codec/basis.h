// Bases that a cache learns: which directions attention cares about, and how many bits each gets.
//
// Called by core/cache/side_cache. The basis of a side is made once, from rows of keys or values and,
// for keys, from the queries that met them; from then on it never changes, and forks share it.
//
// Keys, per KV head: attention does not see the error e of a key but its product with queries, of
// which the mean square is e^T C e, C the second moment of the queries. With C = L L^T and U the
// eigenvectors of L^T S L, S the covariance of the keys, y = U^T L^T x has uncorrelated
// directions, and white error in y is what costs every query alike. Values: eigenvectors of their
// covariance. Bits go to tiles of directions by reverse water-filling over all heads.
// map=channels: y_i = x_i / c_i with c_i = sqrt(max |x_i|), 1 where that is 0 (ZipCache, arXiv 2405.14256).
// map=deco: rows are cut into runs of `chunk` channels, which together are a matrix M = U S V^T; a run is
// kept as y = x V S^-1/2 and is x = y T, T = S^1/2 V^T, for all heads (DecoQuant, arXiv 2405.12591). S is
// divided by the root of the number of runs; directions below 1e-3 of the strongest count as that.
// (After OSCAR, arXiv 2605.17757, and transform coding as in KVTC and SVDq.)
#ifndef KVGEAR_CORE_CODEC_BASIS_H_
#define KVGEAR_CORE_CODEC_BASIS_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/base/memory.h"
#include "core/codec/segment.h"
#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "kernels/ops.h"

namespace kvg {

// The second moment of the queries of each KV head's group, summed in whole numbers, so that the
// order in which queries come changes nothing.
class SeenQueries {
 public:
  SeenQueries() = default;
  // Throws std::bad_alloc.
  SeenQueries(Memory& memory, const Shape& shape);

  explicit operator bool() const { return sums_.size() > 0; }
  uint64_t rows() const { return rows_; }  // of each KV head
  size_t bytes() const { return sums_.size(); }
  // Adds query rows q[head_dim] of a KV head, one after the other; then AddRows says how many.
  void Add(const Shape& shape, uint32_t kv_head, const float* q);
  void AddRows(uint64_t rows) { rows_ += rows; }
  bool full() const;
  static uint64_t MostAtOnce();  // rows between two looks at full()
  // Entry (i, j) of the mean of q q^T.
  double Moment(const Shape& shape, uint32_t kv_head, uint32_t i, uint32_t j) const;

  // For core/format. As stored: the rows as u64, then the lower halves of the sums, row by row.
  static size_t StoredBytes(const Shape& shape);
  void Store(const Shape& shape, std::byte* out) const;
  // Into one that is empty of rows. False if `in` cannot be what so many rows add up to.
  bool Restore(const Shape& shape, const std::byte* in);

 private:
  Buffer sums_;  // int64 [kv_heads][head_dim][head_dim], the lower half
  uint64_t rows_ = 0;
};

class BasisRef;

// One side of one layer.
class Basis {
 public:
  // `seen` may be empty, for values or where no query has come: every direction then counts alike.
  // Rows as RowsView has them. Throws std::bad_alloc.
  static BasisRef Make(Memory& memory, const Shape& shape, ops::Side side,
                       const SideRecipe& recipe, const RowsView& x, uint64_t tokens,
                       const SeenQueries& seen);
  // One whose content was stored and has passed all checks. Throws std::bad_alloc.
  static BasisRef Restore(Memory& memory, const Shape& shape, ops::Side side,
                          const std::byte* content);
  Basis(const Basis&) = delete;
  Basis& operator=(const Basis&) = delete;

  // For core/format. As it lies in memory: fp16 [kv_heads][head_dim][dirs], for keys two of it; then the
  // widths.
  const std::byte* content() const { return matrices_.data(); }
  static size_t ContentBytes(const Shape& shape, ops::Side side) {
    return WidthsAt(shape, side) + shape.kv_heads * Tiles(shape);
  }
  static size_t WidthsAt(const Shape& shape, ops::Side side) {
    return MatrixElements(shape) * (side == ops::kSideK ? 2 : 1) * sizeof(uint16_t);
  }

  const ops::Map& map() const { return map_; }
  // [kv_heads][tiles]
  const uint8_t* widths() const { return widths_; }
  size_t bytes() const { return sizeof(Basis) + matrices_.size(); }
  bool shared() const { return references_.load(std::memory_order_relaxed) > 1; }

 private:
  friend class BasisRef;
  Basis(Memory& memory, Buffer matrices) : memory_(memory), matrices_(std::move(matrices)) {}
  static size_t Tiles(const Shape& shape) {
    return ops::PadDirs(shape.head_dim) / ops::kTileDirs;
  }
  static size_t MatrixElements(const Shape& shape) {
    return size_t{shape.kv_heads} * shape.head_dim * ops::PadDirs(shape.head_dim);
  }
  // With map=channels or map=deco. Neither is orthogonal, so it has two matrices, whatever the side.
  static BasisRef MakeScaled(Memory& memory, const Shape& shape, const SideRecipe& recipe,
                             const RowsView& x, uint64_t tokens);
  // With everything 0.
  static BasisRef Empty(Memory& memory, const Shape& shape, ops::Side side);

  Memory& memory_;
  const Buffer matrices_;
  ops::Map map_{};
  uint8_t* widths_ = nullptr;
  std::atomic<uint32_t> references_{1};
};

// Counted reference to a basis; may be empty.
class BasisRef {
 public:
  BasisRef() = default;
  BasisRef(const BasisRef& other) noexcept : basis_(other.basis_) {
    if (basis_ != nullptr) basis_->references_.fetch_add(1, std::memory_order_relaxed);
  }
  BasisRef(BasisRef&& other) noexcept : basis_(std::exchange(other.basis_, nullptr)) {}
  BasisRef& operator=(BasisRef other) noexcept {
    std::swap(basis_, other.basis_);
    return *this;
  }
  ~BasisRef();

  const Basis* operator->() const { return basis_; }
  explicit operator bool() const { return basis_ != nullptr; }
  const Basis* get() const { return basis_; }

 private:
  friend class Basis;
  explicit BasisRef(Basis* basis) : basis_(basis) {}  // adopts the first reference
  Basis* basis_ = nullptr;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CODEC_BASIS_H_
