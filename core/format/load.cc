// What the sections of a saved cache mean, and how they become a cache. See load.h.
#include "core/format/load.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <utility>

#include "core/codec/basis.h"
#include "core/codec/map.h"
#include "core/format/layout.h"
#include "core/format/section_reader.h"
#include "core/format/segment_check.h"
#include "core/model/factors.h"
#include "core/model/recipe.h"

namespace kvg {
namespace {

using format::Section;
using format::SectionReader;

constexpr uint64_t kMostTokens = uint64_t{1} << 40;  // of a layer, as Cache has it
constexpr uint32_t kMostLayers = 65536;
constexpr uint32_t kMostHeads = 65536;  // of latents

template <size_t kBytes>
format::Record<kBytes> RecordAt(const std::byte* at) {
  format::Record<kBytes> record;
  std::memcpy(record.data(), at, kBytes);
  return record;
}

absl::Status Contradiction(const char* section) {
  return CorruptError("section ", section, " of the saved cache contradicts itself");
}

// ------------------------------------------------------------------------------ model and recipes

// Fills in shape, range of layers and fingerprint. Bounds are checked, not what fits together.
absl::Status ReadModel(SectionReader& reader, SavedCache& saved) {
  const absl::StatusOr<Section> section =
      reader.Next(format::kModel, format::kNone, format::kNone);
  KVG_RETURN_IF_ERROR(section.status());
  const auto bytes =
      reader.ReadSmall(*section, format::kModelBytes + format::kMostFingerprint);
  KVG_RETURN_IF_ERROR(bytes.status());
  if (bytes->size() < format::kModelBytes) return Contradiction("MODL");
  const auto record = RecordAt<format::kModelBytes>(bytes->data());
  saved.shape.layers = record.Get<uint32_t>(0);
  saved.shape.q_heads = record.Get<uint32_t>(4);
  saved.shape.kv_heads = record.Get<uint32_t>(8);
  saved.shape.head_dim = record.Get<uint32_t>(12);
  saved.first_layer = record.Get<uint32_t>(16);
  saved.layers = record.Get<uint32_t>(20);
  const auto fingerprint = record.Get<uint32_t>(24);
  if (!record.ZeroFrom(28) || bytes->size() != format::kModelBytes + fingerprint ||
      saved.shape.layers > kMostLayers || saved.layers == 0 ||
      saved.first_layer >= saved.shape.layers ||
      saved.layers > saved.shape.layers - saved.first_layer) {
    return Contradiction("MODL");
  }
  saved.fingerprint.assign(reinterpret_cast<const char*>(bytes->data()) + format::kModelBytes,
                           fingerprint);
  return absl::OkStatus();
}

absl::Status ReadRecipes(SectionReader& reader, SavedCache& saved) {
  const absl::StatusOr<Section> section = reader.Next(format::kPlan, format::kNone, format::kNone);
  KVG_RETURN_IF_ERROR(section.status());
  const uint64_t most = 8 + uint64_t{saved.layers} * (8 + format::kMostRecipeText);
  const auto bytes = reader.ReadSmall(*section, most);
  KVG_RETURN_IF_ERROR(bytes.status());
  uint64_t at = 0;
  // The next number, or nothing where the section ends.
  const auto word = [&]() -> std::optional<uint32_t> {
    if (bytes->size() - at < sizeof(uint32_t)) return std::nullopt;
    uint32_t value;
    std::memcpy(&value, bytes->data() + at, sizeof(value));
    at += sizeof(value);
    return value;
  };
  const auto count = word(), layers = word();
  if (!count || !layers || *layers != saved.layers || *count == 0 || *count > saved.layers ||
      bytes->size() - at < uint64_t{saved.layers} * sizeof(uint32_t)) {
    return Contradiction("PLAN");
  }
  std::vector<uint32_t> text_of(saved.layers);
  for (uint32_t& text : text_of) text = *word();
  std::vector<std::string> texts(*count);
  for (std::string& text : texts) {
    const auto length = word();
    if (!length || *length > format::kMostRecipeText || bytes->size() - at < *length) {
      return Contradiction("PLAN");
    }
    text.assign(reinterpret_cast<const char*>(bytes->data()) + at, *length);
    at += *length;
  }
  if (at != bytes->size()) return Contradiction("PLAN");
  for (const uint32_t text : text_of) {
    if (text >= texts.size()) return Contradiction("PLAN");
    saved.recipes.push_back(texts[text]);
  }
  return absl::OkStatus();
}

absl::Status CheckModel(const SavedCache& saved, const Plan& plan, std::string_view fingerprint) {
  const Shape &theirs = saved.shape, &ours = plan.shape();
  if (theirs.layers != ours.layers || theirs.q_heads != ours.q_heads ||
      theirs.kv_heads != ours.kv_heads || theirs.head_dim != ours.head_dim) {
    return InvalidError("the saved cache is of another model: it has ", theirs.layers, " layers, ",
                        theirs.q_heads, " query heads, ", theirs.kv_heads, " KV heads and head_dim ",
                        theirs.head_dim, ", but the plan has ", ours.layers, ", ", ours.q_heads,
                        ", ", ours.kv_heads, " and ", ours.head_dim);
  }
  if (saved.fingerprint != fingerprint) {
    return InvalidError("the saved cache is of another model: its fingerprint of ",
                        saved.fingerprint.size(), " bytes is not the one of ", fingerprint.size(),
                        " bytes that was passed");
  }
  for (uint32_t i = 0; i < saved.layers; ++i) {
    const uint32_t layer = saved.first_layer + i;
    if (i > 0 && saved.recipes[i] == saved.recipes[i - 1] &&
        &plan.recipe(layer) == &plan.recipe(layer - 1)) {
      continue;
    }
    const absl::StatusOr<Recipe> recipe = ParseRecipe(saved.recipes[i]);
    if (!recipe.ok()) {
      return UnsupportedError("the saved cache has a recipe that this library does not know: ",
                              recipe.status().message());
    }
    if (*recipe == plan.recipe(layer)) continue;
    return InvalidError("the saved cache has another recipe: layer ", layer, " was saved with ",
                        PrintRecipe(*recipe), ", but the plan has ",
                        PrintRecipe(plan.recipe(layer)));
  }
  return absl::OkStatus();
}

// ----------------------------------------------------------------------------------------- sides

struct SegmentRecord {
  SegmentForm form;      // without its map, where that is the basis of the side
  bool in_basis = false;
  uint64_t first_token = 0, tokens = 0;
  double error_sq = 0, norm_sq = 0;
};

struct SideTable {
  uint64_t first_token = 0, first_row = 0, rows = 0, due = 0;
  bool page = false, seen = false, latents = false;
  uint32_t factors = 0;  // the checksum of those of the latents
  Shape shape;           // of what is held: the model's, or that of the latents
  std::vector<std::byte> basis;  // its content, or nothing
  std::vector<SegmentRecord> segments;  // the page is the last
};

// `widths`: of the basis, if there is one.
absl::StatusOr<SegmentRecord> SegmentOf(const std::byte* at, const Shape& shape, ops::Side side,
                                        const uint8_t* widths) {
  const auto record = RecordAt<format::kSegmentBytes>(at);
  SegmentRecord segment;
  SegmentForm& form = segment.form;
  const auto kind = record.Get<uint32_t>(0), axis = record.Get<uint32_t>(4);
  const auto flags = record.Get<uint32_t>(24), map = record.Get<uint32_t>(36);
  if (kind > ops::kCodes || axis > ops::kAxisChannel || flags > 1 || map > format::kBasisMap ||
      (kind == ops::kRows && map != format::kNoMap) || !record.ZeroFrom(96)) {
    return UnsupportedError(
        "a segment of the saved cache is of a form that this library does not know; use a newer "
        "library");
  }
  form.kind = static_cast<ops::Kind>(kind);
  form.spec.side = side;
  form.spec.axis = static_cast<ops::Axis>(axis);
  form.bits = record.Get<uint32_t>(8);
  form.spec.group = record.Get<uint32_t>(12);
  form.spec.rank = record.Get<uint32_t>(16);
  form.spec.sweeps = record.Get<uint32_t>(20);
  form.spec.heads_share_scale = (flags & 1) != 0;
  form.kv_heads = record.Get<uint32_t>(28);
  form.head_dim = record.Get<uint32_t>(32);
  form.spec.outliers = record.Get<uint64_t>(40);
  segment.first_token = record.Get<uint64_t>(48);
  segment.tokens = record.Get<uint64_t>(56);
  form.tokens = record.Get<uint64_t>(64);
  segment.error_sq = record.Get<double>(72);
  segment.norm_sq = record.Get<double>(80);
  segment.in_basis = map == format::kBasisMap;
  if (segment.in_basis) {
    if (widths == nullptr) return Contradiction("SIDE");
    form.widths = widths;
  }
  KVG_RETURN_IF_ERROR(CheckForm(form, shape, side));
  if (map == format::kHadamard && form.head_dim % 8 != 0) return Contradiction("SIDE");
  if (map == format::kHadamard) form.spec.map = HadamardMap(form.head_dim);
  const bool measured = std::isfinite(segment.error_sq) && segment.error_sq >= 0 &&
                        std::isfinite(segment.norm_sq) && segment.norm_sq >= 0;
  if (!measured || record.Get<uint64_t>(88) != Segment::PayloadBytes(form)) {
    return Contradiction("SIDE");
  }
  return segment;
}

// The table of one side, complete in itself: whatever it says, its tokens follow one another.
absl::StatusOr<SideTable> ReadTable(SectionReader& reader, uint32_t layer, ops::Side side,
                                    const Shape& model) {
  const absl::StatusOr<Section> section = reader.Next(format::kSide, layer, side);
  KVG_RETURN_IF_ERROR(section.status());
  // A segment has at least one token.
  const auto bytes = reader.ReadSmall(*section, kMostTokens);
  KVG_RETURN_IF_ERROR(bytes.status());
  if (bytes->size() < format::kSideBytes) return Contradiction("SIDE");
  const auto record = RecordAt<format::kSideBytes>(bytes->data());
  SideTable table;
  table.first_token = record.Get<uint64_t>(0);
  const auto full = record.Get<uint64_t>(8), pages = record.Get<uint64_t>(16);
  table.first_row = record.Get<uint64_t>(24);
  table.rows = record.Get<uint64_t>(32);
  const auto flags = record.Get<uint32_t>(40);
  table.due = record.Get<uint64_t>(48);
  const uint64_t room = (bytes->size() - format::kSideBytes) / format::kSegmentBytes;
  const bool bases = (reader.features() & format::kBases) != 0;
  constexpr uint32_t kOfBasis = format::kHasBasis | format::kHasSeen;
  table.latents = (flags & format::kHasLatents) != 0;
  table.factors = record.Get<uint32_t>(44);
  table.shape = model;
  if (table.latents) {
    table.shape.q_heads = table.shape.kv_heads = record.Get<uint32_t>(56);
    table.shape.head_dim = record.Get<uint32_t>(60);
  }
  const Shape& shape = table.shape;
  const bool latents_fit =
      table.latents ? (reader.features() & format::kLatents) != 0 && (flags & kOfBasis) == 0 &&
                          shape.kv_heads > 0 && shape.kv_heads <= kMostHeads &&
                          shape.head_dim > 0 && shape.head_dim <= ops::kMaxHeadDim
                    : table.factors == 0 && record.ZeroFrom(56);
  if (flags > (kOfBasis | format::kHasLatents) || !latents_fit ||
      (!bases && ((flags & kOfBasis) != 0 || table.due != 0)) || table.due > kMostTokens ||
      table.first_token > kMostTokens || table.rows > kMostTokens ||
      pages > 1 || full > room || full + pages != room ||
      bytes->size() != format::kSideBytes + room * format::kSegmentBytes) {
    return Contradiction("SIDE");
  }
  table.page = pages == 1;
  table.seen = (flags & format::kHasSeen) != 0;
  const uint8_t* widths = nullptr;
  if ((flags & format::kHasBasis) != 0) {
    const absl::StatusOr<Section> basis = reader.Next(format::kBasis, layer, side);
    KVG_RETURN_IF_ERROR(basis.status());
    const size_t needed = Basis::ContentBytes(shape, side);
    if (basis->length != needed) return Contradiction("BASE");
    auto content = reader.ReadSmall(*basis, needed);
    KVG_RETURN_IF_ERROR(content.status());
    KVG_RETURN_IF_ERROR(CheckBasis(content->data(), shape, side));
    table.basis = *std::move(content);
    widths = reinterpret_cast<const uint8_t*>(table.basis.data()) + Basis::WidthsAt(shape, side);
  }
  table.segments.reserve(room);
  uint64_t end = table.first_token;
  for (uint64_t i = 0; i < room; ++i) {
    absl::StatusOr<SegmentRecord> segment = SegmentOf(
        bytes->data() + format::kSideBytes + i * format::kSegmentBytes, shape, side, widths);
    KVG_RETURN_IF_ERROR(segment.status());
    const SegmentForm& form = segment->form;
    const bool open = i >= full;
    const bool fits = open ? segment->tokens > 0 && segment->tokens < form.tokens
                           : segment->tokens == form.tokens;
    // Tokens go into an open page one by one.
    const bool grows = form.kind == ops::kCodes && form.spec.axis == ops::kAxisToken &&
                       form.spec.rank == 0 && form.spec.outliers == 0;
    if (!fits || (open && !grows) || segment->first_token != end ||
        end % ops::kBlockTokens != 0) {
      return Contradiction("SIDE");
    }
    end += segment->tokens;
    if (end > kMostTokens) return Contradiction("SIDE");
    table.segments.push_back(*std::move(segment));
  }
  if (table.first_row != end || table.rows > kMostTokens - end) return Contradiction("SIDE");
  return table;
}

// What a layer that selects tokens has beside its sides.
struct SelectionTable {
  SelectedLayer::Numbers numbers;
  std::vector<std::byte> bytes;  // of the whole section

