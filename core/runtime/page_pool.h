// A pool of memory in pages: a few large slabs, cut into runs of whole pages.
//
// Called by core/runtime/device. Its books are kept beside the slabs, not in them, so that a slab
// may be memory that the processor cannot reach. Not thread-safe: the device's lock guards it.
//
// A run is taken from the shortest free ones that are surely long enough, and joins its free
// neighbours when it is given back; what is left over in a slab is at most a few per cent.
#ifndef KVGEAR_CORE_RUNTIME_PAGE_POOL_H_
#define KVGEAR_CORE_RUNTIME_PAGE_POOL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace kvg {

class PagePool {
 public:
  static constexpr size_t kPage = 512;  // bytes; every run starts on a multiple
  static constexpr size_t kSlab = size_t{64} << 20;

  // Where slabs come from. allocate may return nullptr.
  struct Source {
    void* user = nullptr;
    void* (*allocate)(void* user, size_t bytes) = nullptr;
    void (*release)(void* user, void* slab, size_t bytes) = nullptr;
  };

  // A request beyond `slab` gets a slab of its own size.
  explicit PagePool(const Source& source, size_t slab = kSlab) : source_(source), slab_(slab) {}
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;
  ~PagePool();  // gives the slabs back, whatever is in them

  // nullptr when the source has no more. Throws std::bad_alloc when the books cannot grow.
  // *recycled: whether the memory was used before.
  void* Allocate(size_t bytes, bool* recycled);
  void Release(void* run, size_t bytes) noexcept;  // the size that Allocate got

  size_t slab_bytes() const { return slab_bytes_; }  // of all slabs
  size_t used_bytes() const { return used_bytes_; }  // of all runs

 private:
  static constexpr uint32_t kNone = 0xFFFFFFFF;
  static constexpr uint32_t kBins = 128;

  // A free or used run is described at its first page, and its length again at its last.
  struct Page {
    uint32_t length = 0;  // pages; of the run that starts or ends here
    uint32_t next = kNone, previous = kNone;  // in the list of its bin
    bool free = false, used_before = false;
  };
  struct Slab {
    std::byte* base = nullptr;
    uint32_t pages = 0;
    std::unique_ptr<Page[]> page;
    uint32_t first[kBins];  // free runs by length
  };

  static uint32_t BinOf(uint32_t length);       // of a free run
  static uint32_t BinToSearch(uint32_t length);  // the first whose runs are all long enough
  static void Link(Slab& slab, uint32_t at, uint32_t length, bool used_before);
  static void Unlink(Slab& slab, uint32_t at);
  static uint32_t Find(const Slab& slab, uint32_t length);
  std::byte* Take(Slab& slab, uint32_t at, uint32_t length, bool* recycled);
  Slab* AddSlab(uint32_t pages);

  const Source source_;
  const size_t slab_;
  std::vector<Slab> slabs_;  // by address
  size_t slab_bytes_ = 0, used_bytes_ = 0;
};

}  // namespace kvg

#endif  // KVGEAR_CORE_RUNTIME_PAGE_POOL_H_
