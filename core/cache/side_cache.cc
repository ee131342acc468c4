// How one side takes in tokens, seals its oldest blocks, shortens, copies and accounts for itself.
#include "core/cache/side_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace kvg {
namespace {

// Room of an open page. Small, because half of the last page stands empty on average; a long run
// of tokens is sealed into segments of its own length instead.
constexpr uint64_t kPageTokens = 128;

// Rows the window has beyond what its tokens need, when tokens are sealed one by one: it is moved
// to the front of its buffer once in so many tokens.
constexpr uint64_t kWindowSlack = 32;

// A reserve that keeps appending one element at a time linear in total.
template <typename List>
void ReserveLonger(const List& list, size_t added, List& longer) {
  const size_t needed = list.size() + added;
  if (needed > list.capacity()) longer.reserve(std::max<size_t>({needed, 2 * list.capacity(), 4}));
}

template <typename List>
void MoveIntoLonger(List& list, List& longer) noexcept {
  if (longer.capacity() == 0) return;
  for (auto& element : list) longer.push_back(std::move(element));
  list.swap(longer);
}

}  // namespace

void SideCache::Init(const Shape& shape, const SideRecipe& recipe, ops::Side side, uint64_t seed) {
  shape_ = shape;
  recipe_ = &recipe;
  side_ = side;
  seed_ = seed;
  rows_.kind = ops::kRows;
  rows_.side = side;
  rows_.kv_heads = shape.kv_heads;
  rows_.head_dim = shape.head_dim;
  rows_.dirs = ops::PadDirs(shape.head_dim);
}

uint64_t SideCache::WindowCapacity() const {
  return uint64_t{recipe_->window} + (recipe_->block == 1 ? kWindowSlack : recipe_->block);
}

// How many of `pending` tokens to seal as the next segment or, when an open page has room, into it.
uint64_t SideCache::NextSeal(uint64_t pending, uint64_t room) const {
  const uint64_t block = recipe_->block;
  if (pending < recipe_->window + block) return 0;
  const uint64_t due = pending - recipe_->window;
  if (block > 1) return std::min<uint64_t>(due, recipe_->segment) / block * block;
  if (room > 0) return std::min(due, room);
  if (due < ops::kBlockTokens) return due;
  return std::min<uint64_t>(due, recipe_->segment) / ops::kBlockTokens * ops::kBlockTokens;
}

uint16_t* SideCache::WindowRows(uint64_t token) const {
  return window_.data<uint16_t>() + (start_ + token) * shape_.head_dim;
}

// Writes tokens [from, from + tokens) of the window followed by x as fp16 rows. False if one that
// comes from x cannot be stored.
bool SideCache::Fetch(const ops::Table& table, const ops::IngestArgs& x, uint64_t from,
                      uint64_t tokens, uint16_t* rows, uint64_t head_stride) const {
  const uint64_t dim = shape_.head_dim;
  const uint64_t old = from < pending_ ? std::min(tokens, pending_ - from) : 0;
  if (old > 0) {
    for (uint64_t head = 0; head < shape_.kv_heads; ++head) {
      std::memcpy(rows + head * head_stride, WindowRows(from) + head * capacity_ * dim,
                  old * dim * sizeof(uint16_t));
    }
  }
  if (old == tokens) return true;
  const uint64_t skip = from + old - pending_;
  const int64_t size = x.dtype == ops::kF32 ? 4 : 2;
  ops::IngestArgs rest = x;
  rest.x = static_cast<const std::byte*>(x.x) + static_cast<int64_t>(skip) * x.token_stride * size;
  rest.tokens = tokens - old;
  rest.rows = rows + old * dim;
  rest.rows_head_stride = head_stride;
  return table.ingest(&rest);
}

