/* Versions, status names, _init functions, recipes, plans and runtimes. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases.h"

/* ------------------------------------------------------------------- names */

static void versions(void) {
  char text[64];
  CHECK(KVG(abi_min)() >= 1);
  CHECK(KVG(abi_min)() <= KVG_ABI_VERSION);
  CHECK(KVG(abi_version)() >= KVG_ABI_VERSION);
  sprintf(text, "%d.%d.%d", KVG_VERSION_MAJOR, KVG_VERSION_MINOR, KVG_VERSION_PATCH);
  CHECK(strcmp(KVG(version_string)(), text) == 0);
}

static void status_names(void) {
#define NAMED(code) CHECK(strcmp(KVG(status_string)(code), #code) == 0)
  NAMED(KVG_OK);
  NAMED(KVG_E_INVALID);
  NAMED(KVG_E_NOMEM);
  NAMED(KVG_E_BUFFER_TOO_SMALL);
  NAMED(KVG_E_UNSUPPORTED);
  NAMED(KVG_E_NONFINITE);
  NAMED(KVG_E_STATE);
  NAMED(KVG_E_LIMIT);
  NAMED(KVG_E_BACKEND);
  NAMED(KVG_E_CORRUPT);
  NAMED(KVG_E_IO);
  NAMED(KVG_E_INTERNAL);
#undef NAMED
  CHECK(KVG(status_string)(-1) != NULL);
  CHECK(KVG(status_string)(11) != NULL);
  CHECK(KVG(status_string)(0x7FFFFFFF) != NULL);
}

static void inits(void) {
  kvg_allocator allocator;
  kvg_runtime_options options;
  kvg_shape shape;
  kvg_append_desc append;
  kvg_attend_desc attend;
  kvg_stats stats;
  /* What is not set apart below must be zero, padding (of which there is none) included. */
#define INIT(x, init)                             \
  memset(&x, 0xAB, sizeof(x));                    \
  KVG(init)(&x);                                  \
  CHECK(x.struct_size == (uint32_t)sizeof(x));    \
  x.struct_size = 0
  INIT(allocator, allocator_init);
  CHECK(kvt_same_bytes(&allocator, sizeof(allocator), 0));
  INIT(options, runtime_options_init);
  CHECK(kvt_same_bytes(&options, sizeof(options), 0));
  INIT(shape, shape_init);
  CHECK(kvt_same_bytes(&shape, sizeof(shape), 0));
  INIT(stats, stats_init);
  CHECK(kvt_same_bytes(&stats, sizeof(stats), 0));
  INIT(append, append_desc_init);
  CHECK(append.dtype == KVG_F16);
  append.dtype = 0;
  CHECK(kvt_same_bytes(&append, sizeof(append), 0));
  INIT(attend, attend_desc_init);
  CHECK(attend.q_dtype == KVG_F16 && attend.out_dtype == KVG_F16 && attend.queries == 1);
  attend.q_dtype = attend.out_dtype = attend.queries = 0;
  CHECK(kvt_same_bytes(&attend, sizeof(attend), 0));
#undef INIT
  KVG(allocator_init)(NULL);
  KVG(runtime_options_init)(NULL);
  KVG(shape_init)(NULL);
  KVG(append_desc_init)(NULL);
  KVG(attend_desc_init)(NULL);
  KVG(stats_init)(NULL);
}

/* ---------------------------------------------------------- calls for texts */

typedef struct text_source {
  const char *recipe;         /* kvg_recipe_canonical, unless NULL */
  const kvg_plan *plan;       /* kvg_plan_recipe of layer 0, unless NULL */
  const kvg_runtime *runtime; /* kvg_runtime_describe */
} text_source;

static kvg_status ask(const text_source *from, char *text, size_t length, size_t *needed) {
  kvt_arm();
  if (from->recipe != NULL) {
    return KVG(recipe_canonical)(from->recipe, text, length, needed, &kvt_err);
  }
  if (from->plan != NULL) return KVG(plan_recipe)(from->plan, 0, text, length, needed, &kvt_err);
  return KVG(runtime_describe)(from->runtime, text, length, needed, &kvt_err);
}