  const uint32_t* positions() const {
    return reinterpret_cast<const uint32_t*>(bytes.data() + format::kSelectionBytes);
  }
  uint64_t scored() const { return numbers.held - numbers.scored; }
  const float* scores() const {
    return reinterpret_cast<const float*>(positions() + numbers.lists * numbers.held);
  }
  const uint32_t* counts() const {
    return reinterpret_cast<const uint32_t*>(scores() + numbers.lists * scored());
  }
};

absl::StatusOr<SelectionTable> ReadSelection(SectionReader& reader, uint32_t layer,
                                             const Shape& shape) {
  const absl::StatusOr<Section> section = reader.Next(format::kSelection, layer, format::kNone);
  KVG_RETURN_IF_ERROR(section.status());
  auto bytes = reader.ReadSmall(*section, kMostTokens);
  KVG_RETURN_IF_ERROR(bytes.status());
  if (bytes->size() < format::kSelectionBytes) return Contradiction("SLCT");
  const auto record = RecordAt<format::kSelectionBytes>(bytes->data());
  SelectionTable table;
  SelectedLayer::Numbers& numbers = table.numbers;
  numbers.length = record.Get<uint64_t>(0);
  numbers.held = record.Get<uint64_t>(8);
  numbers.selected = record.Get<uint64_t>(16);
  numbers.sealed_end = record.Get<uint64_t>(24);
  numbers.prompt = record.Get<uint64_t>(32);
  numbers.pruned = record.Get<uint64_t>(40);
  numbers.observed = record.Get<uint64_t>(48);
  numbers.scored = record.Get<uint64_t>(56);
  numbers.lists = record.Get<uint32_t>(64);
  const auto flags = record.Get<uint32_t>(68);
  numbers.scores = (flags & format::kHasScores) != 0;
  numbers.counts = (flags & format::kHasCounts) != 0;
  if ((reader.features() & format::kSelections) == 0 || !record.ZeroFrom(72) ||
      flags > (format::kHasScores | format::kHasCounts) || (numbers.counts && !numbers.scores) ||
      numbers.held > SelectedLayer::kMaxPosition || numbers.scored > numbers.held ||
      (numbers.lists != 1 && numbers.lists != shape.kv_heads)) {
    return Contradiction("SLCT");
  }
  const uint64_t of_list = numbers.held + (numbers.scores ? table.scored() : 0) +
                           (numbers.counts ? table.scored() : 0);
  if (bytes->size() != format::kSelectionBytes + numbers.lists * of_list * sizeof(uint32_t)) {
    return Contradiction("SLCT");
  }
  table.bytes = *std::move(bytes);
  return table;
}

class SideLoader {
 public:
  SideLoader(SectionReader& reader, Source& source, Runtime& runtime, const LoadOptions& options,
             uint32_t layer, ops::Side side)
      : reader_(reader),
        runtime_(runtime),
        keep_(source.keep()),
        verify_(!options.tables_only),
        layer_(layer),
        side_(side) {}

