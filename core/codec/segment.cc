// The memory layout of a segment, and its sealing through the operation table.
#include "core/codec/segment.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "core/codec/basis.h"
#include "core/codec/map.h"
#include "kernels/tile.h"

namespace kvg {
namespace {

// floor(share * length / 2), where the product of the two, not its rounding, is meant: a share of
// 0.02 of 300 entries is 3 at each end, although 0.02 * 300 / 2 may come out just below.
uint64_t OutliersPerEnd(double share, uint64_t length) {
  const double exact = share * static_cast<double>(length) / 2;
  return std::min(static_cast<uint64_t>(std::floor(exact + 1e-9)), length / 2);
}

// The largest rank whose factors take fewer bytes than codes of the next width would for the same
// entries; with 2 bits, less than one bit per entry. What costs more is dominated by those codes.
uint64_t RankThatFits(uint32_t bits, uint64_t tokens, uint32_t head_dim) {
  uint32_t wider = bits + 1;
  while (!ops::WidthIsValid(wider) && wider < 16) ++wider;
  const uint64_t dirs = ops::PadDirs(head_dim);
  const uint64_t spared = (wider - bits) * tokens * dirs;
  const uint64_t per_rank = 16 * (tokens + dirs);
  return (spared - 1) / per_rank;
}

}  // namespace

SegmentForm SegmentForm::Of(const SideRecipe& recipe, const Shape& shape, ops::Side side,
                            uint64_t tokens, bool decode) {
  SegmentForm form;
  form.bits = recipe.bits;
  form.kv_heads = shape.kv_heads;
  form.head_dim = shape.head_dim;
  form.tokens = tokens;
  form.spec.side = side;
  form.spec.axis = recipe.axis;
  if (recipe.bits == 16) return form;
  form.kind = ops::kCodes;
  ops::SealSpec& spec = form.spec;
  const uint32_t dirs = ops::PadDirs(shape.head_dim);
  if (recipe.axis == ops::kAxisChannel) {
    // The last group of a segment may be short only when it is the whole segment.
    spec.group = recipe.group == SideRecipe::kWhole
                     ? static_cast<uint32_t>(tokens)
                     : std::min(recipe.group, static_cast<uint32_t>(tokens));
  } else {
    spec.heads_share_scale = recipe.group == SideRecipe::kAllHeads;
    const bool whole = recipe.group == SideRecipe::kWhole || recipe.group >= shape.head_dim;
    spec.group = whole ? dirs : recipe.group;
  }
  if (recipe.map == SideRecipe::kHadamard) spec.map = HadamardMap(shape.head_dim);
  const uint64_t vector = side == ops::kSideK ? tokens : shape.kv_dim();
  spec.outliers = OutliersPerEnd(recipe.outliers, vector);
  spec.rank = decode ? recipe.decode_rank : recipe.rank;
  if (recipe.rank_fit != 0) {
    const uint64_t fits = RankThatFits(recipe.bits, tokens, shape.head_dim);
    spec.rank = static_cast<uint32_t>(std::min<uint64_t>(spec.rank, fits));
  }
  spec.sweeps = recipe.sweeps;
  spec.fit = recipe.fit;
  return form;
}

SegmentForm SegmentForm::In(const Basis& basis) const {
  SegmentForm form = *this;
  form.spec.map = &basis.map();
  form.widths = basis.widths();
  return form;
}

// Where each array lies, in bytes from the start of the payload, and how long it is. The arrays
// that kernels stream come first, on cache lines; small tables follow packed.
struct Segment::Layout {
  struct Array {
    uint64_t at = 0, bytes = 0;
  };
  Array rows, codes, scale, minimum, a, b;
  Array sparse_value, sparse_start, sparse_count, sparse_dir;
  Array codes_head, codes_block, widths;
  Array sums;  // on a device only
  uint64_t total = 0;
  uint64_t groups = 0;       // per head (or per token, where heads share)

