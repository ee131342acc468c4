// How a saved cache is put together. See save.h.
#include "core/format/save.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "core/codec/basis.h"
#include "core/format/layout.h"
#include "core/model/factors.h"
#include "core/model/recipe.h"

namespace kvg {
namespace {

using format::Padded;

constexpr std::byte kZeros[format::kAlign] = {};

// What one side of one layer contributes. Of a layer that selects tokens are slots.
struct SidePart {
  uint32_t layer = 0;
  ops::Side side = ops::kSideK;
  const SideCache* cache = nullptr;
  const SelectedLayer* selected = nullptr;  // in place of `cache`
  std::vector<const Segment*> segments;     // full ones
  const Segment* page = nullptr;
  uint64_t page_tokens = 0;
  uint64_t first_row = 0, rows = 0;  // of the window, tokens of the sequence
  const Basis* basis = nullptr;
  bool seen = false;  // the queries that a basis is to be made from
  uint64_t due = 0;
  const LatentSide* latent = nullptr;
  Shape shape;  // of what is held

  uint32_t flags() const {
    return (basis != nullptr ? format::kHasBasis : 0) | (seen ? format::kHasSeen : 0) |
           (latent != nullptr ? format::kHasLatents : 0);
  }
  const uint16_t* RowsOf(uint64_t head) const {
    return selected != nullptr ? selected->pool_rows(side, head)
                               : cache->window_rows(head, first_row - cache->sealed());
  }

  uint64_t records() const { return segments.size() + (page != nullptr ? 1 : 0); }
  uint64_t table_bytes() const {
    return format::kSideBytes + records() * format::kSegmentBytes;
  }
};

// The payload of a section in memory: stretches one behind another; nullptr stands for zeros.
using Stretches = std::vector<std::pair<const void*, size_t>>;

// Small pieces are gathered, large ones go as they are.
class Writer {
 public:
  explicit Writer(Sink& sink) : sink_(sink) { gathered_.reserve(kGathered); }

  absl::Status Put(const void* data, size_t bytes) {
    if (bytes >= kLarge) {
      KVG_RETURN_IF_ERROR(Flush());
      return sink_.Write(data, bytes);
    }
    if (gathered_.size() + bytes > kGathered) KVG_RETURN_IF_ERROR(Flush());
    const auto* at = static_cast<const std::byte*>(data);
    gathered_.insert(gathered_.end(), at, at + bytes);
    return absl::OkStatus();
  }

  absl::Status Flush() {
    if (gathered_.empty()) return absl::OkStatus();
    KVG_RETURN_IF_ERROR(sink_.Write(gathered_.data(), gathered_.size()));
    gathered_.clear();
    return absl::OkStatus();
  }

  absl::Status Section(uint32_t kind, uint32_t layer, uint32_t side, uint64_t index,
                       const Stretches& payload) {
    uint64_t length = 0;
    uint32_t crc = 0;
    for (const auto& [data, bytes] : payload) {
      crc = ExtendCrc32c(crc, data == nullptr ? kZeros : data, bytes);
      length += bytes;
    }
    format::Record<format::kSectionBytes> header;
    header.Put<uint32_t>(0, kind);
    header.Put<uint32_t>(4, 1);
    header.Put<uint32_t>(8, 0);
    header.Put<uint32_t>(12, layer);
    header.Put<uint32_t>(16, side);
    header.Put<uint32_t>(20, crc);
    header.Put<uint64_t>(24, length);
    header.Put<uint64_t>(32, index);
    header.Seal();
    KVG_RETURN_IF_ERROR(Put(header.data(), header.size()));
    for (const auto& [data, bytes] : payload) {
      KVG_RETURN_IF_ERROR(Put(data == nullptr ? kZeros : data, bytes));
    }
    return Put(kZeros, Padded(length) - length);
  }

