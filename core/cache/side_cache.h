// One side (K or V) of one layer: sealed segments, perhaps an open page, and the fp16 window.
//
// Called by core/cache/layer_cache. The tokens lie in this order: segments (compressed, immutable),
// open page (compressed, still growing), window (fp16 rows). A fork shares all of it at first; an
// open page or a window that others see too is copied before it is written.
// An append is made in three steps: Prepare takes the memory, Fill converts and seals into memory that
// no reader sees, Commit makes it visible and cannot fail. Abandoned after any step but the last it
// leaves no trace. On a device the work of Fill is queued when all memory has been taken; what is
// queued is then abandoned only for an error of the device, which ends everything.
#ifndef KVGEAR_CORE_CACHE_SIDE_CACHE_H_
#define KVGEAR_CORE_CACHE_SIDE_CACHE_H_

#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <mutex>
#include <utility>
#include <vector>

#include "core/base/memory.h"
#include "core/base/status.h"
#include "core/cache/segment_list.h"
#include "core/cache/window.h"
#include "core/codec/basis.h"
#include "core/codec/segment.h"
#include "core/model/plan.h"
#include "core/model/recipe.h"
#include "core/runtime/executor.h"
#include "core/runtime/runtime.h"
#include "kernels/ops.h"
#include "kernels/plugin.h"

namespace kvg {

// Sums that make up the statistics of one side; see kvg_stats.
struct SideStats {
  uint64_t tokens = 0, sealed_tokens = 0, segments = 0;
  uint64_t appended = 0;  // tokens that came, kept or not
  SegmentBytes bytes;
  uint64_t state = 0;  // the basis, and what it is learnt from
  uint64_t window_used = 0, window_allocated = 0, shared = 0, mapped = 0;
  uint64_t positions = 0;  // bytes of selection: see SelectedLayer
  double error_tokens = 0;  // sum over compressed segments of relative error * tokens
  double error_worst = 0;

  // Counts a segment in of which `seen` tokens are seen, but not among `segments`.
  void Add(const Segment& segment, bool is_shared, uint64_t seen);
};

// What attention and reading walk over: the pieces of a side, listed for one call.
class PieceList {
 public:
  // Throws std::bad_alloc.
  PieceList(Memory& memory, uint64_t count)
      : list_(memory, count * sizeof(const ops::Piece*), Buffer::kScratch), count_(count) {}
  // A list that was written to the front of `list`.
  PieceList(Buffer list, uint64_t count) : list_(std::move(list)), count_(count) {}
  const ops::Piece** data() const { return list_.data<const ops::Piece*>(); }
  ops::Sequence sequence() const { return {data(), count_}; }

 private:
  Buffer list_;
  uint64_t count_;
};

class SideCache {
 public:
  // Tokens to be sealed together, counted from the oldest of the window on.
  struct Run {
    uint64_t at, tokens;
  };

  // Everything that an append needs to become visible.
  struct Appended {
    explicit Appended(std::pmr::memory_resource* resource) : runs(resource), segments(resource) {}
    std::pmr::vector<Run> runs;  // the first goes to `page`, if there is one
    SegmentRef page;  // the open page that takes on `run`, unless empty
    SealedRun run;
    std::pmr::vector<SegmentRef> segments;  // new ones, the last perhaps an open page
    SegmentList::Room room;                 // for those of them that are full
    uint64_t added = 0;                     // tokens appended
    uint64_t sealed = 0;  // of the old window and the new tokens, from the oldest on
    Window window;        // takes the place of the window, unless empty
    uint64_t capacity = 0;  // of that one
    BasisRef basis;         // learnt in this append, unless empty
    SeenQueries seen;       // begins to collect queries, unless empty
    Window device_pieces;  // and of that array; on a device only
    Buffer staging;        // on a device: fp16 rows on their way from the caller to segments
  };

  // Content that was stored, to be added behind what is held.
  struct Restored {
    explicit Restored(std::pmr::memory_resource* resource) : segments(resource) {}
    std::pmr::vector<SegmentRef> segments;  // full ones
    SegmentRef page;                        // an open page behind them, or empty
    Buffer rows;  // fp16 [kv_heads][tokens][head_dim], of the host
    uint64_t tokens = 0;                    // in `rows`
    BasisRef basis;                         // in place of none, unless empty
    SeenQueries seen;                       // in place of those seen, unless empty
    uint64_t due = 0;
  };

  explicit SideCache(std::pmr::memory_resource* resource) : segments_(resource) {}
  SideCache(const SideCache&) = delete;
  SideCache& operator=(const SideCache&) = delete;

  // Before first use. `recipe` outlives the object.
  void Init(const Shape& shape, const SideRecipe& recipe, ops::Side side, uint64_t seed);

  // Both may throw std::bad_alloc. `x` has passed the checks of shape and size.
  absl::Status PrepareAppend(Executor& executor, const ops::IngestArgs& x, Appended& out);
  absl::Status FillAppend(Executor& executor, const ops::IngestArgs& x, Appended& out);
  void CommitAppend(Appended& prepared) noexcept;

