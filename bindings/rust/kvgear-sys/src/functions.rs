// Generated from bindings/swig/kvgear.i by bindings/swig/rust/regenerate.sh. Do not edit.
//
// Functions of kvgear.h; the macro makes them linked or looked up at run time.

functions! {
    /// Returns the newest ABI version the library serves.
    fn kvg_abi_version() -> u32;

    /// Returns the oldest ABI version the library still serves.
    fn kvg_abi_min() -> u32;

    /// Returns "major.minor.patch", a static string.
    fn kvg_version_string() -> *const c_char;

    /// Returns the name of a status, such as "[`KVG_E_INVALID`](crate::KVG_E_INVALID)"; a static string, never NULL.
    fn kvg_status_string(status: kvg_status) -> *const c_char;

    /// Sets struct_size and zeroes the rest. NULL is ignored.
    fn kvg_allocator_init(allocator: *mut kvg_allocator);

    /// Sets the defaults: CPU, no worker threads, no budget (0), system allocator. NULL is ignored.
    fn kvg_runtime_options_init(options: *mut kvg_runtime_options);

    /// Creates a runtime. options may be NULL (all defaults).
    /// [`KVG_E_BACKEND`](crate::KVG_E_BACKEND) if the device is not to be had (the sentence says what is missing).
    ///
    /// * `out`: the runtime. Destroy with [`kvg_runtime_destroy`](crate::kvg_runtime_destroy).
    fn kvg_runtime_create(options: *const kvg_runtime_options, out: *mut *mut kvg_runtime, err: *mut kvg_error) -> kvg_status;

    /// Ends the caller's handle. The runtime itself lives until its last cache is destroyed.
    fn kvg_runtime_destroy(runtime: *mut kvg_runtime);

    /// Sets (or with NULL removes) the log sink. May be called at any time from any thread. When the
    /// call returns, the former sink is not running and is never called again; so a sink must not call
    /// [`kvg_runtime_set_log`](crate::kvg_runtime_set_log).
    fn kvg_runtime_set_log(runtime: *mut kvg_runtime, r#fn: kvg_log_fn, user: *mut c_void, err: *mut kvg_error) -> kvg_status;

    /// Writes a line such as "cpu AVX3_ZEN4, 1 worker thread, no budget": for logs and bug reports, not
    /// to be parsed.
    ///
    /// * `needed`: length with the terminator; may be NULL
    fn kvg_runtime_describe(runtime: *const kvg_runtime, text: *mut c_char, text_len: usize, needed: *mut usize, err: *mut kvg_error) -> kvg_status;

    /// Bytes that the caches of this runtime hold now, as counted against the budget. Scratch memory of
    /// a running call comes from the same allocator but is not counted; it is released before the call
    /// returns.
    fn kvg_runtime_memory(runtime: *const kvg_runtime, bytes: *mut u64, err: *mut kvg_error) -> kvg_status;

    /// Returns how many named recipes there are, without those that need a plan file.
    fn kvg_recipe_count() -> u32;

    /// Returns the name of recipe `index`, or NULL when index \>= [`kvg_recipe_count`](crate::kvg_recipe_count). Static string.
    fn kvg_recipe_name(index: u32) -> *const c_char;

    /// Returns one sentence on recipe `index`, or NULL when out of range. Static string.
    fn kvg_recipe_summary(index: u32) -> *const c_char;

    /// Returns how many policies there are: rules that keep only some tokens, or give tokens different widths. The name of a policy is also that of a recipe, with the defaults that it was published with; and "RECIPE,select=POLICY" adds it to another, as in "gear-4,select=h2o,budget=0.2".
    fn kvg_policy_count() -> u32;

    /// Returns the name of policy `index`, or NULL when index \>= [`kvg_policy_count`](crate::kvg_policy_count). Static string.
    fn kvg_policy_name(index: u32) -> *const c_char;

    /// Returns one sentence on policy `index`, or NULL when out of range. Static string.
    fn kvg_policy_summary(index: u32) -> *const c_char;

    /// Checks a recipe text and writes its canonical form: the name of the base recipe and the settings
    /// that differ from it, in a fixed order. Parsing the result gives the same recipe.
    /// A text is NAME\[,KEY=VALUE\]..., for example "gear-2,k.rank=4,v.bits=3,window=64". A key without
    /// "k." or "v." sets both sides. The keys are listed in README.md and in the message of a refusal.
    ///
    /// * `recipe`: recipe text, terminated
    /// * `needed`: length with the terminator; may be NULL
    fn kvg_recipe_canonical(recipe: *const c_char, text: *mut c_char, text_len: usize, needed: *mut usize, err: *mut kvg_error) -> kvg_status;

    /// Sets struct_size and zeroes the rest. NULL is ignored.
    fn kvg_shape_init(shape: *mut kvg_shape);

    /// Creates a plan. `recipes` is a recipe text for all layers, optionally followed by overrides for
    /// layers or ranges of layers, each behind a semicolon: "gear-2;0-1:int8;7:fp16,window=128". Layers
    /// count from 0; where overrides name a layer twice the last one holds.
    ///
    /// * `out`: the plan. Destroy with [`kvg_plan_destroy`](crate::kvg_plan_destroy).
    fn kvg_plan_create(shape: *const kvg_shape, recipes: *const c_char, out: *mut *mut kvg_plan, err: *mut kvg_error) -> kvg_status;

    /// Creates a plan from a plan file: a safetensors file that kvgear-plan wrote for one model, with what
    /// was worked out offline, such as the factors of latent caches (recipes palu, palu-2, lorc, ... and the
    /// setting latent=plan). The file is checked before it is used and not needed afterwards. What is
    /// damaged is refused with [`KVG_E_CORRUPT`](crate::KVG_E_CORRUPT), what is of another model, or lacks what the recipes need, with
    /// [`KVG_E_INVALID`](crate::KVG_E_INVALID).
    ///
    /// On a side that keeps latents [`kvg_cache_append`](crate::kvg_cache_append) takes rows as the projection gives them, that is, keys
    /// before rotary embedding, and computes their latents itself: of the model nothing else changes.
    /// Keys are rebuilt and rotated at their positions 0, 1, 2, ... when they are attended to.
    /// [`kvg_cache_read`](crate::kvg_cache_read) gives rows as they were appended. Measured errors are those of the latents. CUDA
    /// devices, stores of prefixes and the selection of tokens do not take such layers yet.
    ///
    /// * `path`: terminated, as the system's functions take it
    /// * `shape`: what the file's must be; may be NULL
    /// * `recipes`: as for [`kvg_plan_create`](crate::kvg_plan_create); "" takes those of the file
    /// * `fingerprint`: what the file's must be; 0 bytes: it may be any
    /// * `fingerprint_bytes`: 0 to 256
    /// * `out`: the plan. Destroy with [`kvg_plan_destroy`](crate::kvg_plan_destroy).
    fn kvg_plan_load(path: *const c_char, shape: *const kvg_shape, recipes: *const c_char, fingerprint: *const c_void, fingerprint_bytes: usize, out: *mut *mut kvg_plan, err: *mut kvg_error) -> kvg_status;

    /// Tells whether a side of a layer keeps latents, and of what size.
    ///
    /// * `rank`: numbers of the latent of a group of heads; 0 = no latents
    /// * `group_heads`: KV heads of a group: 0 where there are no latents
    fn kvg_plan_latent(plan: *const kvg_plan, layer: u32, side: kvg_side, rank: *mut u32, group_heads: *mut u32, err: *mut kvg_error) -> kvg_status;

    /// Ends the caller's handle. The plan itself lives until its last cache is destroyed.
    fn kvg_plan_destroy(plan: *mut kvg_plan);

    /// Copies the shape. out-\>struct_size must be set.
    fn kvg_plan_shape(plan: *const kvg_plan, out: *mut kvg_shape, err: *mut kvg_error) -> kvg_status;

    /// Writes the canonical recipe text of one layer; buffer rules as in [`kvg_recipe_canonical`](crate::kvg_recipe_canonical).
    fn kvg_plan_recipe(plan: *const kvg_plan, layer: u32, text: *mut c_char, text_len: usize, needed: *mut usize, err: *mut kvg_error) -> kvg_status;

    /// Creates an empty cache.
    ///
    /// * `out`: the cache. Destroy with [`kvg_cache_destroy`](crate::kvg_cache_destroy).
    fn kvg_cache_create(runtime: *mut kvg_runtime, plan: *const kvg_plan, out: *mut *mut kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// Ends the cache and frees what no fork shares.
    fn kvg_cache_destroy(cache: *mut kvg_cache);

    /// Sets struct_size, dtype [`KVG_F16`](crate::KVG_F16) and zeroes the rest. NULL is ignored.
    fn kvg_append_desc_init(desc: *mut kvg_append_desc);

    /// Appends tokens to one layer. Keys are given after rotary embedding (before it where they are kept as
    /// latents, see [`kvg_plan_load`](crate::kvg_plan_load)). Full blocks of the oldest
    /// uncompressed tokens are sealed (compressed, once and for good) in the same call.
    /// Every element must be finite after rounding to fp16, that is, below 65520 in magnitude, else
    /// [`KVG_E_NONFINITE`](crate::KVG_E_NONFINITE).
    /// Cost: O(tokens), amortised.
    ///
    /// * `k`: keys, \[tokens, kv_heads, head_dim\] of desc-\>dtype, strided as desc says
    /// * `k_bytes`: bytes from k to the end of the buffer, checked against shape and strides; with negative strides k points at element \[0,0,0\] and only bytes behind it count
    /// * `v`: values, likewise
    fn kvg_cache_append(cache: *mut kvg_cache, layer: u32, k: *const c_void, k_bytes: usize, v: *const c_void, v_bytes: usize, desc: *const kvg_append_desc, err: *mut kvg_error) -> kvg_status;

    /// [`kvg_cache_append`](crate::kvg_cache_append) for one layer of several caches in one call, the same number of tokens to each, all
    /// of them or none. The caches must be different ones of one runtime and one shape; their recipes may
    /// differ, but for those that select tokens: [`KVG_E_UNSUPPORTED`](crate::KVG_E_UNSUPPORTED). Each cache gets the bits that a call of
    /// its own would give it.
    /// Cost: O(tokens of all caches), amortised; on a device much less work for the host than a call each.
    ///
    /// * `caches`: the caches; 0 of them do nothing
    /// * `caches_len`: how many
    /// * `k`: keys, \[caches_len \* desc-\>tokens, kv_heads, head_dim\]: token i of cache c is row c \* desc-\>tokens + i. Strides as in [`kvg_cache_append`](crate::kvg_cache_append), from row to row.
    /// * `v`: values, likewise
    fn kvg_cache_append_batch(caches: *const *mut kvg_cache, caches_len: usize, layer: u32, k: *const c_void, k_bytes: usize, v: *const c_void, v_bytes: usize, desc: *const kvg_append_desc, err: *mut kvg_error) -> kvg_status;

    /// Sets struct_size, [`KVG_F16`](crate::KVG_F16) queries and output, one causal query, and zeroes the rest.
    fn kvg_attend_desc_init(desc: *mut kvg_attend_desc);

    /// Attention of the newest tokens' queries over one layer, on the compressed form. Append the keys
    /// and values of these tokens first.
    /// out\[i, h\] = sum over t of softmax_t(scale \* q\[i, h\] . k\[t, h / group\]) v\[t, h / group\], with
    /// group = q_heads / kv_heads. The sum is over the tokens that query i sees: at least its own, for
    /// a layer with fewer tokens than queries is refused with [`KVG_E_INVALID`](crate::KVG_E_INVALID).
    /// Cost: O(tokens); no memory is kept.
    ///
    /// * `q`: queries after rotary embedding, \[queries, q_heads, head_dim\] of desc-\>q_dtype. They are not checked: NaN or infinity in a query spoils that query's results.
    /// * `q_bytes`: bytes from q to the end of the buffer, as k_bytes of [`kvg_cache_append`](crate::kvg_cache_append)
    /// * `out`: result, \[queries, q_heads, head_dim\] of desc-\>out_dtype. The memory from its first to its last element must not overlap that of q; no row may overlap another. Results beyond the range of out_dtype are rounded to infinity as IEEE says.
    fn kvg_cache_attend(cache: *const kvg_cache, layer: u32, q: *const c_void, q_bytes: usize, out: *mut c_void, out_bytes: usize, desc: *const kvg_attend_desc, err: *mut kvg_error) -> kvg_status;

    /// [`kvg_cache_attend`](crate::kvg_cache_attend) for one layer of several caches in one call, each with its own number of tokens.
    /// The caches must be of one runtime and one shape; their recipes may differ, and a cache may come
    /// more than once. Each result has the bits that a call for its cache alone would give.
    /// Cost: O(tokens of all caches); no memory is kept.
    ///
    /// * `caches`: the caches; 0 of them do nothing
    /// * `caches_len`: how many
    /// * `q`: queries, \[caches_len \* queries, q_heads, head_dim\]: query i of cache c is row c \* queries + i. Strides as in [`kvg_cache_attend`](crate::kvg_cache_attend), from row to row.
    /// * `out`: results in the same order, likewise
    fn kvg_cache_attend_batch(caches: *const *const kvg_cache, caches_len: usize, layer: u32, q: *const c_void, q_bytes: usize, out: *mut c_void, out_bytes: usize, desc: *const kvg_attend_desc, err: *mut kvg_error) -> kvg_status;

    /// Reads tokens first_token to first_token + tokens - 1 of K or V back, decompressed, as
    /// \[tokens, kv_heads, head_dim\], contiguous, of `dtype`. Cost: O(tokens).
    fn kvg_cache_read(cache: *const kvg_cache, layer: u32, side: kvg_side, first_token: u64, tokens: u64, dtype: kvg_dtype, out: *mut c_void, out_bytes: usize, err: *mut kvg_error) -> kvg_status;

    /// Number of tokens appended to a layer and not truncated, evicted ones included.
    fn kvg_cache_length(cache: *const kvg_cache, layer: u32, tokens: *mut u64, err: *mut kvg_error) -> kvg_status;

    /// Shortens a layer, or all of them, to `tokens`. Exact where the length lies in the uncompressed
    /// window or at the edge of a sealed segment of both K and V; elsewhere refused with [`KVG_E_INVALID`](crate::KVG_E_INVALID)
    /// and the nearest lengths below and above in the message. With [`KVG_ALL_LAYERS`](crate::KVG_ALL_LAYERS) layers that are
    /// already shorter keep their length, and either every layer is shortened or none.
    fn kvg_cache_truncate(cache: *mut kvg_cache, layer: u32, tokens: u64, err: *mut kvg_error) -> kvg_status;

    /// Drops all tokens of all layers.
    fn kvg_cache_clear(cache: *mut kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// Makes a second cache with the same content. All of it is shared; what one of the two changes later,
    /// such as the window of its newest tokens, it copies first.
    /// Cost: independent of the number of tokens, in time and in memory.
    ///
    /// * `out`: the fork. Destroy with [`kvg_cache_destroy`](crate::kvg_cache_destroy).
    fn kvg_cache_fork(cache: *const kvg_cache, out: *mut *mut kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// Sets struct_size and zeroes the rest. NULL is ignored.
    fn kvg_stats_init(stats: *mut kvg_stats);

    /// Fills in the statistics of one layer or of [`KVG_ALL_LAYERS`](crate::KVG_ALL_LAYERS), for one side or both.
    /// stats-\>struct_size must be set. Cost: O(segments).
    fn kvg_cache_stats(cache: *const kvg_cache, layer: u32, side: kvg_side, stats: *mut kvg_stats, err: *mut kvg_error) -> kvg_status;

    /// Sets struct_size and zeroes the rest: everything is saved. NULL is ignored.
    fn kvg_save_desc_init(desc: *mut kvg_save_desc);

    /// Sets struct_size and zeroes the rest. NULL is ignored.
    fn kvg_load_desc_init(desc: *mut kvg_load_desc);

    /// Saves a cache, or a range of its layers and tokens, to a file. The file appears, or takes the place
    /// of an older one, as a whole: at any moment `path` is the old one or the new one.
    /// The same cache saved twice gives the same bytes. Cost: O(tokens); no second copy is made.
    ///
    /// * `path`: terminated, as the system's functions take it
    /// * `desc`: may be NULL: everything
    fn kvg_cache_save(cache: *const kvg_cache, path: *const c_char, desc: *const kvg_save_desc, err: *mut kvg_error) -> kvg_status;

    /// The same into a buffer. [`KVG_E_BUFFER_TOO_SMALL`](crate::KVG_E_BUFFER_TOO_SMALL) if it is too short; what it holds then is undefined.
    /// To ask only for the needed length pass data_bytes 0.
    ///
    /// * `needed`: bytes of the saved cache; may be NULL
    fn kvg_cache_save_buffer(cache: *const kvg_cache, data: *mut c_void, data_bytes: usize, needed: *mut usize, desc: *const kvg_save_desc, err: *mut kvg_error) -> kvg_status;

    /// The same through a function, which gets the bytes in order.
    fn kvg_cache_save_stream(cache: *const kvg_cache, write: kvg_write_fn, user: *mut c_void, desc: *const kvg_save_desc, err: *mut kvg_error) -> kvg_status;

    /// Makes a cache of a saved one. Layers that were not saved are empty. The cache answers with the same
    /// bits as the saved one, and goes on like it.
    /// Cost: O(tokens); with `map` and `trust` one small step per sealed segment.
    ///
    /// * `plan`: the plan that the cache was saved with, or one of the same shape and recipes
    /// * `path`: terminated, as the system's functions take it
    /// * `desc`: may be NULL
    /// * `out`: the cache. Destroy with [`kvg_cache_destroy`](crate::kvg_cache_destroy).
    fn kvg_cache_load(runtime: *mut kvg_runtime, plan: *const kvg_plan, path: *const c_char, desc: *const kvg_load_desc, out: *mut *mut kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// The same from a buffer, which may be longer than the saved cache and is not needed afterwards.
    fn kvg_cache_load_buffer(runtime: *mut kvg_runtime, plan: *const kvg_plan, data: *const c_void, data_bytes: usize, desc: *const kvg_load_desc, out: *mut *mut kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// The same through a function; it is not asked for bytes behind the end of the saved cache.
    fn kvg_cache_load_stream(runtime: *mut kvg_runtime, plan: *const kvg_plan, read: kvg_read_fn, user: *mut c_void, desc: *const kvg_load_desc, out: *mut *mut kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// Adds a saved range to a cache: layers that it lacks, or the tokens that follow those that it holds.
    /// Each saved layer must begin where the cache's ends; a range that begins in compressed tokens needs a
    /// cache without uncompressed ones, so hand a sequence over in ranges that were saved one behind another.
    fn kvg_cache_extend(cache: *mut kvg_cache, path: *const c_char, desc: *const kvg_load_desc, err: *mut kvg_error) -> kvg_status;

    /// The same from a buffer.
    fn kvg_cache_extend_buffer(cache: *mut kvg_cache, data: *const c_void, data_bytes: usize, desc: *const kvg_load_desc, err: *mut kvg_error) -> kvg_status;

    /// The same through a function.
    fn kvg_cache_extend_stream(cache: *mut kvg_cache, read: kvg_read_fn, user: *mut c_void, desc: *const kvg_load_desc, err: *mut kvg_error) -> kvg_status;

    /// Creates an empty store.
    ///
    /// * `budget`: most bytes that it may hold, those that its caches share counted once; 0 = no limit
    /// * `out`: the store. Destroy with [`kvg_prefix_destroy`](crate::kvg_prefix_destroy).
    fn kvg_prefix_create(runtime: *mut kvg_runtime, budget: u64, out: *mut *mut kvg_prefix, err: *mut kvg_error) -> kvg_status;

    /// Ends the store and the caches in it, not those that it gave away.
    fn kvg_prefix_destroy(prefix: *mut kvg_prefix);

    /// Stores a fork of `cache` under the tokens that it holds, in place of one of the same plan and tokens.
    /// If the budget does not suffice, those that were not used for longest make room; [`KVG_E_LIMIT`](crate::KVG_E_LIMIT) if the cache
    /// does not fit by itself.
    /// Cost: O(segments + tokens).
    ///
    /// * `tokens`: ids of all tokens in every layer of the cache
    fn kvg_prefix_insert(prefix: *mut kvg_prefix, tokens: *const u32, tokens_count: usize, cache: *const kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// Finds the stored cache with the longest common beginning with these tokens, and gives a fork of it
    /// that holds just that beginning, cut to the nearest length below where an exact cut is possible.
    /// Cost: O(tokens), however many caches are stored.
    ///
    /// * `plan`: only caches of this plan are considered
    /// * `matched`: tokens that the fork holds; 0 if nothing was found
    /// * `out`: the fork, or NULL. Destroy with [`kvg_cache_destroy`](crate::kvg_cache_destroy).
    fn kvg_prefix_find(prefix: *mut kvg_prefix, plan: *const kvg_plan, tokens: *const u32, tokens_count: usize, matched: *mut u64, out: *mut *mut kvg_cache, err: *mut kvg_error) -> kvg_status;

    /// Drops all stored caches.
    fn kvg_prefix_clear(prefix: *mut kvg_prefix, err: *mut kvg_error) -> kvg_status;

    /// Sets struct_size and zeroes the rest. NULL is ignored.
    fn kvg_prefix_stats_init(stats: *mut kvg_prefix_stats);

    /// Fills in the statistics. stats-\>struct_size must be set.
    fn kvg_prefix_read_stats(prefix: *const kvg_prefix, stats: *mut kvg_prefix_stats, err: *mut kvg_error) -> kvg_status;

    /// Number of slots of a layer: tokens that it holds for each KV head.
    fn kvg_cache_held(cache: *const kvg_cache, layer: u32, slots: *mut u64, err: *mut kvg_error) -> kvg_status;

    /// Writes the original position of the token in each slot of one KV head, in the order in which
    /// [`kvg_cache_read`](crate::kvg_cache_read) returns them: ascending, but that sinks come behind what is compressed, and that a
    /// run compressed in tiers lists one tier after the other.
    ///
    /// * `positions_len`: slots that there is room for; 0 asks for the number alone
    /// * `needed`: slots of the layer; may be NULL
    fn kvg_cache_positions(cache: *const kvg_cache, layer: u32, kv_head: u32, positions: *mut u64, positions_len: usize, needed: *mut usize, err: *mut kvg_error) -> kvg_status;

    /// Writes the class of each slot of K or V: the bits of its codes, 16 where it is not compressed.
    /// Buffer rules as in [`kvg_cache_positions`](crate::kvg_cache_positions).
    fn kvg_cache_bits(cache: *const kvg_cache, layer: u32, side: kvg_side, bits: *mut u8, bits_len: usize, needed: *mut usize, err: *mut kvg_error) -> kvg_status;

    /// Ends the prompt of a layer, or of [`KVG_ALL_LAYERS`](crate::KVG_ALL_LAYERS) (all of them or none), and lets its policy act if
    /// it is due. Does nothing on layers that keep all tokens.
    fn kvg_cache_select(cache: *mut kvg_cache, layer: u32, err: *mut kvg_error) -> kvg_status;

    /// As [`kvg_cache_append`](crate::kvg_cache_append), for tokens at given positions: of a prompt that was pruned on its way through
    /// the layers (see [`kvg_cache_next_tokens`](crate::kvg_cache_next_tokens)). Positions in between count as evicted. [`KVG_E_STATE`](crate::KVG_E_STATE) on a
    /// layer that keeps all tokens.
    ///
    /// * `positions`: ascending, beyond all that the layer has seen, below 2^32 - 1
    /// * `positions_len`: desc-\>tokens
    fn kvg_cache_append_at(cache: *mut kvg_cache, layer: u32, k: *const c_void, k_bytes: usize, v: *const c_void, v_bytes: usize, positions: *const u64, positions_len: usize, desc: *const kvg_append_desc, err: *mut kvg_error) -> kvg_status;

    /// Gives a layer scores: for each KV head and slot the attention weights that the slot got, averaged
    /// over the query heads of the KV head and summed over query rows.
    ///
    /// * `scores`: float32 \[kv_heads\]\[slots\], not negative, finite
    /// * `scores_len`: kv_heads \* slots
    /// * `rows`: how many query rows were summed; the newest. For a policy that reads only the newest row, 1
    fn kvg_cache_observe(cache: *mut kvg_cache, layer: u32, scores: *const f32, scores_len: usize, rows: u64, err: *mut kvg_error) -> kvg_status;

    /// Lets the library work scores out from queries of tokens appended before. Cost: O(queries \* slots)
    /// time, no matrix of that size. Rows that the policy does not read are passed over; without any
    /// use for scores nothing is done.
    ///
    /// * `q`: queries as in [`kvg_cache_attend`](crate::kvg_cache_attend); of `desc` the fields that concern q, scale and logit_softcap are read; desc-\>queries rows
    /// * `positions`: of the token of each query, not descending
    /// * `positions_len`: desc-\>queries
    fn kvg_cache_probe(cache: *mut kvg_cache, layer: u32, q: *const c_void, q_bytes: usize, positions: *const u64, positions_len: usize, desc: *const kvg_attend_desc, err: *mut kvg_error) -> kvg_status;

    /// Writes the positions whose queries the layer's policy wants [`kvg_cache_probe`](crate::kvg_cache_probe) to see before it acts:
    /// for example the newest 64, or 5 % newest and 5 % drawn at random (from a fixed seed). None where it
    /// has no use for scores. Buffer rules as in [`kvg_cache_positions`](crate::kvg_cache_positions).
    fn kvg_cache_probe_positions(cache: *const kvg_cache, layer: u32, positions: *mut u64, positions_len: usize, needed: *mut usize, err: *mut kvg_error) -> kvg_status;

    /// As [`kvg_cache_attend`](crate::kvg_cache_attend), and gives the layer the scores of these queries, if it has use for scores.
    fn kvg_cache_attend_observe(cache: *mut kvg_cache, layer: u32, q: *const c_void, q_bytes: usize, out: *mut c_void, out_bytes: usize, desc: *const kvg_attend_desc, err: *mut kvg_error) -> kvg_status;

    /// Writes which slots of a layer's prompt go on to the next layer, ascending (PyramidInfer): the
    /// caller gathers the hidden states of these tokens, and appends them to the next layer with
    /// [`kvg_cache_append_at`](crate::kvg_cache_append_at). All of them on a layer that keeps all tokens. Buffer rules as in
    /// [`kvg_cache_positions`](crate::kvg_cache_positions).
    fn kvg_cache_next_tokens(cache: *const kvg_cache, layer: u32, slots: *mut u64, slots_len: usize, needed: *mut usize, err: *mut kvg_error) -> kvg_status;
}
