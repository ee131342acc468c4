// Where stored bytes come from and go to: a file, a caller's buffer, a caller's functions.
//
// Called by core/format and capi. Nothing here knows what the bytes mean.
#ifndef KVGEAR_CORE_FORMAT_STREAM_H_
#define KVGEAR_CORE_FORMAT_STREAM_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "core/base/status.h"

namespace kvg {

class Sink {
 public:
  virtual ~Sink() = default;
  virtual absl::Status Write(const void* data, size_t bytes) = 0;
};

class Source {
 public:
  virtual ~Source() = default;
  // All of it or an error: KVG_E_CORRUPT where the stream ends before.
  virtual absl::Status Read(void* data, size_t bytes) = 0;
  // Goes on so many bytes further; by reading, unless there is a better way.
  virtual absl::Status Skip(uint64_t bytes);
  // Bytes that are still to come, where that is known.
  virtual std::optional<uint64_t> remaining() const { return std::nullopt; }
  // Where the whole lies in memory: the next `bytes` bytes, which are then passed. Else nullptr.
  virtual const std::byte* Borrow(size_t) { return nullptr; }
  // What keeps borrowed memory alive beyond the source; empty if it may not be kept.
  virtual std::shared_ptr<const void> keep() const { return nullptr; }
};

// ------------------------------------------------------------------------------------- memory

// Counts all bytes, and keeps those that fit.
class BufferSink : public Sink {
 public:
  BufferSink(void* data, size_t bytes) : data_(static_cast<std::byte*>(data)), room_(bytes) {}
  absl::Status Write(const void* data, size_t bytes) override;
  uint64_t written() const { return written_; }

 private:
  std::byte* const data_;
  const size_t room_;
  uint64_t written_ = 0;
};

class BufferSource : public Source {
 public:
  BufferSource(const void* data, size_t bytes, std::shared_ptr<const void> keep = nullptr)
      : at_(static_cast<const std::byte*>(data)), left_(bytes), keep_(std::move(keep)) {}
  absl::Status Read(void* data, size_t bytes) override;
  std::optional<uint64_t> remaining() const override { return left_; }
  absl::Status Skip(uint64_t bytes) override;
  const std::byte* Borrow(size_t bytes) override;
  std::shared_ptr<const void> keep() const override { return keep_; }

 private:
  const std::byte* at_;
  size_t left_;
  const std::shared_ptr<const void> keep_;
};

// ------------------------------------------------------------------------------------ functions

// Each returns how many bytes it took or gave, at least 1 and at most what was asked for; 0 when
// there is no more, below 0 for a failure.
using WriteFn = int64_t (*)(void* user, const void* data, uint64_t bytes);
using ReadFn = int64_t (*)(void* user, void* data, uint64_t bytes);

class FunctionSink : public Sink {
 public:
  FunctionSink(WriteFn fn, void* user) : fn_(fn), user_(user) {}
  absl::Status Write(const void* data, size_t bytes) override;

 private:
  const WriteFn fn_;
  void* const user_;
};

class FunctionSource : public Source {
 public:
  FunctionSource(ReadFn fn, void* user) : fn_(fn), user_(user) {}
  absl::Status Read(void* data, size_t bytes) override;

 private:
  const ReadFn fn_;
  void* const user_;
};

// ---------------------------------------------------------------------------------------- files

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  int get() const { return fd_; }
  bool Close();  // false: the system says that something was not written

 private:
  int fd_;
};

// A file that takes its name when it is whole: until Commit the old file, if there is one, stays.
class FileSink : public Sink {
 public:
  static absl::StatusOr<std::unique_ptr<FileSink>> Create(const std::string& path);
  ~FileSink() override;
  absl::Status Write(const void* data, size_t bytes) override;
  // `sync`: what was written, and the name, also outlive a loss of power.
  absl::Status Commit(bool sync);

 private:
  explicit FileSink(std::string path) : path_(std::move(path)) {}
  absl::Status Open();
  absl::Status Failed(const char* what, int error) const;

  const std::string path_;
  std::string folder_;
  std::string temporary_;  // the name the file has now; empty: none
  Descriptor file_;
};

class FileSource : public Source {
 public:
  static absl::StatusOr<std::unique_ptr<FileSource>> Open(const std::string& path);
  absl::Status Read(void* data, size_t bytes) override;
  absl::Status Skip(uint64_t bytes) override;
  std::optional<uint64_t> remaining() const override { return left_; }

  // The whole file as memory, shared with the file and read-only.
  static absl::StatusOr<std::unique_ptr<BufferSource>> Map(const std::string& path);

 private:
  FileSource(std::string path, Descriptor file, uint64_t bytes)
      : path_(std::move(path)), file_(std::move(file)), left_(bytes) {}
  const std::string path_;
  Descriptor file_;
  uint64_t left_;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_FORMAT_STREAM_H_