  absl::Status Load(const Shape& model, const LatentSide* latent, SideCache& cache) {
    absl::StatusOr<SideTable> table = ReadTable(reader_, layer_, side_, model);
    KVG_RETURN_IF_ERROR(table.status());
    const Shape& shape = cache.shape();
    if (table->latents != (latent != nullptr)) return Contradiction("SIDE");
    if (latent != nullptr &&
        (table->factors != latent->Checksum() || table->shape.kv_heads != shape.kv_heads ||
         table->shape.head_dim != shape.head_dim)) {
      return InvalidError("the saved latents of layer ", layer_, " are of other factors than those of ",
                          "the plan; load the plan file that the cache was made with");
    }
    KVG_RETURN_IF_ERROR(CheckFit(*table, cache));
    SideCache::Restored restored(&runtime_.resource());
    KVG_RETURN_IF_ERROR(PlaceInBasis(*table, shape, cache, restored));
    restored.segments.reserve(table->segments.size());
    for (uint64_t i = 0; i < table->segments.size(); ++i) {
      const bool page = table->page && i + 1 == table->segments.size();
      absl::StatusOr<SegmentRef> segment = LoadSegment(table->segments[i], i, page);
      KVG_RETURN_IF_ERROR(segment.status());
      if (page) {
        restored.page = *std::move(segment);
      } else {
        restored.segments.push_back(*std::move(segment));
      }
    }
    if (table->rows > 0) {
      KVG_RETURN_IF_ERROR(
          LoadRows(*table, shape, table->rows <= cache.window_capacity(), restored.rows));
      restored.tokens = table->rows;
    }
    if (table->seen) KVG_RETURN_IF_ERROR(LoadSeen(shape, restored.seen));
    restored.due = table->due;
    Turn turn(runtime_);
    KVG_RETURN_IF_ERROR(turn.status());
    cache.Restore(turn.executor(), restored);
    if (turn.device() != nullptr) turn.executor().device()->Wait();  // `restored` goes now
    return turn.status();
  }

