/* kvgear.h: the public C interface of kvgear, the compressed key/value cache runtime.
 *
 * A host appends the keys and values of each layer, and asks for attention; kvgear keeps them
 * compressed and computes on the compressed form. This header is all that most hosts need.
 *
 * CONVENTIONS
 *  (1) Names are kvg_<noun>_<verb>. Handles are incomplete structs: kvg_runtime, kvg_plan, kvg_cache,
 *      kvg_prefix.
 *  (2) Ownership. A pointer marked KVG_OWN passes ownership to the caller, who ends it with the named
 *      destroy function. All other pointers are borrowed for the duration of the call only.
 *      A cache keeps its plan and runtime alive: handles may be destroyed in any order.
 *  (3) Errors. Every fallible call returns a kvg_status and takes a kvg_error *, which may be NULL.
 *      On failure the message says what is wrong and what to change. On success err is not touched.
 *      A call that fails changes nothing: every cache is as it was before the call, and so are out
 *      parameters and buffers (but for the needed length of KVG_E_BUFFER_TOO_SMALL).
 *      Any fallible call may give KVG_E_NOMEM, and KVG_E_LIMIT if it makes a cache hold more.
 *      The library never aborts, exits, prints, or lets an exception out.
 *  (4) Threads. A const handle parameter means: safe to call at the same time from any number of
 *      threads. A non-const handle needs exclusive access: no other call on that handle may run.
 *      Different handles are independent, also when one cache was forked from another.
 *      A kvg_runtime, kvg_plan or kvg_prefix, const or not, may be used by any number of threads at
 *      the same time, by all functions but its destroy function.
 *  (5) NULL. Destroying NULL does nothing, and so does destroying what is no live handle of that
 *      type. Elsewhere a NULL where a pointer is needed is KVG_E_INVALID, and a handle that is
 *      destroyed or of another type is KVG_E_STATE, as far as it can be told (not when a new handle
 *      has taken its address, nor while another thread is destroying it).
 *  (6) Structs begin with uint32_t struct_size, set by the _init function. A shorter struct from an
 *      older header is accepted, its missing fields take their defaults; a longer one from a newer
 *      header is accepted if its unknown tail is all zero, else refused with KVG_E_UNSUPPORTED.
 *      Unknown values of enumerations, and reserved fields that are not 0, are refused likewise.
 *      The one exception is kvg_error, which never changes and needs no init.
 *  (7) Buffers are adjacent pairs: pointer, then length in bytes (void) or in elements (typed).
 *      A longer buffer than needed is fine. To ask only for the needed length of a text pass
 *      length 0 (the pointer may be anything then) and read *needed. Pointers to tensors must be
 *      aligned to their element type, nothing more.
 *  (8) Determinism. The same calls with the same inputs, recipe, device and instruction set give the
 *      same bits, whatever the number of threads or the split of the work.
 *  (9) Cost. Unless said otherwise a call is O(1) in the number of tokens.
 * (10) CUDA. On a runtime of KVG_CUDA the tensors k, v, q and out lie in memory that the device
 *      reaches, and append and attend queue their work on desc->stream (a cudaStream_t; NULL is the
 *      default stream) and return. Calls without a stream wait, on the device, for all work that was
 *      given to the runtime, and the next call on every stream for them; kvg_cache_read,
 *      kvg_cache_stats, saving and loading return when they are done. What is loaded is copied to
 *      the device, mapped or not. Calls on one cache from several streams are the
 *      caller's to order. Attend may be captured into a graph, which reads the cache as it is at the
 *      capture: while it may be replayed, only that call's tensors may change. Elements of k or v
 *      that are not finite are found on the device: a later call on the layer gives
 *      KVG_E_NONFINITE, and all that follow, until it is truncated to its length before them, or
 *      cleared. After an error of the device every call gives KVG_E_BACKEND with that error.
 */
#ifndef KVGEAR_KVGEAR_H_
#define KVGEAR_KVGEAR_H_

#include <stddef.h>
#include <stdint.h>

#if defined(KVG_BUILDING_LIBRARY) && defined(__GNUC__)
#define KVG_API __attribute__((visibility("default")))
#else
#define KVG_API
#endif

/* Marks an out-parameter whose ownership passes to the caller. */
#define KVG_OWN

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ version */

#define KVG_VERSION_MAJOR 0
#define KVG_VERSION_MINOR 1
#define KVG_VERSION_PATCH 0

/** ABI version of this header; a library serves every version from kvg_abi_min() to kvg_abi_version(). */
#define KVG_ABI_VERSION 1

/** @return the newest ABI version the library serves. */
KVG_API uint32_t kvg_abi_version(void);

/** @return the oldest ABI version the library still serves. */
KVG_API uint32_t kvg_abi_min(void);

/** @return "major.minor.patch", a static string. */
KVG_API const char *kvg_version_string(void);

/* ------------------------------------------------------------------- status */

/** Result of every fallible call; one of enum kvg_status_code. Fixed width. */
typedef int32_t kvg_status;

enum kvg_status_code {
  KVG_OK = 0,
  KVG_E_INVALID = 1,          /**< an argument is wrong: NULL, out of range, wrong length, bad text */
  KVG_E_NOMEM = 2,            /**< an allocation failed */
  KVG_E_BUFFER_TOO_SMALL = 3, /**< the buffer is too short; the needed length was stored */
  KVG_E_UNSUPPORTED = 4,      /**< a value or combination that this library does not know */
  KVG_E_NONFINITE = 5,        /**< input holds NaN, infinity, or a magnitude beyond fp16 */
  KVG_E_STATE = 6,            /**< the handle is destroyed, of another kind, or not in a fit state */
  KVG_E_LIMIT = 7,            /**< the memory budget of the runtime would be exceeded */
  KVG_E_BACKEND = 8,          /**< a backend or its device is missing or failed */
  KVG_E_CORRUPT = 9,          /**< stored data is damaged */
  KVG_E_IO = 10,              /**< reading or writing failed */
  KVG_E_INTERNAL = 100        /**< a defect of the library: please report it */
};