  // Whether Truncate(tokens) is exact; else the nearest lengths for which it is.
  bool CanTruncate(uint64_t tokens) const { return FloorLength(tokens) == tokens; }
  uint64_t FloorLength(uint64_t tokens) const;  // the largest such length <= tokens
  uint64_t CeilLength(uint64_t tokens) const;   // the smallest such length >= tokens
  void Truncate(uint64_t tokens) noexcept;
  void Clear() noexcept;
  // Makes this empty side a copy of `other`, in time and memory that do not depend on its length.
  void CopyFrom(const SideCache& other) noexcept;

  // `restored` has passed all checks of core/format; its segments lie where the side does, its rows in
  // memory that the executor can copy. Throws std::bad_alloc, and then nothing changed.
  void Restore(Executor& executor, Restored& restored);
  // Takes the queries that `from`, of which this is a fork, has collected, if they are of use here.
  void TakeSeen(SideCache& from) noexcept;

  // For core/format. Rows of the window: one head's are contiguous; `token` counts from sealed().
  const SegmentList& segments() const { return segments_; }
  const Segment* page() const { return page_ ? &*page_ : nullptr; }
  uint64_t page_tokens() const { return page_ ? page_piece_.tokens : 0; }
  const uint16_t* window_rows(uint64_t head, uint64_t token) const {
    return WindowRows(token) + head * capacity_ * shape_.head_dim;
  }
  uint64_t window_capacity() const { return WindowCapacity(); }
  const SideRecipe& recipe() const { return *recipe_; }
  const Shape& shape() const { return shape_; }  // of what is held: rows, or latents
  const BasisRef& basis() const { return basis_; }
  bool waits_for_basis() const {
    return recipe_->map == SideRecipe::kOnline && recipe_->bits < 16 && !basis_;
  }
  uint64_t due() const { return waits_for_basis() ? due_ : 0; }
  bool has_seen() const { return learns(); }
  std::vector<std::byte> StoredSeen() const;  // as SeenQueries::Store has it

  // Whether queries that attend are to be shown to the side, and how. Threads may do so at once.
  bool learns() const { return seen_ && !basis_; }
  void Observe(const ops::AttendArgs& args, const ops::AttendItem& item) const;

  uint64_t length() const { return sealed_ + pending_; }
  uint64_t sealed() const { return sealed_; }  // tokens compressed, those of an open page included
  // Good until the next change. Throws std::bad_alloc.
  PieceList Pieces(Memory& memory) const;
  // The same of a side that lies on a device, without a list to be made.
  ops::DevicePieces device_pieces() const;
  // Before Stats, where the cache lies on a device: see Segment::FetchError.
  void FetchErrors(Executor& executor) const;
  SideStats Stats() const;
  // Calls visit(identity, bytes) for each allocation that the side keeps alive, shared or not.
  template <typename Visit>
  void ForEachHeld(Visit visit) const {
    segments_.ForEach([&visit](const Segment& segment, bool, bool) {
      visit(static_cast<const void*>(&segment), segment.allocated());
    });
    segments_.ForEachNode([&visit](const void* node, uint64_t bytes, bool) { visit(node, bytes); });
    if (page_) visit(static_cast<const void*>(&*page_), page_->allocated());
    if (window_) {
      visit(static_cast<const void*>(window_.rows()), window_.bytes() + window_.bookkeeping());
    }
  }

 private:
  uint64_t NextSeal(uint64_t pending, uint64_t room) const;
  bool MayLearn(uint64_t total) const;
  uint64_t WindowCapacity() const;
  uint64_t WindowRoom(uint64_t tokens) const;
  uint64_t PageRoom() const { return page_ ? page_piece_.padded_tokens - page_piece_.tokens : 0; }
  uint16_t* WindowRows(uint64_t token) const;
  bool Fetch(Executor& executor, const ops::IngestArgs& x, uint64_t from, uint64_t tokens,
             uint16_t* rows, uint64_t head_stride) const;
  absl::Status NonFinite() const;
  void MoveWindowToFront(Executor& executor);
  bool SealRuns(Executor& executor, const ops::IngestArgs& x, bool in_place, Appended& out);
  void WriteDevicePieces(Executor& executor, const Appended& out) const;
  Window MoreDevicePieces(Executor& executor, uint64_t added) const;
  void PlaceWindow() noexcept;

  Shape shape_;
  const SideRecipe* recipe_ = nullptr;
  ops::Side side_ = ops::kSideK;
  uint64_t seed_ = 0;

  SegmentList segments_;     // the full ones
  SegmentRef page_;          // the open page behind them, or empty
  ops::Piece page_piece_{};  // the page as this side sees it: a fork may see more of its tokens
  Window device_pieces_;     // on a device: ops::Piece of each full segment, for its kernels
  uint64_t sealed_ = 0;      // tokens in segments, the open page included

  // With map=online. A fork shares the basis; before there is one it collects queries of its own.
  BasisRef basis_;
  mutable SeenQueries seen_;
  mutable std::mutex seen_mutex_;
  uint64_t due_ = 0;  // length at which there was a block to seal but no basis; 0 = never yet

  Window window_;         // fp16 [kv_heads][capacity][head_dim]
  uint64_t capacity_ = 0;
  uint64_t start_ = 0;    // slot of the oldest token
  uint64_t pending_ = 0;  // tokens in the window
  ops::Piece rows_{};     // the window as a piece
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_SIDE_CACHE_H_
