/* Runs the conformance vectors (README.md) through the public header, or writes their results. */
#include <inttypes.h>
#include <kvgear/kvgear.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE = 1 << 16, MAX_WORDS = 24, MAX_OBJECTS = 16 };

/* ------------------------------------------------------------- where we are */

static const char *file_name;
static long line_number, calls, failures;
static FILE *rewritten; /* NULL: check */

static void fail(const char *what, const char *detail) {
  failures++;
  fprintf(stderr, "%s:%ld: FAILED: %s%s%s\n", file_name, line_number, what, detail[0] ? ": " : "",
          detail);
}

static void stop(const char *what, const char *detail) {
  fprintf(stderr, "%s:%ld: not a line of vectors: %s '%s'\n", file_name, line_number, what, detail);
  exit(2);
}

static void *memory(size_t bytes) {
  void *p = malloc(bytes > 0 ? bytes : 1);
  if (p == NULL) stop("no memory", "");
  return p;
}

/* -------------------------------------------------------------------- lines */

typedef struct line {
  char text[MAX_LINE];
  char *words[MAX_WORDS]; /* the call, its object if it has one, KEY=VALUE */
  int count;
  const char *status, *says; /* behind '!', else NULL and "" */
} line;

static void split(line *l) {
  char *bang = strstr(l->text, " ! ");
  l->count = 0;
  l->status = NULL;
  l->says = "";
  if (bang != NULL) {
    char *space;
    *bang = '\0';
    l->status = bang + 3;
    space = strchr(bang + 3, ' ');
    if (space != NULL) {
      *space = '\0';
      l->says = space + 1;
    }
  }
  for (char *word = strtok(l->text, " "); word != NULL; word = strtok(NULL, " ")) {
    if (l->count == MAX_WORDS) stop("too many words", word);
    l->words[l->count++] = word;
  }
}

static const char *get(const line *l, const char *key, const char *otherwise) {
  const size_t n = strlen(key);
  for (int i = 1; i < l->count; i++) {
    if (strncmp(l->words[i], key, n) == 0 && l->words[i][n] == '=') return l->words[i] + n + 1;
  }
  if (otherwise == NULL) stop("missing key", key);
  return otherwise;
}

static uint64_t number(const line *l, const char *key, const char *otherwise) {
  const char *text = get(l, key, otherwise);
  if (strcmp(text, "all") == 0) return KVG_ALL_LAYERS;
  return strtoull(text, NULL, 10);
}

static uint32_t small(const line *l, const char *key, const char *otherwise) {
  return (uint32_t)number(l, key, otherwise);
}

static int is(const char *a, const char *b) { return strcmp(a, b) == 0; }

static kvg_dtype dtype(const line *l, const char *key) {
  const char *text = get(l, key, "f32");
  return is(text, "f16") ? KVG_F16 : is(text, "bf16") ? KVG_BF16 : KVG_F32;
}

static size_t size_of(kvg_dtype type) { return type == KVG_F32 ? 4 : 2; }

/* ------------------------------------------------------------------ objects */

typedef enum kind { RUNTIME, PLAN, CACHE } kind;
typedef struct object {
  char name[32];
  kind is;
  void *handle;
  kvg_shape shape; /* of plans and caches */
} object;

static object objects[MAX_OBJECTS];
static int object_count;

static object *find(const char *name, kind wanted) {
  for (int i = 0; i < object_count; i++) {
    if (is(objects[i].name, name) && objects[i].is == wanted) return &objects[i];
  }
  stop("unknown object", name);
  return NULL;
}

static void add(const char *name, kind what, void *handle, const kvg_shape *shape) {
  if (handle == NULL) return; /* a call that failed, as it should or not */
  if (object_count == MAX_OBJECTS) stop("too many objects", name);
  objects[object_count].is = what;
  objects[object_count].handle = handle;
  if (shape != NULL) objects[object_count].shape = *shape;
  snprintf(objects[object_count++].name, sizeof(objects[0].name), "%s", name);
}

static void destroy(object *o) {
  switch (o->is) {
    case RUNTIME:
      kvg_runtime_destroy(o->handle);
      break;
    case PLAN:
      kvg_plan_destroy(o->handle);
      break;
    case CACHE:
      kvg_cache_destroy(o->handle);
      break;
  }
  *o = objects[--object_count];
}

/* ------------------------------------------------------------------- inputs */