/** @return the name of a status, such as "KVG_E_INVALID"; a static string, never NULL. */
KVG_API const char *kvg_status_string(kvg_status status);

#define KVG_ERROR_MESSAGE_SIZE 504

/** Detail of a failure; owned by the caller, filled by the call that failed. Needs no init. */
typedef struct kvg_error {
  kvg_status code;                      /**< the status that the call returned */
  uint32_t reserved;                    /**< 0 */
  char message[KVG_ERROR_MESSAGE_SIZE]; /**< one UTF-8 sentence, always terminated */
} kvg_error;

/* -------------------------------------------------------------- enumerations */

/** Element type of a tensor; one of enum kvg_dtype_value. */
typedef uint32_t kvg_dtype;
enum kvg_dtype_value {
  KVG_F32 = 0, /**< IEEE binary32 */
  KVG_F16 = 1, /**< IEEE binary16 */
  KVG_BF16 = 2 /**< bfloat16 */
};

/** Where memory lies and work is done; one of enum kvg_device_value. */
typedef uint32_t kvg_device;
enum kvg_device_value {
  KVG_CPU = 0, /**< host memory */
  KVG_CUDA = 1 /**< an NVIDIA GPU, through libkvgear_cuda.so */
};

/** Which half of a layer's cache; one of enum kvg_side_value. */
typedef uint32_t kvg_side;
enum kvg_side_value {
  KVG_SIDE_K = 0,
  KVG_SIDE_V = 1,
  KVG_SIDE_BOTH = 2 /**< only for kvg_cache_stats */
};

/** Severity of a log line; one of enum kvg_log_level_value. */
typedef uint32_t kvg_log_level;
enum kvg_log_level_value {
  KVG_LOG_DEBUG = 0,
  KVG_LOG_INFO = 1,
  KVG_LOG_WARN = 2,
  KVG_LOG_ERROR = 3
};

/** As a layer number: every layer of the cache. */
#define KVG_ALL_LAYERS 0xFFFFFFFFu

/* ------------------------------------------------------------------- runtime */

/** Threads, memory and backends; shared by any number of caches. */
typedef struct kvg_runtime kvg_runtime;

/**
 * Allocator table. Both functions must be safe to call from any thread and must not call kvgear.
 * alloc returns memory of at least `size` bytes (size > 0) aligned to `alignment` (a power of two,
 * at most 4096), or NULL. release gets exactly the size and alignment that alloc got.
 */
typedef struct kvg_allocator {
  uint32_t struct_size;
  uint32_t reserved;
  void *user; /**< passed to both functions */
  void *(*alloc)(void *user, size_t size, size_t alignment);
  void (*release)(void *user, void *ptr, size_t size, size_t alignment);
} kvg_allocator;

/** Sets struct_size and zeroes the rest. NULL is ignored. */
KVG_API void kvg_allocator_init(kvg_allocator *allocator);

/** What kvg_runtime_create needs to know. */
typedef struct kvg_runtime_options {
  uint32_t struct_size;
  kvg_device device;              /**< default KVG_CPU; never changed in silence */
  uint32_t device_id;             /**< ordinal of the device, 0 for the CPU */
  uint32_t threads;               /**< worker threads beside the caller's, 0 to 1024 */
  uint64_t memory_budget;         /**< most bytes that all caches may hold, see kvg_runtime_memory */
  const kvg_allocator *allocator; /**< copied; NULL = the system's. Host memory of caches comes from it */
  /** KVG_CUDA only; copied; NULL = cudaMalloc. Memory of the device for payloads and windows, taken in
      slabs of 64 MiB and more, which are given back when the runtime ends. The device need not be the
      calling thread's, and a stream may be under capture. */
  const kvg_allocator *device_allocator;
  /** KVG_CUDA only; copied; NULL = cudaHostAlloc. Host memory, portable and mapped, that the device
      reaches at the same address; slabs of 256 KiB and more, likewise. */
  const kvg_allocator *pinned_allocator;
} kvg_runtime_options;

/** Sets the defaults: CPU, no worker threads, no budget (0), system allocator. NULL is ignored. */
KVG_API void kvg_runtime_options_init(kvg_runtime_options *options);

/**
 * Creates a runtime. options may be NULL (all defaults).
 * KVG_E_BACKEND if the device is not to be had (the sentence says what is missing).
 * @param[out] out the runtime. Destroy with kvg_runtime_destroy.
 */
KVG_API kvg_status kvg_runtime_create(const kvg_runtime_options *options, KVG_OWN kvg_runtime **out,
                                      kvg_error *err);

/** Ends the caller's handle. The runtime itself lives until its last cache is destroyed. */
KVG_API void kvg_runtime_destroy(kvg_runtime *runtime);

/**
 * Receives log lines, one at a time; may be called from any thread that calls the library or that
 * it owns. The message is terminated, has no line break at its end and is valid during the call.
 */
typedef void (*kvg_log_fn)(void *user, kvg_log_level level, const char *message);

/**
 * Sets (or with NULL removes) the log sink. May be called at any time from any thread. When the
 * call returns, the former sink is not running and is never called again; so a sink must not call
 * kvg_runtime_set_log.
 */