 private:
  static constexpr size_t kGathered = size_t{64} << 10, kLarge = size_t{32} << 10;
  Sink& sink_;
  std::vector<std::byte> gathered_;
};

// ------------------------------------------------------------------------------ what is to be saved

absl::StatusOr<std::pair<uint32_t, uint32_t>> LayersOf(const Cache& cache,
                                                       const SaveOptions& options) {
  const uint32_t all = cache.plan().shape().layers;
  if (options.first_layer >= all) {
    return InvalidError("first_layer is ", options.first_layer, " but the plan has layers 0 to ",
                        all - 1);
  }
  const uint32_t most = all - options.first_layer;
  if (options.layers > most) {
    return InvalidError("layers is ", options.layers, " but from layer ", options.first_layer,
                        " on there are ", most);
  }
  return std::pair(options.first_layer, options.layers == 0 ? most : options.layers);
}

absl::Status CheckEdge(const LayerCache& cache, uint32_t layer, const char* name, uint64_t token,
                       bool begins) {
  const auto [below, above] = cache.NearestCuts(token);
  if (below != token) {
    return InvalidError(name, " ", token, " lies inside a compressed segment of layer ", layer,
                        "; the nearest edges are ", below, " and ", above);
  }
  if (!begins) return absl::OkStatus();
  for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
    const SideCache& of = cache.side(side);
    if (of.page() == nullptr || token >= of.sealed()) continue;
    const uint64_t first = of.sealed() - of.page_tokens();
    if (token > first) {
      return InvalidError(name, " ", token, " lies inside an open page of layer ", layer,
                          "; a range may begin at ", first, " or ", of.sealed());
    }
  }
  return absl::OkStatus();
}

SidePart PartOf(const SideCache& cache, uint32_t layer, ops::Side side, uint64_t first,
                uint64_t end) {
  SidePart part;
  part.layer = layer;
  part.side = side;
  part.cache = &cache;
  part.segments.resize(cache.segments().size());
  cache.segments().WriteSegments(part.segments.data());
  std::erase_if(part.segments, [first, end](const Segment* segment) {
    return segment->piece().first_token < first || segment->end() > end;
  });
  const uint64_t page_first = cache.sealed() - cache.page_tokens();
  if (cache.page() != nullptr && first <= page_first && end > page_first) {
    part.page = cache.page();
    part.page_tokens = std::min(end, cache.sealed()) - page_first;
  }
  part.first_row = std::clamp(cache.sealed(), first, end);
  part.rows = end - part.first_row;
  part.basis = cache.basis().get();
  // What is still to be learnt goes with the newest tokens.
  part.seen = cache.has_seen() && end == cache.length();
  part.due = end == cache.length() ? cache.due() : 0;
  return part;
}

SidePart PartOf(const SelectedLayer& selected, uint32_t layer, ops::Side side) {
  SidePart part;
  part.layer = layer;
  part.side = side;
  part.selected = &selected;
  for (const SegmentRef& segment : selected.segments(side)) part.segments.push_back(&*segment);
  part.first_row = selected.sealed();
  part.rows = selected.held() - selected.sealed();
  return part;
}

// Maps that are learnt and have no place in saved caches.
bool StoresNoMap(const SideRecipe& side) {
  return side.learns() && side.map != SideRecipe::kOnline;
}

absl::StatusOr<std::vector<SidePart>> PartsOf(const Cache& cache, uint32_t first_layer,
                                              uint32_t layers, const SaveOptions& options) {
  std::vector<SidePart> parts;
  parts.reserve(size_t{layers} * 2);
  for (uint32_t layer = first_layer; layer < first_layer + layers; ++layer) {
    const LayerCache& of = cache.layer(layer);
    const uint64_t length = of.length();
    const uint64_t first = options.first_token;
    if (first > length || options.tokens > length - first) {
      return InvalidError("tokens ", first, " to ", first, " + ", options.tokens,
                          " were asked for but layer ", layer, " holds ", length);
    }
    const uint64_t end = options.tokens == 0 ? length : first + options.tokens;
    const Recipe& recipe = cache.plan().recipe(layer);
    if (StoresNoMap(recipe.k) || StoresNoMap(recipe.v)) {
      return UnsupportedError("layer ", layer, " learns a map of channels, for which saved caches have no ",
                              "place yet; save caches of recipes without map=channels and map=deco");
    }
    if (of.selected() != nullptr) {
      if (first > 0 || end < length) {
        return UnsupportedError("layer ", layer, " selects tokens and is saved as a whole; leave ",
                                "first_token and tokens 0, or save other layers");
      }
      parts.push_back(PartOf(*of.selected(), layer, ops::kSideK));
      parts.push_back(PartOf(*of.selected(), layer, ops::kSideV));
      for (SidePart* part : {&parts.back(), &parts.back() - 1}) part->shape = cache.plan().shape();
      continue;
    }
    KVG_RETURN_IF_ERROR(CheckEdge(of, layer, "first_token", first, true));
    KVG_RETURN_IF_ERROR(CheckEdge(of, layer, "the end of the range,", end, false));
    for (const ops::Side side : {ops::kSideK, ops::kSideV}) {
      parts.push_back(PartOf(of.side(side), layer, side, first, end));
      parts.back().latent = of.latent().side(side);
      parts.back().shape = of.side(side).shape();
    }
  }
  return parts;
}

// ---------------------------------------------------------------------------------------- sections

// Payloads and rows for the processor to read: where they lie or, of a device, fetched one at a time.
class Reader {
 public:
  explicit Reader(Runtime& runtime) : runtime_(runtime) {}

