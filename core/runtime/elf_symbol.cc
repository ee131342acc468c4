// ELF, as much of it as a look-up of one symbol needs: header, segments, dynamic section, hash table.
#include "core/runtime/elf_symbol.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <vector>

namespace kvg {
namespace {

using Header = ElfW(Ehdr);
using SegmentHeader = ElfW(Phdr);
using Dynamic = ElfW(Dyn);
using Symbol = ElfW(Sym);
using Word = ElfW(Addr);  // of the Bloom filter

// Far more than any library has; what says more is no library.
constexpr uint64_t kMostSegments = 256;
constexpr uint64_t kMostDynamic = 4096;
constexpr uint64_t kMostSteps = 65536;  // through one chain of a hash table

constexpr bool kLittle = std::endian::native == std::endian::little;
constexpr unsigned char kClass = sizeof(void*) == 8 ? ELFCLASS64 : ELFCLASS32;

absl::Status Wrong(std::string_view what) { return absl::FailedPreconditionError(what); }
absl::Status Missing() { return absl::NotFoundError("no such symbol"); }

class Library {
 public:
  Library() = default;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (fd_ >= 0) close(fd_);
  }

  absl::Status Open(const std::string& file);
  // False if there are not that many bytes at an address that the file fills.
  bool Read(uint64_t address, void* out, uint64_t bytes) const;
  absl::StatusOr<Symbol> Find(std::string_view name) const;

 private:
  bool ReadFile(uint64_t offset, void* out, uint64_t bytes) const;
  absl::Status ReadDynamic(const SegmentHeader& segment);
  bool Named(uint32_t index, std::string_view name, Symbol* symbol) const;
  absl::StatusOr<Symbol> FindGnu(std::string_view name) const;
  absl::StatusOr<Symbol> FindOld(std::string_view name) const;

  int fd_ = -1;
  uint64_t size_ = 0;
  std::vector<SegmentHeader> loaded_;
  uint64_t symbols_ = 0, strings_ = 0, strings_bytes_ = 0, gnu_hash_ = 0, old_hash_ = 0;
};

bool Library::ReadFile(uint64_t offset, void* out, uint64_t bytes) const {
  if (bytes > size_ || offset > size_ - bytes) return false;
  auto* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = pread(fd_, to, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    offset += static_cast<uint64_t>(got);
    bytes -= static_cast<uint64_t>(got);
  }
  return true;
}

bool Library::Read(uint64_t address, void* out, uint64_t bytes) const {
  for (const SegmentHeader& segment : loaded_) {
    if (address < segment.p_vaddr) continue;
    const uint64_t into = address - segment.p_vaddr;
    if (into > segment.p_filesz || bytes > segment.p_filesz - into) continue;
    return ReadFile(segment.p_offset + into, out, bytes);
  }
  return false;
}

absl::Status Library::Open(const std::string& file) {
  // Not to wait for a writer where the name is that of a pipe.
  fd_ = open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd_ < 0) return Wrong("cannot be read");
  struct stat status;
  if (fstat(fd_, &status) != 0 || !S_ISREG(status.st_mode)) return Wrong("is no file");
  size_ = static_cast<uint64_t>(status.st_size);

  Header header;
  if (!ReadFile(0, &header, sizeof(header)) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return Wrong("is no shared library");
  }
  if (header.e_ident[EI_CLASS] != kClass ||
      header.e_ident[EI_DATA] != (kLittle ? ELFDATA2LSB : ELFDATA2MSB)) {
    return Wrong("is a library for another kind of processor");
  }
  if (header.e_type != ET_DYN || header.e_phentsize != sizeof(SegmentHeader) ||
      header.e_phnum == 0 || header.e_phnum > kMostSegments) {
    return Wrong("is no shared library");
  }
  std::vector<SegmentHeader> segments(header.e_phnum);
  if (!ReadFile(header.e_phoff, segments.data(), segments.size() * sizeof(SegmentHeader))) {
    return Wrong("is cut short");
  }
  const SegmentHeader* dynamic = nullptr;
  for (const SegmentHeader& segment : segments) {
    if (segment.p_type == PT_DYNAMIC) dynamic = &segment;
    if (segment.p_type != PT_LOAD) continue;
    // The loader maps what the headers say; pages that the file does not have end the process.
    if (segment.p_filesz > size_ || segment.p_offset > size_ - segment.p_filesz) {
      return Wrong("is cut short");
    }
    loaded_.push_back(segment);
  }
  if (dynamic == nullptr) return Wrong("is no shared library");
  return ReadDynamic(*dynamic);
}