KVG_API kvg_status kvg_runtime_set_log(kvg_runtime *runtime, kvg_log_fn fn, void *user,
                                       kvg_error *err);

/**
 * Writes a line such as "cpu AVX3_ZEN4, 1 worker thread, no budget": for logs and bug reports, not
 * to be parsed.
 * @param[out] needed length with the terminator; may be NULL
 */
KVG_API kvg_status kvg_runtime_describe(const kvg_runtime *runtime, char *text, size_t text_len,
                                        size_t *needed, kvg_error *err);

/**
 * Bytes that the caches of this runtime hold now, as counted against the budget. Scratch memory of
 * a running call comes from the same allocator but is not counted; it is released before the call
 * returns.
 */
KVG_API kvg_status kvg_runtime_memory(const kvg_runtime *runtime, uint64_t *bytes, kvg_error *err);

/* ------------------------------------------------------------ recipes, plans */

/** @return how many named recipes there are, without those that need a plan file. */
KVG_API uint32_t kvg_recipe_count(void);

/** @return the name of recipe `index`, or NULL when index >= kvg_recipe_count(). Static string. */
KVG_API const char *kvg_recipe_name(uint32_t index);

/** @return one sentence on recipe `index`, or NULL when out of range. Static string. */
KVG_API const char *kvg_recipe_summary(uint32_t index);

/**
 * @return how many policies there are: rules that keep only some tokens, or give tokens different
 * widths. The name of a policy is also that of a recipe, with the defaults that it was published
 * with; and "RECIPE,select=POLICY" adds it to another, as in "gear-4,select=h2o,budget=0.2".
 */
KVG_API uint32_t kvg_policy_count(void);

/** @return the name of policy `index`, or NULL when index >= kvg_policy_count(). Static string. */
KVG_API const char *kvg_policy_name(uint32_t index);

/** @return one sentence on policy `index`, or NULL when out of range. Static string. */
KVG_API const char *kvg_policy_summary(uint32_t index);

/**
 * Checks a recipe text and writes its canonical form: the name of the base recipe and the settings
 * that differ from it, in a fixed order. Parsing the result gives the same recipe.
 * A text is NAME[,KEY=VALUE]..., for example "gear-2,k.rank=4,v.bits=3,window=64". A key without
 * "k." or "v." sets both sides. The keys are listed in README.md and in the message of a refusal.
 * @param      recipe     recipe text, terminated
 * @param[out] needed     length with the terminator; may be NULL
 */
KVG_API kvg_status kvg_recipe_canonical(const char *recipe, char *text, size_t text_len,
                                        size_t *needed, kvg_error *err);

/** Model shape and the recipe of every layer; immutable, shared by caches and threads. */
typedef struct kvg_plan kvg_plan;

/** Shape of the attention layers of a model. */
typedef struct kvg_shape {
  uint32_t struct_size;
  uint32_t layers;   /**< 1 to 65536 */
  uint32_t q_heads;  /**< query heads, a multiple of kv_heads, at most 64 times as many */
  uint32_t kv_heads; /**< heads of the cache, 1 to 1024 */
  uint32_t head_dim; /**< 32 to 256 in steps of 8 */
} kvg_shape;

/** Sets struct_size and zeroes the rest. NULL is ignored. */
KVG_API void kvg_shape_init(kvg_shape *shape);

/**
 * Creates a plan. `recipes` is a recipe text for all layers, optionally followed by overrides for
 * layers or ranges of layers, each behind a semicolon: "gear-2;0-1:int8;7:fp16,window=128". Layers
 * count from 0; where overrides name a layer twice the last one holds.
 * @param[out] out the plan. Destroy with kvg_plan_destroy.
 */
KVG_API kvg_status kvg_plan_create(const kvg_shape *shape, const char *recipes,
                                   KVG_OWN kvg_plan **out, kvg_error *err);

/**
 * Creates a plan from a plan file: a safetensors file that kvgear-plan wrote for one model, with what
 * was worked out offline, such as the factors of latent caches (recipes palu, palu-2, lorc, ... and the
 * setting latent=plan). The file is checked before it is used and not needed afterwards. What is
 * damaged is refused with KVG_E_CORRUPT, what is of another model, or lacks what the recipes need, with
 * KVG_E_INVALID.
 *
 * On a side that keeps latents kvg_cache_append takes rows as the projection gives them, that is, keys
 * before rotary embedding, and computes their latents itself: of the model nothing else changes.
 * Keys are rebuilt and rotated at their positions 0, 1, 2, ... when they are attended to.
 * kvg_cache_read gives rows as they were appended. Measured errors are those of the latents. CUDA
 * devices, stores of prefixes and the selection of tokens do not take such layers yet.
 * @param path        terminated, as the system's functions take it
 * @param shape       what the file's must be; may be NULL
 * @param recipes     as for kvg_plan_create; "" takes those of the file
 * @param fingerprint what the file's must be; 0 bytes: it may be any
 * @param fingerprint_bytes 0 to 256
 * @param[out] out    the plan. Destroy with kvg_plan_destroy.
 */
KVG_API kvg_status kvg_plan_load(const char *path, const kvg_shape *shape, const char *recipes,
                                 const void *fingerprint, size_t fingerprint_bytes,
                                 KVG_OWN kvg_plan **out, kvg_error *err);

/**
 * Tells whether a side of a layer keeps latents, and of what size.
 * @param[out] rank         numbers of the latent of a group of heads; 0 = no latents
 * @param[out] group_heads  KV heads of a group: 0 where there are no latents
 */
