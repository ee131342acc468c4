// The full segments of one side, in order of their tokens: a list that forks share.
//
// Called by core/cache/side_cache. A copy of a list shares all of it and costs the same whatever
// its length. Segments are kept in nodes; a node that one list alone uses grows in place, and behind
// a node that several lists use each of them continues in a node of its own. So a list is a chain
// of nodes, from the newest to the oldest, of each of which it sees the first so many segments.
// Segments of a shared node that a list no longer sees, since it was cut shorter, live on with it.
#ifndef KVGEAR_CORE_CACHE_SEGMENT_LIST_H_
#define KVGEAR_CORE_CACHE_SEGMENT_LIST_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory_resource>
#include <utility>

#include "core/codec/segment.h"
#include "kernels/ops.h"

namespace kvg {

class SegmentList {
 public:
  class Node;

  // A node that was fetched before a change that must not fail; empty if none was needed.
  class Room {
   public:
    Room() = default;
    Room(Room&& other) noexcept
        : node_(std::exchange(other.node_, nullptr)), takes_over_(other.takes_over_) {}
    Room& operator=(Room&& other) noexcept {
      std::swap(node_, other.node_);
      std::swap(takes_over_, other.takes_over_);
      return *this;
    }
    ~Room() { Release(node_); }

   private:
    friend class SegmentList;
    Node* node_ = nullptr;
    bool takes_over_ = false;  // it is a larger one in place of the list's own
  };

  explicit SegmentList(std::pmr::memory_resource* resource) : resource_(resource) {}
  SegmentList(const SegmentList& other) noexcept;
  SegmentList& operator=(const SegmentList& other) noexcept;
  ~SegmentList() { Release(node_); }

  uint64_t size() const;
  bool empty() const { return size() == 0; }
  // The segment that holds `token`, which lies before the end of the last one.
  const Segment& Holding(uint64_t token) const;
  // Writes the pieces of all segments to pieces[0, size()).
  void WritePieces(const ops::Piece** pieces) const;
  // The same of the segments themselves.
  void WriteSegments(const Segment** segments) const;
  // Calls visit(segment, shared, seen) for each segment that the list keeps alive, newest node
  // first; `shared`: other lists keep it alive too; `seen`: it is one of the size() of this list.
  template <typename Visit>
  void ForEach(Visit visit) const;
  // Calls visit(identity, bytes, shared) for each node, with the bytes that were allocated for it.
  template <typename Visit>
  void ForEachNode(Visit visit) const;

  // Fetches what Append of so many segments needs. Throws std::bad_alloc.
  Room Reserve(uint64_t segments) const;
  // `room` is what Reserve gave since the last change; `next` moves out one segment after another.
  template <typename Next>
  void Append(Room& room, uint64_t segments, Next next) noexcept;
  // Drops the segments that begin at `token` or behind it.
  void CutAt(uint64_t token) noexcept;
  void Clear() noexcept;

 private:
  template <typename Put>
  void Write(Put put) const;
  bool Exclusive() const;
  void Trim() noexcept;
  void Adopt(Room& room) noexcept;
  static void Release(Node* node) noexcept;

  std::pmr::memory_resource* resource_;
  Node* node_ = nullptr;
  uint64_t seen_ = 0;  // of the segments of node_
};

// Segments follow the struct in the same allocation.
class SegmentList::Node {
 public:
  SegmentRef* segments() { return reinterpret_cast<SegmentRef*>(this + 1); }
  const SegmentRef* segments() const { return reinterpret_cast<const SegmentRef*>(this + 1); }
  uint64_t bytes() const { return sizeof(Node) + capacity * sizeof(SegmentRef); }
  // Whether nobody else can see the node. What those did who could is then visible.
  bool exclusive() const { return references.load(std::memory_order_acquire) == 1; }

  std::pmr::memory_resource* resource = nullptr;
  std::atomic<uint32_t> references{1};
  uint32_t reserved = 0;
  uint64_t capacity = 0;
  uint64_t count = 0;
  Node* parent = nullptr;  // the older segments
  uint64_t parent_seen = 0;
  uint64_t before = 0;  // segments seen of all older nodes
};

template <typename Visit>
void SegmentList::ForEach(Visit visit) const {
  bool shared = false;
  uint64_t seen = seen_;
  for (const Node* node = node_; node != nullptr; seen = node->parent_seen, node = node->parent) {
    shared = shared || !node->exclusive();
    for (uint64_t i = 0; i < node->count; ++i) {
      const Segment& segment = *node->segments()[i];
      visit(segment, shared || segment.shared(), i < seen);
    }
  }
}

template <typename Visit>
void SegmentList::ForEachNode(Visit visit) const {
  bool shared = false;
  for (const Node* node = node_; node != nullptr; node = node->parent) {
    shared = shared || !node->exclusive();
    visit(static_cast<const void*>(node), node->bytes(), shared);
  }
}

template <typename Next>
void SegmentList::Append(Room& room, uint64_t segments, Next next) noexcept {
  if (segments == 0) return;
  Adopt(room);
  for (uint64_t i = 0; i < segments; ++i) {
    new (node_->segments() + node_->count) SegmentRef(next());
    ++node_->count;
  }
  seen_ = node_->count;
}

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_SEGMENT_LIST_H_