static float value(uint32_t seed, uint64_t index) {
  uint32_t x = (uint32_t)index * 2654435761u + seed * 2246822519u + 374761393u;
  x ^= x >> 15;
  x *= 2246822519u;
  x ^= x >> 13;
  x *= 3266489917u;
  x ^= x >> 16;
  return (float)((int)(x & 255u) - 128) / 64.0f * (((x >> 8) & 63u) == 0 ? 8.0f : 1.0f);
}

static void put(void *tensor, kvg_dtype type, size_t at, float x) {
  uint32_t bits;
  uint16_t half;
  memcpy(&bits, &x, sizeof(bits));
  if (type == KVG_F32) {
    memcpy((char *)tensor + 4 * at, &x, 4);
    return;
  }
  /* Exact: see README.md. Only 0 has an exponent that binary16 lacks. */
  half = type == KVG_BF16 ? (uint16_t)(bits >> 16)
         : x == 0         ? 0
                  : (uint16_t)((bits >> 16 & 0x8000u) | (((bits >> 13) - (112u << 10)) & 0x7FFFu));
  memcpy((char *)tensor + 2 * at, &half, 2);
}

static double fetch(const void *tensor, kvg_dtype type, size_t at) {
  uint16_t half;
  uint32_t bits;
  float x;
  if (type == KVG_F32) {
    memcpy(&x, (const char *)tensor + 4 * at, 4);
    return (double)x;
  }
  memcpy(&half, (const char *)tensor + 2 * at, 2);
  if (type == KVG_BF16) {
    bits = (uint32_t)half << 16;
    memcpy(&x, &bits, 4);
    return (double)x;
  }
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double y = exponent == 31  ? (fraction ? NAN : INFINITY)
                   : exponent == 0 ? ldexp(fraction, -24)
                                   : ldexp(fraction + 1024, exponent - 25);
  return half & 0x8000 ? -y : y;
}

/* Where element (t, h, d) of a tensor of `tokens` tokens lies. */
typedef struct layout {
  int64_t token, head;
} layout;

static layout layout_of(const line *l, uint64_t tokens, uint32_t heads, uint32_t dim) {
  layout s = {(int64_t)heads * dim, dim};
  if (is(get(l, "layout", "thd"), "htd")) {
    s.token = dim;
    s.head = (int64_t)tokens * dim;
  }
  return s;
}

static void *tensor(uint32_t seed, uint64_t first, uint64_t tokens, uint32_t heads, uint32_t dim,
                    kvg_dtype type, layout s) {
  void *x = memory((size_t)tokens * heads * dim * size_of(type));
  for (uint64_t t = 0; t < tokens; t++) {
    for (uint32_t h = 0; h < heads; h++) {
      for (uint32_t d = 0; d < dim; d++) {
        put(x, type, (size_t)((int64_t)t * s.token + (int64_t)h * s.head + d),
            value(seed, ((first + t) * heads + h) * dim + d));
      }
    }
  }
  return x;
}

/* ------------------------------------------------------------------ results */

static kvg_error err;
static char expected[MAX_LINE]; /* the line of results behind the call, or "" */

/* The results, as a line to write. */
static char results[MAX_LINE];
static size_t results_used;

static void result(const char *key, const char *text) {
  const int n =
      snprintf(results + results_used, sizeof(results) - results_used, " %s=%s", key, text);
  if (n < 0 || (size_t)n >= sizeof(results) - results_used) stop("too long a result", key);
  results_used += (size_t)n;
}

static void result_number(const char *key, uint64_t x) {
  char text[32];
  snprintf(text, sizeof(text), "%" PRIu64, x);
  result(key, text);
}

/* The value of a key in the expected line; NULL when there is none. */
static const char *expect(const char *key) {
  static char copy[MAX_LINE];
  const size_t n = strlen(key);
  for (const char *at = expected; (at = strchr(at, ' ')) != NULL;) {
    at++;
    if (strncmp(at, key, n) == 0 && at[n] == '=') {
      const size_t length = strcspn(at + n + 1, " ");
      memcpy(copy, at + n + 1, length);
      copy[length] = '\0';
      return copy;
    }
  }
  return NULL;
}

/* Results that must be equal: compared as text. */
static void compare(void) {
  if (strcmp(results, expected[0] ? expected + 1 : "") != 0) fail("the results are", results);
}