KVG_API kvg_status kvg_plan_latent(const kvg_plan *plan, uint32_t layer, kvg_side side,
                                   uint32_t *rank, uint32_t *group_heads, kvg_error *err);

/** Ends the caller's handle. The plan itself lives until its last cache is destroyed. */
KVG_API void kvg_plan_destroy(kvg_plan *plan);

/** Copies the shape. out->struct_size must be set. */
KVG_API kvg_status kvg_plan_shape(const kvg_plan *plan, kvg_shape *out, kvg_error *err);

/** Writes the canonical recipe text of one layer; buffer rules as in kvg_recipe_canonical. */
KVG_API kvg_status kvg_plan_recipe(const kvg_plan *plan, uint32_t layer, char *text,
                                   size_t text_len, size_t *needed, kvg_error *err);

/* -------------------------------------------------------------------- caches */

/** The compressed cache of one sequence: one compressed object per layer. */
typedef struct kvg_cache kvg_cache;

/**
 * Creates an empty cache.
 * @param[out] out the cache. Destroy with kvg_cache_destroy.
 */
KVG_API kvg_status kvg_cache_create(kvg_runtime *runtime, const kvg_plan *plan,
                                    KVG_OWN kvg_cache **out, kvg_error *err);

/** Ends the cache and frees what no fork shares. */
KVG_API void kvg_cache_destroy(kvg_cache *cache);

/**
 * How the tensors given to kvg_cache_append lie in memory. Shapes are [tokens, kv_heads, head_dim];
 * strides are in elements, as in DLPack, and may be negative. When the three strides of a tensor
 * are all 0 it is contiguous in that order.
 */
typedef struct kvg_append_desc {
  uint32_t struct_size;
  kvg_dtype dtype; /**< of k and of v */
  uint64_t tokens; /**< how many; 0 appends nothing */
  int64_t k_token_stride; /**< elements from one token to the next */
  int64_t k_head_stride;
  int64_t k_dim_stride;
  int64_t v_token_stride;
  int64_t v_head_stride;
  int64_t v_dim_stride;
  void *stream; /**< device runtimes: the stream to work on; NULL on the CPU */
} kvg_append_desc;

/** Sets struct_size, dtype KVG_F16 and zeroes the rest. NULL is ignored. */
KVG_API void kvg_append_desc_init(kvg_append_desc *desc);

/**
 * Appends tokens to one layer. Keys are given after rotary embedding (before it where they are kept as
 * latents, see kvg_plan_load). Full blocks of the oldest
 * uncompressed tokens are sealed (compressed, once and for good) in the same call.
 * Every element must be finite after rounding to fp16, that is, below 65520 in magnitude, else
 * KVG_E_NONFINITE.
 * Cost: O(tokens), amortised.
 * @param k        keys,   [tokens, kv_heads, head_dim] of desc->dtype, strided as desc says
 * @param k_bytes  bytes from k to the end of the buffer, checked against shape and strides;
 *                 with negative strides k points at element [0,0,0] and only bytes behind it count
 * @param v        values, likewise
 */
KVG_API kvg_status kvg_cache_append(kvg_cache *cache, uint32_t layer, const void *k, size_t k_bytes,
                                    const void *v, size_t v_bytes, const kvg_append_desc *desc,
                                    kvg_error *err);

/**
 * kvg_cache_append for one layer of several caches in one call, the same number of tokens to each, all
 * of them or none. The caches must be different ones of one runtime and one shape; their recipes may
 * differ, but for those that select tokens: KVG_E_UNSUPPORTED. Each cache gets the bits that a call of
 * its own would give it.
 * Cost: O(tokens of all caches), amortised; on a device much less work for the host than a call each.
 * @param caches     the caches; 0 of them do nothing
 * @param caches_len how many
 * @param k          keys, [caches_len * desc->tokens, kv_heads, head_dim]: token i of cache c is row
 *                   c * desc->tokens + i. Strides as in kvg_cache_append, from row to row.
 * @param v          values, likewise
 */
KVG_API kvg_status kvg_cache_append_batch(kvg_cache *const *caches, size_t caches_len,
                                          uint32_t layer, const void *k, size_t k_bytes,
                                          const void *v, size_t v_bytes,
                                          const kvg_append_desc *desc, kvg_error *err);

/** What kvg_cache_attend is to compute. Query and output shapes are [queries, q_heads, head_dim]. */
typedef struct kvg_attend_desc {
  uint32_t struct_size;
  kvg_dtype q_dtype;       /**< of the queries */
  kvg_dtype out_dtype;     /**< of the result */
  uint32_t queries;        /**< 1 or more; query i belongs to the token at length - queries + i */
  uint32_t non_causal;     /**< 0: a query sees its own token and older ones; 1: it sees all */
  float scale;             /**< factor on q . k; 0 = 1 / sqrt(head_dim) */
  float logit_softcap;     /**< c > 0: logits become c * tanh(logit / c); 0 = none */
  uint32_t latent_out;     /**< 1: where values are latent, results are [queries, q_heads, rank], to be
                                expanded, and given the projection's bias, by the caller; see kvg_plan_load */
  uint64_t sliding_window; /**< w > 0: a query sees no token w or more before its own; 0 = none */
  int64_t q_token_stride;  /**< strides in elements; all 0 = contiguous */
  int64_t q_head_stride;
  int64_t out_token_stride;
  int64_t out_head_stride;
  void *stream; /**< device runtimes: the stream to work on; NULL on the CPU */
} kvg_attend_desc;

/** Sets struct_size, KVG_F16 queries and output, one causal query, and zeroes the rest. */
KVG_API void kvg_attend_desc_init(kvg_attend_desc *desc);

