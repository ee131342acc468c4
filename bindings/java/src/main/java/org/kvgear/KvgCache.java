package org.kvgear;

import java.io.InputStream;
import java.io.OutputStream;
import java.lang.ref.Cleaner;
import java.lang.ref.Reference;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.function.Consumer;
import java.util.Objects;
import org.kvgear.internal.Raw;
import org.kvgear.internal.RawConstants;
import org.kvgear.internal.Struct;
import org.kvgear.internal.Transfer;

/**
 * The compressed cache of one sequence: one compressed object per layer.
 *
 * <p>All methods may be called from any number of threads. Those that change the cache (append, truncate, clear, select, observe,
 * probe, attendObserve, extend) wait for those that read it (attend, read, length, fork, stats, save and the others), and these for the former; different caches, also forks of one another, are
 * independent. After {@link #close} every method fails with {@link Status#STATE}; calls that are under way when it is called
 * end as if it had not been. A cache that is not closed ends when it is garbage.
 */
public final class KvgCache implements AutoCloseable {
  /** As a layer number: every layer of the cache. */
  public static final int ALL_LAYERS = 0xFFFFFFFF;

  private static final String SAVE_BUFFER = "kvg_cache_save_buffer";

  private final CacheHandle handle;
  private final Cleaner.Cleanable cleanable;
  private final KvgRuntime runtime; // not garbage, with its log sink, as long as the cache is not
  private final Shape shape;

  KvgCache(long pointer, KvgRuntime runtime, Shape shape) {
    this.runtime = runtime;
    this.shape = shape;
    handle = new CacheHandle(pointer);
    cleanable = Ends.when(this, handle.ends());
  }

  CacheHandle handle() {
    return handle;
  }

  /**
   * Ends the cache and frees what no fork shares, once the calls that are under way are over. It may be called at any time and more
   * than once.
   *
   * <p>From kvgear.h, kvg_cache_destroy:
   * <pre>
   * Ends the cache and frees what no fork shares.
   * </pre>
   */
  @Override
  public void close() {
    cleanable.clean();
  }

  /**
   * Appends the tokens of k and v to a layer: [tokens, kv_heads, head_dim], contiguous.
   *
   * <p>From kvgear.h, kvg_cache_append:
   * <pre>
   * Appends tokens to one layer. Keys are given after rotary embedding (before it where they are kept as
   * latents, see kvg_plan_load). Full blocks of the oldest
   * uncompressed tokens are sealed (compressed, once and for good) in the same call.
   * Every element must be finite after rounding to fp16, that is, below 65520 in magnitude, else
   * KVG_E_NONFINITE.
   * Cost: O(tokens), amortised.
   * k: keys, [tokens, kv_heads, head_dim] of desc-&gt;dtype, strided as desc says
   * k_bytes: bytes from k to the end of the buffer, checked against shape and strides; with negative strides k points at element [0,0,0] and only bytes behind it count
   * v: values, likewise
   * </pre>
   *
   * @param layer the layer
   * @param k keys
   * @param v values
   */
  public void append(int layer, Tensor k, Tensor v) {
    long row = (long) shape.kvHeads() * shape.headDim();
    if (k.length() % row != 0 || k.length() != v.length()) {
      throw KvgException.invalid(
          "kvg_cache_append",
          "k has " + k.length() + " elements and v " + v.length() + "; both must have the same number, a multiple of kv_heads * head_dim = " + row);
    }
    append(layer, k, v, k.length() / row, AppendOptions.DEFAULT);
  }

  /**
   * Appends tokens that lie in any order in memory. With negative strides the tensor begins at element [0, 0, 0], and only what
   * is behind it counts.
   *
   * @param layer the layer
   * @param k keys
   * @param v values, of the same type
   * @param tokens how many; 0 appends nothing
   * @param options how they lie in memory
   */
  public void append(int layer, Tensor k, Tensor v, long tokens, AppendOptions options) {
    final String operation = "kvg_cache_append";
    if (k.dtype() != v.dtype()) {
      throw KvgException.invalid(operation, "k and v differ in their element type");
    }
    byte[] desc = options.pack(k.dtype(), tokens);
    long cache = handle.begin(operation, true);
    try {
      Raw.kvg_cache_append(cache, layer, k.address(operation), k.bytes(), v.address(operation), v.bytes(), desc);
    } finally {
      handle.end(true);
      Reference.reachabilityFence(k);
      Reference.reachabilityFence(v);
    }
  }