absl::Status Library::ReadDynamic(const SegmentHeader& segment) {
  const uint64_t entries = segment.p_filesz / sizeof(Dynamic);
  if (entries > kMostDynamic) return Wrong("has a dynamic section that is too long");
  std::vector<Dynamic> dynamic(entries);
  if (!Read(segment.p_vaddr, dynamic.data(), entries * sizeof(Dynamic))) {
    return Wrong("is cut short");
  }
  for (const Dynamic& entry : dynamic) {
    if (entry.d_tag == DT_NULL) break;
    const uint64_t value = entry.d_un.d_ptr;
    if (entry.d_tag == DT_SYMTAB) symbols_ = value;
    if (entry.d_tag == DT_STRTAB) strings_ = value;
    if (entry.d_tag == DT_STRSZ) strings_bytes_ = value;
    if (entry.d_tag == DT_GNU_HASH) gnu_hash_ = value;
    if (entry.d_tag == DT_HASH) old_hash_ = value;
  }
  return absl::OkStatus();
}

// Whether symbol number `index` has this name and is defined here.
bool Library::Named(uint32_t index, std::string_view name, Symbol* symbol) const {
  if (!Read(symbols_ + uint64_t{index} * sizeof(Symbol), symbol, sizeof(Symbol))) return false;
  if (symbol->st_shndx == SHN_UNDEF || symbol->st_name > strings_bytes_ ||
      name.size() >= strings_bytes_ - symbol->st_name) {
    return false;
  }
  std::vector<char> text(name.size() + 1);
  if (!Read(strings_ + symbol->st_name, text.data(), text.size())) return false;
  return text.back() == '\0' && std::string_view(text.data(), name.size()) == name;
}

// The table that today's linkers write: buckets of runs of symbols, each with the hash of its name
// whose lowest bit ends the run.
absl::StatusOr<Symbol> Library::FindGnu(std::string_view name) const {
  uint32_t hash = 5381;
  for (const char c : name) hash = hash * 33 + static_cast<unsigned char>(c);
  struct {
    uint32_t buckets, first, bloom_words, bloom_shift;
  } head;
  if (!Read(gnu_hash_, &head, sizeof(head)) || head.buckets == 0) return Missing();
  const uint64_t buckets = gnu_hash_ + sizeof(head) + uint64_t{head.bloom_words} * sizeof(Word);
  const uint64_t hashes = buckets + uint64_t{head.buckets} * 4;
  uint32_t index;
  if (!Read(buckets + uint64_t{hash % head.buckets} * 4, &index, 4) || index < head.first) {
    return Missing();
  }
  for (uint64_t step = 0; step < kMostSteps; ++step, ++index) {
    uint32_t found;
    if (!Read(hashes + (uint64_t{index} - head.first) * 4, &found, 4)) break;
    Symbol symbol;
    if ((found | 1) == (hash | 1) && Named(index, name, &symbol)) return symbol;
    if (found & 1 || index == UINT32_MAX) break;
  }
  return Missing();
}

// The table of the System V ABI: buckets of linked lists.
absl::StatusOr<Symbol> Library::FindOld(std::string_view name) const {
  uint32_t hash = 0;
  for (const char c : name) {
    hash = (hash << 4) + static_cast<unsigned char>(c);
    hash = (hash ^ ((hash & 0xF0000000u) >> 24)) & 0x0FFFFFFFu;
  }
  uint32_t head[2];  // buckets, links
  if (!Read(old_hash_, head, sizeof(head)) || head[0] == 0) return Missing();
  const uint64_t buckets = old_hash_ + sizeof(head), links = buckets + uint64_t{head[0]} * 4;
  uint32_t index;
  if (!Read(buckets + uint64_t{hash % head[0]} * 4, &index, 4)) return Missing();
  for (uint64_t step = 0; step < kMostSteps && index != STN_UNDEF; ++step) {
    Symbol symbol;
    if (Named(index, name, &symbol)) return symbol;
    if (!Read(links + uint64_t{index} * 4, &index, 4)) break;
  }
  return Missing();
}

absl::StatusOr<Symbol> Library::Find(std::string_view name) const {
  return gnu_hash_ != 0 ? FindGnu(name) : FindOld(name);
}

}  // namespace

absl::StatusOr<uint64_t> ReadDataSymbol(const std::string& file, const char* name, void* out,
                                        size_t bytes) {
  Library library;
  if (absl::Status status = library.Open(file); !status.ok()) return status;
  const absl::StatusOr<Symbol> symbol = library.Find(name);
  if (!symbol.ok()) return symbol.status();
  // The two bit fields have the same place in both classes.
  if (ELF64_ST_TYPE(symbol->st_info) != STT_OBJECT || symbol->st_size < bytes) return Missing();
  if (!library.Read(symbol->st_value, out, bytes)) return Wrong("does not hold what it exports");
  return symbol->st_size;
}

}  // namespace kvg