/**
 * Attention of the newest tokens' queries over one layer, on the compressed form. Append the keys
 * and values of these tokens first.
 * out[i, h] = sum over t of softmax_t(scale * q[i, h] . k[t, h / group]) v[t, h / group], with
 * group = q_heads / kv_heads. The sum is over the tokens that query i sees: at least its own, for
 * a layer with fewer tokens than queries is refused with KVG_E_INVALID.
 * Cost: O(tokens); no memory is kept.
 * @param q        queries after rotary embedding, [queries, q_heads, head_dim] of desc->q_dtype.
 *                 They are not checked: NaN or infinity in a query spoils that query's results.
 * @param q_bytes  bytes from q to the end of the buffer, as k_bytes of kvg_cache_append
 * @param out      result, [queries, q_heads, head_dim] of desc->out_dtype. The memory from its first
 *                 to its last element must not overlap that of q; no row may overlap another.
 *                 Results beyond the range of out_dtype are rounded to infinity as IEEE says.
 */
KVG_API kvg_status kvg_cache_attend(const kvg_cache *cache, uint32_t layer, const void *q,
                                    size_t q_bytes, void *out, size_t out_bytes,
                                    const kvg_attend_desc *desc, kvg_error *err);

/**
 * kvg_cache_attend for one layer of several caches in one call, each with its own number of tokens.
 * The caches must be of one runtime and one shape; their recipes may differ, and a cache may come
 * more than once. Each result has the bits that a call for its cache alone would give.
 * Cost: O(tokens of all caches); no memory is kept.
 * @param caches     the caches; 0 of them do nothing
 * @param caches_len how many
 * @param q          queries, [caches_len * queries, q_heads, head_dim]: query i of cache c is row
 *                   c * queries + i. Strides as in kvg_cache_attend, from row to row.
 * @param out        results in the same order, likewise
 */
KVG_API kvg_status kvg_cache_attend_batch(const kvg_cache *const *caches, size_t caches_len,
                                          uint32_t layer, const void *q, size_t q_bytes, void *out,
                                          size_t out_bytes, const kvg_attend_desc *desc,
                                          kvg_error *err);

/**
 * Reads tokens first_token to first_token + tokens - 1 of K or V back, decompressed, as
 * [tokens, kv_heads, head_dim], contiguous, of `dtype`. Cost: O(tokens).
 */
KVG_API kvg_status kvg_cache_read(const kvg_cache *cache, uint32_t layer, kvg_side side,
                                  uint64_t first_token, uint64_t tokens, kvg_dtype dtype, void *out,
                                  size_t out_bytes, kvg_error *err);

/** Number of tokens appended to a layer and not truncated, evicted ones included. */
KVG_API kvg_status kvg_cache_length(const kvg_cache *cache, uint32_t layer, uint64_t *tokens,
                                    kvg_error *err);

/**
 * Shortens a layer, or all of them, to `tokens`. Exact where the length lies in the uncompressed
 * window or at the edge of a sealed segment of both K and V; elsewhere refused with KVG_E_INVALID
 * and the nearest lengths below and above in the message. With KVG_ALL_LAYERS layers that are
 * already shorter keep their length, and either every layer is shortened or none.
 */
KVG_API kvg_status kvg_cache_truncate(kvg_cache *cache, uint32_t layer, uint64_t tokens,
                                      kvg_error *err);

/** Drops all tokens of all layers. */
KVG_API kvg_status kvg_cache_clear(kvg_cache *cache, kvg_error *err);

/**
 * Makes a second cache with the same content. All of it is shared; what one of the two changes later,
 * such as the window of its newest tokens, it copies first.
 * Cost: independent of the number of tokens, in time and in memory.
 * @param[out] out the fork. Destroy with kvg_cache_destroy.
 */
KVG_API kvg_status kvg_cache_fork(const kvg_cache *cache, KVG_OWN kvg_cache **out, kvg_error *err);

/**
 * Memory and measured error of a cache. Bytes are bytes allocated. The sides of a layer, and the
 * layers, add up to the whole, but for the handle itself (a few dozen bytes of bookkeeping), which
 * only KVG_ALL_LAYERS with KVG_SIDE_BOTH counts. That sum is what kvg_runtime_memory counts for the
 * cache; what forks share is counted once there, and in each of the forks here. So
 * bytes_total - bytes_shared is what a fork takes for itself.
 */
typedef struct kvg_stats {
  uint32_t struct_size;
  uint32_t reserved;               /**< 0 */
  uint64_t tokens;                 /**< tokens held, summed over the layers asked for */
  uint64_t elements;               /**< elements held: tokens * kv_heads * head_dim, per side */
  uint64_t sealed_elements;        /**< of these, compressed */
  uint64_t segments;               /**< sealed segments */
  uint64_t bytes_total;            /**< sum of all bytes_* below but window_used */
  uint64_t bytes_codes;            /**< packed codes, padding included */
  uint64_t bytes_scales;           /**< scales, minima */
  uint64_t bytes_low_rank;         /**< low-rank factors */
  uint64_t bytes_sparse;           /**< outliers: values and indices */
  uint64_t bytes_positions;        /**< token positions, where a method stores them */
  uint64_t bytes_state;            /**< recurrent state, score accumulators, bases */
  uint64_t bytes_window_used;      /**< part of window_allocated that holds tokens */
  uint64_t bytes_window_allocated; /**< uncompressed newest tokens and the staging of open pages */
  uint64_t bytes_bookkeeping;      /**< headers, segment lists, alignment */
  uint64_t bytes_shared;           /**< part of bytes_total that forks share */
  uint64_t bytes_fp16;             /**< what the same elements take in plain fp16 */
  double bits_per_element;         /**< 8 * bytes_total / elements; 0 when empty */
  double rel_error_k_mean;         /**< |K - K~| / |K| (Frobenius), mean over sealed segments by tokens */
  double rel_error_k_worst;        /**< of the worst segment */
  double rel_error_v_mean;
  double rel_error_v_worst;
  uint64_t bytes_mapped; /**< segments used in place in a mapped file; in no other number of bytes */
  uint64_t tokens_appended;        /**< tokens, or positions, that came; = tokens + evicted + absorbed */
  uint64_t tokens_evicted;         /**< of these dropped, or never given to their layer */
  uint64_t tokens_absorbed;        /**< of these kept only as part of a recurrent state */
  uint64_t bytes_plan;   /**< what the plan holds from a file, for all its caches; in no other number of bytes */
} kvg_stats;