  /**
   * Causal attention of the newest queries over one layer, with the usual scale.
   *
   * @param layer the layer
   * @param q queries, [queries, q_heads, head_dim]
   * @param out result, of the same shape; must not overlap q
   */
  public void attend(int layer, Tensor q, Tensor out) {
    attend(layer, q, out, AttendOptions.DEFAULT);
  }

  /**
   * Attention of the newest queries over one layer, on the compressed form.
   *
   * <p>From kvgear.h, kvg_cache_attend:
   * <pre>
   * Attention of the newest tokens' queries over one layer, on the compressed form. Append the keys
   * and values of these tokens first.
   * out[i, h] = sum over t of softmax_t(scale * q[i, h] . k[t, h / group]) v[t, h / group], with
   * group = q_heads / kv_heads. The sum is over the tokens that query i sees: at least its own, for
   * a layer with fewer tokens than queries is refused with KVG_E_INVALID.
   * Cost: O(tokens); no memory is kept.
   * q: queries after rotary embedding, [queries, q_heads, head_dim] of desc-&gt;q_dtype. They are not checked: NaN or infinity in a query spoils that query's results.
   * q_bytes: bytes from q to the end of the buffer, as k_bytes of kvg_cache_append
   * out: result, [queries, q_heads, head_dim] of desc-&gt;out_dtype. The memory from its first to its last element must not overlap that of q; no row may overlap another. Results beyond the range of out_dtype are rounded to infinity as IEEE says.
   * </pre>
   *
   * @param layer the layer
   * @param q queries, [queries, q_heads, head_dim]
   * @param out result, of the same shape; must not overlap q
   * @param options what is to be computed
   */
  public void attend(int layer, Tensor q, Tensor out, AttendOptions options) {
    final String operation = "kvg_cache_attend";
    byte[] desc = options.pack(q.dtype(), out.dtype(), queriesOf(operation, options, q, 1));
    long cache = handle.begin(operation, false);
    try {
      Raw.kvg_cache_attend(cache, layer, q.address(operation), q.bytes(), out.writable(operation), out.bytes(), desc);
    } finally {
      handle.end(false);
      Reference.reachabilityFence(q);
      Reference.reachabilityFence(out);
    }
  }

  /**
   * As {@link #attend}, and gives the layer's policy the scores of these queries.
   *
   * <p>From kvgear.h, kvg_cache_attend_observe:
   * <pre>
   * As kvg_cache_attend, and gives the layer the scores of these queries, if it has use for scores.
   * </pre>
   *
   * @param layer the layer
   * @param q queries, [queries, q_heads, head_dim]
   * @param out result, of the same shape; must not overlap q
   * @param options what is to be computed
   */
  public void attendObserve(int layer, Tensor q, Tensor out, AttendOptions options) {
    final String operation = "kvg_cache_attend_observe";
    byte[] desc = options.pack(q.dtype(), out.dtype(), queriesOf(operation, options, q, 1));
    long cache = handle.begin(operation, true);
    try {
      Raw.kvg_cache_attend_observe(cache, layer, q.address(operation), q.bytes(), out.writable(operation), out.bytes(), desc);
    } finally {
      handle.end(true);
      Reference.reachabilityFence(q);
      Reference.reachabilityFence(out);
    }
  }

  /**
   * The number of tokens that a layer holds: all but those evicted.
   *
   * <p>From kvgear.h, kvg_cache_held:
   * <pre>
   * Number of slots of a layer: tokens that it holds for each KV head.
   * </pre>
   *
   * @param layer the layer
   * @return the number
   */
  public long held(int layer) {
    long[] slots = new long[1];
    handle.reading("kvg_cache_held", cache -> Raw.kvg_cache_held(cache, layer, slots));
    return slots[0];
  }

