// The fp16 rows of the newest tokens of one side: a block of memory that forks share until one of
// them writes.
//
// Called by core/cache/side_cache.
#ifndef KVGEAR_CORE_CACHE_WINDOW_H_
#define KVGEAR_CORE_CACHE_WINDOW_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "core/base/memory.h"

namespace kvg {

// Counted reference to rows [kv_heads][capacity][head_dim]; may be empty.
class Window {
 public:
  Window() = default;
  // Throws std::bad_alloc.
  Window(Memory& memory, size_t bytes) {
    Buffer rows(memory, bytes);
    header_ = new (memory.Allocate(sizeof(Header))) Header(memory, std::move(rows));
  }
  Window(const Window& other) noexcept : header_(other.header_) {
    if (header_ != nullptr) header_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Window(Window&& other) noexcept : header_(std::exchange(other.header_, nullptr)) {}
  Window& operator=(Window other) noexcept {
    std::swap(header_, other.header_);
    return *this;
  }
  ~Window() {
    // The last one to let go must see what the others did before.
    if (header_ == nullptr ||
        header_->references.fetch_sub(1, std::memory_order_acq_rel) != 1) {
      return;
    }
    Memory& memory = header_->memory;
    std::destroy_at(header_);
    memory.Release(header_, sizeof(Header));
  }

  explicit operator bool() const { return header_ != nullptr; }
  // Whether nobody else sees the rows, so that they may be written. What those did who could is
  // then visible.
  bool exclusive() const { return header_->references.load(std::memory_order_acquire) == 1; }
  uint16_t* rows() const { return header_ == nullptr ? nullptr : header_->rows.data<uint16_t>(); }
  size_t bytes() const { return header_ == nullptr ? 0 : header_->rows.size(); }
  size_t bookkeeping() const { return header_ == nullptr ? 0 : sizeof(Header); }

 private:
  struct Header {
    Header(Memory& of, Buffer buffer) : memory(of), rows(std::move(buffer)) {}
    Memory& memory;
    const Buffer rows;
    std::atomic<uint32_t> references{1};
  };
  Header* header_ = nullptr;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_WINDOW_H_
