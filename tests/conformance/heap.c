/* The watching allocator of kit.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kit.h"

/* A block: room to align in, this header, then what the library gets. */
typedef struct header {
  void *block;
  size_t size, alignment;
  unsigned long magic;
} header;

#define MAGIC 0x6B766721ul

static int must_fail(kvt_heap *heap) {
  __atomic_add_fetch(&heap->calls, 1, __ATOMIC_RELAXED);
  if (heap->fail_at <= 0) return 0;
  heap->fail_at--;
  if (heap->fail_at > 0) return 0;
  if (heap->fail_after) heap->fail_at = 1;
  heap->failed++;
  return 1;
}

static void *heap_alloc(void *user, size_t size, size_t alignment) {
  kvt_heap *heap = (kvt_heap *)user;
  char *block;
  size_t at;
  header h;
  CHECK(size > 0);
  CHECK(alignment > 0 && alignment <= 4096 && (alignment & (alignment - 1)) == 0);
  if (must_fail(heap)) return NULL;
  block = (char *)malloc(size + alignment + sizeof(header));
  if (block == NULL) return NULL;
  at = (size_t)block + sizeof(header);
  at = (at + alignment - 1) / alignment * alignment;
  h.block = block;
  h.size = size;
  h.alignment = alignment;
  h.magic = MAGIC;
  memcpy((char *)at - sizeof(header), &h, sizeof(h));
  __atomic_add_fetch(&heap->blocks, 1, __ATOMIC_RELAXED);
  __atomic_add_fetch(&heap->bytes, size, __ATOMIC_RELAXED);
  return (void *)at;
}

static void heap_release(void *user, void *ptr, size_t size, size_t alignment) {
  kvt_heap *heap = (kvt_heap *)user;
  header h;
  CHECK(ptr != NULL);
  if (ptr == NULL) return;
  memcpy(&h, (char *)ptr - sizeof(header), sizeof(h));
  CHECK(h.magic == MAGIC);
  CHECK(h.size == size);
  CHECK(h.alignment == alignment);
  h.magic = 0; /* a second release must be seen */
  memcpy((char *)ptr - sizeof(header), &h, sizeof(h));
  __atomic_sub_fetch(&heap->blocks, 1, __ATOMIC_RELAXED);
  __atomic_sub_fetch(&heap->bytes, h.size, __ATOMIC_RELAXED);
  free(h.block);
}

void kvt_heap_table(kvt_heap *heap, kvg_allocator *table) {
  memset(heap, 0, sizeof(*heap));
  KVG(allocator_init)(table);
  table->user = heap;
  table->alloc = heap_alloc;
  table->release = heap_release;
}