  // Good until the next call.
  absl::StatusOr<const std::byte*> Payload(const Segment& segment) {
    if (runtime_.device() == nullptr) return segment.payload();
    const uint64_t bytes = Segment::PayloadBytes(segment.form());
    KVG_RETURN_IF_ERROR(Fetch(segment.payload(), bytes, Room(bytes)));
    return fetched_.data();
  }

  // Rows of all heads, likewise; one head's are contiguous.
  absl::StatusOr<std::vector<const void*>> Rows(const SidePart& part) {
    const Shape& shape = part.shape;
    std::vector<const void*> rows(shape.kv_heads);
    const uint64_t bytes = part.rows * shape.head_dim * sizeof(uint16_t);
    std::byte* room = runtime_.device() == nullptr ? nullptr : Room(shape.kv_heads * bytes);
    for (uint64_t head = 0; head < shape.kv_heads; ++head) {
      rows[head] = part.RowsOf(head);
      if (room == nullptr) continue;
      KVG_RETURN_IF_ERROR(Fetch(rows[head], bytes, room));
      rows[head] = room;
      room += bytes;
    }
    return rows;
  }

 private:
  std::byte* Room(uint64_t bytes) {
    if (fetched_.size() < bytes) {
      fetched_ = Buffer();
      fetched_ = Buffer(runtime_.memory(), bytes, Buffer::kScratch);
    }
    return fetched_.data();
  }

  absl::Status Fetch(const void* from, uint64_t bytes, void* to) {
    Turn turn(runtime_);
    Device::Call& call = *turn.executor().device();
    call.Check(call.plugin().fetch(call.context(), call.stream(), to, from, bytes));
    return turn.status();
  }

