// PagePool: free runs in lists by length, joined with their neighbours when they come back.
#include "core/runtime/page_pool.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <iterator>
#include <new>

namespace kvg {

PagePool::~PagePool() {
  for (const Slab& slab : slabs_) {
    source_.release(source_.user, slab.base, size_t{slab.pages} * kPage);
  }
}

// Four bins to an octave: lengths of 4 to 7 fill bins 8 to 11, 8 to 15 fill 12 to 15, and so on.
uint32_t PagePool::BinOf(uint32_t length) {
  if (length < 4) return length;
  const auto octave = static_cast<uint32_t>(std::bit_width(length)) - 1;
  return octave * 4 + ((length >> (octave - 2)) & 3);
}

uint32_t PagePool::BinToSearch(uint32_t length) {
  const uint32_t bin = BinOf(length);
  if (length < 8) return bin;
  const auto octave = static_cast<uint32_t>(std::bit_width(length)) - 1;
  const bool lowest = (length & ((1u << (octave - 2)) - 1)) == 0;
  return lowest ? bin : bin + 1;
}

void PagePool::Link(Slab& slab, uint32_t at, uint32_t length, bool used_before) {
  Page& first = slab.page[at];
  uint32_t& head = slab.first[BinOf(length)];
  first = {.length = length, .next = head, .previous = kNone, .free = true,
           .used_before = used_before};
  if (head != kNone) slab.page[head].previous = at;
  head = at;
  Page& last = slab.page[at + length - 1];
  last.length = length;
  last.free = true;
}

void PagePool::Unlink(Slab& slab, uint32_t at) {
  const Page& page = slab.page[at];
  if (page.previous != kNone) {
    slab.page[page.previous].next = page.next;
  } else {
    slab.first[BinOf(page.length)] = page.next;
  }
  if (page.next != kNone) slab.page[page.next].previous = page.previous;
}

uint32_t PagePool::Find(const Slab& slab, uint32_t length) {
  for (uint32_t bin = BinToSearch(length); bin < kBins; ++bin) {
    if (slab.first[bin] != kNone) return slab.first[bin];
  }
  // A run of the bin of `length` itself may do; looking at a few keeps slabs from filling up with
  // runs that are just long enough.
  int looks = 8;
  for (uint32_t at = slab.first[BinOf(length)]; at != kNone && looks-- > 0; at = slab.page[at].next) {
    if (slab.page[at].length >= length) return at;
  }
  return kNone;
}

std::byte* PagePool::Take(Slab& slab, uint32_t at, uint32_t length, bool* recycled) {
  const uint32_t found = slab.page[at].length;
  *recycled = slab.page[at].used_before;
  Unlink(slab, at);
  if (found > length) Link(slab, at + length, found - length, *recycled);
  for (const uint32_t end : {at, at + length - 1}) {
    slab.page[end].length = length;
    slab.page[end].free = false;
  }
  used_bytes_ += length * kPage;
  return slab.base + size_t{at} * kPage;
}

PagePool::Slab* PagePool::AddSlab(uint32_t pages) {
  Slab slab;
  slab.pages = pages;
  slab.page = std::make_unique<Page[]>(pages);
  std::fill(std::begin(slab.first), std::end(slab.first), kNone);
  slabs_.reserve(slabs_.size() + 1);
  slab.base = static_cast<std::byte*>(source_.allocate(source_.user, size_t{pages} * kPage));
  if (slab.base == nullptr) return nullptr;
  slab_bytes_ += size_t{pages} * kPage;
  Link(slab, 0, pages, false);
  const auto place = std::upper_bound(
      slabs_.begin(), slabs_.end(), slab.base,
      [](const std::byte* base, const Slab& s) { return std::less<>()(base, s.base); });
  return &*slabs_.insert(place, std::move(slab));
}

void* PagePool::Allocate(size_t bytes, bool* recycled) {
  const size_t needed = std::max<size_t>(1, (bytes + kPage - 1) / kPage);
  if (needed >= kNone) throw std::bad_alloc();
  const auto length = static_cast<uint32_t>(needed);
  for (Slab& slab : slabs_) {
    const uint32_t at = Find(slab, length);
    if (at != kNone) return Take(slab, at, length, recycled);
  }
  const auto usual = static_cast<uint32_t>(slab_ / kPage);
  Slab* slab = AddSlab(std::max(length, usual));
  if (slab == nullptr && length < usual) slab = AddSlab(length);  // the last corner of the memory
  if (slab == nullptr) return nullptr;
  return Take(*slab, 0, length, recycled);
}

void PagePool::Release(void* run, size_t) noexcept {
  const auto* const address = static_cast<const std::byte*>(run);
  const auto after = std::upper_bound(
      slabs_.begin(), slabs_.end(), address,
      [](const std::byte* a, const Slab& s) { return std::less<>()(a, s.base); });
  Slab& slab = *std::prev(after);
  auto at = static_cast<uint32_t>(static_cast<size_t>(address - slab.base) / kPage);
  uint32_t length = slab.page[at].length;
  used_bytes_ -= length * kPage;
  const uint32_t behind = at + length;
  if (behind < slab.pages && slab.page[behind].free) {
    length += slab.page[behind].length;
    Unlink(slab, behind);
  }
  if (at > 0 && slab.page[at - 1].free) {
    const uint32_t before = slab.page[at - 1].length;
    at -= before;
    length += before;
    Unlink(slab, at);
  }
  Link(slab, at, length, true);
}

}  // namespace kvg