  /**
   * Ends the prompt of a layer, or with {@link #ALL_LAYERS} of all, and lets its policy act.
   *
   * <p>From kvgear.h, kvg_cache_select:
   * <pre>
   * Ends the prompt of a layer, or of KVG_ALL_LAYERS (all of them or none), and lets its policy act if
   * it is due. Does nothing on layers that keep all tokens.
   * </pre>
   *
   * @param layer the layer
   */
  public void select(int layer) {
    handle.writing("kvg_cache_select", cache -> Raw.kvg_cache_select(cache, layer));
  }

  /** How many queries a call for so many caches of this shape has: those of the options, or as many as q holds. */
  private int queriesOf(String operation, AttendOptions options, Tensor q, int caches) {
    if (options.queries() != 0 || !options.q().equals(Strides.CONTIGUOUS)) {
      return options.queries();
    }
    long row = (long) shape.qHeads() * shape.headDim() * caches;
    long queries = q.length() / row;
    if (q.length() % row != 0 || queries == 0 || queries > Integer.MAX_VALUE) {
      String what = caches > 1 ? "caches * q_heads * head_dim" : "q_heads * head_dim";
      throw KvgException.invalid(operation, "q has " + q.length() + " elements, which is not a multiple of " + what + " = " + row);
    }
    return (int) queries;
  }

  /**
   * As {@link #attend}, for one layer of several caches of one runtime and one shape in one call. The rows of a cache follow those of
   * the one before it; a cache may come more than once.
   *
   * <p>From kvgear.h, kvg_cache_attend_batch:
   * <pre>
   * kvg_cache_attend for one layer of several caches in one call, each with its own number of tokens.
   * The caches must be of one runtime and one shape; their recipes may differ, and a cache may come
   * more than once. Each result has the bits that a call for its cache alone would give.
   * Cost: O(tokens of all caches); no memory is kept.
   * caches: the caches; 0 of them do nothing
   * caches_len: how many
   * q: queries, [caches_len * queries, q_heads, head_dim]: query i of cache c is row c * queries + i. Strides as in kvg_cache_attend, from row to row.
   * out: results in the same order, likewise
   * </pre>
   *
   * @param caches the caches
   * @param layer the layer
   * @param q queries, [caches * queries, q_heads, head_dim]
   * @param out results, of the same shape; must not overlap q
   * @param options what is to be computed
   */
  public static void attendBatch(List<KvgCache> caches, int layer, Tensor q, Tensor out, AttendOptions options) {
    final String operation = "kvg_cache_attend_batch";
    List<KvgCache> all = List.copyOf(caches);
    int queries = all.isEmpty() ? Math.max(options.queries(), 1) : all.get(0).queriesOf(operation, options, q, all.size());
    byte[] desc = options.pack(q.dtype(), out.dtype(), queries);
    withBatch(operation, all, false, handles ->
        Raw.kvg_cache_attend_batch(handles, layer, q.address(operation), q.bytes(), out.writable(operation), out.bytes(), desc));
    Reference.reachabilityFence(q);
    Reference.reachabilityFence(out);
  }

  /**
   * {@link #append(int, Tensor, Tensor)} for one layer of several different caches of one runtime and one shape, in one call, the
   * same number of tokens to each: to all of them or to none.
   *
   * <p>From kvgear.h, kvg_cache_append_batch:
   * <pre>
   * kvg_cache_append for one layer of several caches in one call, the same number of tokens to each, all
   * of them or none. The caches must be different ones of one runtime and one shape; their recipes may
   * differ, but for those that select tokens: KVG_E_UNSUPPORTED. Each cache gets the bits that a call of
   * its own would give it.
   * Cost: O(tokens of all caches), amortised; on a device much less work for the host than a call each.
   * caches: the caches; 0 of them do nothing
   * caches_len: how many
   * k: keys, [caches_len * desc-&gt;tokens, kv_heads, head_dim]: token i of cache c is row c * desc-&gt;tokens + i. Strides as in kvg_cache_append, from row to row.
   * v: values, likewise
   * </pre>
   *
   * @param caches the caches
   * @param layer the layer
   * @param k keys, [caches * tokens, kv_heads, head_dim]
   * @param v values, likewise and of the same type
   */
  public static void appendBatch(List<KvgCache> caches, int layer, Tensor k, Tensor v) {
    final String operation = "kvg_cache_append_batch";
    List<KvgCache> all = List.copyOf(caches);
    long row = all.isEmpty() ? 1 : (long) all.get(0).shape.kvHeads() * all.get(0).shape.headDim() * all.size();
    if (k.length() % row != 0 || k.length() != v.length()) {
      throw KvgException.invalid(
          operation,
          "k has " + k.length() + " elements and v " + v.length() + "; both must have the same number, a multiple of caches * kv_heads * head_dim = " + row);
    }
    appendBatch(all, layer, k, v, all.isEmpty() ? 0 : k.length() / row, AppendOptions.DEFAULT);
  }