  // Of a layer that selects tokens, which is stored as a whole.
  absl::Status Load(const Shape& shape, uint64_t slots, SelectedLayer::Restored& restored) {
    const absl::StatusOr<SideTable> table = ReadTable(reader_, layer_, side_, shape);
    KVG_RETURN_IF_ERROR(table.status());
    if (table->first_token != 0 || table->first_row + table->rows != slots || table->page ||
        table->seen || table->latents || !table->basis.empty() || table->due != 0) {
      return Contradiction("SIDE");
    }
    restored.segments[side_].reserve(table->segments.size());
    for (uint64_t i = 0; i < table->segments.size(); ++i) {
      absl::StatusOr<SegmentRef> segment = LoadSegment(table->segments[i], i, false);
      KVG_RETURN_IF_ERROR(segment.status());
      restored.segments[side_].push_back(*std::move(segment));
    }
    if (table->rows == 0) return absl::OkStatus();
    return LoadRows(*table, shape, false, restored.rows[side_]);
  }

 private:
  // The basis that the segments are in: that of the cache, if it has one, or else a new one.
  absl::Status PlaceInBasis(SideTable& table, const Shape& shape, const SideCache& cache,
                            SideCache::Restored& restored) {
    if (table.basis.empty()) return absl::OkStatus();
    if (cache.basis()) {
      if (std::memcmp(cache.basis()->content(), table.basis.data(), table.basis.size()) != 0) {
        return InvalidError("the saved tokens of layer ", layer_, " are compressed in another basis ",
                            "than the cache has learnt; load the ranges of one cache into one cache");
      }
    } else if (cache.waits_for_basis()) {
      restored.basis = Basis::Restore(runtime_.memory(), shape, side_, table.basis.data());
    } else {
      return Contradiction("SIDE");
    }
    const Basis& basis = restored.basis ? *restored.basis.get() : *cache.basis().get();
    for (SegmentRecord& segment : table.segments) {
      if (segment.in_basis) segment.form = segment.form.In(basis);
    }
    return absl::OkStatus();
  }

