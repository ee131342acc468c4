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
  Window(Memory& headers, Memory& memory, size_t bytes) {
    Buffer rows(memory, bytes);
    header_ = new (headers.Allocate(sizeof(Header))) Header(headers, std::move(rows));
  }
  Window(const Window& other) noexcept : header_(other.header_) {
    if (header_ == nullptr) return;
    header_->references.fetch_add(1, std::memory_order_relaxed);
    header_->lent.store(true, std::memory_order_relaxed);
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
  // Whether somebody else saw the rows since this was last asked. Their work on another stream of a
  // device may not be done, although they are gone: it must be waited for before rows are written.
  bool TakeLent() const {
    return header_ != nullptr && header_->lent.exchange(false, std::memory_order_relaxed);
  }
  template <typename T = uint16_t>
  T* rows() const {
    return header_ == nullptr ? nullptr : header_->rows.data<T>();
  }
  size_t bytes() const { return header_ == nullptr ? 0 : header_->rows.size(); }
  size_t bookkeeping() const { return header_ == nullptr ? 0 : sizeof(Header); }

 private:
  struct Header {
    Header(Memory& of, Buffer buffer) : memory(of), rows(std::move(buffer)) {}
    Memory& memory;
    const Buffer rows;
    std::atomic<uint32_t> references{1};
    std::atomic<bool> lent{false};
  };
  Header* header_ = nullptr;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_CACHE_WINDOW_H_