  /**
   * {@link #appendBatch(List, int, Tensor, Tensor)} of tokens that lie in any order in memory.
   *
   * @param caches the caches
   * @param layer the layer
   * @param k keys
   * @param v values, of the same type
   * @param tokens how many for each cache; 0 appends nothing
   * @param options how they lie in memory, from row to row over all caches
   */
  public static void appendBatch(List<KvgCache> caches, int layer, Tensor k, Tensor v, long tokens, AppendOptions options) {
    final String operation = "kvg_cache_append_batch";
    if (k.dtype() != v.dtype()) {
      throw KvgException.invalid(operation, "k and v differ in their element type");
    }
    byte[] desc = options.pack(k.dtype(), tokens);
    withBatch(operation, List.copyOf(caches), true, handles ->
        Raw.kvg_cache_append_batch(handles, layer, k.address(operation), k.bytes(), v.address(operation), v.bytes(), desc));
    Reference.reachabilityFence(k);
    Reference.reachabilityFence(v);
  }

  /** Runs a call while all caches are open and held, alone where it writes. */
  private static void withBatch(String operation, List<KvgCache> all, boolean write, Consumer<long[]> call) {
    long[] handles = all.stream().mapToLong(c -> c.handle.pointer()).toArray();
    // Each cache once, and all calls in one order: two batches and two writers could otherwise wait for each other.
    KvgCache[] order = all.stream().distinct().sorted(Comparator.comparingLong(c -> c.handle.pointer())).toArray(KvgCache[]::new);
    int begun = 0;
    try {
      for (; begun < order.length; begun++) {
        order[begun].handle.begin(operation, write);
      }
      call.accept(handles);
    } finally {
      while (begun > 0) {
        order[--begun].handle.end(write);
      }
    }
  }

  /**
   * The original position of the token in each slot of one KV head, in the order of {@link #read}.
   *
   * <p>From kvgear.h, kvg_cache_positions:
   * <pre>
   * Writes the original position of the token in each slot of one KV head, in the order in which
   * kvg_cache_read returns them: ascending, but that sinks come behind what is compressed, and that a
   * run compressed in tiers lists one tier after the other.
   * positions_len: slots that there is room for; 0 asks for the number alone
   * needed: slots of the layer; may be NULL
   * </pre>
   *
   * @param layer the layer
   * @param kvHead the KV head
   * @return the positions
   */
  public long[] positions(int layer, int kvHead) {
    return handle.list("kvg_cache_positions", (cache, list, needed) -> Raw.kvg_cache_positions(cache, layer, kvHead, list, needed));
  }

  /**
   * The class of each slot of K or V: the bits of its codes, 16 where it is not compressed.
   *
   * <p>From kvgear.h, kvg_cache_bits:
   * <pre>
   * Writes the class of each slot of K or V: the bits of its codes, 16 where it is not compressed.
   * Buffer rules as in kvg_cache_positions.
   * </pre>
   *
   * @param layer the layer
   * @param side keys or values
   * @return the bits
   */
  public byte[] bits(int layer, Side side) {
    Objects.requireNonNull(side, "side");
    long[] needed = new long[1];
    byte[][] bits = new byte[1][];
    handle.reading("kvg_cache_bits", cache -> {
      Raw.kvg_cache_bits(cache, layer, side.code(), new byte[0], needed);
      bits[0] = new byte[Math.toIntExact(needed[0])];
      if (needed[0] > 0) {
        Raw.kvg_cache_bits(cache, layer, side.code(), bits[0], needed);
      }
    });
    return bits[0];
  }