static void output(const line *l, const void *out, size_t elements, kvg_dtype type,
                   const char *otherwise) {
  const double bound = strtod(get(l, "bound", otherwise), NULL);
  char text[MAX_LINE];
  size_t used = 0;
  if (bound == 0) {
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < elements * size_of(type); i++) {
      hash = (hash ^ ((const unsigned char *)out)[i]) * UINT64_C(0x100000001b3);
    }
    snprintf(text, sizeof(text), "%016" PRIx64, hash);
    result("fnv", text);
    if (rewritten == NULL) compare();
    return;
  }
  const size_t every = (elements / 40 + 1) | 1; /* odd: not in step with the heads */
  for (size_t i = 0; i < elements; i += every) {
    uint32_t bits = 0;
    memcpy(&bits, (const char *)out + i * size_of(type), size_of(type));
    used += (size_t)snprintf(text + used, sizeof(text) - used, "%s%0*" PRIx32, i ? "," : "",
                             (int)size_of(type) * 2, bits);
  }
  result_number("every", every);
  result("values", text);
  if (rewritten != NULL) return;
  const char *step = expect("every");
  if (step == NULL) {
    fail("there are no results", "");
    return;
  }
  const size_t stride = (size_t)strtoull(step, NULL, 10);
  const char *list = expect("values");
  size_t at = 0;
  for (char *hex = (char *)(uintptr_t)list; hex != NULL && *hex != '\0'; at += stride) {
    const uint32_t bits = (uint32_t)strtoul(hex, &hex, 16);
    double want, got;
    unsigned char raw[4];
    memcpy(raw, &bits, 4);
    if (*hex == ',') hex++;
    if (at >= elements) break;
    want = fetch(raw, type, 0);
    got = fetch(out, type, at);
    if (!(fabs(want - got) <= bound)) {
      snprintf(text, sizeof(text), "element %lu is %.9g, not %.9g within %g", (unsigned long)at,
               got, want, bound);
      fail("a value is off", text);
      return;
    }
  }
  if (at < elements) fail("there are too few values", "");
}

static void status_is(const line *l, const char *what, kvg_status got) {
  char text[1200];
  const char *want = l->status != NULL ? l->status : "KVG_OK";
  snprintf(text, sizeof(text), "%s gives %s%s%s", what, kvg_status_string(got),
           got == KVG_OK ? "" : ": ", got == KVG_OK ? "" : err.message);
  if (strcmp(kvg_status_string(got), want) != 0) {
    fail(text, want);
  } else if (got != KVG_OK && strstr(err.message, l->says) == NULL) {
    fail(text, l->says);
  }
}

/* Results that are texts of a length to be asked for. */
static void result_text(const line *l, const char *what, kvg_status got, const char *text) {
  status_is(l, what, got);
  if (got != KVG_OK) return;
  result("text", text);
  if (rewritten == NULL) compare();
}

/* -------------------------------------------------------------------- calls */

static void call_append(const line *l, object *c) {
  const uint32_t heads = c->shape.kv_heads, dim = c->shape.head_dim;
  const char *poison = get(l, "poison", "");
  kvg_append_desc desc;
  kvg_append_desc_init(&desc);
  desc.tokens = number(l, "tokens", NULL);
  desc.dtype = dtype(l, "dtype");
  const size_t elements = (size_t)desc.tokens * heads * dim, bytes = elements * size_of(desc.dtype);
  const size_t cut = (size_t)number(l, "cut", "0") * size_of(desc.dtype);
  const layout s = layout_of(l, desc.tokens, heads, dim);
  void *k =
      tensor(small(l, "k", NULL), number(l, "first", "0"), desc.tokens, heads, dim, desc.dtype, s);
  void *v =
      tensor(small(l, "v", NULL), number(l, "first", "0"), desc.tokens, heads, dim, desc.dtype, s);
  if (is(get(l, "layout", "thd"), "htd")) {
    desc.k_token_stride = desc.v_token_stride = s.token;
    desc.k_head_stride = desc.v_head_stride = s.head;
    desc.k_dim_stride = desc.v_dim_stride = 1;
  }
  if (poison[0] != '\0')
    put(v, KVG_F32, elements - 1,
        is(poison, "nan")   ? NAN
        : is(poison, "inf") ? INFINITY
                            : 70000.0f);
  status_is(
      l, "append",
      kvg_cache_append(c->handle, small(l, "layer", NULL), k, bytes, v, bytes - cut, &desc, &err));
  free(k);
  free(v);
}