  // Can this come behind what the cache holds?
  absl::Status CheckFit(const SideTable& table, const SideCache& cache) const {
    if (table.first_token != cache.length()) {
      return InvalidError("the saved tokens of layer ", layer_, " begin at ", table.first_token,
                          " but the cache holds ", cache.length(),
                          "; load the ranges one behind another into one cache");
    }
    const uint64_t pending = cache.length() - cache.sealed();
    if (!table.segments.empty() && (pending > 0 || cache.page() != nullptr)) {
      return InvalidError("the saved tokens of layer ", layer_, " from ", table.first_token,
                          " on are compressed, but those before them in the cache are not all; ",
                          "load the range that was saved together with them");
    }
    if (table.page && cache.recipe().block != 1) return Contradiction("SIDE");
    // All of a prompt may wait for a basis.
    const uint64_t most = cache.waits_for_basis() && table.basis.empty() ? kMostTokens
                                                                         : cache.window_capacity();
    if (table.seen && (side_ != ops::kSideK || cache.recipe().map != SideRecipe::kOnline)) {
      return Contradiction("SIDE");
    }
    if (pending > most || table.rows > most - pending) {
      return CorruptError("the saved window of layer ", layer_, " has ", table.rows,
                          " tokens, more than the recipe leaves uncompressed");
    }
    return absl::OkStatus();
  }