  /**
   * Appends tokens of given positions: of a prompt that was pruned on its way through the layers.
   *
   * <p>From kvgear.h, kvg_cache_append_at:
   * <pre>
   * As kvg_cache_append, for tokens at given positions: of a prompt that was pruned on its way through
   * the layers (see kvg_cache_next_tokens). Positions in between count as evicted. KVG_E_STATE on a
   * layer that keeps all tokens.
   * positions: ascending, beyond all that the layer has seen, below 2^32 - 1
   * positions_len: desc-&gt;tokens
   * </pre>
   *
   * @param layer the layer
   * @param k keys, [positions.length, kv_heads, head_dim]
   * @param v values, likewise and of the same type
   * @param positions of the tokens, ascending
   * @param options how they lie in memory
   */
  public void appendAt(int layer, Tensor k, Tensor v, long[] positions, AppendOptions options) {
    final String operation = "kvg_cache_append_at";
    if (k.dtype() != v.dtype()) {
      throw KvgException.invalid(operation, "k and v differ in their element type");
    }
    byte[] desc = options.pack(k.dtype(), positions.length);
    try {
      handle.writing(
          operation,
          cache ->
              Raw.kvg_cache_append_at(
                  cache, layer, k.address(operation), k.bytes(), v.address(operation), v.bytes(), positions, desc));
    } finally {
      Reference.reachabilityFence(k);
      Reference.reachabilityFence(v);
    }
  }

  /**
   * Gives a layer scores: the attention weights that each slot got, averaged over the query heads of its KV head and summed over
   * query rows.
   *
   * <p>From kvgear.h, kvg_cache_observe:
   * <pre>
   * Gives a layer scores: for each KV head and slot the attention weights that the slot got, averaged
   * over the query heads of the KV head and summed over query rows.
   * scores: float32 [kv_heads][slots], not negative, finite
   * scores_len: kv_heads * slots
   * rows: how many query rows were summed; the newest. For a policy that reads only the newest row, 1
   * </pre>
   *
   * @param layer the layer
   * @param scores [kv_heads][slots]
   * @param rows how many query rows were summed
   */
  public void observe(int layer, float[] scores, long rows) {
    handle.writing("kvg_cache_observe", cache -> Raw.kvg_cache_observe(cache, layer, scores, rows));
  }

  /**
   * Lets the library work scores out from queries of tokens appended before.
   *
   * <p>From kvgear.h, kvg_cache_probe:
   * <pre>
   * Lets the library work scores out from queries of tokens appended before. Cost: O(queries * slots)
   * time, no matrix of that size. Rows that the policy does not read are passed over; without any
   * use for scores nothing is done.
   * q: queries as in kvg_cache_attend; of `desc` the fields that concern q, scale and logit_softcap are read; desc-&gt;queries rows
   * positions: of the token of each query, not descending
   * positions_len: desc-&gt;queries
   * </pre>
   *
   * @param layer the layer
   * @param q queries, [positions.length, q_heads, head_dim]
   * @param positions of the token of each query, not descending
   * @param options of these strides of q, scale and cap are used
   */
  public void probe(int layer, Tensor q, long[] positions, AttendOptions options) {
    final String operation = "kvg_cache_probe";
    byte[] desc = options.pack(q.dtype(), q.dtype(), positions.length);
    try {
      handle.writing(operation, cache -> Raw.kvg_cache_probe(cache, layer, q.address(operation), q.bytes(), positions, desc));
    } finally {
      Reference.reachabilityFence(q);
    }
  }