  static uint32_t BlockBytes(const SegmentForm& form, uint64_t head) {
    const uint32_t tiles = ops::PadDirs(form.head_dim) / ops::kTileDirs;
    if (form.widths == nullptr) return tiles * ops::TileBytes(form.bits);
    return ops::TileOffset(form.widths + head * tiles, tiles);
  }
};

Segment::Layout Segment::LayoutOf(const SegmentForm& form, bool on_device) {
  Layout layout;
  uint64_t end = 0;
  const auto place = [&end](Layout::Array& array, uint64_t bytes, uint64_t align) {
    if (bytes == 0) return;
    end = (end + align - 1) / align * align;
    array = {end, bytes};
    end += bytes;
  };
  const uint64_t heads = form.kv_heads;
  if (form.kind == ops::kRows) {
    place(layout.rows, heads * form.tokens * form.head_dim * sizeof(uint16_t), ops::kAlign);
    layout.total = end;
    return layout;
  }
  const ops::SealSpec& spec = form.spec;
  const uint64_t dirs = ops::PadDirs(form.head_dim);
  const uint64_t blocks = form.tokens / ops::kBlockTokens;
  const uint64_t tiles = dirs / ops::kTileDirs;
  uint64_t codes = 0;
  for (uint64_t head = 0; head < heads; ++head) codes += blocks * Layout::BlockBytes(form, head);
  place(layout.codes, codes, ops::kAlign);
  uint64_t scales = 0;
  if (spec.axis == ops::kAxisChannel) {
    layout.groups = (form.tokens + spec.group - 1) / spec.group;
    scales = heads * layout.groups * dirs;
  } else {
    layout.groups = (form.head_dim + spec.group - 1) / spec.group;
    scales = (spec.heads_share_scale ? 1 : heads) * layout.groups * form.tokens;
  }
  place(layout.scale, scales * sizeof(uint16_t), ops::kAlign);
  place(layout.minimum, scales * sizeof(uint16_t), ops::kAlign);
  place(layout.a, heads * spec.rank * form.tokens * sizeof(uint16_t), ops::kAlign);
  place(layout.b, heads * spec.rank * dirs * sizeof(uint16_t), ops::kAlign);
  if (spec.outliers > 0) {
    const uint64_t vectors = spec.side == ops::kSideK ? heads * form.head_dim : form.tokens;
    const uint64_t entries = 2 * spec.outliers * vectors;
    place(layout.sparse_value, entries * sizeof(uint16_t), ops::kAlign);
    place(layout.sparse_dir, entries, ops::kAlign);
    place(layout.sparse_count, heads * form.tokens, ops::kAlign);
    place(layout.sparse_start, heads * (blocks + 1) * sizeof(uint32_t), ops::kAlign);
  }
  place(layout.codes_head, heads * sizeof(uint64_t), alignof(uint64_t));
  place(layout.codes_block, heads * sizeof(uint32_t), alignof(uint32_t));
  place(layout.widths, heads * tiles, 1);
  if (on_device) place(layout.sums, 2 * sizeof(double), alignof(double));
  layout.total = end;
  return layout;
}

// A borrowed payload is never written: only open pages are, and those are not borrowed.
Segment::Segment(Memory& memory, Buffer payload, const std::byte* borrowed,
                 std::shared_ptr<const void> keep, const SegmentForm& form, bool on_device,
                 uint64_t first_token)
    : memory_(memory),
      payload_(std::move(payload)),
      keep_(std::move(keep)),
      base_(borrowed != nullptr ? const_cast<std::byte*>(borrowed) : payload_.data()),
      form_(form),
      on_device_(on_device) {
  piece_.kind = form.kind;
  piece_.side = form.spec.side;
  piece_.first_token = first_token;
  piece_.padded_tokens = form.tokens;
  piece_.kv_heads = form.kv_heads;
  piece_.head_dim = form.head_dim;
  piece_.dirs = ops::PadDirs(form.head_dim);
}

void Segment::Bind(const Layout& layout) {
  std::byte* const base = base_;
  const auto bind = [base]<typename T>(const T*& pointer, const Layout::Array& array) {
    pointer = array.bytes == 0 ? nullptr : reinterpret_cast<const T*>(base + array.at);
  };
  bind(piece_.rows, layout.rows);
  piece_.rows_head_stride = form_.tokens * form_.head_dim;
  if (form_.kind == ops::kRows) return;
  bind(piece_.widths, layout.widths);
  bind(piece_.codes, layout.codes);
  bind(piece_.codes_head, layout.codes_head);
  bind(piece_.codes_block, layout.codes_block);
  bind(piece_.scale, layout.scale);
  bind(piece_.minimum, layout.minimum);
  bind(piece_.a, layout.a);
  bind(piece_.b, layout.b);
  bind(piece_.sparse_start, layout.sparse_start);
  bind(piece_.sparse_count, layout.sparse_count);
  bind(piece_.sparse_dir, layout.sparse_dir);
  bind(piece_.sparse_value, layout.sparse_value);
  if (layout.sums.bytes > 0) sums_ = reinterpret_cast<double*>(base + layout.sums.at);
  const ops::SealSpec& spec = form_.spec;
  piece_.rank = spec.rank;
  piece_.map = spec.map;
  piece_.axis = spec.axis;
  piece_.group = spec.group;
  piece_.scale_group_stride = spec.axis == ops::kAxisChannel ? piece_.dirs : form_.tokens;
  piece_.scale_head_stride =
      spec.heads_share_scale ? 0 : layout.groups * piece_.scale_group_stride;
}

SegmentRef Segment::Create(Executor& executor, const SegmentForm& form, uint64_t first_token) {
  const bool on_device = executor.device() != nullptr;
  const Layout layout = LayoutOf(form, on_device);
  Buffer payload(executor.memory(), layout.total);
  Memory& headers = executor.host_memory();
  void* const place = headers.Allocate(sizeof(Segment));
  SegmentRef segment(new (place)
                         Segment(headers, std::move(payload), nullptr, nullptr, form, on_device,
                                 first_token));
  segment->Bind(layout);
  if (on_device && form.spec.map != nullptr) {
    segment->piece_.map = executor.device()->Map(form.spec.map);
  }
  if (form.kind == ops::kCodes) {
    // The tables lie one behind the other, so they reach a device in one piece.
    const uint64_t begin = layout.codes_head.at;
    const uint64_t bytes = layout.widths.at + layout.widths.bytes - begin;
    Buffer copy;
    std::byte* tables = segment->base_ + begin;
    if (on_device) {
      copy = Buffer(headers, bytes, Buffer::kScratch);
      std::memset(copy.data(), 0, bytes);
      tables = copy.data();
    }
    auto* const codes_head = reinterpret_cast<uint64_t*>(tables);
    auto* const codes_block =
        reinterpret_cast<uint32_t*>(tables + (layout.codes_block.at - begin));
    uint64_t codes = 0;
    for (uint64_t head = 0; head < form.kv_heads; ++head) {
      codes_head[head] = codes;
      codes_block[head] = Layout::BlockBytes(form, head);
      codes += form.tokens / ops::kBlockTokens * codes_block[head];
    }
    if (form.widths != nullptr) {
      std::memcpy(tables + (layout.widths.at - begin), form.widths, layout.widths.bytes);
    } else {
      std::memset(tables + (layout.widths.at - begin), static_cast<int>(form.bits),
                  layout.widths.bytes);
    }
    if (on_device) executor.Write(segment->base_ + begin, tables, bytes);
  }
  return segment;
}

SegmentRef Segment::Borrow(Memory& memory, const SegmentForm& form, uint64_t first_token,
                           const std::byte* payload, std::shared_ptr<const void> keep) {
  void* const place = memory.Allocate(sizeof(Segment));
  auto* const segment =
      new (place) Segment(memory, Buffer(), payload, std::move(keep), form, false, first_token);
  segment->Bind(LayoutOf(form, false));
  return SegmentRef(segment);
}

uint64_t Segment::PayloadBytes(const SegmentForm& form) { return LayoutOf(form, false).total; }

Segment::Arrays Segment::arrays() const {
  const Layout layout = LayoutOf(form_, on_device_);
  Arrays arrays;
  for (const Layout::Array& array :
       {layout.rows, layout.codes, layout.scale, layout.minimum, layout.a, layout.b,
        layout.sparse_value, layout.sparse_dir, layout.sparse_count, layout.sparse_start,
        layout.codes_head, layout.codes_block, layout.widths}) {
    if (array.bytes > 0) arrays.emplace_back(array.at, array.bytes);
  }
  return arrays;
}

SegmentRef Segment::Clone(Executor& executor, uint64_t tokens) const {
  SegmentRef copy = Create(executor, form_, piece_.first_token);
  const size_t bytes = LayoutOf(form_, on_device_).total;
  executor.Copy({copy->base_, base_, bytes, bytes, bytes, 1});
  copy->Grow({tokens, error_sq_, norm_sq_});
  return copy;
}

SegmentRef Segment::Upload(Executor& executor, std::byte* staging) const {
  SegmentRef copy = Create(executor, form_, piece_.first_token);
  const size_t bytes = PayloadBytes(form_);
  std::memcpy(staging, base_, bytes);
  executor.Copy({copy->base_, staging, bytes, bytes, bytes, 1});
  if (copy->sums_ != nullptr) {
    const double sums[2] = {error_sq_, norm_sq_};
    executor.Write(copy->sums_, sums, sizeof(sums));
  }
  copy->Grow({piece_.tokens, error_sq_, norm_sq_});
  return copy;
}

void Segment::FetchError(Executor& executor) const {
  Device::Call* const call = executor.device();
  if (call == nullptr || sums_ == nullptr || sums_final_) return;
  double sums[2] = {};
  call->Check(call->plugin().fetch(call->context(), call->stream(), sums, sums_, sizeof(sums)));
  error_sq_ = sums[0];
  norm_sq_ = sums[1];
  sums_final_ = room() == 0;
}

void Segment::Release() noexcept {
  // The last one to let go must see what the others did before.
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Memory& memory = memory_;
  this->~Segment();
  memory.Release(this, sizeof(Segment));
}

SealedRun Segment::Seal(Executor& executor, const RowsView& x, uint64_t tokens, uint64_t seed) {
  if (form_.kind == ops::kRows) {
    const uint64_t row = form_.head_dim * sizeof(uint16_t);
    executor.Copy({const_cast<uint16_t*>(piece_.rows) + piece_.tokens * form_.head_dim, x.rows,
                   piece_.rows_head_stride * sizeof(uint16_t), x.head_stride * sizeof(uint16_t),
                   tokens * row, form_.kv_heads});
    return {.tokens = tokens};
  }
  ops::DeviceSealJob job = SealJob(x, tokens, seed);
  executor.Seal({&job, 1});
  return Sealed(job);
}

SealedRun Segment::Sealed(const ops::DeviceSealJob& job) {
  return {.tokens = job.args.tokens, .error_sq = job.out.error_sq, .norm_sq = job.out.norm_sq};
}

ops::DeviceSealJob Segment::SealJob(const RowsView& x, uint64_t tokens, uint64_t seed) {
  const auto own = []<typename T>(const T* pointer) { return const_cast<T*>(pointer); };
  ops::DeviceSealJob job{};
  job.sums = sums_;
  ops::SealArgs& args = job.args;
  args.spec = form_.spec;
  args.spec.seed = seed;
  args.x = x.rows;
  args.x_head_stride = x.head_stride;
  args.tokens = tokens;
  args.at = piece_.tokens;
  ops::SealOut& out = job.out;
  out.kv_heads = form_.kv_heads;
  out.head_dim = form_.head_dim;
  out.dirs = piece_.dirs;
  out.padded_tokens = piece_.padded_tokens;
  out.widths = piece_.widths;
  out.codes = own(piece_.codes);
  out.codes_head = piece_.codes_head;
  out.codes_block = piece_.codes_block;
  out.scale = own(piece_.scale);
  out.minimum = own(piece_.minimum);
  out.scale_head_stride = piece_.scale_head_stride;
  out.scale_group_stride = piece_.scale_group_stride;
  out.a = own(piece_.a);
  out.b = own(piece_.b);
  out.sparse_start = own(piece_.sparse_start);
  out.sparse_count = own(piece_.sparse_count);
  out.sparse_dir = own(piece_.sparse_dir);
  out.sparse_value = own(piece_.sparse_value);
  const uint64_t vectors =
      form_.spec.side == ops::kSideK ? uint64_t{form_.kv_heads} * form_.head_dim : form_.tokens;
  out.sparse_capacity = 2 * form_.spec.outliers * vectors;
  return job;
}

void Segment::Grow(const SealedRun& run) noexcept {
  piece_.tokens += run.tokens;
  error_sq_ += run.error_sq;
  norm_sq_ += run.norm_sq;
}

SegmentBytes Segment::Bytes() const {
  SegmentBytes bytes;
  if (keep_ == nullptr) bytes = PartsOf(form_);
  if (on_device_) bytes.bookkeeping = payload_.size() - (bytes.codes + bytes.scales + bytes.low_rank + bytes.sparse);
  bytes.bookkeeping += sizeof(Segment);
  return bytes;
}

SegmentBytes Segment::PartsOf(const SegmentForm& form) {
  const Layout layout = LayoutOf(form, false);
  SegmentBytes bytes;
  bytes.codes = layout.rows.bytes + layout.codes.bytes;
  bytes.scales = layout.scale.bytes + layout.minimum.bytes;
  bytes.low_rank = layout.a.bytes + layout.b.bytes;
  bytes.sparse = layout.sparse_value.bytes + layout.sparse_dir.bytes + layout.sparse_count.bytes +
                 layout.sparse_start.bytes;
  bytes.bookkeeping = layout.total - bytes.codes - bytes.scales - bytes.low_rank - bytes.sparse;
  return bytes;
}

}  // namespace kvg