/* The rules of buffers, which are the same for every call that answers with a text. */
static void text_buffers(const text_source *from) {
  char text[256];
  size_t needed = 0, again = 0, length;
  OK(ask(from, NULL, 0, &needed));
  CHECK(needed > 1 && needed < sizeof(text));
  if (needed <= 1 || needed >= sizeof(text)) return;
  OK(ask(from, NULL, 0, NULL));
  memset(text, 0x5A, sizeof(text));
  OK(ask(from, text, needed, &again));
  CHECK(again == needed);
  CHECK(strlen(text) + 1 == needed);
  CHECK(kvt_same_bytes(text + needed, sizeof(text) - needed, 0x5A));
  OK(ask(from, text, sizeof(text), NULL));
  for (length = 1; length < needed; length++) {
    memset(text, 0x5A, sizeof(text));
    again = 0;
    REFUSED(KVG_E_BUFFER_TOO_SMALL, "needs", ask(from, text, length, &again));
    CHECK(again == needed);
    CHECK(kvt_same_bytes(text, sizeof(text), 0x5A));
  }
  REFUSED(KVG_E_BUFFER_TOO_SMALL, "needs", ask(from, text, 1, NULL));
  REFUSED(KVG_E_INVALID, "text is NULL", ask(from, NULL, 10, &again));
}

/* ------------------------------------------------------------------ recipes */

static const char *const promised[] = {"fp16",   "int8",     "int4",     "kivi-4",
                                       "kivi-2", "kcvt-4",   "gear-4",   "gear-2",
                                       "gear-l-4", "gear-l-2", "k4v2",   "gear-k3v2"};

static int is_listed(const char *name) {
  uint32_t i, found = 0;
  for (i = 0; i < KVG(recipe_count)(); i++) {
    if (strcmp(KVG(recipe_name)(i), name) == 0) found++;
  }
  return found == 1;
}

static void recipe_list(void) {
  char text[256];
  text_source from = {NULL, NULL, NULL};
  uint32_t i, count = KVG(recipe_count)();
  for (i = 0; i < sizeof(promised) / sizeof(promised[0]); i++) {
    kvt_where(promised[i]);
    CHECK(is_listed(promised[i]));
  }
  for (i = 0; i < count; i++) {
    const char *name = KVG(recipe_name)(i);
    kvt_where(name);
    CHECK(is_listed(name)); /* no doubles */
    CHECK(KVG(recipe_summary)(i) != NULL && strlen(KVG(recipe_summary)(i)) > 10);
    OK(KVG(recipe_canonical)(name, text, sizeof(text), NULL, &kvt_err));
    CHECK(strcmp(text, name) == 0);
  }
  kvt_where("");
  CHECK(KVG(recipe_name)(count) == NULL && KVG(recipe_summary)(count) == NULL);
  CHECK(KVG(recipe_name)(0xFFFFFFFFu) == NULL && KVG(recipe_summary)(0xFFFFFFFFu) == NULL);
  from.recipe = "gear-2,k.rank=2,v.bits=3,window=128";
  text_buffers(&from);
}