  /**
   * The positions whose queries the layer's policy wants {@link #probe} to see before it acts.
   *
   * <p>From kvgear.h, kvg_cache_probe_positions:
   * <pre>
   * Writes the positions whose queries the layer's policy wants kvg_cache_probe to see before it acts:
   * for example the newest 64, or 5 % newest and 5 % drawn at random (from a fixed seed). None where it
   * has no use for scores. Buffer rules as in kvg_cache_positions.
   * </pre>
   *
   * @param layer the layer
   * @return the positions
   */
  public long[] probePositions(int layer) {
    return handle.list("kvg_cache_probe_positions", (cache, list, needed) -> Raw.kvg_cache_probe_positions(cache, layer, list, needed));
  }

  /**
   * Which slots of a layer's prompt go on to the next layer.
   *
   * <p>From kvgear.h, kvg_cache_next_tokens:
   * <pre>
   * Writes which slots of a layer's prompt go on to the next layer, ascending (PyramidInfer): the
   * caller gathers the hidden states of these tokens, and appends them to the next layer with
   * kvg_cache_append_at. All of them on a layer that keeps all tokens. Buffer rules as in
   * kvg_cache_positions.
   * </pre>
   *
   * @param layer the layer
   * @return the slots, ascending
   */
  public long[] nextTokens(int layer) {
    return handle.list("kvg_cache_next_tokens", (cache, list, needed) -> Raw.kvg_cache_next_tokens(cache, layer, list, needed));
  }

  /**
   * Reads tokens back, decompressed, as [tokens, kv_heads, head_dim], contiguous.
   *
   * <p>From kvgear.h, kvg_cache_read:
   * <pre>
   * Reads tokens first_token to first_token + tokens - 1 of K or V back, decompressed, as
   * [tokens, kv_heads, head_dim], contiguous, of `dtype`. Cost: O(tokens).
   * </pre>
   *
   * @param layer the layer
   * @param side keys or values
   * @param firstToken the first token
   * @param tokens how many
   * @param out receives them, in its element type
   */
  public void read(int layer, Side side, long firstToken, long tokens, Tensor out) {
    final String operation = "kvg_cache_read";
    Objects.requireNonNull(side, "side");
    long cache = handle.begin(operation, false);
    try {
      Raw.kvg_cache_read(
          cache, layer, side.code(), firstToken, tokens, out.dtype().code(), out.writable(operation), out.bytes());
    } finally {
      handle.end(false);
      Reference.reachabilityFence(out);
    }
  }

  /**
   * The number of tokens of a layer.
   *
   * <p>From kvgear.h, kvg_cache_length:
   * <pre>
   * Number of tokens appended to a layer and not truncated, evicted ones included.
   * </pre>
   *
   * @param layer the layer
   * @return the number
   */
  public long length(int layer) {
    long[] tokens = new long[1];
    long cache = handle.begin("kvg_cache_length", false);
    try {
      Raw.kvg_cache_length(cache, layer, tokens);
    } finally {
      handle.end(false);
    }
    return tokens[0];
  }

  /**
   * Shortens a layer, or with {@link #ALL_LAYERS} all of them.
   *
   * <p>From kvgear.h, kvg_cache_truncate:
   * <pre>
   * Shortens a layer, or all of them, to `tokens`. Exact where the length lies in the uncompressed
   * window or at the edge of a sealed segment of both K and V; elsewhere refused with KVG_E_INVALID
   * and the nearest lengths below and above in the message. With KVG_ALL_LAYERS layers that are
   * already shorter keep their length, and either every layer is shortened or none.
   * </pre>
   *
   * @param layer the layer
   * @param tokens how many are to stay
   */
  public void truncate(int layer, long tokens) {
    handle.writing("kvg_cache_truncate", cache -> Raw.kvg_cache_truncate(cache, layer, tokens));
  }

  /**
   * Drops all tokens of all layers.
   *
   * <p>From kvgear.h, kvg_cache_clear:
   * <pre>
   * Drops all tokens of all layers.
   * </pre>
   */
  public void clear() {
    handle.writing("kvg_cache_clear", Raw::kvg_cache_clear);
  }

