/* Loaded before libkvgear.so, to show the package what the library does not show by itself: another range of ABI versions
 * (KVGEAR_TEST_ABI="min max"), and log lines from a thread that is not Go's, 100 for each kvg_runtime_memory. */
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
