/* Every call of the C ABI, made again and again while the Nth request for memory is refused, for every
 * N, once and from then on: each failure must leave everything as it was, and still usable. */
#ifndef KVGEAR_TESTS_FAULT_CALLS_H_
#define KVGEAR_TESTS_FAULT_CALLS_H_

#include "kit.h"

/* Who refuses, and how what is allocated is counted. */
typedef struct kvt_fault {
  const kvg_runtime_options *options; /* of the runtimes that the calls work on; may be NULL */
  void (*arm)(long n, int forever);   /* the nth request from now fails; with forever all later too */
  long (*disarm)(void);               /* how many have failed since */
  long (*blocks)(void);               /* blocks that are allocated now */
  int sees_everything;                /* 0: only what goes through the allocator table */
} kvt_fault;

/* The calls whose work depends on the recipe, on caches of this one. */
void kvt_fault_run(const kvt_fault *fault, const char *recipe);
/* All others. At its end every function of the header must have been called while a request was refused. */
void kvt_fault_run_others(const kvt_fault *fault);

#endif /* KVGEAR_TESTS_FAULT_CALLS_H_ */