absl::Status SideCache::PrepareAppend(Runtime& runtime, const ops::Parallel& parallel,
                                      const ops::IngestArgs& x, Appended& out) {
  const ops::Table& table = runtime.table();
  const uint64_t dim = shape_.head_dim;
  const uint64_t total = pending_ + x.tokens;
  const auto refusal = [this] {
    return NonFiniteError(side_ == ops::kSideK ? "k" : "v",
                          " holds NaN, infinity or a magnitude beyond 65504, the largest of fp16;"
                          " nothing was appended");
  };
  // A few tokens go to the window and are sealed from there; many are sealed from a staging buffer
  // and leave a new window behind.
  const bool in_place = total <= capacity_;
  if (in_place) {
    if (start_ + total > capacity_) {
      for (uint64_t head = 0; head < shape_.kv_heads; ++head) {
        uint16_t* const first = window_.data<uint16_t>() + head * capacity_ * dim;
        std::memmove(first, first + start_ * dim, pending_ * dim * sizeof(uint16_t));
      }
      start_ = 0;
      PlaceWindow();
    }
    if (!Fetch(table, x, pending_, x.tokens, WindowRows(pending_), capacity_ * dim)) {
      return refusal();
    }
  }
  Buffer staging;
  uint64_t at = 0;
  uint64_t room = PageRoom();
  while (const uint64_t take = NextSeal(total - at, room)) {
    RowsView rows{.rows = nullptr, .head_stride = capacity_ * dim};
    if (in_place) {
      rows.rows = WindowRows(at);
    } else {
      const size_t needed = shape_.kv_heads * take * dim * sizeof(uint16_t);
      if (staging.size() < needed) {
        staging = Buffer();
        staging = Buffer(runtime.memory(), needed, Buffer::kScratch);
      }
      rows = {.rows = staging.data<uint16_t>(), .head_stride = take * dim};
      if (!Fetch(table, x, at, take, staging.data<uint16_t>(), take * dim)) return refusal();
    }
    if (room > 0) {
      out.page = segments_.back()->Seal(table, parallel, rows, take, seed_);
      room = 0;
    } else {
      const bool page = recipe_->block == 1 && take < ops::kBlockTokens;
      const SegmentForm form = SegmentForm::Of(*recipe_, shape_, side_, page ? kPageTokens : take,
                                               take <= recipe_->block);
      const uint64_t first_token = sealed_ + at;
      SegmentRef segment = Segment::Create(runtime.memory(), form, first_token);
      segment->Grow(segment->Seal(table, parallel, rows, take, seed_ + first_token));
      out.segments.push_back(std::move(segment));
    }
    at += take;
  }
  out.added = x.tokens;
  out.sealed = at;
  if (!in_place) {
    const uint64_t capacity = WindowCapacity();
    out.window = Buffer(runtime.memory(), shape_.kv_heads * capacity * dim * sizeof(uint16_t));
    if (!Fetch(table, x, at, total - at, out.window.data<uint16_t>(), capacity * dim)) {
      return refusal();
    }
  }
  ReserveLonger(segments_, out.segments.size(), out.longer_segments);
  // One more for the window, which may not be in the list yet.
  ReserveLonger(pieces_, out.segments.size() + 1, out.longer_pieces);
  return absl::OkStatus();
}

void SideCache::CommitAppend(Appended& prepared) noexcept {
  MoveIntoLonger(segments_, prepared.longer_segments);
  MoveIntoLonger(pieces_, prepared.longer_pieces);
  if (pending_ > 0) pieces_.pop_back();
  if (prepared.page.tokens > 0) segments_.back()->Grow(prepared.page);
  for (SegmentRef& segment : prepared.segments) {
    pieces_.push_back(&segment->piece());
    segments_.push_back(std::move(segment));
  }
  start_ += prepared.sealed;
  if (prepared.window.size() > 0) {
    window_.swap(prepared.window);
    capacity_ = WindowCapacity();
    start_ = 0;
  }
  sealed_ += prepared.sealed;
  pending_ += prepared.added - prepared.sealed;
  PlaceWindow();
  if (pending_ > 0) pieces_.push_back(&rows_);
}

// Brings rows_ up to date with the members that it repeats.
void SideCache::PlaceWindow() noexcept {
  rows_.rows = window_.size() > 0 ? WindowRows(0) : nullptr;
  rows_.rows_head_stride = capacity_ * shape_.head_dim;
  rows_.first_token = sealed_;
  rows_.tokens = pending_;
  rows_.padded_tokens = capacity_;
}

