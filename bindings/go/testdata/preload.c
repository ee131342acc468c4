/* Loaded before libkvgear.so, to show the package what the library does not show by itself: another range of ABI versions
 * (KVGEAR_TEST_ABI="min max"), log lines from a thread that the language does not know, 100 for each kvg_runtime_memory, and streams
 * that are read and written on such threads. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "kvgear.h"

static kvg_log_fn sink;
static void *sink_user;

static unsigned abi(int newest) {
  unsigned range[2] = {KVG_ABI_VERSION, KVG_ABI_VERSION};
  const char *text = getenv("KVGEAR_TEST_ABI");
  if (text) sscanf(text, "%u %u", &range[0], &range[1]);
  return range[newest];
}

uint32_t kvg_abi_min(void) { return abi(0); }
uint32_t kvg_abi_version(void) { return abi(1); }

kvg_status kvg_runtime_set_log(kvg_runtime *runtime, kvg_log_fn fn, void *user, kvg_error *err) {
  kvg_status (*real)(kvg_runtime *, kvg_log_fn, void *, kvg_error *);
  *(void **)&real = dlsym(RTLD_NEXT, "kvg_runtime_set_log");
  sink = fn;
  sink_user = user;
  return real(runtime, fn, user, err);
}

static void *log_lines(void *unused) {
  char line[64];
  for (int i = 0; i < 100 && sink; i++) {
    snprintf(line, sizeof line, "line %d of 100", i);
    sink(sink_user, (kvg_log_level)(i % 4), line);
  }
  return unused;
}

kvg_status kvg_runtime_memory(const kvg_runtime *runtime, uint64_t *bytes, kvg_error *err) {
  kvg_status (*real)(const kvg_runtime *, uint64_t *, kvg_error *);
  pthread_t thread;
  *(void **)&real = dlsym(RTLD_NEXT, "kvg_runtime_memory");
  if (pthread_create(&thread, NULL, log_lines, NULL) == 0) pthread_join(thread, NULL);
  return real(runtime, bytes, err);
}

/* The real calls, on a thread that ends behind them. */
struct call {
  const kvg_cache *from;
  kvg_runtime *runtime;
  const kvg_plan *plan;
  kvg_cache **to;
  kvg_write_fn write;
  kvg_read_fn read;
  void *user;
  const kvg_save_desc *save;
  const kvg_load_desc *load;
  kvg_error *err;
  kvg_status status;
};

static void *stream(void *x) {
  struct call *c = x;
  if (c->from) {
    kvg_status (*real)(const kvg_cache *, kvg_write_fn, void *, const kvg_save_desc *, kvg_error *);
    *(void **)&real = dlsym(RTLD_NEXT, "kvg_cache_save_stream");
    c->status = real(c->from, c->write, c->user, c->save, c->err);
  } else {
    kvg_status (*real)(kvg_runtime *, const kvg_plan *, kvg_read_fn, void *, const kvg_load_desc *, kvg_cache **, kvg_error *);
    *(void **)&real = dlsym(RTLD_NEXT, "kvg_cache_load_stream");
    c->status = real(c->runtime, c->plan, c->read, c->user, c->load, c->to, c->err);
  }
  return NULL;
}

static kvg_status elsewhere(struct call *c) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, stream, c) != 0) return KVG_E_INTERNAL;
  pthread_join(thread, NULL);
  return c->status;
}

kvg_status kvg_cache_save_stream(const kvg_cache *cache, kvg_write_fn write, void *user, const kvg_save_desc *desc, kvg_error *err) {
  struct call c = {.from = cache, .write = write, .user = user, .save = desc, .err = err};
  return elsewhere(&c);
}

kvg_status kvg_cache_load_stream(kvg_runtime *runtime, const kvg_plan *plan, kvg_read_fn read, void *user, const kvg_load_desc *desc,
                                 kvg_cache **out, kvg_error *err) {
  struct call c = {.runtime = runtime, .plan = plan, .to = out, .read = read, .user = user, .load = desc, .err = err};
  return elsewhere(&c);
}