/** Sets struct_size and zeroes the rest. NULL is ignored. */
KVG_API void kvg_stats_init(kvg_stats *stats);

/**
 * Fills in the statistics of one layer or of KVG_ALL_LAYERS, for one side or both.
 * stats->struct_size must be set. Cost: O(segments).
 */
KVG_API kvg_status kvg_cache_stats(const kvg_cache *cache, uint32_t layer, kvg_side side,
                                   kvg_stats *stats, kvg_error *err);

/* -------------------------------------------------------------- saved caches */

/* A saved cache can be given to another process, machine or release: core/format/FORMAT.md says what
 * its bytes mean. It carries the shape of the model, the recipes and a fingerprint, each of which must
 * be that of the plan and the caller at loading; and a checksum of each part, which is compared before
 * the part is used. What is damaged is refused with KVG_E_CORRUPT, what is of another model or recipe
 * with KVG_E_INVALID, what is of a newer format or another byte order with KVG_E_UNSUPPORTED; reading
 * and writing that fail give KVG_E_IO. A file of any content may be loaded: nothing in it is trusted. */

/** What is to be saved. */
typedef struct kvg_save_desc {
  uint32_t struct_size;
  uint32_t first_layer;     /**< counts from 0 */
  uint32_t layers;          /**< 0 = all from first_layer on */
  uint32_t no_sync;         /**< files: 1 = do not wait until the disk has it; a loss of power may cost it */
  uint64_t first_token;     /**< where an exact cut is possible, see kvg_cache_truncate; 0 for layers that
                                 select tokens, which are saved whole */
  uint64_t tokens;          /**< 0 = all from first_token on; the end is an exact cut too */
  const void *fingerprint;  /**< what tells this model from others of its shape; may be NULL */
  uint64_t fingerprint_bytes; /**< 0 to 256 */
} kvg_save_desc;

/** Sets struct_size and zeroes the rest: everything is saved. NULL is ignored. */
KVG_API void kvg_save_desc_init(kvg_save_desc *desc);

/** How a saved cache is to be loaded. */
typedef struct kvg_load_desc {
  uint32_t struct_size;
  uint32_t map;             /**< files: 1 = sealed segments stay in the file, which is mapped read-only.
                                 It must then neither be changed nor cut while a cache uses it; saving
                                 under its name again is fine. */
  uint32_t trust;           /**< with map: 1 = checks tables and windows only and does not read the
                                 rest. For files that nobody else can have written: a damaged or forged
                                 one can then make the process fail. */
  uint32_t reserved;        /**< 0 */
  const void *fingerprint;  /**< must be the one that was saved */
  uint64_t fingerprint_bytes; /**< 0 to 256 */
} kvg_load_desc;

/** Sets struct_size and zeroes the rest. NULL is ignored. */
KVG_API void kvg_load_desc_init(kvg_load_desc *desc);

/**
 * Takes bytes of a saved cache.
 * @return how many were taken, 1 to `bytes`; anything else ends the save with KVG_E_IO
 */
typedef int64_t (*kvg_write_fn)(void *user, const void *data, uint64_t bytes);

/**
 * Gives the next bytes of a saved cache.
 * @return how many were given, 1 to `bytes`; 0 at the end; below 0 for a failure
 */
typedef int64_t (*kvg_read_fn)(void *user, void *data, uint64_t bytes);

/**
 * Saves a cache, or a range of its layers and tokens, to a file. The file appears, or takes the place
 * of an older one, as a whole: at any moment `path` is the old one or the new one.
 * The same cache saved twice gives the same bytes. Cost: O(tokens); no second copy is made.
 * @param path  terminated, as the system's functions take it
 * @param desc  may be NULL: everything
 */
KVG_API kvg_status kvg_cache_save(const kvg_cache *cache, const char *path,
                                  const kvg_save_desc *desc, kvg_error *err);

/**
 * The same into a buffer. KVG_E_BUFFER_TOO_SMALL if it is too short; what it holds then is undefined.
 * To ask only for the needed length pass data_bytes 0.
 * @param[out] needed  bytes of the saved cache; may be NULL
 */
KVG_API kvg_status kvg_cache_save_buffer(const kvg_cache *cache, void *data, size_t data_bytes,
                                         size_t *needed, const kvg_save_desc *desc, kvg_error *err);

/** The same through a function, which gets the bytes in order. */
KVG_API kvg_status kvg_cache_save_stream(const kvg_cache *cache, kvg_write_fn write, void *user,
                                         const kvg_save_desc *desc, kvg_error *err);