static void call_attend(const line *l, object *c) {
  const uint32_t heads = c->shape.q_heads, dim = c->shape.head_dim;
  kvg_attend_desc desc;
  kvg_attend_desc_init(&desc);
  desc.queries = small(l, "queries", "1");
  desc.q_dtype = dtype(l, "q_dtype");
  desc.out_dtype = dtype(l, "out_dtype");
  desc.non_causal = small(l, "non_causal", "0");
  desc.scale = strtof(get(l, "scale", "0"), NULL);
  desc.logit_softcap = strtof(get(l, "softcap", "0"), NULL);
  desc.sliding_window = number(l, "window", "0");
  const size_t elements = (size_t)desc.queries * heads * dim;
  const layout s = layout_of(l, desc.queries, heads, dim);
  if (is(get(l, "layout", "thd"), "htd")) {
    desc.q_token_stride = desc.out_token_stride = s.token;
    desc.q_head_stride = desc.out_head_stride = s.head;
  }
  void *q = tensor(small(l, "q", NULL), 0, desc.queries, heads, dim, desc.q_dtype, s);
  const size_t bytes = elements * size_of(desc.out_dtype);
  char *out = memory(bytes), *ordered = memory(bytes);
  const kvg_status status = kvg_cache_attend(
      c->handle, small(l, "layer", NULL), q, elements * size_of(desc.q_dtype), out,
      bytes - (size_t)number(l, "cut", "0") * size_of(desc.out_dtype), &desc, &err);
  status_is(l, "attend", status);
  if (status == KVG_OK) {
    const size_t row = dim * size_of(desc.out_dtype);
    for (uint32_t i = 0; i < desc.queries; i++) {
      for (uint32_t h = 0; h < heads; h++) {
        memcpy(ordered + ((size_t)i * heads + h) * row,
               out + (size_t)((int64_t)i * s.token + (int64_t)h * s.head) * size_of(desc.out_dtype),
               row);
      }
    }
    output(l, ordered, elements, desc.out_dtype, NULL);
  }
  free(q);
  free(out);
  free(ordered);
}

static void call_read(const line *l, object *c) {
  const uint64_t tokens = number(l, "tokens", NULL);
  const kvg_dtype type = dtype(l, "dtype");
  const size_t elements = (size_t)tokens * c->shape.kv_heads * c->shape.head_dim;
  void *out = memory(elements * size_of(type));
  const kvg_status status = kvg_cache_read(
      c->handle, small(l, "layer", NULL), is(get(l, "side", NULL), "k") ? KVG_SIDE_K : KVG_SIDE_V,
      number(l, "first", NULL), tokens, type, out,
      (elements - (size_t)number(l, "cut", "0")) * size_of(type), &err);
  status_is(l, "read", status);
  if (status == KVG_OK) output(l, out, elements, type, "0");
  free(out);
}

static void near_by(const char *key, double got) {
  char text[64];
  const char *want;
  snprintf(text, sizeof(text), "%.6g", got);
  result(key, text);
  if (rewritten != NULL) return;
  want = expect(key);
  if (want == NULL || !(fabs(strtod(want, NULL) - got) <= 0.02 * fabs(got) + 1e-6)) fail(key, text);
}

static void call_stats(const line *l, object *c) {
  const char *side = get(l, "side", NULL);
  kvg_stats s;
  kvg_stats_init(&s);
  const kvg_status status = kvg_cache_stats(c->handle, small(l, "layer", NULL),
                                            is(side, "k")   ? KVG_SIDE_K
                                            : is(side, "v") ? KVG_SIDE_V
                                                            : KVG_SIDE_BOTH,
                                            &s, &err);
  status_is(l, "stats", status);
  if (status != KVG_OK) return;
  const struct {
    const char *key;
    uint64_t got;
  } equal[] = {{"tokens", s.tokens},
               {"elements", s.elements},
               {"sealed_elements", s.sealed_elements},
               {"segments", s.segments},
               {"bytes_codes", s.bytes_codes},
               {"bytes_scales", s.bytes_scales},
               {"bytes_low_rank", s.bytes_low_rank},
               {"bytes_fp16", s.bytes_fp16}};
  for (size_t i = 0; i < sizeof(equal) / sizeof(equal[0]); i++) {
    const char *want = expect(equal[i].key);
    result_number(equal[i].key, equal[i].got);
    if (rewritten == NULL && (want == NULL || strtoull(want, NULL, 10) != equal[i].got))
      fail(equal[i].key, results);
  }
  near_by("rel_error_k_mean", s.rel_error_k_mean);
  near_by("rel_error_v_mean", s.rel_error_v_mean);
  if (s.bytes_total != s.bytes_codes + s.bytes_scales + s.bytes_low_rank + s.bytes_sparse +
                           s.bytes_positions + s.bytes_state + s.bytes_window_allocated +
                           s.bytes_bookkeeping) {
    fail("bytes_total is not the sum", "");
  }
  if (s.elements != 0 && s.bits_per_element != 8.0 * (double)s.bytes_total / (double)s.elements)
    fail("bits_per_element", "");
}

