// See section_reader.h.
#include "core/format/section_reader.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>

#include "absl/strings/escaping.h"

namespace kvg::format {
namespace {

// So much is read and summed at a time: it then still lies in the processor's cache. It is also what
// is taken at most for bytes that have not been seen yet.
constexpr uint64_t kChunk = uint64_t{256} << 10;

std::string KindName(uint32_t kind) {
  char text[4];
  std::memcpy(text, &kind, sizeof(text));
  return absl::CHexEscape(std::string_view(text, sizeof(text)));
}

}  // namespace

std::string NameOf(const Section& section) {
  std::string name = absl::StrCat("section ", KindName(section.kind));
  if (section.layer != kNone) absl::StrAppend(&name, " of layer ", section.layer);
  if (section.side == 0) absl::StrAppend(&name, ", keys");
  if (section.side == 1) absl::StrAppend(&name, ", values");
  if (section.kind == kData) absl::StrAppend(&name, ", segment ", section.index);
  return name;
}

absl::Status SectionReader::Take(void* out, uint64_t bytes) {
  if (bytes > left_) {
    return CorruptError("a section of the saved cache reaches beyond the end that its header gives");
  }
  KVG_RETURN_IF_ERROR(source_.Read(out, bytes));
  left_ -= bytes;
  return absl::OkStatus();
}

absl::Status SectionReader::ReadHeader() {
  const std::optional<uint64_t> known = source_.remaining();
  Record<kHeaderBytes> header;
  left_ = kHeaderBytes;
  // A short file is told from a foreign one by its first bytes.
  const uint64_t first = std::min<uint64_t>(known.value_or(kHeaderBytes), sizeof(kMagic));
  KVG_RETURN_IF_ERROR(Take(header.data(), first));
  if (std::memcmp(header.data(), kMagic, first) != 0) {
    return CorruptError("this is not a saved cache of kvgear: its first bytes are others");
  }
  KVG_RETURN_IF_ERROR(Take(header.data() + first, kHeaderBytes - first));
  const auto order = header.Get<uint32_t>(8);
  if (order == 0x04030201) {
    return UnsupportedError(
        "the saved cache was written on a machine of the other byte order; load it on one like that");
  }
  if (!header.Sealed()) {
    return CorruptError("the header of the saved cache is damaged: its checksum is wrong");
  }
  if (order != kByteOrder) {
    return UnsupportedError("the saved cache has a byte order that this library does not know");
  }
  version_ = header.Get<uint32_t>(12);
  if (version_ != kVersion) {
    return UnsupportedError("the saved cache is of format version ", version_,
                            "; this library reads version ", kVersion, ", use a newer library");
  }
  features_ = header.Get<uint64_t>(16);
  if ((features_ & ~kKnownFeatures) != 0) {
    return UnsupportedError("the saved cache uses features (bits ", features_ & ~kKnownFeatures,
                            ") that this library does not know; use a newer library");
  }
  bytes_ = header.Get<uint64_t>(24);
  sections_ = header.Get<uint64_t>(32);
  if (!header.ZeroFrom(40, 4) || bytes_ % kAlign != 0 || bytes_ < kHeaderBytes ||
      sections_ > (bytes_ - kHeaderBytes) / kSectionBytes) {
    return CorruptError("the header of the saved cache contradicts itself");
  }
  if (known && *known < bytes_) {
    return CorruptError("the saved cache is cut off: it has ", *known, " of ", bytes_,
                        " bytes; copy it again from its source");
  }
  if (known && exact_ && *known > bytes_) {
    return CorruptError("the file has ", *known - bytes_, " bytes behind the end of the saved cache");
  }
  left_ = bytes_ - kHeaderBytes;
  sections_left_ = sections_;
  return absl::OkStatus();
}

// Reads the header of the next section that is not to be passed over.
absl::Status SectionReader::Fetch() {
  while (!fetched_) {
    if (sections_left_ == 0) return CorruptError("the saved cache lacks a section");
    Record<kSectionBytes> header;
    KVG_RETURN_IF_ERROR(Take(header.data(), header.size()));
    --sections_left_;
    if (!header.Sealed()) {
      return CorruptError("the header of a section of the saved cache is damaged: its checksum is ",
                          "wrong");
    }
    Section section;
    section.kind = header.Get<uint32_t>(0);
    const auto version = header.Get<uint32_t>(4);
    const auto flags = header.Get<uint32_t>(8);
    section.layer = header.Get<uint32_t>(12);
    section.side = header.Get<uint32_t>(16);
    section.crc = header.Get<uint32_t>(20);
    section.length = header.Get<uint64_t>(24);
    section.index = header.Get<uint64_t>(32);
    if (section.length > left_ || Padded(section.length) > left_) {
      return CorruptError(NameOf(section), " reaches beyond the end of the saved cache");
    }
    constexpr uint32_t kKnown[] = {kModel, kPlan, kSide, kData, kWindow, kBasis, kSeen, kSelection};
    const bool known = std::count(std::begin(kKnown), std::end(kKnown), section.kind) > 0;
    if (known && version == 1 && flags == 0 && header.ZeroFrom(40, 4)) {
      next_ = section;
      fetched_ = true;
      return absl::OkStatus();
    }
    if ((flags & kOptional) == 0) {
      return UnsupportedError(NameOf(section), " has version ", version, " and flags ", flags,
                              ", which this library does not know; use a newer library");
    }
    KVG_RETURN_IF_ERROR(Pass(section));
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> SectionReader::NextIs(uint32_t kind) {
  KVG_RETURN_IF_ERROR(Fetch());
  return next_.kind == kind;
}

absl::StatusOr<Section> SectionReader::Next(uint32_t kind, uint32_t layer, uint32_t side) {
  KVG_RETURN_IF_ERROR(Fetch());
  if (next_.kind != kind || next_.layer != layer || next_.side != side) {
    const Section wanted{.kind = kind, .layer = layer, .side = side};
    return CorruptError("the saved cache has ", NameOf(next_), " where ", NameOf(wanted),
                        " is needed");
  }
  fetched_ = false;
  return next_;
}

// Padding, which must be zero, and the sum.
absl::Status SectionReader::EndPayload(const Section& section, uint32_t crc) {
  std::byte padding[kAlign] = {};
  const uint64_t bytes = Padded(section.length) - section.length;
  KVG_RETURN_IF_ERROR(Take(padding, bytes));
  const bool zero = std::all_of(padding, padding + bytes,
                                [](std::byte b) { return b == std::byte{0}; });
  if (crc == section.crc && zero) return absl::OkStatus();
  return CorruptError(NameOf(section), " of the saved cache is damaged: its ",
                      zero ? "checksum is wrong" : "padding is not zero");
}

absl::Status SectionReader::Read(const Section& section, std::byte* out) {
  uint32_t crc = 0;
  for (uint64_t at = 0; at < section.length; at += kChunk) {
    const uint64_t bytes = std::min(kChunk, section.length - at);
    KVG_RETURN_IF_ERROR(Take(out + at, bytes));
    crc = ExtendCrc32c(crc, out + at, bytes);
  }
  return EndPayload(section, crc);
}

absl::StatusOr<std::vector<std::byte>> SectionReader::ReadSmall(const Section& section,
                                                                uint64_t most) {
  if (section.length > most) {
    return CorruptError(NameOf(section), " has ", section.length, " bytes where at most ", most,
                        " are possible");
  }
  std::vector<std::byte> bytes;
  uint32_t crc = 0;
  while (bytes.size() < section.length) {
    const uint64_t at = bytes.size();
    bytes.resize(std::min(section.length, at + kChunk));
    KVG_RETURN_IF_ERROR(Take(bytes.data() + at, bytes.size() - at));
    crc = ExtendCrc32c(crc, bytes.data() + at, bytes.size() - at);
  }
  KVG_RETURN_IF_ERROR(EndPayload(section, crc));
  return bytes;
}

absl::Status SectionReader::Pass(const Section& section) {
  std::vector<std::byte> chunk(std::min(kChunk, section.length));
  uint32_t crc = 0;
  for (uint64_t at = 0; at < section.length; at += kChunk) {
    const uint64_t bytes = std::min(kChunk, section.length - at);
    KVG_RETURN_IF_ERROR(Take(chunk.data(), bytes));
    crc = ExtendCrc32c(crc, chunk.data(), bytes);
  }
  return EndPayload(section, crc);
}

absl::Status SectionReader::Skip(const Section& section) {
  const uint64_t bytes = Padded(section.length);
  if (bytes > left_) return CorruptError(NameOf(section), " reaches beyond the end");
  KVG_RETURN_IF_ERROR(source_.Skip(bytes));
  left_ -= bytes;
  return absl::OkStatus();
}

absl::StatusOr<const std::byte*> SectionReader::Borrow(const Section& section) {
  if (section.length > left_) return CorruptError(NameOf(section), " reaches beyond the end");
  const std::byte* const found = source_.Borrow(section.length);
  if (found == nullptr) return CorruptError("the saved cache is cut off");
  left_ -= section.length;
  KVG_RETURN_IF_ERROR(EndPayload(section, Crc32c(found, section.length)));
  return found;
}

absl::StatusOr<const std::byte*> SectionReader::BorrowUnseen(uint64_t length) {
  const uint64_t bytes = kSectionBytes + Padded(length);
  if (fetched_ || sections_left_ == 0 || length > left_ || bytes > left_) {
    return CorruptError("the saved cache lacks a section");
  }
  const std::byte* const found = source_.Borrow(bytes);
  if (found == nullptr) return CorruptError("the saved cache is cut off");
  left_ -= bytes;
  --sections_left_;
  return found + kSectionBytes;
}

absl::Status SectionReader::Finish() {
  // Optional sections may still come.
  if (sections_left_ > 0) {
    const absl::Status status = Fetch();
    if (fetched_) return CorruptError("the saved cache has ", NameOf(next_), " behind its end");
    if (sections_left_ > 0 || left_ > 0) return status;
  }
  if (fetched_ || left_ > 0) {
    return CorruptError("the saved cache has bytes that belong to no section");
  }
  return absl::OkStatus();
}

}  // namespace kvg::format