  absl::StatusOr<SegmentRef> LoadSegment(const SegmentRecord& record, uint64_t index, bool page) {
    const uint64_t bytes = Segment::PayloadBytes(record.form);
    const SealedRun run{record.tokens, record.error_sq, record.norm_sq};
    const bool borrows = keep_ != nullptr && !page;
    if (borrows && !verify_) {
      const auto payload = reader_.BorrowUnseen(bytes);
      KVG_RETURN_IF_ERROR(payload.status());
      SegmentRef segment = Segment::Borrow(runtime_.memory(), record.form, record.first_token,
                                           *payload, keep_);
      segment->Grow(run);
      return Placed(std::move(segment));
    }
    const absl::StatusOr<Section> section = reader_.Next(format::kData, layer_, side_);
    KVG_RETURN_IF_ERROR(section.status());
    if (section->length != bytes || section->index != index) return Contradiction("DATA");
    SegmentRef segment;
    if (borrows) {
      const auto payload = reader_.Borrow(*section);
      KVG_RETURN_IF_ERROR(payload.status());
      segment = Segment::Borrow(runtime_.memory(), record.form, record.first_token, *payload,
                                keep_);
    } else {
      HostExecutor host(runtime_.memory(), runtime_.table(), {nullptr, 1, nullptr});
      segment = Segment::Create(host, record.form, record.first_token);
      KVG_RETURN_IF_ERROR(reader_.Read(*section, segment->payload()));
    }
    segment->Grow(run);
    KVG_RETURN_IF_ERROR(CheckPayload(*segment));
    return Placed(std::move(segment));
  }

  // A segment of the host where the cache lies.
  absl::StatusOr<SegmentRef> Placed(SegmentRef segment) {
    if (runtime_.device() == nullptr) return segment;
    Turn turn(runtime_);
    KVG_RETURN_IF_ERROR(turn.status());
    const uint64_t bytes = Segment::PayloadBytes(segment->form());
    if (staging_.size() < bytes) {
      staging_ = Buffer();
      staging_ = Buffer(runtime_.device()->pinned(), bytes, Buffer::kScratch);
    }
    segment = segment->Upload(turn.executor(), staging_.data());
    turn.executor().device()->Wait();  // for the next one's use of the staging
    KVG_RETURN_IF_ERROR(turn.status());
    return segment;
  }

  // Memory of the host that the cache's executor can copy from.
  Buffer RowsBuffer(uint64_t bytes) const {
    if (runtime_.device() == nullptr) return Buffer(runtime_.memory(), bytes, Buffer::kScratch);
    const Turn turn(runtime_);
    return Buffer(runtime_.device()->pinned(), bytes, Buffer::kScratch);
  }

  // `bounded`: there are no more than the recipe says; else no memory is taken before they are there.
  absl::Status LoadRows(const SideTable& table, const Shape& shape, bool bounded, Buffer& rows) {
    const absl::StatusOr<Section> section = reader_.Next(format::kWindow, layer_, side_);
    KVG_RETURN_IF_ERROR(section.status());
    const uint64_t elements = table.rows * shape.kv_dim();
    if (section->length != elements * sizeof(uint16_t)) return Contradiction("WNDW");
    if (bounded) {
      rows = RowsBuffer(section->length);
      KVG_RETURN_IF_ERROR(reader_.Read(*section, rows.data()));
    } else {
      const auto bytes = reader_.ReadSmall(*section, section->length);
      KVG_RETURN_IF_ERROR(bytes.status());
      rows = RowsBuffer(section->length);
      std::memcpy(rows.data(), bytes->data(), bytes->size());
    }
    if (AllFinite(rows.data<uint16_t>(), elements)) return absl::OkStatus();
    return CorruptError("the saved window of layer ", layer_, " holds NaN or infinity");
  }