static void recipe_texts(void) {
  /* Pairs: what is given, what it is called. */
  static const char *const texts[] = {
      "gear-2,k.rank=7",          "gear-2",
      "gear-2,window=64",         "gear-2",
      "gear-2,k.rank=2,v.rank=2", "gear-2,rank=2",
      "gear-2,rank=2,k.rank=7",   "gear-2,v.rank=2",
      " gear-2 , v.bits = 3 ",    "gear-2,v.bits=3",
      "fp16,window=128",          "fp16,window=128",
  };
  static const char *const wrong[] = {
      "",           "gear",          "GEAR-2",        "gear-2,",         "gear-2,,bits=2",
      "gear-2,k",   "gear-2,rank=",  "gear-2,rank=17", "gear-2,rank=-1", "gear-2,rank=1e1",
      "gear-2,bits=5", "gear-2,k.k.bits=2", "gear-2,rnak=2", "gear-2,axis=row",
      "gear-2,outliers=nan", "gear-2,outliers=inf", "gear-2,outliers=0.6", "gear-2,outliers=-0.1",
      "gear-2,rank=4294967300", "gear-2,rank=18446744073709551617", "gear-2;int4", "gear-2,block=33",
      "gear-2,segment=8256", "gear-2,sweeps=0", "gear-2,sweeps=9", "\xFF\xFE\x01\x02", "gear-2,\xC3=1",
      "fp16,block=1", "gear-2,v.block=1"};
  char text[256], again[256], *huge;
  size_t i, needed;
  for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i += 2) {
    kvt_where(texts[i]);
    OK(KVG(recipe_canonical)(texts[i], text, sizeof(text), NULL, &kvt_err));
    CHECK(strcmp(text, texts[i + 1]) == 0);
    OK(KVG(recipe_canonical)(text, again, sizeof(again), NULL, &kvt_err));
    CHECK(strcmp(text, again) == 0);
  }
  for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
    kvt_where(wrong[i]);
    memset(text, 0x5A, sizeof(text));
    needed = 77;
    REFUSED(KVG_E_INVALID, "",
            KVG(recipe_canonical)(wrong[i], text, sizeof(text), &needed, &kvt_err));
    CHECK(kvt_same_bytes(text, sizeof(text), 0x5A));
    CHECK(needed == 77);
  }
  kvt_where("");
  /* The right ones are named. */
  REFUSED(KVG_E_INVALID, "kivi-2",
          KVG(recipe_canonical)("kivi2", text, sizeof(text), NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "decode_rank",
          KVG(recipe_canonical)("kivi-2,rnk=1", text, sizeof(text), NULL, &kvt_err));
  /* A text longer than any message. */
  huge = (char *)kvt_malloc(100001);
  memset(huge, 'a', 100000);
  huge[100000] = '\0';
  REFUSED(KVG_E_INVALID, "aaa", KVG(recipe_canonical)(huge, NULL, 0, NULL, &kvt_err));
  memcpy(huge, "gear-2,", 7);
  REFUSED(KVG_E_INVALID, "aaa", KVG(recipe_canonical)(huge, NULL, 0, NULL, &kvt_err));
  free(huge);
  REFUSED(KVG_E_INVALID, "recipe is NULL",
          KVG(recipe_canonical)(NULL, text, sizeof(text), NULL, &kvt_err));
}

/* -------------------------------------------------------------------- plans */

static void refuse_shape(uint32_t layers, uint32_t q_heads, uint32_t kv_heads, uint32_t head_dim,
                         const char *word) {
  kvg_shape shape;
  kvg_plan *plan = (kvg_plan *)&shape; /* any address: it must not be touched */
  KVG(shape_init)(&shape);
  shape.layers = layers;
  shape.q_heads = q_heads;
  shape.kv_heads = kv_heads;
  shape.head_dim = head_dim;
  REFUSED(KVG_E_INVALID, word, KVG(plan_create)(&shape, "int4", &plan, &kvt_err));
  CHECK(plan == (kvg_plan *)&shape);
}

static void plan_shapes(void) {
  kvg_shape shape, found;
  kvg_plan *plan = NULL;
  refuse_shape(0, 8, 8, 64, "layers");
  refuse_shape(65537, 8, 8, 64, "layers");
  refuse_shape(0xFFFFFFFFu, 8, 8, 64, "layers");
  refuse_shape(1, 8, 0, 64, "kv_heads");
  refuse_shape(1, 1025, 1025, 64, "kv_heads");
  refuse_shape(1, 0, 8, 64, "q_heads");
  refuse_shape(1, 9, 8, 64, "q_heads");
  refuse_shape(1, 65, 1, 64, "q_heads");
  refuse_shape(1, 0xFFFFFFFFu, 1, 64, "q_heads");
  refuse_shape(1, 8, 8, 0, "head_dim");
  refuse_shape(1, 8, 8, 24, "head_dim");
  refuse_shape(1, 8, 8, 33, "head_dim");
  refuse_shape(1, 8, 8, 264, "head_dim");
  refuse_shape(1, 8, 8, 0xFFFFFFF8u, "head_dim");
  KVG(shape_init)(&shape);
  shape.layers = 65536;
  shape.q_heads = 64;
  shape.kv_heads = 1;
  shape.head_dim = 256;
  OK(KVG(plan_create)(&shape, "int4", &plan, &kvt_err));
  KVG(shape_init)(&found);
  OK(KVG(plan_shape)(plan, &found, &kvt_err));
  CHECK(memcmp(&shape, &found, sizeof(shape)) == 0);
  KVG(plan_destroy)(plan);
}

