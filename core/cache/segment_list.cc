// Sharing, growing and cutting of segment lists. See segment_list.h.
#include "core/cache/segment_list.h"

#include <algorithm>
#include <memory>
#include <new>

namespace kvg {
namespace {

// A list that has to leave a shared node copies it if it has no more segments than these, rather
// than continue behind it: forks of forks of forks then do not make a chain of tiny nodes.
constexpr uint64_t kCopied = 16;
constexpr uint64_t kLeastCapacity = 4;

SegmentList::Node* NewNode(std::pmr::memory_resource* resource, uint64_t capacity) {
  const size_t bytes = sizeof(SegmentList::Node) + capacity * sizeof(SegmentRef);
  auto* const node =
      new (resource->allocate(bytes, alignof(SegmentList::Node))) SegmentList::Node();
  node->resource = resource;
  node->capacity = capacity;
  return node;
}

void Share(SegmentList::Node* node) noexcept {
  if (node != nullptr) node->references.fetch_add(1, std::memory_order_relaxed);
}

void Drop(SegmentList::Node* node, uint64_t count) noexcept {
  while (node->count > count) std::destroy_at(node->segments() + --node->count);
}

}  // namespace

SegmentList::SegmentList(const SegmentList& other) noexcept
    : resource_(other.resource_), node_(other.node_), seen_(other.seen_) {
  Share(node_);
}

SegmentList& SegmentList::operator=(const SegmentList& other) noexcept {
  Share(other.node_);
  Release(std::exchange(node_, other.node_));
  resource_ = other.resource_;
  seen_ = other.seen_;
  return *this;
}

// A loop, for a chain may be long.
void SegmentList::Release(Node* node) noexcept {
  // The last one to let go must see what the others did before.
  while (node != nullptr && node->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    Drop(node, 0);
    Node* const parent = node->parent;
    std::pmr::memory_resource* const resource = node->resource;
    const uint64_t bytes = node->bytes();
    std::destroy_at(node);
    resource->deallocate(node, bytes, alignof(Node));
    node = parent;
  }
}

bool SegmentList::Exclusive() const { return node_ != nullptr && node_->exclusive(); }

uint64_t SegmentList::size() const { return node_ == nullptr ? 0 : node_->before + seen_; }

const Segment& SegmentList::Holding(uint64_t token) const {
  const Node* node = node_;
  uint64_t seen = seen_;
  while (seen == 0 || token < node->segments()[0]->piece().first_token) {
    seen = node->parent_seen;
    node = node->parent;
  }
  const SegmentRef* const first = node->segments();
  const SegmentRef* const after = std::upper_bound(
      first, first + seen, token,
      [](uint64_t t, const SegmentRef& s) { return t < s->piece().first_token; });
  return **(after - 1);
}

// Calls put(index, segment) for each segment, newest node first.
template <typename Put>
void SegmentList::Write(Put put) const {
  uint64_t end = size();
  uint64_t seen = seen_;
  for (const Node* node = node_; node != nullptr; seen = node->parent_seen, node = node->parent) {
    end -= seen;
    for (uint64_t i = 0; i < seen; ++i) put(end + i, *node->segments()[i]);
  }
}

void SegmentList::WritePieces(const ops::Piece** pieces) const {
  Write([pieces](uint64_t i, const Segment& segment) { pieces[i] = &segment.piece(); });
}

void SegmentList::WriteSegments(const Segment** segments) const {
  Write([segments](uint64_t i, const Segment& segment) { segments[i] = &segment; });
}

SegmentList::Room SegmentList::Reserve(uint64_t segments) const {
  Room room;
  if (segments == 0) return room;
  const bool mine = Exclusive();
  if (mine && seen_ + segments <= node_->capacity) return room;
  if (mine) {
    room.takes_over_ = true;
    room.node_ =
        NewNode(resource_, std::max({seen_ + segments, 2 * node_->capacity, kLeastCapacity}));
    return room;
  }
  const bool copy = node_ != nullptr && seen_ <= kCopied;
  const uint64_t kept = copy ? seen_ : 0;
  Node* const node = NewNode(resource_, std::max(kept + segments, kLeastCapacity));
  room.node_ = node;
  for (; node->count < kept; ++node->count) {
    new (node->segments() + node->count) SegmentRef(node_->segments()[node->count]);
  }
  node->parent = copy ? node_->parent : node_;
  node->parent_seen = copy ? node_->parent_seen : seen_;
  node->before = copy ? node_->before : size();
  Share(node->parent);
  return room;
}

// Makes node_ the one to append to.
void SegmentList::Adopt(Room& room) noexcept {
  if (room.node_ == nullptr) {
    Drop(node_, seen_);
    return;
  }
  Node* const node = std::exchange(room.node_, nullptr);
  if (room.takes_over_) {
    Drop(node_, seen_);
    for (; node->count < seen_; ++node->count) {
      new (node->segments() + node->count) SegmentRef(std::move(node_->segments()[node->count]));
    }
    node->parent = std::exchange(node_->parent, nullptr);
    node->parent_seen = node_->parent_seen;
    node->before = node_->before;
  }
  Release(std::exchange(node_, node));
}

// Lets go of segments that are out of sight in nodes that nobody else uses.
void SegmentList::Trim() noexcept {
  uint64_t seen = seen_;
  for (Node* node = node_; node != nullptr && node->exclusive();
       seen = node->parent_seen, node = node->parent) {
    Drop(node, seen);
  }
}

void SegmentList::CutAt(uint64_t token) noexcept {
  while (node_ != nullptr) {
    while (seen_ > 0 && node_->segments()[seen_ - 1]->piece().first_token >= token) --seen_;
    if (seen_ > 0) break;
    Node* const parent = node_->parent;
    seen_ = node_->parent_seen;
    Share(parent);
    Release(std::exchange(node_, parent));
  }
  Trim();
}

void SegmentList::Clear() noexcept {
  Release(std::exchange(node_, nullptr));
  seen_ = 0;
}

}  // namespace kvg