// Index of the segment that holds `token` < sealed_.
size_t SideCache::SegmentAt(uint64_t token) const {
  const auto after = std::upper_bound(
      segments_.begin(), segments_.end(), token,
      [](uint64_t t, const SegmentRef& s) { return t < s->piece().first_token; });
  return static_cast<size_t>(after - segments_.begin()) - 1;
}

uint64_t SideCache::FloorLength(uint64_t tokens) const {
  if (tokens >= sealed_) return tokens;
  const Segment& segment = *segments_[SegmentAt(tokens)];
  // Tokens of an open page were compressed one by one, so that any of them can be the last.
  return segment.room() > 0 ? tokens : segment.piece().first_token;
}

uint64_t SideCache::CeilLength(uint64_t tokens) const {
  return FloorLength(tokens) == tokens ? tokens : segments_[SegmentAt(tokens)]->end();
}

void SideCache::Truncate(uint64_t tokens) noexcept {
  if (tokens >= length()) return;
  if (pending_ > 0) pieces_.pop_back();
  if (tokens >= sealed_) {
    pending_ = tokens - sealed_;
  } else {
    pending_ = 0;
    start_ = 0;
    while (!segments_.empty() && segments_.back()->piece().first_token >= tokens) {
      segments_.pop_back();
      pieces_.pop_back();
    }
    if (!segments_.empty() && segments_.back()->end() > tokens) {
      segments_.back()->Shrink(tokens - segments_.back()->piece().first_token);
    }
    sealed_ = tokens;
  }
  PlaceWindow();
  if (pending_ > 0) pieces_.push_back(&rows_);
}

void SideCache::Clear() noexcept {
  Pieces(pieces_.get_allocator()).swap(pieces_);
  Segments(segments_.get_allocator()).swap(segments_);
  Buffer().swap(window_);
  sealed_ = capacity_ = start_ = pending_ = 0;
  PlaceWindow();
}

void SideCache::CopyFrom(const SideCache& other, Runtime& runtime) {
  Segments segments(segments_.get_allocator());
  Pieces pieces(pieces_.get_allocator());
  segments.reserve(other.segments_.size());
  pieces.reserve(other.pieces_.size());
  for (const SegmentRef& segment : other.segments_) {
    segments.push_back(segment->room() > 0 ? segment->Clone() : segment);
    pieces.push_back(&segments.back()->piece());
  }
  Buffer window;
  if (other.window_.size() > 0) {
    window = Buffer(runtime.memory(), other.window_.size());
    std::memcpy(window.data(), other.window_.data(), other.window_.size());
  }
  segments_.swap(segments);
  pieces_.swap(pieces);
  window_.swap(window);
  capacity_ = other.capacity_;
  start_ = other.start_;
  sealed_ = other.sealed_;
  pending_ = other.pending_;
  PlaceWindow();
  if (pending_ > 0) pieces_.push_back(&rows_);
}

SideStats SideCache::Stats() const {
  SideStats stats;
  stats.tokens = length();
  stats.segments = segments_.size();
  for (const SegmentRef& segment : segments_) {
    const SegmentBytes bytes = segment->Bytes();
    stats.bytes.codes += bytes.codes;
    stats.bytes.scales += bytes.scales;
    stats.bytes.low_rank += bytes.low_rank;
    stats.bytes.sparse += bytes.sparse;
    stats.bytes.bookkeeping += bytes.bookkeeping;
    if (segment->shared()) stats.shared += segment->allocated();
    if (segment->piece().kind == ops::kRows) continue;
    const double tokens = static_cast<double>(segment->piece().tokens);
    const double error =
        segment->norm_sq() > 0 ? std::sqrt(segment->error_sq() / segment->norm_sq()) : 0;
    stats.sealed_tokens += segment->piece().tokens;
    stats.error_tokens += error * tokens;
    stats.error_worst = std::max(stats.error_worst, error);
  }
  stats.bytes.bookkeeping += segments_.capacity() * sizeof(segments_[0]);
  stats.bytes.bookkeeping += pieces_.capacity() * sizeof(pieces_[0]);
  stats.window_allocated = window_.size();
  stats.window_used = pending_ * shape_.kv_dim() * sizeof(uint16_t);
  return stats;
}

}  // namespace kvg