static void expect_recipe(const kvg_plan *plan, uint32_t layer, const char *want) {
  char text[256];
  OK(KVG(plan_recipe)(plan, layer, text, sizeof(text), NULL, &kvt_err));
  CHECK(strcmp(text, want) == 0);
}

static void plan_texts(void) {
  static const char *const wrong[] = {"",
                                      "int5",
                                      "int4;",
                                      "int4;int8",
                                      "int4;8:int8",
                                      "int4;3-2:int8",
                                      "int4;-1:int8",
                                      "int4;0-8:int8",
                                      "int4;0-4294967296:int8",
                                      "int4;0:int5",
                                      "int4;0:",
                                      "int4;:int8",
                                      "0:int4"};
  kvg_shape shape;
  kvg_plan *plan = NULL, *untouched = (kvg_plan *)&shape;
  text_source from = {NULL, NULL, NULL};
  size_t i;
  KVG(shape_init)(&shape);
  shape.layers = 8;
  shape.q_heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 64;
  for (i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
    kvt_where(wrong[i]);
    REFUSED(KVG_E_INVALID, "", KVG(plan_create)(&shape, wrong[i], &untouched, &kvt_err));
    CHECK(untouched == (kvg_plan *)&shape);
  }
  kvt_where("");
  REFUSED(KVG_E_INVALID, "NULL", KVG(plan_create)(NULL, "int4", &untouched, &kvt_err));
  REFUSED(KVG_E_INVALID, "recipes is NULL", KVG(plan_create)(&shape, NULL, &untouched, &kvt_err));
  REFUSED(KVG_E_INVALID, "out is NULL", KVG(plan_create)(&shape, "int4", NULL, &kvt_err));
  CHECK(untouched == (kvg_plan *)&shape);

  OK(KVG(plan_create)(&shape, "gear-2;0-3:int4;0-1:int8;7:fp16,window=128", &plan, &kvt_err));
  if (plan == NULL) return;
  expect_recipe(plan, 0, "int8");
  expect_recipe(plan, 1, "int8");
  expect_recipe(plan, 2, "int4");
  expect_recipe(plan, 4, "gear-2");
  expect_recipe(plan, 6, "gear-2");
  expect_recipe(plan, 7, "fp16,window=128");
  REFUSED(KVG_E_INVALID, "layer", KVG(plan_recipe)(plan, 8, NULL, 0, NULL, &kvt_err));
  REFUSED(KVG_E_INVALID, "layer",
          KVG(plan_recipe)(plan, KVG_ALL_LAYERS, NULL, 0, NULL, &kvt_err));
  from.plan = plan;
  text_buffers(&from);
  KVG(plan_destroy)(plan);
}

/* ----------------------------------------------------------------- runtimes */

static void *no_alloc(void *user, size_t size, size_t alignment) {
  (void)user;
  (void)size;
  (void)alignment;
  return NULL;
}
static void no_release(void *user, void *ptr, size_t size, size_t alignment) {
  (void)user;
  (void)ptr;
  (void)size;
  (void)alignment;
}