/**
 * Makes a cache of a saved one. Layers that were not saved are empty. The cache answers with the same
 * bits as the saved one, and goes on like it.
 * Cost: O(tokens); with `map` and `trust` one small step per sealed segment.
 * @param plan      the plan that the cache was saved with, or one of the same shape and recipes
 * @param path      terminated, as the system's functions take it
 * @param desc      may be NULL
 * @param[out] out  the cache. Destroy with kvg_cache_destroy.
 */
KVG_API kvg_status kvg_cache_load(kvg_runtime *runtime, const kvg_plan *plan, const char *path,
                                  const kvg_load_desc *desc, KVG_OWN kvg_cache **out,
                                  kvg_error *err);

/** The same from a buffer, which may be longer than the saved cache and is not needed afterwards. */
KVG_API kvg_status kvg_cache_load_buffer(kvg_runtime *runtime, const kvg_plan *plan,
                                         const void *data, size_t data_bytes,
                                         const kvg_load_desc *desc, KVG_OWN kvg_cache **out,
                                         kvg_error *err);

/** The same through a function; it is not asked for bytes behind the end of the saved cache. */
KVG_API kvg_status kvg_cache_load_stream(kvg_runtime *runtime, const kvg_plan *plan,
                                         kvg_read_fn read, void *user, const kvg_load_desc *desc,
                                         KVG_OWN kvg_cache **out, kvg_error *err);

/**
 * Adds a saved range to a cache: layers that it lacks, or the tokens that follow those that it holds.
 * Each saved layer must begin where the cache's ends; a range that begins in compressed tokens needs a
 * cache without uncompressed ones, so hand a sequence over in ranges that were saved one behind another.
 */
KVG_API kvg_status kvg_cache_extend(kvg_cache *cache, const char *path, const kvg_load_desc *desc,
                                    kvg_error *err);

/** The same from a buffer. */
KVG_API kvg_status kvg_cache_extend_buffer(kvg_cache *cache, const void *data, size_t data_bytes,
                                           const kvg_load_desc *desc, kvg_error *err);

/** The same through a function. */
KVG_API kvg_status kvg_cache_extend_stream(kvg_cache *cache, kvg_read_fn read, void *user,
                                           const kvg_load_desc *desc, kvg_error *err);

/* ------------------------------------------------------------------ prefixes */

/** Caches of prompts that were seen, by their token ids. Keeps its runtime alive. */
typedef struct kvg_prefix kvg_prefix;

/**
 * Creates an empty store.
 * @param budget    most bytes that it may hold, those that its caches share counted once; 0 = no limit
 * @param[out] out  the store. Destroy with kvg_prefix_destroy.
 */
KVG_API kvg_status kvg_prefix_create(kvg_runtime *runtime, uint64_t budget,
                                     KVG_OWN kvg_prefix **out, kvg_error *err);

/** Ends the store and the caches in it, not those that it gave away. */
KVG_API void kvg_prefix_destroy(kvg_prefix *prefix);

/**
 * Stores a fork of `cache` under the tokens that it holds, in place of one of the same plan and tokens.
 * If the budget does not suffice, those that were not used for longest make room; KVG_E_LIMIT if the cache
 * does not fit by itself.
 * Cost: O(segments + tokens).
 * @param tokens    ids of all tokens in every layer of the cache
 */
KVG_API kvg_status kvg_prefix_insert(kvg_prefix *prefix, const uint32_t *tokens,
                                     size_t tokens_count, const kvg_cache *cache, kvg_error *err);

/**
 * Finds the stored cache with the longest common beginning with these tokens, and gives a fork of it
 * that holds just that beginning, cut to the nearest length below where an exact cut is possible.
 * Cost: O(tokens), however many caches are stored.
 * @param plan          only caches of this plan are considered
 * @param[out] matched  tokens that the fork holds; 0 if nothing was found
 * @param[out] out      the fork, or NULL. Destroy with kvg_cache_destroy.
 */
KVG_API kvg_status kvg_prefix_find(kvg_prefix *prefix, const kvg_plan *plan, const uint32_t *tokens,
                                   size_t tokens_count, uint64_t *matched, KVG_OWN kvg_cache **out,
                                   kvg_error *err);

/** Drops all stored caches. */
KVG_API kvg_status kvg_prefix_clear(kvg_prefix *prefix, kvg_error *err);

/** What a prefix store holds and did. */
typedef struct kvg_prefix_stats {
  uint32_t struct_size;
  uint32_t reserved;  /**< 0 */
  uint64_t entries;   /**< stored caches */
  uint64_t bytes;     /**< that they hold, with their tokens; what they share counts once */
  uint64_t hits;      /**< calls of kvg_prefix_find that found something */
  uint64_t misses;    /**< and that found nothing */
  uint64_t evictions; /**< caches that made room for others */
} kvg_prefix_stats;

/** Sets struct_size and zeroes the rest. NULL is ignored. */
KVG_API void kvg_prefix_stats_init(kvg_prefix_stats *stats);

/** Fills in the statistics. stats->struct_size must be set. */
KVG_API kvg_status kvg_prefix_read_stats(const kvg_prefix *prefix, kvg_prefix_stats *stats,
                                         kvg_error *err);