  /**
   * Makes a second cache with the same content, which shares the sealed segments.
   *
   * <p>From kvgear.h, kvg_cache_fork:
   * <pre>
   * Makes a second cache with the same content. All of it is shared; what one of the two changes later,
   * such as the window of its newest tokens, it copies first.
   * Cost: independent of the number of tokens, in time and in memory.
   * out: the fork. Destroy with kvg_cache_destroy.
   * </pre>
   *
   * @return the fork
   */
  public KvgCache fork() {
    long[] out = new long[1];
    handle.reading("kvg_cache_fork", cache -> Raw.kvg_cache_fork(cache, out));
    return new KvgCache(out[0], runtime, shape);
  }

  /**
   * Saves all of the cache to a file.
   *
   * @param path the file
   */
  public void save(Path path) {
    save(path, SaveOptions.DEFAULT);
  }

  /**
   * Saves the cache, or a range of its layers and tokens, to a file.
   *
   * <p>From kvgear.h, kvg_cache_save:
   * <pre>
   * Saves a cache, or a range of its layers and tokens, to a file. The file appears, or takes the place
   * of an older one, as a whole: at any moment `path` is the old one or the new one.
   * The same cache saved twice gives the same bytes. Cost: O(tokens); no second copy is made.
   * path: terminated, as the system's functions take it
   * desc: may be NULL: everything
   * </pre>
   *
   * @param path the file
   * @param options what and how
   */
  public void save(Path path, SaveOptions options) {
    final String operation = "kvg_cache_save";
    byte[] name = Texts.terminated(operation, "path", path.toString());
    Packed desc = options.pack();
    try {
      handle.reading(operation, cache -> Raw.kvg_cache_save(cache, name, desc.struct()));
    } finally {
      Reference.reachabilityFence(desc);
    }
  }

  /**
   * How many bytes the saved cache has. A cache of more than 2 GiB goes to a file or a stream.
   *
   * @param options what
   * @return the number
   */
  public long savedBytes(SaveOptions options) {
    long[] needed = new long[1];
    Packed desc = options.pack();
    try {
      handle.reading(SAVE_BUFFER, cache -> Raw.kvg_cache_save_buffer(cache, 0, 0, needed, desc.struct()));
    } finally {
      Reference.reachabilityFence(desc);
    }
    return needed[0];
  }

  /**
   * Saves the cache, or a range of it, to a buffer from its position on, and moves the position behind it. Where there is too little
   * room ({@link Status#BUFFER_TOO_SMALL}) the position stays, and what lies behind it is undefined.
   *
   * <p>From kvgear.h, kvg_cache_save_buffer:
   * <pre>
   * The same into a buffer. KVG_E_BUFFER_TOO_SMALL if it is too short; what it holds then is undefined.
   * To ask only for the needed length pass data_bytes 0.
   * needed: bytes of the saved cache; may be NULL
   * </pre>
   *
   * @param out the buffer; a direct one is filled in place
   * @param options what
   */
  public void save(ByteBuffer out, SaveOptions options) {
    if (out.isReadOnly()) {
      throw KvgException.invalid(SAVE_BUFFER, "the memory for the result is read-only");
    }
    ByteBuffer direct = out.isDirect() ? out : ByteBuffer.allocateDirect(out.remaining());
    Memory memory = Memory.of(direct);
    long[] needed = new long[1];
    Packed desc = options.pack();
    try {
      handle.reading(SAVE_BUFFER, cache -> {
        Raw.kvg_cache_save_buffer(cache, memory.address(), memory.bytes(), needed, desc.struct());
        if (memory.bytes() == 0) { // then it was only asked for the length
          throw new KvgException(SAVE_BUFFER, RawConstants.KVG_E_BUFFER_TOO_SMALL, "the saved cache needs " + needed[0] + " bytes; pass a buffer");
        }
      });
    } finally {
      Reference.reachabilityFence(desc);
      Reference.reachabilityFence(memory);
    }
    if (direct == out) {
      out.position(out.position() + (int) needed[0]);
    } else {
      out.put(direct.limit((int) needed[0]));
    }
  }