  absl::Status LoadSeen(const Shape& shape, SeenQueries& seen) {
    const absl::StatusOr<Section> section = reader_.Next(format::kSeen, layer_, side_);
    KVG_RETURN_IF_ERROR(section.status());
    const uint64_t needed = SeenQueries::StoredBytes(shape);
    if (section->length != needed) return Contradiction("SEEN");
    const auto bytes = reader_.ReadSmall(*section, needed);
    KVG_RETURN_IF_ERROR(bytes.status());
    seen = SeenQueries(runtime_.memory(), shape);
    return seen.Restore(shape, bytes->data()) ? absl::OkStatus() : Contradiction("SEEN");
  }

  SectionReader& reader_;
  Runtime& runtime_;
  const std::shared_ptr<const void> keep_;
  const bool verify_;
  const uint32_t layer_;
  const ops::Side side_;
  Buffer staging_;  // on a device
};

absl::Status FillSelected(SectionReader& reader, Source& source, Cache& cache, uint32_t layer,
                          const LoadOptions& options) {
  SelectedLayer& selected = *cache.layer(layer).selected();
  const Shape& shape = cache.plan().shape();
  if (selected.length() > 0) {
    return InvalidError("layer ", layer, " selects tokens and is loaded as a whole, but the cache ",
                        "holds ", selected.length(), " tokens of it; clear it, or load into a new one");
  }
  const absl::StatusOr<SelectionTable> table = ReadSelection(reader, layer, shape);
  KVG_RETURN_IF_ERROR(table.status());
  SelectedLayer::Restored restored(&cache.runtime().resource());
  restored.numbers = table->numbers;
  restored.positions = table->positions();
  restored.scores = table->scores();
  restored.counts = table->counts();
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    SideLoader loader(reader, source, cache.runtime(), options, layer, side);
    KVG_RETURN_IF_ERROR(loader.Load(shape, table->numbers.held, restored));
  }
  return selected.Restore(cache.runtime(), restored);
}

// Into a cache of which nobody else knows.
absl::Status Fill(Cache& cache, const LoadOptions& options, Source& source) {
  SectionReader reader(source, options.exact);
  KVG_RETURN_IF_ERROR(reader.ReadHeader());
  SavedCache saved;
  KVG_RETURN_IF_ERROR(ReadModel(reader, saved));
  KVG_RETURN_IF_ERROR(ReadRecipes(reader, saved));
  KVG_RETURN_IF_ERROR(CheckModel(saved, cache.plan(), options.fingerprint));
  for (uint32_t i = 0; i < saved.layers; ++i) {
    const uint32_t layer = saved.first_layer + i;
    LayerCache& of = cache.layer(layer);
    for (const SideRecipe& side : {cache.plan().recipe(layer).k, cache.plan().recipe(layer).v}) {
      if (!side.learns() || side.map == SideRecipe::kOnline) continue;
      return UnsupportedError("layer ", layer, " learns a map of channels, for which saved caches have no ",
                              "place yet; load layers of other recipes");
    }
    if (of.selected() != nullptr) {
      KVG_RETURN_IF_ERROR(FillSelected(reader, source, cache, layer, options));
      continue;
    }
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      SideLoader loader(reader, source, cache.runtime(), options, layer, side);
      KVG_RETURN_IF_ERROR(loader.Load(cache.plan().shape(), of.latent().side(side), of.side(side)));
    }
    if (of.side(ops::kSideK).length() != of.side(ops::kSideV).length()) {
      return CorruptError("layer ", layer, " of the saved cache has keys and values of different ",
                          "lengths");
    }
  }
  return reader.Finish();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Cache>> LoadCache(std::shared_ptr<Runtime> runtime,
                                                 std::shared_ptr<const Plan> plan,
                                                 const LoadOptions& options, Source& source) {
  absl::StatusOr<std::unique_ptr<Cache>> cache =
      Cache::Create(std::move(runtime), std::move(plan));
  KVG_RETURN_IF_ERROR(cache.status());
  KVG_RETURN_IF_ERROR(Fill(**cache, options, source));
  return cache;
}

absl::Status ExtendCache(Cache& cache, const LoadOptions& options, Source& source) {
  const absl::StatusOr<std::unique_ptr<Cache>> extended = cache.Fork();
  KVG_RETURN_IF_ERROR(extended.status());
  KVG_RETURN_IF_ERROR(Fill(**extended, options, source));
  for (uint32_t layer = 0; layer < cache.plan().shape().layers; ++layer) {
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      (*extended)->layer(layer).side(side).TakeSeen(cache.layer(layer).side(side));
    }
  }
  cache.Swap(**extended);
  return absl::OkStatus();
}