/* ----------------------------------------------------------------- selection
 *
 * A layer whose recipe selects tokens holds only some of them, or holds them at different widths.
 * What it holds lies in slots, the same number for every KV head but not always the same tokens.
 * kvg_cache_read counts slots, and attention is over the slots alone; kvg_cache_positions says which
 * token each slot holds. Keys keep the rotation of their original position.
 *
 * The policy acts on the tokens of earlier steps when the next ones are appended, or when
 * kvg_cache_select is called, never before attention of a step has seen all of the step. What the
 * policy does at the end of a prompt it does when the first single token is appended, or at the first
 * kvg_cache_select. A policy that ranks tokens needs scores by then: from kvg_cache_attend_observe,
 * kvg_cache_probe or kvg_cache_observe, else the append is refused with KVG_E_STATE.
 *
 * kvg_cache_truncate is exact back to the length at which the policy last acted, and refused beyond,
 * but for 0. Scores that the queries of tokens cut off have given stay. kvg_cache_attend with several
 * causal queries, or with a sliding window, is refused where tokens that the masks would count are no
 * longer held. A fork copies the uncompressed rows and the positions. Such a layer is saved and loaded
 * as a whole, and its cache cannot be put into a kvg_prefix: KVG_E_UNSUPPORTED.
 */

/** Number of slots of a layer: tokens that it holds for each KV head. */
KVG_API kvg_status kvg_cache_held(const kvg_cache *cache, uint32_t layer, uint64_t *slots,
                                  kvg_error *err);

/**
 * Writes the original position of the token in each slot of one KV head, in the order in which
 * kvg_cache_read returns them: ascending, but that sinks come behind what is compressed, and that a
 * run compressed in tiers lists one tier after the other.
 * @param      positions_len  slots that there is room for; 0 asks for the number alone
 * @param[out] needed         slots of the layer; may be NULL
 */
KVG_API kvg_status kvg_cache_positions(const kvg_cache *cache, uint32_t layer, uint32_t kv_head,
                                       uint64_t *positions, size_t positions_len, size_t *needed,
                                       kvg_error *err);

/**
 * Writes the class of each slot of K or V: the bits of its codes, 16 where it is not compressed.
 * Buffer rules as in kvg_cache_positions.
 */
KVG_API kvg_status kvg_cache_bits(const kvg_cache *cache, uint32_t layer, kvg_side side,
                                  uint8_t *bits, size_t bits_len, size_t *needed, kvg_error *err);

/**
 * Ends the prompt of a layer, or of KVG_ALL_LAYERS (all of them or none), and lets its policy act if
 * it is due. Does nothing on layers that keep all tokens.
 */
KVG_API kvg_status kvg_cache_select(kvg_cache *cache, uint32_t layer, kvg_error *err);

/**
 * As kvg_cache_append, for tokens at given positions: of a prompt that was pruned on its way through
 * the layers (see kvg_cache_next_tokens). Positions in between count as evicted. KVG_E_STATE on a
 * layer that keeps all tokens.
 * @param positions      ascending, beyond all that the layer has seen, below 2^32 - 1
 * @param positions_len  desc->tokens
 */
KVG_API kvg_status kvg_cache_append_at(kvg_cache *cache, uint32_t layer, const void *k,
                                       size_t k_bytes, const void *v, size_t v_bytes,
                                       const uint64_t *positions, size_t positions_len,
                                       const kvg_append_desc *desc, kvg_error *err);

/**
 * Gives a layer scores: for each KV head and slot the attention weights that the slot got, averaged
 * over the query heads of the KV head and summed over query rows.
 * @param scores      float32 [kv_heads][slots], not negative, finite
 * @param scores_len  kv_heads * slots
 * @param rows        how many query rows were summed; the newest. For a policy that reads only the
 *                    newest row, 1
 */
KVG_API kvg_status kvg_cache_observe(kvg_cache *cache, uint32_t layer, const float *scores,
                                     size_t scores_len, uint64_t rows, kvg_error *err);

/**
 * Lets the library work scores out from queries of tokens appended before. Cost: O(queries * slots)
 * time, no matrix of that size. Rows that the policy does not read are passed over; without any
 * use for scores nothing is done.
 * @param q              queries as in kvg_cache_attend; of `desc` the fields that concern q, scale and
 *                       logit_softcap are read; desc->queries rows
 * @param positions      of the token of each query, not descending
 * @param positions_len  desc->queries
 */
KVG_API kvg_status kvg_cache_probe(kvg_cache *cache, uint32_t layer, const void *q, size_t q_bytes,
                                   const uint64_t *positions, size_t positions_len,
                                   const kvg_attend_desc *desc, kvg_error *err);

/**
 * Writes the positions whose queries the layer's policy wants kvg_cache_probe to see before it acts:
 * for example the newest 64, or 5 % newest and 5 % drawn at random (from a fixed seed). None where it
 * has no use for scores. Buffer rules as in kvg_cache_positions.
 */
KVG_API kvg_status kvg_cache_probe_positions(const kvg_cache *cache, uint32_t layer,
                                             uint64_t *positions, size_t positions_len,
                                             size_t *needed, kvg_error *err);

/**
 * As kvg_cache_attend, and gives the layer the scores of these queries, if it has use for scores.
 */
KVG_API kvg_status kvg_cache_attend_observe(kvg_cache *cache, uint32_t layer, const void *q,
                                            size_t q_bytes, void *out, size_t out_bytes,
                                            const kvg_attend_desc *desc, kvg_error *err);

/**
 * Writes which slots of a layer's prompt go on to the next layer, ascending (PyramidInfer): the
 * caller gathers the hidden states of these tokens, and appends them to the next layer with
 * kvg_cache_append_at. All of them on a layer that keeps all tokens. Buffer rules as in
 * kvg_cache_positions.
 */
KVG_API kvg_status kvg_cache_next_tokens(const kvg_cache *cache, uint32_t layer, uint64_t *slots,
                                         size_t slots_len, size_t *needed, kvg_error *err);

#ifdef __cplusplus
}
#endif

#endif /* KVGEAR_KVGEAR_H_ */