  Runtime& runtime_;
  Buffer fetched_;
};

// Of outliers there may be fewer than there is room for; what lies behind them was never written.
// `at`: of an array of the segment. The payload is read where `payload` has it.
uint64_t UsedOf(const Segment& segment, const std::byte* payload, uint64_t at, uint64_t bytes) {
  const ops::Piece& piece = segment.piece();
  const auto offset = [&segment](const void* array) {
    return static_cast<uint64_t>(static_cast<const std::byte*>(array) - segment.payload());
  };
  if (piece.sparse_start == nullptr) return bytes;
  const bool values = at == offset(piece.sparse_value);
  if (!values && at != offset(piece.sparse_dir)) return bytes;
  const uint64_t blocks = piece.padded_tokens / ops::kBlockTokens;
  const auto* const start =
      reinterpret_cast<const uint32_t*>(payload + offset(piece.sparse_start));
  return start[piece.kv_heads * (blocks + 1) - 1] * (values ? sizeof(uint16_t) : sizeof(uint8_t));
}

Stretches PayloadOf(const Segment& segment, const std::byte* payload) {
  Stretches stretches;
  uint64_t end = 0;
  for (const auto& [at, bytes] : segment.arrays()) {
    if (at > end) stretches.emplace_back(nullptr, at - end);
    end = at + bytes;
    const uint64_t used = UsedOf(segment, payload, at, bytes);
    stretches.emplace_back(payload + at, used);
    for (uint64_t left = bytes - used; left > 0;) {
      const uint64_t some = std::min<uint64_t>(left, format::kAlign);
      stretches.emplace_back(nullptr, some);
      left -= some;
    }
  }
  return stretches;
}

uint32_t MapOf(const SegmentForm& form) {
  if (form.widths != nullptr) return format::kBasisMap;
  return form.spec.map == nullptr ? format::kNoMap : format::kHadamard;
}

void PutSegment(const Segment& segment, uint64_t first_token, uint64_t tokens, std::byte* at) {
  const SegmentForm& form = segment.form();
  const ops::SealSpec& spec = form.spec;
  format::Record<format::kSegmentBytes> record;
  record.Put<uint32_t>(0, form.kind);
  record.Put<uint32_t>(4, spec.axis);
  record.Put<uint32_t>(8, form.bits);
  record.Put<uint32_t>(12, spec.group);
  record.Put<uint32_t>(16, spec.rank);
  record.Put<uint32_t>(20, spec.sweeps);
  record.Put<uint32_t>(24, spec.heads_share_scale ? 1 : 0);
  record.Put<uint32_t>(28, form.kv_heads);
  record.Put<uint32_t>(32, form.head_dim);
  record.Put<uint32_t>(36, MapOf(form));
  record.Put<uint64_t>(40, spec.outliers);
  record.Put<uint64_t>(48, first_token);
  record.Put<uint64_t>(56, tokens);
  record.Put<uint64_t>(64, form.tokens);
  record.Put<double>(72, segment.error_sq());
  record.Put<double>(80, segment.norm_sq());
  record.Put<uint64_t>(88, Segment::PayloadBytes(form));
  std::memcpy(at, record.data(), record.size());
}

std::vector<std::byte> TableOf(const SidePart& part, uint64_t first_token) {
  std::vector<std::byte> table(part.table_bytes());
  format::Record<format::kSideBytes> record;
  record.Put<uint64_t>(0, first_token);
  record.Put<uint64_t>(8, part.segments.size());
  record.Put<uint64_t>(16, part.page != nullptr ? 1 : 0);
  record.Put<uint64_t>(24, part.first_row);
  record.Put<uint64_t>(32, part.rows);
  record.Put<uint32_t>(40, part.flags());
  record.Put<uint64_t>(48, part.due);
  if (part.latent != nullptr) {
    record.Put<uint32_t>(44, part.latent->Checksum());
    record.Put<uint32_t>(56, part.shape.kv_heads);
    record.Put<uint32_t>(60, part.shape.head_dim);
  }
  std::memcpy(table.data(), record.data(), record.size());
  std::byte* at = table.data() + format::kSideBytes;
  // In a layer that selects they move up when others in front of them go.
  uint64_t first = first_token;
  for (const Segment* segment : part.segments) {
    PutSegment(*segment, first, segment->piece().tokens, at);
    first += segment->piece().tokens;
    at += format::kSegmentBytes;
  }
  if (part.page != nullptr) PutSegment(*part.page, first, part.page_tokens, at);
  return table;
}

uint64_t SelectionBytes(const SelectedLayer::Numbers& numbers) {
  const uint64_t scored = numbers.held - numbers.scored;
  const uint64_t of_list = numbers.held + (numbers.scores ? scored : 0) + (numbers.counts ? scored : 0);
  return format::kSelectionBytes + numbers.lists * of_list * sizeof(uint32_t);
}

// `record` is room for what the section begins with.
Stretches SelectionOf(const SelectedLayer& selected,
                      format::Record<format::kSelectionBytes>& record) {
  const SelectedLayer::Numbers numbers = selected.numbers();
  record.Put<uint64_t>(0, numbers.length);
  record.Put<uint64_t>(8, numbers.held);
  record.Put<uint64_t>(16, numbers.selected);
  record.Put<uint64_t>(24, numbers.sealed_end);
  record.Put<uint64_t>(32, numbers.prompt);
  record.Put<uint64_t>(40, numbers.pruned);
  record.Put<uint64_t>(48, numbers.observed);
  record.Put<uint64_t>(56, numbers.scored);
  record.Put<uint32_t>(64, numbers.lists);
  record.Put<uint32_t>(68, (numbers.scores ? format::kHasScores : 0) |
                               (numbers.counts ? format::kHasCounts : 0));
  Stretches stretches{{record.data(), record.size()}};
  const auto put = [&](const auto* numbers_of_list, uint64_t count) {
    if (count > 0) stretches.emplace_back(numbers_of_list, count * sizeof(*numbers_of_list));
  };
  const uint64_t scored = numbers.held - numbers.scored;
  for (uint32_t i = 0; i < numbers.lists; ++i) put(selected.positions(i), numbers.held);
  for (uint32_t i = 0; numbers.scores && i < numbers.lists; ++i) put(selected.scores(i), scored);
  for (uint32_t i = 0; numbers.counts && i < numbers.lists; ++i) put(selected.counts(i), scored);
  return stretches;
}

std::vector<std::byte> ModelOf(const Shape& shape, uint32_t first_layer, uint32_t layers,
                               std::string_view fingerprint) {
  format::Record<format::kModelBytes> record;
  record.Put<uint32_t>(0, shape.layers);
  record.Put<uint32_t>(4, shape.q_heads);
  record.Put<uint32_t>(8, shape.kv_heads);
  record.Put<uint32_t>(12, shape.head_dim);
  record.Put<uint32_t>(16, first_layer);
  record.Put<uint32_t>(20, layers);
  record.Put<uint32_t>(24, static_cast<uint32_t>(fingerprint.size()));
  std::vector<std::byte> bytes(record.data(), record.data() + record.size());
  const auto* at = reinterpret_cast<const std::byte*>(fingerprint.data());
  bytes.insert(bytes.end(), at, at + fingerprint.size());
  return bytes;
}

// The recipes of the layers: which text each has, then the texts.
std::vector<std::byte> RecipesOf(const Plan& plan, uint32_t first_layer, uint32_t layers) {
  std::vector<std::string> texts;
  std::vector<uint32_t> words{0, layers};
  for (uint32_t layer = first_layer; layer < first_layer + layers; ++layer) {
    std::string text = PrintRecipe(plan.recipe(layer));
    const auto found = std::find(texts.begin(), texts.end(), text);
    words.push_back(static_cast<uint32_t>(found - texts.begin()));
    if (found == texts.end()) texts.push_back(std::move(text));
  }
  words[0] = static_cast<uint32_t>(texts.size());
  std::vector<std::byte> bytes(words.size() * sizeof(uint32_t));
  std::memcpy(bytes.data(), words.data(), bytes.size());
  for (const std::string& text : texts) {
    const auto length = static_cast<uint32_t>(text.size());
    const auto* size = reinterpret_cast<const std::byte*>(&length);
    bytes.insert(bytes.end(), size, size + sizeof(length));
    const auto* at = reinterpret_cast<const std::byte*>(text.data());
    bytes.insert(bytes.end(), at, at + text.size());
  }
  return bytes;
}

uint64_t SectionSize(uint64_t payload) { return format::kSectionBytes + Padded(payload); }

}  // namespace

