/* The kit of the conformance, fault and thread tests: checks, inputs, a picture of a cache's state
 * to compare with, and attention in double precision. C89, and C++. */
#ifndef KVGEAR_TESTS_CONFORMANCE_KIT_H_
#define KVGEAR_TESTS_CONFORMANCE_KIT_H_

#include <stddef.h>

#include "api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ checks */

/* A failed check is printed and counted; the test goes on. kvt_where names what is being tried; it
 * is for the main thread, the checks are for any. */
void kvt_report(const char *file, int line, const char *what);
int kvt_failures(void);
long kvt_checks(void);
void kvt_where(const char *what);

#define CHECK(cond)                                    \
  do {                                                 \
    if (!kvt_check((cond) ? 1 : 0)) kvt_report(__FILE__, __LINE__, #cond); \
  } while (0)
int kvt_check(int ok);

/* OK(call) and REFUSED(status, "words of the message", call): `call` must pass &kvt_err. Besides
 * the status they check what the header says of kvg_error in each case. One thread at a time. */
extern kvg_error kvt_err;
void kvt_arm(void);
void kvt_ok(const char *file, int line, const char *call, kvg_status got);
void kvt_refused(const char *file, int line, const char *call, kvg_status want, const char *words,
                 kvg_status got);
#define OK(call) (kvt_arm(), kvt_ok(__FILE__, __LINE__, #call, (call)))
#define REFUSED(want, words, call) \
  (kvt_arm(), kvt_refused(__FILE__, __LINE__, #call, (want), (words), (call)))

/* Whether all bytes of x are `byte`. */
int kvt_same_bytes(const void *x, size_t size, int byte);

void *kvt_malloc(size_t bytes); /* ends the program when there is no memory */

/* ------------------------------------------------------------------ inputs */

/* A value that fp16 and fp32 hold exactly, in [-2, 2), a function of its arguments alone. */
float kvt_value(unsigned seed, size_t index);
void kvt_fill(float *x, size_t n, unsigned seed, size_t first_index);
unsigned short kvt_f16(float x);    /* of a value that fp16 holds exactly */
float kvt_f32(unsigned short half); /* and back */
unsigned short kvt_bf16(float x);   /* upper half of the bits */

/* A cache of a given shape with what it needs. */
typedef struct kvt_rig {
  kvg_runtime *runtime;
  kvg_plan *plan;
  kvg_cache *cache;
  uint32_t layers, q_heads, kv_heads, head_dim;
} kvt_rig;

/* Zeroes, and stops with a failed check if something could not be created. */
int kvt_rig_open(kvt_rig *rig, const char *recipes, uint32_t layers, uint32_t q_heads,
                 uint32_t kv_heads, uint32_t head_dim, const kvg_runtime_options *options);
void kvt_rig_close(kvt_rig *rig);

/* Elements of `tokens` tokens of K or V. */
size_t kvt_elements(const kvt_rig *rig, uint64_t tokens);

/* Appends f32 tokens [first, first + tokens) of the endless sequence that `seed` stands for. */
kvg_status kvt_append(const kvt_rig *rig, kvg_cache *cache, uint32_t layer, uint64_t first,
                      uint64_t tokens, unsigned seed, kvg_error *err);
uint64_t kvt_length(const kvg_cache *cache, uint32_t layer);

/* Writes a plan file for one layer of four query and two KV heads of 32: of keys the latents are the whole
 * rows, of values the first 16 coordinates of each head. The file ends `cut` bytes early. */
void kvt_write_plan(const char *path, size_t cut);

/* --------------------------------------------------------- state of a cache */

/* Lengths, stats, attention, decompressed rows and (where a policy dropped some) their positions, of all
 * layers, to the bit. */
typedef struct kvt_picture {
  unsigned char *bytes;
  size_t size;
} kvt_picture;

/* with_stats 0 leaves out the stats, in which a fork and its parent differ from a lone cache. */
void kvt_picture_take(kvt_picture *picture, const kvt_rig *rig, const kvg_cache *cache,
                      int with_stats);
int kvt_picture_same(const kvt_picture *a, const kvt_picture *b);
void kvt_picture_free(kvt_picture *picture);
/* Takes another picture and compares. */
int kvt_unchanged(const kvt_picture *before, const kvt_rig *rig, const kvg_cache *cache,
                  int with_stats);

/* ---------------------------------------------------------------- attention */

typedef struct kvt_mask {
  int non_causal;
  uint64_t sliding_window;
  double scale; /* 0 = 1 / sqrt(head_dim) */
  double softcap;
} kvt_mask;

/* out[queries, q_heads, head_dim] from q and K, V rows [length, kv_heads, head_dim]. */
void kvt_attention(const kvt_rig *rig, const float *q, uint32_t queries, const float *k,
                   const float *v, uint64_t length, const kvt_mask *mask, double *out);

/* Attends with f32 queries and compares with kvt_attention on the rows that the cache reads back.
 * Returns the largest difference divided by the largest |v|. */
double kvt_attend_error(const kvt_rig *rig, const kvg_cache *cache, uint32_t layer,
                        uint32_t queries, const kvt_mask *mask, unsigned seed);

/* What that may be: SIMD kernels may round queries and weights to 16 bits, which is worst after a
 * rotation (its largest entry is further from the others) and at the scale of 0.25. */
#define KVT_ATTEND_BOUND 8e-3

/* ------------------------------------------------- an allocator that watches */

/* Keeps a balance, and checks that release gets what alloc got. Any thread may use it; whoever sets
 * fail_at does so while nobody else allocates. */
typedef struct kvt_heap {
  long blocks;
  size_t bytes;
  long calls;
  long fail_at;   /* > 0: this many calls from now one fails */
  int fail_after; /* 1: all later ones as well */
  long failed;
} kvt_heap;
void kvt_heap_table(kvt_heap *heap, kvg_allocator *table);

#ifdef __cplusplus
}
#endif

#endif /* KVGEAR_TESTS_CONFORMANCE_KIT_H_ */