static void runtime_refusals(void) {
  kvg_runtime_options options;
  kvg_allocator table;
  kvg_runtime *runtime = (kvg_runtime *)&options;
#define REFUSED_OPTIONS(status, words)                                              \
  REFUSED(status, words, KVG(runtime_create)(&options, &runtime, &kvt_err));        \
  CHECK(runtime == (kvg_runtime *)&options);                                        \
  KVG(runtime_options_init)(&options)
  KVG(runtime_options_init)(&options);
  options.device = 2;
  REFUSED_OPTIONS(KVG_E_UNSUPPORTED, "device");
  options.device = 0xFFFFFFFFu;
  REFUSED_OPTIONS(KVG_E_UNSUPPORTED, "device");
  options.device_id = 1;
  REFUSED_OPTIONS(KVG_E_INVALID, "device_id");
  options.threads = 0xFFFFFFFFu;
  REFUSED_OPTIONS(KVG_E_INVALID, "threads");
  KVG(allocator_init)(&table);
  options.allocator = &table;
  REFUSED_OPTIONS(KVG_E_INVALID, "alloc");
  table.alloc = no_alloc;
  options.allocator = &table;
  REFUSED_OPTIONS(KVG_E_INVALID, "release");
  table.alloc = NULL;
  table.release = no_release;
  options.allocator = &table;
  REFUSED_OPTIONS(KVG_E_INVALID, "alloc");
  table.alloc = no_alloc;
  table.reserved = 1;
  options.allocator = &table;
  REFUSED_OPTIONS(KVG_E_UNSUPPORTED, "reserved");
  table.reserved = 0;
  options.allocator = &table;
  REFUSED_OPTIONS(KVG_E_NOMEM, "alloc");
  table.release = no_release;
  options.device_allocator = &table;
  REFUSED_OPTIONS(KVG_E_INVALID, "device_allocator");
  options.pinned_allocator = &table;
  REFUSED_OPTIONS(KVG_E_INVALID, "pinned_allocator");
  table.release = NULL;
  options.device = KVG_CUDA;
  options.device_allocator = &table;
  REFUSED_OPTIONS(KVG_E_INVALID, "device_allocator has no release");
  options.device = KVG_CUDA;
  options.pinned_allocator = &table;
  REFUSED_OPTIONS(KVG_E_INVALID, "pinned_allocator has no release");
#undef REFUSED_OPTIONS
  REFUSED(KVG_E_INVALID, "out is NULL", KVG(runtime_create)(NULL, NULL, &kvt_err));
  /* A kvg_error is not needed. */
  CHECK(KVG(runtime_create)(NULL, NULL, NULL) == KVG_E_INVALID);
}

static void log_line(void *user, kvg_log_level level, const char *message) {
  CHECK(level <= KVG_LOG_ERROR);
  CHECK(message != NULL);
  ++*(long *)user;
}

static void runtimes(void) {
  kvg_runtime *runtime = NULL;
  kvg_runtime_options options;
  text_source from = {NULL, NULL, NULL};
  uint64_t bytes = 77;
  char text[256];
  long lines = 0;
  OK(KVG(runtime_create)(NULL, &runtime, &kvt_err));
  if (runtime == NULL) return;
  OK(KVG(runtime_memory)(runtime, &bytes, &kvt_err));
  CHECK(bytes == 0);
  REFUSED(KVG_E_INVALID, "bytes is NULL", KVG(runtime_memory)(runtime, NULL, &kvt_err));
  OK(KVG(runtime_set_log)(runtime, log_line, &lines, &kvt_err));
  OK(KVG(runtime_set_log)(runtime, log_line, &lines, &kvt_err));
  OK(KVG(runtime_set_log)(runtime, NULL, NULL, &kvt_err));
  from.runtime = runtime;
  text_buffers(&from);
  KVG(runtime_destroy)(runtime);

  KVG(runtime_options_init)(&options);
  options.threads = 3;
  options.memory_budget = 123456789;
  runtime = NULL;
  OK(KVG(runtime_create)(&options, &runtime, &kvt_err));
  OK(KVG(runtime_describe)(runtime, text, sizeof(text), NULL, &kvt_err));
  CHECK(strncmp(text, "cpu ", 4) == 0);
  CHECK(strstr(text, "3 worker threads") != NULL);
  CHECK(strstr(text, "123456789") != NULL);
  KVG(runtime_destroy)(runtime);
}

void case_basics(void) {
  versions();
  status_names();
  inits();
  recipe_list();
  recipe_texts();
  plan_shapes();
  plan_texts();
  runtime_refusals();
  runtimes();
}