absl::Status SaveCache(const Cache& cache, const SaveOptions& options, Sink& sink) {
  const Shape& shape = cache.plan().shape();
  if (options.fingerprint.size() > format::kMostFingerprint) {
    return InvalidError("fingerprint_bytes is ", options.fingerprint.size(), "; the most is ",
                        format::kMostFingerprint, "; pass a hash");
  }
  const auto layers = LayersOf(cache, options);
  KVG_RETURN_IF_ERROR(layers.status());
  const absl::StatusOr<std::vector<SidePart>> parts =
      PartsOf(cache, layers->first, layers->second, options);
  KVG_RETURN_IF_ERROR(parts.status());
  const std::vector<std::byte> model =
      ModelOf(shape, layers->first, layers->second, options.fingerprint);
  const std::vector<std::byte> recipes = RecipesOf(cache.plan(), layers->first, layers->second);

  uint64_t sections = 2, features = 0;
  uint64_t total = format::kHeaderBytes + SectionSize(model.size()) + SectionSize(recipes.size());
  for (const SidePart& part : *parts) {
    sections += 1 + part.records() + (part.rows > 0 ? 1 : 0);
    total += SectionSize(part.table_bytes());
    if (part.basis != nullptr) {
      ++sections;
      total += SectionSize(Basis::ContentBytes(shape, part.side));
    }
    if (part.seen) {
      ++sections;
      total += SectionSize(SeenQueries::StoredBytes(shape));
    }
    if (part.basis != nullptr || part.seen || part.due != 0) features |= format::kBases;
    if (part.latent != nullptr) features |= format::kLatents;
    if (part.selected != nullptr && part.side == ops::kSideK) {
      ++sections;
      total += SectionSize(SelectionBytes(part.selected->numbers()));
      features |= format::kSelections;
    }
    for (const Segment* segment : part.segments) {
      total += SectionSize(Segment::PayloadBytes(segment->form()));
    }
    if (part.page != nullptr) total += SectionSize(Segment::PayloadBytes(part.page->form()));
    if (part.rows > 0) total += SectionSize(part.rows * part.shape.kv_dim() * sizeof(uint16_t));
  }

  format::Record<format::kHeaderBytes> header;
  std::memcpy(header.data(), format::kMagic, sizeof(format::kMagic));
  header.Put<uint32_t>(8, format::kByteOrder);
  header.Put<uint32_t>(12, format::kVersion);
  header.Put<uint64_t>(16, features);
  header.Put<uint64_t>(24, total);
  header.Put<uint64_t>(32, sections);
  header.Seal();

  // What a device measured, and whether all that it was given is finite, stands fast before anything
  // is written: nobody appends while this runs.
  std::vector<std::vector<std::byte>> tables;
  tables.reserve(parts->size());
  {
    Turn turn(cache.runtime());
    for (const SidePart& part : *parts) {
      KVG_RETURN_IF_ERROR(cache.CheckMark(turn, part.layer));
      if (turn.device() != nullptr) part.cache->FetchErrors(turn.executor());
      tables.push_back(TableOf(part, options.first_token));
    }
    KVG_RETURN_IF_ERROR(turn.status());
  }
  Reader reader(cache.runtime());
  const auto put_segment = [&](Writer& writer, const SidePart& part, const Segment& segment,
                               uint64_t index) -> absl::Status {
    const absl::StatusOr<const std::byte*> payload = reader.Payload(segment);
    KVG_RETURN_IF_ERROR(payload.status());
    return writer.Section(format::kData, part.layer, part.side, index,
                          PayloadOf(segment, *payload));
  };

  Writer writer(sink);
  KVG_RETURN_IF_ERROR(writer.Put(header.data(), header.size()));
  KVG_RETURN_IF_ERROR(writer.Section(format::kModel, format::kNone, format::kNone, 0,
                                     {{model.data(), model.size()}}));
  KVG_RETURN_IF_ERROR(writer.Section(format::kPlan, format::kNone, format::kNone, 0,
                                     {{recipes.data(), recipes.size()}}));
  for (size_t i = 0; i < parts->size(); ++i) {
    const SidePart& part = (*parts)[i];
    if (part.selected != nullptr && part.side == ops::kSideK) {
      format::Record<format::kSelectionBytes> record;
      KVG_RETURN_IF_ERROR(writer.Section(format::kSelection, part.layer, format::kNone, 0,
                                         SelectionOf(*part.selected, record)));
    }
    const std::vector<std::byte>& table = tables[i];
    KVG_RETURN_IF_ERROR(writer.Section(format::kSide, part.layer, part.side, 0,
                                       {{table.data(), table.size()}}));
    if (part.basis != nullptr) {
      KVG_RETURN_IF_ERROR(
          writer.Section(format::kBasis, part.layer, part.side, 0,
                         {{part.basis->content(), Basis::ContentBytes(shape, part.side)}}));
    }
    uint64_t index = 0;
    for (const Segment* segment : part.segments) {
      KVG_RETURN_IF_ERROR(put_segment(writer, part, *segment, index++));
    }
    if (part.page != nullptr) KVG_RETURN_IF_ERROR(put_segment(writer, part, *part.page, index));
    if (part.rows > 0) {
      const absl::StatusOr<std::vector<const void*>> rows = reader.Rows(part);
      KVG_RETURN_IF_ERROR(rows.status());
      Stretches stretches;
      for (const void* head : *rows) {
        stretches.emplace_back(head, part.rows * part.shape.head_dim * sizeof(uint16_t));
      }
      KVG_RETURN_IF_ERROR(
          writer.Section(format::kWindow, part.layer, part.side, 0, stretches));
    }
    if (part.seen) {  // a copy: others may attend meanwhile
      const std::vector<std::byte> seen = part.cache->StoredSeen();
      KVG_RETURN_IF_ERROR(writer.Section(format::kSeen, part.layer, part.side, 0,
                                         {{seen.data(), seen.size()}}));
    }
  }
  return writer.Flush();
}

}  // namespace kvg
