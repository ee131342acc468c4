// How one side takes in tokens, seals its oldest blocks, shortens, copies and accounts for itself.
#include "core/cache/side_cache.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/half.h"

namespace kvg {
namespace {

// Room of an open page. Small, because half of the last page stands empty on average; a long run
// of tokens is sealed into segments of its own length instead.
constexpr uint64_t kPageTokens = 128;

// Rows the window has beyond what its tokens need, when tokens are sealed one by one: it is moved
// to the front of its buffer once in so many tokens.
constexpr uint64_t kWindowSlack = 32;

// Tokens that may follow before a basis is learnt without queries.
constexpr uint64_t kPatience = 128;

// Tokens that a basis is learnt from, at most.
constexpr uint64_t kLesson = 4096;

// Bytes of fp16 rows that a device stages at once.
constexpr uint64_t kMostStaged = uint64_t{256} << 20;

// Pieces that are written to a device at once, and room for the first of them.
constexpr size_t kPiecesWritten = 16;
constexpr size_t kPiecesAtFirst = 16 * sizeof(ops::Piece);

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

// The same for a window of so many tokens, which may be more than there are without a basis.
uint64_t SideCache::WindowRoom(uint64_t tokens) const {
  const uint64_t least = WindowCapacity();
  return tokens <= least ? least : tokens + std::max(kPatience, uint64_t{recipe_->block});
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

// Whether `total` tokens that are not sealed yet are to be sealed now, should that need a basis
// which is still to be learnt: from queries, if enough of them come soon enough. (In a prefill they
// attend after their keys were appended.)
bool SideCache::MayLearn(uint64_t total) const {
  if (NextSeal(total, 0) == 0) return false;
  const bool asks = side_ == ops::kSideK && recipe_->map == SideRecipe::kOnline;
  if (!asks || seen_.rows() >= shape_.head_dim) return true;
  return due_ > 0 && sealed_ + total >= due_ + kPatience;
}

void SideCache::Observe(const ops::AttendArgs& args, const ops::AttendItem& item) const {
  const std::lock_guard lock(seen_mutex_);
  if (seen_.full()) return;
  const uint64_t group = args.q_heads / args.kv_heads;
  const auto queries =
      static_cast<uint32_t>(std::min<uint64_t>(args.queries, SeenQueries::MostAtOnce() / group));
  for (uint32_t head = 0; head < args.q_heads; ++head) {
    for (uint32_t query = 0; query < queries; ++query) {
      const int64_t at = int64_t{query} * args.q_token_stride + int64_t{head} * args.q_head_stride;
      float q[ops::kMaxHeadDim];
      for (uint32_t d = 0; d < args.head_dim; ++d) {
        const auto i = static_cast<size_t>(at + d);
        q[d] = args.q_dtype == ops::kF32   ? static_cast<const float*>(item.q)[i]
               : args.q_dtype == ops::kF16 ? F16ToF32(static_cast<const uint16_t*>(item.q)[i])
                                           : BF16ToF32(static_cast<const uint16_t*>(item.q)[i]);
      }
      seen_.Add(shape_, static_cast<uint32_t>(head / group), q);
    }
  }
  seen_.AddRows(queries * group);
}

uint16_t* SideCache::WindowRows(uint64_t token) const {
  return window_.rows() + (start_ + token) * shape_.head_dim;
}

absl::Status SideCache::NonFinite() const {
  return NonFiniteError(side_ == ops::kSideK ? "k" : "v",
                        " holds NaN, infinity or a magnitude beyond 65504, the largest of fp16;"
                        " nothing was appended");
}

// Writes tokens [from, from + tokens) of the window followed by x as fp16 rows. False if one that
// comes from x cannot be stored.
bool SideCache::Fetch(Executor& executor, const ops::IngestArgs& x, uint64_t from, uint64_t tokens,
                      uint16_t* rows, uint64_t head_stride) const {
  const uint64_t dim = shape_.head_dim;
  const uint64_t old = from < pending_ ? std::min(tokens, pending_ - from) : 0;
  if (old > 0) {
    executor.Copy({rows, WindowRows(from), head_stride * sizeof(uint16_t),
                   capacity_ * dim * sizeof(uint16_t), old * dim * sizeof(uint16_t),
                   shape_.kv_heads});
  }
  if (old == tokens) return true;
  const uint64_t skip = from + old - pending_;
  const int64_t size = x.dtype == ops::kF32 ? 4 : 2;
  ops::IngestArgs rest = x;
  rest.x = static_cast<const std::byte*>(x.x) + static_cast<int64_t>(skip) * x.token_stride * size;
  rest.tokens = tokens - old;
  rest.rows = rows + old * dim;
  rest.rows_head_stride = head_stride;
  return executor.Ingest(rest);
}

absl::Status SideCache::PrepareAppend(Executor& executor, const ops::IngestArgs& x,
                                      Appended& out) {
  const bool on_device = executor.device() != nullptr;
  const uint64_t row = shape_.kv_dim() * sizeof(uint16_t);
  const uint64_t total = pending_ + x.tokens;
  const bool online = recipe_->learns() && recipe_->bits < 16;
  const bool learn = online && !basis_ && MayLearn(total);
  const bool wait = online && !basis_ && !learn;
  if (wait && side_ == ops::kSideK && recipe_->map == SideRecipe::kOnline && !seen_) {
    out.seen = SeenQueries(executor.host_memory(), shape_);
  }
  if (learn) {  // on the host: devices take no map
    const uint64_t tokens = std::min(total, kLesson);
    const Buffer lesson(executor.memory(), tokens * row, Buffer::kScratch);
    const uint64_t stride = tokens * shape_.head_dim;
    if (!Fetch(executor, x, 0, tokens, lesson.data<uint16_t>(), stride)) return NonFinite();
    const RowsView rows{.rows = lesson.data<uint16_t>(), .head_stride = stride};
    out.basis = Basis::Make(executor.host_memory(), shape_, side_, *recipe_, rows, tokens, seen_);
  }
  const Basis* const basis = out.basis ? out.basis.get() : basis_.get();
  uint64_t at = 0, most = 0;
  uint64_t room = PageRoom();
  while (const uint64_t take = wait ? 0 : NextSeal(total - at, room)) {
    out.runs.push_back({at, take});
    if (room > 0) {
      // Tokens that this side has cut off, or does not see, make way.
      if (page_->shared()) {
        out.page = page_->Clone(executor, page_piece_.tokens);
      } else {
        page_->Shrink(page_piece_.tokens);
        out.page = page_;
      }
      room = 0;
    } else {
      const bool page = recipe_->block == 1 && take < ops::kBlockTokens;
      SegmentForm form = SegmentForm::Of(*recipe_, shape_, side_, page ? kPageTokens : take,
                                         take <= recipe_->block);
      if (basis != nullptr) form = form.In(*basis);
      out.segments.push_back(Segment::Create(executor, form, sealed_ + at));
    }
    most = std::max(most, take);
    at += take;
  }
  out.added = x.tokens;
  out.sealed = at;
  // A few tokens go to the window and are sealed from there; many, and those that come behind a
  // window that others see, are sealed from a staging buffer and leave a new window behind.
  const bool outgrown = capacity_ > WindowCapacity() && !wait;  // it waited for a basis
  if (total > capacity_ || !window_.exclusive() || outgrown) {
    out.capacity = WindowRoom(total - at);
    out.window = Window(executor.host_memory(), executor.memory(), out.capacity * row);
    if (on_device) {
      const uint64_t staged = std::min(at, std::max(kMostStaged / row, most));
      out.staging = Buffer(executor.memory(), staged * row, Buffer::kScratch);
    }
  }
  const uint64_t segments = (out.page ? 1 : 0) + out.segments.size();
  out.room = segments_.Reserve(segments);
  if (on_device && segments > 0) out.device_pieces = MoreDevicePieces(executor, segments);
  return absl::OkStatus();
}

absl::Status SideCache::FillAppend(Executor& executor, const ops::IngestArgs& x, Appended& out) {
  const uint64_t dim = shape_.head_dim;
  const uint64_t total = pending_ + x.tokens;
  const bool in_place = !out.window;
  if (Device::Call* const call = executor.device(); call != nullptr) {
    const bool window = in_place && window_.TakeLent();
    const bool page = out.page && out.page->TakeLent();
    const bool pieces = !out.device_pieces && device_pieces_.TakeLent();
    if (window || page || pieces) call->WaitForOthers();
  }
  if (in_place) {
    if (start_ + total > capacity_) MoveWindowToFront(executor);
    if (!Fetch(executor, x, pending_, x.tokens, WindowRows(pending_), capacity_ * dim)) {
      return NonFinite();
    }
  }
  if (!SealRuns(executor, x, in_place, out)) return NonFinite();
  if (!in_place) executor.Flush();  // of the staging
  if (!in_place && !Fetch(executor, x, out.sealed, total - out.sealed, out.window.rows(),
                          out.capacity * dim)) {
    return NonFinite();
  }
  if (executor.device() != nullptr) WriteDevicePieces(executor, out);
  return absl::OkStatus();
}

void SideCache::MoveWindowToFront(Executor& executor) {
  const uint64_t row = shape_.head_dim * sizeof(uint16_t);
  uint16_t* const first = window_.rows();
  if (executor.device() == nullptr) {
    for (uint64_t head = 0; head < shape_.kv_heads; ++head) {
      uint16_t* const rows = first + head * capacity_ * shape_.head_dim;
      std::memmove(rows, rows + start_ * shape_.head_dim, pending_ * row);
    }
  } else {
    // Piece by piece, none longer than the way it goes, so that no copy overlaps itself.
    for (uint64_t at = 0; at < pending_; at += start_) {
      executor.Copy({first + at * shape_.head_dim, WindowRows(at), capacity_ * row, capacity_ * row,
                     std::min(start_, pending_ - at) * row, shape_.kv_heads});
    }
  }
  start_ = 0;
  PlaceWindow();
}

// Seals what was prepared: from the window or, in parts that fit, by way of the staging buffer. False
// if an element of x cannot be stored.
bool SideCache::SealRuns(Executor& executor, const ops::IngestArgs& x, bool in_place,
                         Appended& out) {
  const uint64_t dim = shape_.head_dim;
  const auto is_page = [&](size_t run) { return run == 0 && out.page; };
  const auto segment_of = [&](size_t run) -> Segment& {
    if (is_page(run)) return *out.page;
    return *out.segments[run - (out.page ? 1 : 0)];
  };
  std::pmr::vector<ops::DeviceSealJob> jobs(out.runs.get_allocator());
  Buffer host_staging;
  for (size_t first = 0, end = 0; first < out.runs.size(); first = end) {
    // The host seals one segment after the other, while its rows are in the cache of the processor;
    // a device takes as many as have one form.
    const Run& run = out.runs[first];
    const bool alone = executor.device() == nullptr || is_page(first) ||
                       segment_of(first).room() != run.tokens;
    const size_t row = shape_.kv_heads * dim * sizeof(uint16_t);
    for (end = first + 1; !alone && !in_place && end < out.runs.size(); ++end) {
      const uint64_t staged = out.runs[end].at + out.runs[end].tokens - run.at;
      if (out.runs[end].tokens != run.tokens || staged * row > out.staging.size()) break;
    }
    const uint64_t tokens = out.runs[end - 1].at + out.runs[end - 1].tokens - run.at;
    RowsView rows{.rows = nullptr, .head_stride = capacity_ * dim};
    if (in_place) {
      rows.rows = WindowRows(run.at);
    } else {
      Buffer& staging = executor.device() == nullptr ? host_staging : out.staging;
      const size_t needed = tokens * row;
      if (staging.size() < needed) {
        staging = Buffer();
        staging = Buffer(executor.memory(), needed, Buffer::kScratch);
      }
      rows = {.rows = staging.data<uint16_t>(), .head_stride = tokens * dim};
      executor.Flush();  // of what the staging held before
      if (!Fetch(executor, x, run.at, tokens, staging.data<uint16_t>(), tokens * dim)) return false;
    }
    jobs.clear();
    for (size_t i = first; i < end; ++i) {
      Segment& segment = segment_of(i);
      RowsView part = rows;
      part.rows += (out.runs[i].at - run.at) * dim;
      const uint64_t seed = is_page(i) ? seed_ : seed_ + segment.piece().first_token;
      if (segment.piece().kind == ops::kRows) {
        segment.Grow(segment.Seal(executor, part, out.runs[i].tokens, seed));
      } else {
        jobs.push_back(segment.SealJob(part, out.runs[i].tokens, seed));
      }
    }
    if (!jobs.empty()) executor.Seal(jobs);
    for (size_t i = first; i < end && !jobs.empty(); ++i) {
      const SealedRun sealed = Segment::Sealed(jobs[i - first]);
      if (is_page(i)) {
        out.run = sealed;
      } else {
        segment_of(i).Grow(sealed);
      }
    }
  }
  return true;
}

namespace {

// The pieces of segments, one behind the other at `to`, in parcels that a device takes.
class PieceWriter {
 public:
  PieceWriter(Executor& executor, ops::Piece* to) : executor_(executor), to_(to) {}
  PieceWriter(const PieceWriter&) = delete;
  PieceWriter& operator=(const PieceWriter&) = delete;
  ~PieceWriter() { Flush(); }

  void Add(const ops::Piece& piece, uint64_t more_tokens = 0) {
    some_[count_] = piece;
    some_[count_++].tokens += more_tokens;
    if (count_ == kPiecesWritten) Flush();
  }

 private:
  void Flush() {
    if (count_ > 0) executor_.Write(to_, some_, count_ * sizeof(ops::Piece));
    to_ += count_;
    count_ = 0;
  }
  Executor& executor_;
  ops::Piece* to_;
  ops::Piece some_[kPiecesWritten];
  size_t count_ = 0;
};

}  // namespace

// An array for `added` more pieces, unless what there is will do. Nothing is in it yet.
Window SideCache::MoreDevicePieces(Executor& executor, uint64_t added) const {
  const size_t needed = (segments_.size() + added) * sizeof(ops::Piece);
  if (device_pieces_ && device_pieces_.exclusive() && needed <= device_pieces_.bytes()) return {};
  return Window(executor.host_memory(), executor.memory(),
                std::max({needed, 2 * device_pieces_.bytes(), kPiecesAtFirst}));
}

// Brings the device's array of pieces to what Commit will make of the list of segments.
void SideCache::WriteDevicePieces(Executor& executor, const Appended& out) const {
  const bool replaced = static_cast<bool>(out.device_pieces);
  auto* pieces = (replaced ? out.device_pieces : device_pieces_).rows<ops::Piece>();
  if (replaced && segments_.size() > 0) {
    const uint64_t bytes = segments_.size() * sizeof(ops::Piece);
    executor.Copy({pieces, device_pieces_.rows<ops::Piece>(), bytes, bytes, bytes, 1});
  }
  PieceWriter writer(executor, pieces + segments_.size());
  if (out.page && out.page->room() == out.run.tokens) {
    writer.Add(out.page->piece(), out.run.tokens);
  }
  for (const SegmentRef& segment : out.segments) {
    if (segment->room() == 0) writer.Add(segment->piece());  // else it is the next open page
  }
}

void SideCache::CommitAppend(Appended& prepared) noexcept {
  // Where the page takes nothing on, this side may see fewer of its tokens than it holds: see Truncate.
  const bool grows = static_cast<bool>(prepared.page);
  if (grows) {
    page_ = std::move(prepared.page);
    page_->Grow(prepared.run);
  }
  // All but a page that still has room goes to the list.
  const bool closes = grows && page_->room() == 0;
  const bool opens = !prepared.segments.empty() && prepared.segments.back()->room() > 0;
  auto next = prepared.segments.begin();
  uint64_t full = prepared.segments.size() - (opens ? 1 : 0);
  const auto take = [&, close = closes]() mutable {
    return std::exchange(close, false) ? std::move(page_) : std::move(*next++);
  };
  full += closes ? 1 : 0;
  segments_.Append(prepared.room, full, take);
  if (opens) page_ = std::move(*next);
  if (page_ && (grows || opens)) page_piece_ = page_->piece();
  start_ += prepared.sealed;
  if (prepared.window) {
    window_ = std::move(prepared.window);
    capacity_ = prepared.capacity;
    start_ = 0;
  }
  if (prepared.seen) seen_ = std::move(prepared.seen);
  if (prepared.basis) {
    basis_ = std::move(prepared.basis);
    seen_ = SeenQueries();
  }
  if (prepared.device_pieces) device_pieces_ = std::move(prepared.device_pieces);
  sealed_ += prepared.sealed;
  pending_ += prepared.added - prepared.sealed;
  due_ = NextSeal(pending_, 0) == 0 ? 0 : due_ == 0 ? length() : due_;
  PlaceWindow();
}

PieceList SideCache::Pieces(Memory& memory) const {
  const uint64_t full = segments_.size();
  PieceList list(memory, full + (page_ ? 1 : 0) + (pending_ > 0 ? 1 : 0));
  const ops::Piece** pieces = list.data();
  segments_.WritePieces(pieces);
  pieces += full;
  if (page_) *pieces++ = &page_piece_;
  if (pending_ > 0) *pieces = &rows_;
  return list;
}

ops::DevicePieces SideCache::device_pieces() const {
  ops::DevicePieces pieces{};
  pieces.sealed = device_pieces_.rows<ops::Piece>();
  pieces.count = static_cast<uint32_t>(segments_.size());
  if (page_) pieces.page = page_piece_;
  pieces.window = rows_;
  return pieces;
}

void SideCache::FetchErrors(Executor& executor) const {
  segments_.ForEach([&](const Segment& segment, bool, bool) { segment.FetchError(executor); });
  if (page_) page_->FetchError(executor);
}

// Brings rows_ up to date with the members that it repeats.
void SideCache::PlaceWindow() noexcept {
  rows_.rows = window_ ? WindowRows(0) : nullptr;
  rows_.rows_head_stride = capacity_ * shape_.head_dim;
  rows_.first_token = sealed_;
  rows_.tokens = pending_;
  rows_.padded_tokens = capacity_;
}

uint64_t SideCache::FloorLength(uint64_t tokens) const {
  if (tokens >= sealed_) return tokens;
  // Tokens of an open page were compressed one by one, so that any of them can be the last.
  if (page_ && tokens >= page_piece_.first_token) return tokens;
  return segments_.Holding(tokens).piece().first_token;
}

uint64_t SideCache::CeilLength(uint64_t tokens) const {
  return FloorLength(tokens) == tokens ? tokens : segments_.Holding(tokens).end();
}

void SideCache::Truncate(uint64_t tokens) noexcept {
  if (tokens >= length()) return;
  if (tokens >= sealed_) {
    pending_ = tokens - sealed_;
  } else {
    pending_ = 0;
    start_ = 0;
    if (page_ && page_piece_.first_token >= tokens) page_ = SegmentRef();
    if (page_) {
      page_piece_.tokens = tokens - page_piece_.first_token;
    } else {
      segments_.CutAt(tokens);
    }
    sealed_ = tokens;
  }
  PlaceWindow();
}

void SideCache::Clear() noexcept {
  segments_.Clear();
  page_ = SegmentRef();
  window_ = Window();
  device_pieces_ = Window();
  basis_ = BasisRef();
  seen_ = SeenQueries();
  sealed_ = capacity_ = start_ = pending_ = due_ = 0;
  PlaceWindow();
}

void SideCache::CopyFrom(const SideCache& other) noexcept {
  segments_ = other.segments_;
  page_ = other.page_;
  if (page_) page_->Lend();
  page_piece_ = other.page_piece_;
  window_ = other.window_;
  basis_ = other.basis_;
  due_ = other.due_;
  device_pieces_ = other.device_pieces_;
  capacity_ = other.capacity_;
  start_ = other.start_;
  sealed_ = other.sealed_;
  pending_ = other.pending_;
  PlaceWindow();
}

void SideCache::Restore(Executor& executor, Restored& restored) {
  const uint64_t row = shape_.head_dim * sizeof(uint16_t);
  const uint64_t capacity = WindowRoom(pending_ + restored.tokens);
  Window window;
  if (restored.tokens > 0) {
    window = Window(executor.host_memory(), executor.memory(), shape_.kv_heads * capacity * row);
    if (pending_ > 0) {
      executor.Copy({window.rows(), WindowRows(0), capacity * row, capacity_ * row, pending_ * row,
                     shape_.kv_heads});
    }
    executor.Copy({window.rows() + pending_ * shape_.head_dim, restored.rows.data(), capacity * row,
                   restored.tokens * row, restored.tokens * row, shape_.kv_heads});
  }
  const uint64_t full = restored.segments.size();
  if (executor.device() != nullptr && full > 0) {
    Appended pieces(restored.segments.get_allocator().resource());
    pieces.device_pieces = MoreDevicePieces(executor, full);
    pieces.segments.swap(restored.segments);
    WriteDevicePieces(executor, pieces);
    pieces.segments.swap(restored.segments);
    if (pieces.device_pieces) device_pieces_ = std::move(pieces.device_pieces);
  }
  SegmentList::Room room = segments_.Reserve(full);
  for (const SegmentRef& segment : restored.segments) sealed_ += segment->piece().tokens;
  auto next = restored.segments.begin();
  segments_.Append(room, full, [&next] { return std::move(*next++); });
  if (restored.page) {
    page_ = std::move(restored.page);
    page_piece_ = page_->piece();
    sealed_ += page_piece_.tokens;
  }
  if (window) {
    window_ = std::move(window);
    capacity_ = capacity;
    start_ = 0;
    pending_ += restored.tokens;
  }
  if (restored.basis) basis_ = std::move(restored.basis);
  if (restored.seen) seen_ = std::move(restored.seen);
  if (basis_) seen_ = SeenQueries();
  due_ = restored.due;
  PlaceWindow();
}

void SideCache::TakeSeen(SideCache& from) noexcept {
  if (waits_for_basis() && !seen_) seen_ = std::move(from.seen_);
}

std::vector<std::byte> SideCache::StoredSeen() const {
  std::vector<std::byte> stored(SeenQueries::StoredBytes(shape_));
  const std::lock_guard lock(seen_mutex_);
  seen_.Store(shape_, stored.data());
  return stored;
}

void SideStats::Add(const Segment& segment, bool is_shared, uint64_t seen) {
  const SegmentBytes added = segment.Bytes();
  bytes.codes += added.codes;
  bytes.scales += added.scales;
  bytes.low_rank += added.low_rank;
  bytes.sparse += added.sparse;
  bytes.bookkeeping += added.bookkeeping;
  mapped += segment.borrowed();
  if (is_shared) shared += segment.allocated();
  if (segment.piece().kind == ops::kRows || seen == 0) return;
  const double error =
      segment.norm_sq() > 0 ? std::sqrt(segment.error_sq() / segment.norm_sq()) : 0;
  sealed_tokens += seen;
  error_tokens += error * static_cast<double>(seen);
  error_worst = std::max(error_worst, error);
}

SideStats SideCache::Stats() const {
  SideStats stats;
  stats.tokens = length();
  stats.appended = length();
  stats.segments = segments_.size() + (page_ ? 1 : 0);
  segments_.ForEach([&](const Segment& segment, bool shared, bool seen) {
    stats.Add(segment, shared, seen ? segment.piece().tokens : 0);
  });
  segments_.ForEachNode([&](const void*, uint64_t bytes, bool shared) {
    stats.bytes.bookkeeping += bytes;
    if (shared) stats.shared += bytes;
  });
  if (page_) stats.Add(*page_, page_->shared(), page_piece_.tokens);
  if (window_) {
    stats.bytes.bookkeeping += window_.bookkeeping();
    if (!window_.exclusive()) stats.shared += window_.bytes() + window_.bookkeeping();
  }
  stats.state = seen_.bytes();
  if (basis_) {
    stats.state += basis_->bytes();
    if (basis_->shared()) stats.shared += basis_->bytes();
  }
  if (device_pieces_) {
    const uint64_t bytes = device_pieces_.bytes() + device_pieces_.bookkeeping();
    stats.bytes.bookkeeping += bytes;
    if (!device_pieces_.exclusive()) stats.shared += bytes;
  }
  stats.window_allocated = window_.bytes();
  stats.window_used = pending_ * shape_.kv_dim() * sizeof(uint16_t);
  return stats;
}

}  // namespace kvg
