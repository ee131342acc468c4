// Sources and sinks of stored bytes. See stream.h.
#include "core/format/stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <system_error>

#include "absl/strings/escaping.h"

namespace kvg {
namespace {

// One read or write call of the system or of a host moves no more than this.
constexpr size_t kMostAtOnce = size_t{1} << 30;

std::string Shown(const std::string& path) {
  return absl::StrCat("\"", absl::CHexEscape(path.substr(0, 200)), "\"");
}

std::string Reason(int error) { return std::generic_category().message(error); }

absl::Status Ended(uint64_t missing) {
  return CorruptError("the saved cache is cut off: ", missing,
                      " more bytes are needed where it ends; copy it again from its source");
}

struct Opened {
  Descriptor file;
  uint64_t bytes = 0;
};

absl::StatusOr<Opened> OpenToRead(const std::string& path) {
  Opened opened;
  opened.file = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (opened.file.get() < 0) {
    return IoError("cannot open ", Shown(path), " to read: ", Reason(errno));
  }
  struct stat info;
  if (::fstat(opened.file.get(), &info) != 0) {
    return IoError("cannot tell the size of ", Shown(path), ": ", Reason(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    return IoError(Shown(path), " is not a file; pass one, or load from a stream");
  }
  opened.bytes = static_cast<uint64_t>(info.st_size);
  return opened;
}

}  // namespace

absl::Status Source::Skip(uint64_t bytes) {
  std::byte passed[4096];
  while (bytes > 0) {
    const size_t some = std::min<uint64_t>(bytes, sizeof(passed));
    KVG_RETURN_IF_ERROR(Read(passed, some));
    bytes -= some;
  }
  return absl::OkStatus();
}

// ------------------------------------------------------------------------------------- memory

absl::Status BufferSink::Write(const void* data, size_t bytes) {
  if (written_ < room_) {
    std::memcpy(data_ + written_, data, std::min<uint64_t>(bytes, room_ - written_));
  }
  written_ += bytes;
  return absl::OkStatus();
}

absl::Status BufferSource::Read(void* data, size_t bytes) {
  if (bytes > left_) return Ended(bytes - left_);
  if (bytes > 0) std::memcpy(data, at_, bytes);
  at_ += bytes;
  left_ -= bytes;
  return absl::OkStatus();
}

absl::Status BufferSource::Skip(uint64_t bytes) {
  return Borrow(bytes) != nullptr || bytes == 0 ? absl::OkStatus() : Ended(bytes - left_);
}

const std::byte* BufferSource::Borrow(size_t bytes) {
  if (bytes > left_) return nullptr;
  const std::byte* const found = at_;
  at_ += bytes;
  left_ -= bytes;
  return found;
}

// ------------------------------------------------------------------------------------ functions

absl::Status FunctionSink::Write(const void* data, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const size_t asked = std::min(bytes, kMostAtOnce);
    const int64_t took = fn_(user_, at, asked);
    if (took < 1) {
      return IoError("the write function returned ", took, " for ", asked,
                     " bytes; it must take at least one or report a failure of its own");
    }
    if (static_cast<uint64_t>(took) > asked) {
      return IoError("the write function says that it took ", took, " bytes of ", asked);
    }
    at += took;
    bytes -= static_cast<size_t>(took);
  }
  return absl::OkStatus();
}

absl::Status FunctionSource::Read(void* data, size_t bytes) {
  auto* at = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const size_t asked = std::min(bytes, kMostAtOnce);
    const int64_t gave = fn_(user_, at, asked);
    if (gave == 0) return Ended(bytes);
    if (gave < 0) return IoError("the read function failed and returned ", gave);
    if (static_cast<uint64_t>(gave) > asked) {
      return IoError("the read function says that it gave ", gave, " bytes where ", asked,
                     " were asked for");
    }
    at += gave;
    bytes -= static_cast<size_t>(gave);
  }
  return absl::OkStatus();
}

// ---------------------------------------------------------------------------------------- files

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Descriptor::~Descriptor() { Close(); }

bool Descriptor::Close() {
  if (fd_ < 0) return true;
  const int fd = fd_;
  fd_ = -1;
  return ::close(fd) == 0;
}

absl::StatusOr<std::unique_ptr<FileSink>> FileSink::Create(const std::string& path) {
  std::unique_ptr<FileSink> sink(new FileSink(path));
  KVG_RETURN_IF_ERROR(sink->Open());
  return sink;
}

absl::Status FileSink::Failed(const char* what, int error) const {
  return IoError("cannot ", what, " ", Shown(path_), ": ", Reason(error),
                 "; the file of that name, if there was one, is as it was");
}

absl::Status FileSink::Open() {
  const size_t slash = path_.rfind('/');
  folder_ = slash == std::string::npos ? "." : path_.substr(0, slash + 1);
  // A number of its own for each save, so that two to the same name do not meet.
  static std::atomic<uint64_t> next{0};
  const std::string name = absl::StrCat(path_, ".", ::getpid(), ".",
                                        next.fetch_add(1, std::memory_order_relaxed), ".partial");
#ifdef O_TMPFILE
  // Without a name the file vanishes with a process that is killed.
  file_ = Descriptor(::open(folder_.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0666));
  if (file_.get() >= 0) return absl::OkStatus();
#endif
  file_ = Descriptor(::open(name.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0666));
  if (file_.get() < 0) return Failed("write", errno);
  temporary_ = name;
  return absl::OkStatus();
}

FileSink::~FileSink() {
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

absl::Status FileSink::Write(const void* data, size_t bytes) {
  const auto* at = static_cast<const std::byte*>(data);
  while (bytes > 0) {
    const ssize_t took = ::write(file_.get(), at, std::min(bytes, kMostAtOnce));
    if (took < 0) {
      if (errno == EINTR) continue;
      return Failed("write", errno);
    }
    at += took;
    bytes -= static_cast<size_t>(took);
  }
  return absl::OkStatus();
}

absl::Status FileSink::Commit(bool sync) {
  if (sync && ::fsync(file_.get()) != 0) return Failed("write to the disk", errno);
  if (temporary_.empty()) {
    static std::atomic<uint64_t> next{0};
    const std::string here = absl::StrCat("/proc/self/fd/", file_.get());
    std::string name;
    int error = EEXIST;
    for (int tries = 0; error == EEXIST && tries < 100; ++tries) {
      name = absl::StrCat(path_, ".", ::getpid(), ".", next.fetch_add(1), ".whole");
      error = ::linkat(AT_FDCWD, here.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) == 0
                  ? 0
                  : errno;
    }
    if (error != 0) return Failed("give a name to", error);
    temporary_ = std::move(name);
  }
  if (!file_.Close()) return Failed("write", errno);
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return Failed("replace", errno);
  temporary_.clear();
  if (sync) {
    const Descriptor folder(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    // Some file systems cannot do it for folders; the file is whole all the same.
    if (folder.get() >= 0) (void)::fsync(folder.get());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<FileSource>> FileSource::Open(const std::string& path) {
  absl::StatusOr<Opened> opened = OpenToRead(path);
  KVG_RETURN_IF_ERROR(opened.status());
#ifdef POSIX_FADV_SEQUENTIAL
  (void)::posix_fadvise(opened->file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
#endif
  return std::unique_ptr<FileSource>(
      new FileSource(path, std::move(opened->file), opened->bytes));
}

absl::Status FileSource::Skip(uint64_t bytes) {
  if (bytes > left_) return Ended(bytes - left_);
  if (::lseek(file_.get(), static_cast<off_t>(bytes), SEEK_CUR) < 0) {
    return IoError("cannot read ", Shown(path_), ": ", Reason(errno));
  }
  left_ -= bytes;
  return absl::OkStatus();
}

absl::Status FileSource::Read(void* data, size_t bytes) {
  if (bytes > left_) return Ended(bytes - left_);
  auto* at = static_cast<std::byte*>(data);
  while (bytes > 0) {
    const ssize_t gave = ::read(file_.get(), at, std::min(bytes, kMostAtOnce));
    if (gave < 0) {
      if (errno == EINTR) continue;
      return IoError("cannot read ", Shown(path_), ": ", Reason(errno));
    }
    if (gave == 0) return Ended(bytes);
    at += gave;
    bytes -= static_cast<size_t>(gave);
    left_ -= static_cast<uint64_t>(gave);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<BufferSource>> FileSource::Map(const std::string& path) {
  const absl::StatusOr<Opened> opened = OpenToRead(path);
  KVG_RETURN_IF_ERROR(opened.status());
  if (opened->bytes == 0) return std::make_unique<BufferSource>(nullptr, 0);
  const size_t bytes = opened->bytes;
  void* const at = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, opened->file.get(), 0);
  if (at == MAP_FAILED) return IoError("cannot map ", Shown(path), ": ", Reason(errno));
  // If there is no memory for the count, the function runs at once.
  std::shared_ptr<const void> keep(
      at, [bytes](const void* p) { ::munmap(const_cast<void*>(p), bytes); });
  return std::make_unique<BufferSource>(at, bytes, std::move(keep));
}

}  // namespace kvg