static void call_plan(const line *l, const char *name) {
  kvg_shape shape;
  kvg_plan *plan = NULL;
  kvg_shape_init(&shape);
  shape.layers = small(l, "layers", NULL);
  shape.q_heads = small(l, "q_heads", NULL);
  shape.kv_heads = small(l, "kv_heads", NULL);
  shape.head_dim = small(l, "head_dim", NULL);
  status_is(l, "plan", kvg_plan_create(&shape, get(l, "recipes", NULL), &plan, &err));
  add(name, PLAN, plan, &shape);
}

static void call_runtime(const line *l, const char *name) {
  kvg_runtime_options options;
  kvg_runtime *runtime = NULL;
  kvg_runtime_options_init(&options);
  options.threads = small(l, "threads", "0");
  options.memory_budget = number(l, "budget", "0");
  status_is(l, "runtime", kvg_runtime_create(&options, &runtime, &err));
  add(name, RUNTIME, runtime, NULL);
}

static void call_memory(const line *l, object *r) {
  uint64_t bytes = 0;
  char text[64];
  status_is(l, "memory", kvg_runtime_memory(r->handle, &bytes, &err));
  snprintf(text, sizeof(text), "%" PRIu64 " bytes", bytes);
  if (bytes != number(l, "bytes", NULL)) fail("the runtime holds", text);
}

static void call_length(const line *l, object *c) {
  uint64_t tokens = 0;
  const kvg_status status = kvg_cache_length(c->handle, small(l, "layer", NULL), &tokens, &err);
  status_is(l, "length", status);
  if (status != KVG_OK) return;
  result_number("tokens", tokens);
  if (rewritten == NULL) compare();
}

static void call_recipes(void) {
  char names[4096] = "";
  for (uint32_t i = 0; i < kvg_recipe_count(); i++) {
    const size_t used = strlen(names);
    snprintf(names + used, sizeof(names) - used, "%s%s", i ? "," : "", kvg_recipe_name(i));
  }
  result("names", names);
  if (rewritten == NULL) compare();
}

static void call_plan_shape(const line *l, object *p) {
  kvg_shape s;
  kvg_shape_init(&s);
  status_is(l, "plan_shape", kvg_plan_shape(p->handle, &s, &err));
  result_number("layers", s.layers);
  result_number("q_heads", s.q_heads);
  result_number("kv_heads", s.kv_heads);
  result_number("head_dim", s.head_dim);
  if (rewritten == NULL) compare();
}

static void call_fork(const line *l, const char *name) {
  object *from = find(get(l, "of", NULL), CACHE);
  kvg_cache *fork = NULL;
  status_is(l, "fork", kvg_cache_fork(from->handle, &fork, &err));
  add(name, CACHE, fork, &from->shape);
}

static void call_cache(const line *l, const char *name) {
  object *r = find(get(l, "runtime", NULL), RUNTIME), *p = find(get(l, "plan", NULL), PLAN);
  kvg_cache *cache = NULL;
  status_is(l, "cache", kvg_cache_create(r->handle, p->handle, &cache, &err));
  add(name, CACHE, cache, &p->shape);
}

static void call_close(const char *name) {
  for (int i = 0; i < object_count; i++) {
    if (is(objects[i].name, name)) {
      destroy(&objects[i]);
      return;
    }
  }
  stop("unknown object", name);
}

