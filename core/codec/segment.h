// A segment: one run of tokens of one side of one layer, compressed once. A header that the host reads,
// and one block of memory, the payload, with everything that kernels read.
//
// Called by core/cache. A segment is filled by Seal and then never changes, with one exception: an
// open page (a segment created with room to spare) takes further tokens until it is full, while one
// cache alone holds it. Segments are shared between forks by reference count.
#ifndef KVGEAR_CORE_CODEC_SEGMENT_H_
#define KVGEAR_CORE_CODEC_SEGMENT_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/base/memory.h"
#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "core/runtime/executor.h"
#include "kernels/ops.h"

namespace kvg {

class Basis;

// What one segment looks like and how it is sealed: a side of a recipe, resolved for a model shape
// and a number of tokens.
struct SegmentForm {
  ops::Kind kind = ops::kRows;
  ops::SealSpec spec{};  // for kCodes; seed is set by the caller of Seal
  uint32_t bits = 16;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  const uint8_t* widths = nullptr;  // [kv_heads][tiles], else all tiles have `bits`
  uint64_t tokens = 0;  // room; for kCodes a multiple of ops::kBlockTokens

  // With the map and the widths of a basis.
  SegmentForm In(const Basis& basis) const;
  // `decode`: the segment is one block that grew token by token, not part of a prompt.
  static SegmentForm Of(const SideRecipe& recipe, const Shape& shape, ops::Side side,
                        uint64_t tokens, bool decode);
};

// Bytes of one segment by what they hold; together its two allocations.
struct SegmentBytes {
  uint64_t codes = 0, scales = 0, low_rank = 0, sparse = 0, bookkeeping = 0;
};

// Rows to be sealed: fp16, rows[head * head_stride + token * head_dim + direction].
struct RowsView {
  const uint16_t* rows = nullptr;
  uint64_t head_stride = 0;
};

// Tokens that were sealed, and the error that the host measured, to be added with Grow.
struct SealedRun {
  uint64_t tokens = 0;
  double error_sq = 0;
  double norm_sq = 0;
};

class SegmentRef;

class Segment {
 public:
  // An empty segment with room for form.tokens tokens. Throws std::bad_alloc.
  static SegmentRef Create(Executor& executor, const SegmentForm& form, uint64_t first_token);
  // One whose payload is there already, in memory that `keep` keeps alive, such as a mapped file; it
  // is never written. Its tokens count after Grow. Throws std::bad_alloc.
  static SegmentRef Borrow(Memory& memory, const SegmentForm& form, uint64_t first_token,
                           const std::byte* payload, std::shared_ptr<const void> keep);
  static uint64_t PayloadBytes(const SegmentForm& form);
  static SegmentBytes PartsOf(const SegmentForm& form);  // of a payload; bookkeeping: what is left
  Segment(const Segment&) = delete;
  Segment& operator=(const Segment&) = delete;

  // Writes `tokens` tokens into the slots behind those the segment holds. They count only after
  // Grow, so a call whose work is abandoned in between has changed nothing that can be seen.
  // Throws std::bad_alloc.
  SealedRun Seal(Executor& executor, const RowsView& x, uint64_t tokens, uint64_t seed);
  // The same in two steps, for kCodes: the job to give to the executor, perhaps with those of other
  // segments, and what came of it.
  ops::DeviceSealJob SealJob(const RowsView& x, uint64_t tokens, uint64_t seed);
  static SealedRun Sealed(const ops::DeviceSealJob& job);
  void Grow(const SealedRun& run) noexcept;
  // Forgets the newest tokens of an open page. The measured error stays that of all tokens it saw.
  void Shrink(uint64_t tokens) noexcept { piece_.tokens = tokens; }

  // A copy of the first `tokens` tokens with a reference count of its own. Throws std::bad_alloc.
  SegmentRef Clone(Executor& executor, uint64_t tokens) const;

  // A copy on a device of a full or open segment that lies on the host, by way of `staging`: memory that
  // the device reaches, of PayloadBytes. Throws std::bad_alloc.
  SegmentRef Upload(Executor& executor, std::byte* staging) const;

  // Has error_sq() and norm_sq() tell what a device measured, for which it waits. No other thread may
  // look at them: the turn that the executor belongs to sees to that.
  void FetchError(Executor& executor) const;

  // The payload as a whole, for whoever stores or restores it, and the arrays in it, in order, as
  // pairs of offset and length; the bytes between them mean nothing and hold anything.
  std::byte* payload() const { return base_; }
  using Arrays = std::vector<std::pair<uint64_t, uint64_t>>;
  Arrays arrays() const;

  const SegmentForm& form() const { return form_; }
  const ops::Piece& piece() const { return piece_; }
  uint64_t end() const { return piece_.first_token + piece_.tokens; }
  uint64_t room() const { return form_.tokens - piece_.tokens; }
  // False: nobody else sees the segment, and what those did who could is visible.
  bool shared() const { return references_.load(std::memory_order_acquire) > 1; }
  uint32_t bits() const { return form_.bits; }
  // For pages that a fork sees too, as Window::TakeLent().
  void Lend() const { lent_.store(true, std::memory_order_relaxed); }
  bool TakeLent() const { return lent_.exchange(false, std::memory_order_relaxed); }
  uint64_t allocated() const { return sizeof(Segment) + payload_.size(); }
  uint64_t borrowed() const { return keep_ == nullptr ? 0 : PayloadBytes(form_); }
  SegmentBytes Bytes() const;
  double error_sq() const { return error_sq_; }
  double norm_sq() const { return norm_sq_; }

 private:
  friend class SegmentRef;
  struct Layout;

  Segment(Memory& memory, Buffer payload, const std::byte* borrowed,
          std::shared_ptr<const void> keep, const SegmentForm& form, bool on_device,
          uint64_t first_token);
  static Layout LayoutOf(const SegmentForm& form, bool on_device);
  void Bind(const Layout& layout);
  void Release() noexcept;

  Memory& memory_;
  const Buffer payload_;                     // empty if borrowed
  const std::shared_ptr<const void> keep_;  // of a borrowed payload
  std::byte* const base_;
  const SegmentForm form_;
  const bool on_device_;
  std::atomic<uint32_t> references_{1};
  mutable std::atomic<bool> lent_{false};
  ops::Piece piece_{};
  mutable double error_sq_ = 0, norm_sq_ = 0;
  double* sums_ = nullptr;  // on a device: error_sq and norm_sq
  mutable bool sums_final_ = false;  // fetched, and never to change again
};

// Counted reference to a segment.
class SegmentRef {
 public:
  SegmentRef() = default;
  SegmentRef(const SegmentRef& other) noexcept : segment_(other.segment_) {
    if (segment_ != nullptr) segment_->references_.fetch_add(1, std::memory_order_relaxed);
  }
  SegmentRef(SegmentRef&& other) noexcept : segment_(std::exchange(other.segment_, nullptr)) {}
  SegmentRef& operator=(SegmentRef other) noexcept {
    std::swap(segment_, other.segment_);
    return *this;
  }
  ~SegmentRef() {
    if (segment_ != nullptr) segment_->Release();
  }

  Segment* operator->() const { return segment_; }
  Segment& operator*() const { return *segment_; }
  explicit operator bool() const { return segment_ != nullptr; }

 private:
  friend class Segment;
  explicit SegmentRef(Segment* segment) : segment_(segment) {}  // adopts the first reference
  Segment* segment_ = nullptr;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CODEC_SEGMENT_H_