  /**
   * Saves the cache, or a range of it, through a stream, which is not closed. What the stream throws ends it: the exception is of
   * {@link Status#IO}, and has what was thrown as its cause. The stream must not use this cache ({@link Status#STATE}).
   *
   * <p>From kvgear.h, kvg_cache_save_stream:
   * <pre>
   * The same through a function, which gets the bytes in order.
   * </pre>
   *
   * <p>From kvgear.h, kvg_write_fn:
   * <pre>
   * Takes bytes of a saved cache.
   * Returns how many were taken, 1 to `bytes`; anything else ends the save with KVG_E_IO
   * </pre>
   *
   * @param out receives the bytes
   * @param options what
   */
  public void save(OutputStream out, SaveOptions options) {
    Objects.requireNonNull(out, "out");
    Packed desc = options.pack();
    try {
      handle.reading("kvg_cache_save_stream", cache -> Transfer.save(cache, desc.struct(), out));
    } finally {
      Reference.reachabilityFence(desc);
    }
  }

  /**
   * Adds a saved range to the cache, from a file.
   *
   * <p>From kvgear.h, kvg_cache_extend:
   * <pre>
   * Adds a saved range to a cache: layers that it lacks, or the tokens that follow those that it holds.
   * Each saved layer must begin where the cache's ends; a range that begins in compressed tokens needs a
   * cache without uncompressed ones, so hand a sequence over in ranges that were saved one behind another.
   * </pre>
   *
   * @param path the file
   * @param options how
   */
  public void extend(Path path, LoadOptions options) {
    final String operation = "kvg_cache_extend";
    byte[] name = Texts.terminated(operation, "path", path.toString());
    Packed desc = options.pack();
    try {
      handle.writing(operation, cache -> Raw.kvg_cache_extend(cache, name, desc.struct()));
    } finally {
      Reference.reachabilityFence(desc);
    }
  }

  /**
   * Adds a saved range to the cache, from what lies between position and limit of a buffer, which is not changed. One on Java's heap is
   * copied first.
   *
   * <p>From kvgear.h, kvg_cache_extend_buffer:
   * <pre>
   * The same from a buffer.
   * </pre>
   *
   * @param data the saved range; it may be longer
   * @param options how
   */
  public void extend(ByteBuffer data, LoadOptions options) {
    Packed desc = options.pack();
    Memory memory = Memory.of(data);
    try {
      handle.writing(
          "kvg_cache_extend_buffer", cache -> Raw.kvg_cache_extend_buffer(cache, memory.address(), memory.bytes(), desc.struct()));
    } finally {
      Reference.reachabilityFence(desc);
      Reference.reachabilityFence(memory);
    }
  }

  /**
   * Adds a saved range to the cache, from a stream, with the rules of {@link KvgRuntime#loadCache(KvgPlan, InputStream, LoadOptions)}. The
   * stream must not use this cache ({@link Status#STATE}).
   *
   * <p>From kvgear.h, kvg_cache_extend_stream:
   * <pre>
   * The same through a function.
   * </pre>
   *
   * @param in the saved range
   * @param options how
   */
  public void extend(InputStream in, LoadOptions options) {
    Objects.requireNonNull(in, "in");
    Packed desc = options.pack();
    try {
      handle.writing("kvg_cache_extend_stream", cache -> Transfer.extend(cache, desc.struct(), in));
    } finally {
      Reference.reachabilityFence(desc);
    }
  }

  /**
   * Memory and measured error of a layer or of {@link #ALL_LAYERS}.
   *
   * <p>From kvgear.h, kvg_cache_stats:
   * <pre>
   * Fills in the statistics of one layer or of KVG_ALL_LAYERS, for one side or both.
   * stats-&gt;struct_size must be set. Cost: O(segments).
   * </pre>
   *
   * @param layer the layer
   * @param side one side or both
   * @return the statistics
   */
  public Stats stats(int layer, Side side) {
    Objects.requireNonNull(side, "side");
    byte[] stats = Struct.make(org.kvgear.internal.Structs.KvgStats.SIZE);
    handle.reading("kvg_cache_stats", cache -> Raw.kvg_cache_stats(cache, layer, side.code(), stats));
    return Stats.unpack(stats);
  }
}