static void run(line *l) {
  char text[2048] = "";
  const char *call = l->words[0], *name = l->count > 1 ? l->words[1] : "";
  calls++;
  results_used = 0;
  results[0] = '\0';
  memset(&err, 0, sizeof(err));
  if (is(call, "case")) {
    while (object_count > 0) destroy(&objects[object_count - 1]);
    calls--;
  } else if (is(call, "abi")) {
    const uint32_t version = small(l, "version", NULL);
    if (kvg_abi_min() > version || kvg_abi_version() < version)
      fail("the library does not serve this version", "");
  } else if (is(call, "status")) {
    result("name", kvg_status_string((kvg_status)number(l, "code", NULL)));
    if (rewritten == NULL) compare();
  } else if (is(call, "recipes")) {
    call_recipes();
  } else if (is(call, "canonical")) {
    result_text(l, call, kvg_recipe_canonical(get(l, "text", NULL), text, sizeof(text), NULL, &err),
                text);
  } else if (is(call, "runtime")) {
    call_runtime(l, name);
  } else if (is(call, "plan")) {
    call_plan(l, name);
  } else if (is(call, "plan_shape")) {
    call_plan_shape(l, find(name, PLAN));
  } else if (is(call, "plan_recipe")) {
    result_text(l, call,
                kvg_plan_recipe(find(name, PLAN)->handle, small(l, "layer", NULL), text,
                                sizeof(text), NULL, &err),
                text);
  } else if (is(call, "cache")) {
    call_cache(l, name);
  } else if (is(call, "append")) {
    call_append(l, find(name, CACHE));
  } else if (is(call, "length")) {
    call_length(l, find(name, CACHE));
  } else if (is(call, "attend")) {
    call_attend(l, find(name, CACHE));
  } else if (is(call, "read")) {
    call_read(l, find(name, CACHE));
  } else if (is(call, "truncate")) {
    status_is(l, call,
              kvg_cache_truncate(find(name, CACHE)->handle, small(l, "layer", NULL),
                                 number(l, "tokens", NULL), &err));
  } else if (is(call, "clear")) {
    status_is(l, call, kvg_cache_clear(find(name, CACHE)->handle, &err));
  } else if (is(call, "fork")) {
    call_fork(l, name);
  } else if (is(call, "stats")) {
    call_stats(l, find(name, CACHE));
  } else if (is(call, "memory")) {
    call_memory(l, find(name, RUNTIME));
  } else if (is(call, "close")) {
    call_close(name);
  } else {
    stop("unknown call", call);
  }
  if (rewritten != NULL && results_used > 0) fprintf(rewritten, ">%s\n", results);
}

/* -------------------------------------------------------------------- files */

static int next_line(FILE *file, char *text) {
  if (fgets(text, MAX_LINE, file) == NULL) return 0;
  text[strcspn(text, "\n")] = '\0';
  return 1;
}

static int is_call(const char *text) { return text[0] != '\0' && text[0] != '#' && text[0] != '>'; }

static void run_file(FILE *file) {
  static line l;
  static char ahead[MAX_LINE];
  int more = next_line(file, ahead);
  for (line_number = 1; more; line_number++) {
    memcpy(l.text, ahead, sizeof(ahead));
    more = next_line(file, ahead);
    if (rewritten != NULL && l.text[0] != '>') fprintf(rewritten, "%s\n", l.text);
    if (!is_call(l.text)) continue;
    expected[0] = '\0';
    if (more && ahead[0] == '>') memcpy(expected, ahead, sizeof(ahead));
    split(&l);
    run(&l);
  }
  while (object_count > 0) destroy(&objects[object_count - 1]);
}

int main(int argc, char **argv) {
  const int writes = argc > 1 && is(argv[1], "--write");
  if (argc < 2 + writes) {
    fprintf(stderr, "usage: %s [--write] FILE...\n", argv[0]);
    return 2;
  }
  for (int i = 1 + writes; i < argc; i++) {
    char temporary[4096];
    FILE *file = fopen(argv[i], "r");
    file_name = argv[i];
    if (file == NULL) stop("cannot open", file_name);
    snprintf(temporary, sizeof(temporary), "%s.new", file_name);
    if (writes && (rewritten = fopen(temporary, "w")) == NULL) stop("cannot write", temporary);
    run_file(file);
    fclose(file);
    if (writes && (fclose(rewritten) != 0 || rename(temporary, file_name) != 0))
      stop("cannot write", file_name);
  }
  printf("%ld calls, %ld failures\n", calls, failures);
  return calls > 0 && failures == 0 ? 0 : 1;
}