absl::StatusOr<SavedCache> InspectSaved(Source& source, bool exact, bool verify) {
  SectionReader reader(source, exact);
  KVG_RETURN_IF_ERROR(reader.ReadHeader());
  SavedCache saved;
  saved.version = reader.version();
  saved.features = reader.features();
  saved.bytes = reader.bytes();
  saved.sections = reader.sections();
  KVG_RETURN_IF_ERROR(ReadModel(reader, saved));
  KVG_RETURN_IF_ERROR(ReadRecipes(reader, saved));
  const absl::StatusOr<std::shared_ptr<const Plan>> plan =
      Plan::Create(saved.shape, "fp16");  // a shape that there can be
  KVG_RETURN_IF_ERROR(plan.status());
  for (uint32_t i = 0; i < saved.layers; ++i) {
    const absl::StatusOr<bool> selects = reader.NextIs(format::kSelection);
    KVG_RETURN_IF_ERROR(selects.status());
    if (*selects) {
      const absl::StatusOr<SelectionTable> table =
          ReadSelection(reader, saved.first_layer + i, saved.shape);
      KVG_RETURN_IF_ERROR(table.status());
      const uint64_t positions = table->numbers.lists * table->numbers.held * sizeof(uint32_t);
      saved.selections.push_back(
          {saved.first_layer + i, table->numbers.length, table->numbers.held, positions,
           table->bytes.size() - format::kSelectionBytes - positions});
    }
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      SavedSide of;
      of.layer = saved.first_layer + i;
      of.side = side;
      const absl::StatusOr<SideTable> table = ReadTable(reader, of.layer, side, saved.shape);
      KVG_RETURN_IF_ERROR(table.status());
      of.first_token = table->first_token;
      of.first_row = table->first_row;
      of.rows = table->rows;
      of.latents = table->latents;
      of.bytes_window = table->rows * table->shape.kv_dim() * sizeof(uint16_t);
      of.bytes_basis = table->basis.size();
      for (const SegmentRecord& record : table->segments) {
        const SegmentBytes bytes = Segment::PartsOf(record.form);
        of.bytes.codes += bytes.codes;
        of.bytes.scales += bytes.scales;
        of.bytes.low_rank += bytes.low_rank;
        of.bytes.sparse += bytes.sparse;
        of.bytes.bookkeeping += bytes.bookkeeping;
        of.segments.push_back({record.form.kind == ops::kRows, record.form.bits,
                               record.first_token, record.tokens, record.form.tokens,
                               Segment::PayloadBytes(record.form), record.error_sq,
                               record.norm_sq});
        const absl::StatusOr<Section> section = reader.Next(format::kData, of.layer, side);
        KVG_RETURN_IF_ERROR(section.status());
        if (section->length != Segment::PayloadBytes(record.form)) return Contradiction("DATA");
        KVG_RETURN_IF_ERROR(verify ? reader.Pass(*section) : reader.Skip(*section));
      }
      if (of.rows > 0) {
        const absl::StatusOr<Section> section = reader.Next(format::kWindow, of.layer, side);
        KVG_RETURN_IF_ERROR(section.status());
        if (section->length != of.bytes_window) {
          return Contradiction("WNDW");
        }
        KVG_RETURN_IF_ERROR(verify ? reader.Pass(*section) : reader.Skip(*section));
      }
      if (table->seen) {
        const absl::StatusOr<Section> section = reader.Next(format::kSeen, of.layer, side);
        KVG_RETURN_IF_ERROR(section.status());
        of.bytes_seen = section->length;
        if (section->length != SeenQueries::StoredBytes(saved.shape)) return Contradiction("SEEN");
        KVG_RETURN_IF_ERROR(verify ? reader.Pass(*section) : reader.Skip(*section));
      }
      saved.sides.push_back(std::move(of));
    }
  }
  KVG_RETURN_IF_ERROR(reader.Finish());
  return saved;
}

}  // namespace kvg
