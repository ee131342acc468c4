// Section by section through a saved cache: lengths against bounds, checksums before use.
//
// Called by core/format only. What was read is only bytes here; load.cc knows what they mean.
#ifndef KVGEAR_CORE_FORMAT_SECTION_READER_H_
#define KVGEAR_CORE_FORMAT_SECTION_READER_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/format/layout.h"
#include "core/format/stream.h"

namespace kvg::format {

struct Section {
  uint32_t kind = 0, layer = kNone, side = kNone, crc = 0;
  uint64_t length = 0, index = 0;
};

std::string NameOf(const Section& section);

class SectionReader {
 public:
  // `exact`: the source must not have more bytes than the saved cache.
  SectionReader(Source& source, bool exact) : source_(source), exact_(exact) {}

  absl::Status ReadHeader();
  // The next section, which must be of this kind, layer and side. Optional ones of kinds that are
  // not known are passed over.
  absl::StatusOr<Section> Next(uint32_t kind, uint32_t layer, uint32_t side);
  // Whether that will be of this kind.
  absl::StatusOr<bool> NextIs(uint32_t kind);
  // The payload of the section, which must be read before the next.
  absl::Status Read(const Section& section, std::byte* out);
  // The same of a small one; `most` bounds it.
  absl::StatusOr<std::vector<std::byte>> ReadSmall(const Section& section, uint64_t most);
  // Reads and checks the payload without keeping it.
  absl::Status Pass(const Section& section);
  // Goes behind it without a look at its payload.
  absl::Status Skip(const Section& section);
  // Where the whole lies in memory: the payload in place, after a check of its sum.
  absl::StatusOr<const std::byte*> Borrow(const Section& section);
  // Passes section header, payload and padding without looking, for a payload of this length.
  absl::StatusOr<const std::byte*> BorrowUnseen(uint64_t length);
  // No section may be left.
  absl::Status Finish();

  uint32_t version() const { return version_; }
  uint64_t features() const { return features_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t sections() const { return sections_; }

 private:
  absl::Status Take(void* out, uint64_t bytes);
  absl::Status Fetch();
  absl::Status EndPayload(const Section& section, uint32_t crc);

  Source& source_;
  const bool exact_;
  uint32_t version_ = 0;
  uint64_t features_ = 0, bytes_ = 0, sections_ = 0;
  uint64_t left_ = 0, sections_left_ = 0;  // still to come, by the header
  bool fetched_ = false;                   // next_ holds a header that nobody took
  Section next_;
};

}  // namespace kvg::format

#endif  // KVGEAR_CORE_FORMAT_SECTION_READER_H_
