/* The allocator table refuses: the Nth request of every call fails, for every N, once and for good. */
#include <stdio.h>
#include <string.h>

#include "calls.h"

static kvt_heap heap;
static long failed_before;

static void arm(long n, int forever) {
  failed_before = heap.failed;
  heap.fail_after = forever;
  heap.fail_at = n;
}
static long disarm(void) {
  heap.fail_at = 0;
  return heap.failed - failed_before;
}
static long blocks(void) { return heap.blocks; }

/* An allocator that forgets about alignment is found out, and gets its memory back. */
static long askew;
static char room[1 << 16];
static void *askew_alloc(void *user, size_t size, size_t alignment) {
  (void)user;
  CHECK(size + alignment < sizeof(room));
  askew++;
  return room + (64 - (size_t)room % 64) + 8;
}
static void askew_release(void *user, void *ptr, size_t size, size_t alignment) {
  (void)user;
  CHECK((char *)ptr > room && size > 0 && alignment > 0);
  askew--;
}
static void misaligned(void) {
  kvg_allocator table;
  kvg_runtime_options options;
  kvg_runtime *runtime = NULL;
  KVG(allocator_init)(&table);
  table.alloc = askew_alloc;
  table.release = askew_release;
  KVG(runtime_options_init)(&options);
  options.allocator = &table;
  REFUSED(KVG_E_NOMEM, "alloc", KVG(runtime_create)(&options, &runtime, &kvt_err));
  CHECK(runtime == NULL);
  CHECK(askew == 0);
}

int main(void) {
  static const char *const others[] = {
      "gear-2,group=32,decode_rank=2,window=32,block=32", "kivi-4,k.block=32,v.window=5",
      "kcvt-4,window=0"};
  const uint32_t named = KVG(recipe_count)();
  kvg_allocator table;
  kvg_runtime_options options;
  kvt_fault fault;
  uint32_t i;
  kvt_heap_table(&heap, &table);
  KVG(runtime_options_init)(&options);
  options.allocator = &table;
  fault.options = &options;
  fault.arm = arm;
  fault.disarm = disarm;
  fault.blocks = blocks;
  fault.sees_everything = 0;
  for (i = 0; i < named + 3; i++) {
    /* Workers change who computes, not who allocates. */
    options.threads = i % 4 == 1 ? 2 : 0;
    /* Looking at a cache that learns teaches it; unit/cache_fault_test looks without attending. */
    if (i < named && strncmp(KVG(recipe_name)(i), "tc-", 3) == 0) continue;
    kvt_fault_run(&fault, i < named ? KVG(recipe_name)(i) : others[i - named]);
  }
  kvt_fault_run_others(&fault);
  CHECK(heap.failed > 1000);
  CHECK(heap.blocks == 0 && heap.bytes == 0);
  misaligned();
  printf("%ld checks, %ld requests refused, %d failed\n", kvt_checks(), heap.failed, kvt_failures());
  return kvt_failures() == 0 ? 0 : 1;
}
