/* malloc and pthread_create refuse: this program stands in for glibc's, so that the library's own
 * use of the C++ heap is reached as well, operator new and all. The Nth request of every call
 * fails, for every N. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

/* ------------------------------------------------- in the place of glibc's */

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *ptr, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *ptr);

/* Of this thread only: it is the one that makes the calls. */
static __thread long fail_at, failed, live, refused;
static __thread int fail_after;

static int must_fail(void) {
  if (fail_at <= 0) return 0;
  fail_at--;
  if (fail_at > 0) return 0;
  if (fail_after) fail_at = 1;
  failed++;
  refused++;
  errno = ENOMEM;
  return 1;
}

static void *counted(void *ptr) {
  if (ptr != NULL) live++;
  return ptr;
}

void *malloc(size_t size) { return must_fail() ? NULL : counted(__libc_malloc(size)); }
void *calloc(size_t count, size_t size) {
  return must_fail() ? NULL : counted(__libc_calloc(count, size));
}
void *realloc(void *ptr, size_t size) {
  void *moved;
  if (must_fail()) return NULL;
  moved = __libc_realloc(ptr, size);
  if (ptr == NULL) counted(moved);
  return moved;
}
void *memalign(size_t alignment, size_t size) {
  return must_fail() ? NULL : counted(__libc_memalign(alignment, size));
}
void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void **out, size_t alignment, size_t size) {
  void *ptr = memalign(alignment, size);
  if (ptr == NULL) return ENOMEM;
  *out = ptr;
  return 0;
}
void free(void *ptr) {
  if (ptr != NULL) live--;
  __libc_free(ptr);
}

static __thread long threads_until_failure;
typedef int (*create_fn)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*start)(void *),
                   void *arg) {
  void *symbol;
  create_fn create;
  if (threads_until_failure > 0 && --threads_until_failure == 0) return EAGAIN;
  symbol = dlsym(RTLD_NEXT, "pthread_create");
  memcpy(&create, &symbol, sizeof(create));
  return create(thread, attr, start, arg);
}

/* --------------------------------------------------------------- the test */

static void arm(long n, int forever) {
  failed = 0;
  fail_after = forever;
  fail_at = n;
}
static long disarm(void) {
  fail_at = 0;
  return failed;
}
static long blocks(void) { return live; }

/* Threads that the system refuses: those that were started end, and the sentence says so. */
static void no_threads(void) {
  enum { WORKERS = 5 };
  kvg_runtime_options options;
  kvg_runtime *runtime;
  long n;
  KVG(runtime_options_init)(&options);
  options.threads = WORKERS;
  for (n = 1; n <= WORKERS; n++) {
    runtime = NULL;
    threads_until_failure = n;
    REFUSED(KVG_E_BACKEND, "threads", KVG(runtime_create)(&options, &runtime, &kvt_err));
    CHECK(threads_until_failure == 0);
    CHECK(runtime == NULL);
  }
  threads_until_failure = WORKERS + 1;
  OK(KVG(runtime_create)(&options, &runtime, &kvt_err));
  CHECK(threads_until_failure == 1);
  threads_until_failure = 0;
  KVG(runtime_destroy)(runtime);
}

/* A runtime with workers when memory ends while they are started. What starting a thread keeps for
 * the next one is the C library's affair, so blocks are not counted here. */
static void threads_without_memory(void) {
  kvg_runtime_options options;
  kvg_runtime *runtime = NULL;
  kvg_status status = KVG_E_INTERNAL;
  long n;
  KVG(runtime_options_init)(&options);
  options.threads = 3;
  for (n = 1; n < 1000; n++) {
    arm(n, 0);
    status = KVG(runtime_create)(&options, &runtime, &kvt_err);
    if (disarm() == 0 || status == KVG_OK) break;
    CHECK(status == KVG_E_NOMEM || status == KVG_E_BACKEND);
    CHECK(runtime == NULL);
  }
  CHECK(n > 4);
  CHECK(status == KVG_OK);
  KVG(runtime_destroy)(runtime);
}

int main(void) {
  static const char *const recipes[] = {"fp16", "int4", "kivi-2", "kcvt-4", "gear-2"};
  kvt_fault fault;
  kvg_runtime *runtime = NULL;
  size_t i;
  fault.options = NULL;
  fault.arm = arm;
  fault.disarm = disarm;
  fault.blocks = blocks;
  fault.sees_everything = 1;
  /* What is set up once per process and kept is not a leak: a first round, and an exception. */
  OK(KVG(runtime_create)(NULL, &runtime, &kvt_err));
  arm(1, 0);
  CHECK(KVG(recipe_canonical)("gear-2,v.bits=3,window=96", NULL, 0, NULL, NULL) == KVG_E_NOMEM);
  CHECK(disarm() == 1); /* the stand-in is in place, also for operator new */
  KVG(runtime_destroy)(runtime);
  for (i = 0; i < sizeof(recipes) / sizeof(recipes[0]); i++) kvt_fault_run(&fault, recipes[i]);
  kvt_fault_run_others(&fault);
  no_threads();
  threads_without_memory();
  CHECK(refused > 500);
  printf("%ld checks, %ld requests refused, %d failed\n", kvt_checks(), refused, kvt_failures());
  return kvt_failures() == 0 ? 0 : 1;
}
