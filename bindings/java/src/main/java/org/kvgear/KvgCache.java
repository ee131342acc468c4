package org.kvgear;

import java.lang.ref.Cleaner;
import java.lang.ref.Reference;
import java.util.Objects;
import java.util.concurrent.locks.ReentrantReadWriteLock;
import org.kvgear.internal.Handle;
import org.kvgear.internal.Raw;
import org.kvgear.internal.RawConstants;
import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgAppendDesc;

/**
 * The compressed cache of one sequence: one compressed object per layer.
 *
 * <p>All methods may be called from any number of threads. Those that change the cache (append, truncate, clear) wait for those that
 * read it (attend, read, length, fork, stats), and these for the former; different caches, also forks of one another, are
 * independent. After {@link #close} every method fails with {@link Status#STATE}; calls that are under way when it is called
 * end as if it had not been. A cache that is not closed ends when it is garbage.
 */
public final class KvgCache implements AutoCloseable {
  /** As a layer number: every layer of the cache. */
  public static final int ALL_LAYERS = 0xFFFFFFFF;

  private final Handle handle;
  private final Cleaner.Cleanable cleanable;
  private final KvgRuntime runtime; // not garbage, with its log sink, as long as the cache is not
  private final Shape shape;
  private final ReentrantReadWriteLock lock = new ReentrantReadWriteLock(); // the C handle takes many readers or one writer

  KvgCache(long pointer, KvgRuntime runtime, Shape shape) {
    this.runtime = runtime;
    this.shape = shape;
    handle = new Handle("cache", pointer, Raw::kvg_cache_destroy);
    cleanable = Ends.when(this, handle);
  }

  /** Begins a call that reads, or one that writes; {@link #end} must end it. */
  private long begin(String operation, boolean writes) {
    long cache = handle.enter(operation);
    // A thread that is in a call already can only be here through the log sink, and would wait for itself.
    if (lock.isWriteLockedByCurrentThread() || lock.getReadHoldCount() > 0) {
      handle.leave();
      throw new KvgException(operation, RawConstants.KVG_E_STATE, "a log sink must not use the cache whose call its line came from");
    }
    if (writes) {
      lock.writeLock().lock();
    } else {
      lock.readLock().lock();
    }
    return cache;
  }

  private void end(boolean wrote) {
    if (wrote) {
      lock.writeLock().unlock();
    } else {
      lock.readLock().unlock();
    }
    handle.leave();
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
   * Appends tokens to one layer. Keys are given after rotary embedding. Full blocks of the oldest
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
    append(layer, k, v, k.length() / row, Strides.CONTIGUOUS, Strides.CONTIGUOUS);
  }

  /**
   * Appends tokens that lie in any order in memory. With negative strides the tensor begins at element [0, 0, 0], and only what
   * is behind it counts.
   *
   * <p>From kvgear.h, kvg_append_desc:
   * <pre>
   * How the tensors given to kvg_cache_append lie in memory. Shapes are [tokens, kv_heads, head_dim];
   * strides are in elements, as in DLPack, and may be negative. When the three strides of a tensor
   * are all 0 it is contiguous in that order.
   * </pre>
   *
   * @param layer the layer
   * @param k keys
   * @param v values, of the same type
   * @param tokens how many; 0 appends nothing
   * @param kStrides how the keys lie in memory
   * @param vStrides how the values do
   */
  public void append(int layer, Tensor k, Tensor v, long tokens, Strides kStrides, Strides vStrides) {
    final String operation = "kvg_cache_append";
    if (k.dtype() != v.dtype()) {
      throw KvgException.invalid(operation, "k and v differ in their element type");
    }
    byte[] desc = packAppend(k.dtype(), tokens, kStrides, vStrides);
    long cache = begin(operation, true);
    try {
      Raw.kvg_cache_append(cache, layer, k.address(operation), k.bytes(), v.address(operation), v.bytes(), desc);
    } finally {
      end(true);
      Reference.reachabilityFence(k);
      Reference.reachabilityFence(v);
    }
  }

  static byte[] packAppend(DType dtype, long tokens, Strides k, Strides v) {
    byte[] s = Struct.make(KvgAppendDesc.SIZE);
    Struct.putInt(s, KvgAppendDesc.DTYPE, dtype.code());
    Struct.putLong(s, KvgAppendDesc.TOKENS, tokens);
    Struct.putLong(s, KvgAppendDesc.K_TOKEN_STRIDE, k.token());
    Struct.putLong(s, KvgAppendDesc.K_HEAD_STRIDE, k.head());
    Struct.putLong(s, KvgAppendDesc.K_DIM_STRIDE, k.dim());
    Struct.putLong(s, KvgAppendDesc.V_TOKEN_STRIDE, v.token());
    Struct.putLong(s, KvgAppendDesc.V_HEAD_STRIDE, v.head());
    Struct.putLong(s, KvgAppendDesc.V_DIM_STRIDE, v.dim());
    return s;
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
    int queries = options.queries();
    if (queries == 0 && options.q().equals(Strides.CONTIGUOUS)) {
      queries = queriesOf(operation, q);
    }
    byte[] desc = options.pack(q.dtype(), out.dtype(), queries);
    long cache = begin(operation, false);
    try {
      Raw.kvg_cache_attend(cache, layer, q.address(operation), q.bytes(), out.writable(operation), out.bytes(), desc);
    } finally {
      end(false);
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
    int queries = options.queries();
    if (queries == 0 && options.q().equals(Strides.CONTIGUOUS)) {
      queries = queriesOf(operation, q);
    }
    byte[] desc = options.pack(q.dtype(), out.dtype(), queries);
    long cache = begin(operation, true);
    try {
      Raw.kvg_cache_attend_observe(cache, layer, q.address(operation), q.bytes(), out.writable(operation), out.bytes(), desc);
    } finally {
      end(true);
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
    long cache = begin("kvg_cache_held", false);
    try {
      Raw.kvg_cache_held(cache, layer, slots);
    } finally {
      end(false);
    }
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
    long cache = begin("kvg_cache_select", true);
    try {
      Raw.kvg_cache_select(cache, layer);
    } finally {
      end(true);
    }
  }

  private int queriesOf(String operation, Tensor q) {
    long row = (long) shape.qHeads() * shape.headDim();
    long queries = q.length() / row;
    if (q.length() % row != 0 || queries == 0 || queries > Integer.MAX_VALUE) {
      throw KvgException.invalid(operation, "q has " + q.length() + " elements, which is not a multiple of q_heads * head_dim = " + row);
    }
    return (int) queries;
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
    long cache = begin(operation, false);
    try {
      Raw.kvg_cache_read(
          cache, layer, side.code(), firstToken, tokens, out.dtype().code(), out.writable(operation), out.bytes());
    } finally {
      end(false);
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
    long cache = begin("kvg_cache_length", false);
    try {
      Raw.kvg_cache_length(cache, layer, tokens);
    } finally {
      end(false);
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
    long cache = begin("kvg_cache_truncate", true);
    try {
      Raw.kvg_cache_truncate(cache, layer, tokens);
    } finally {
      end(true);
    }
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
    long cache = begin("kvg_cache_clear", true);
    try {
      Raw.kvg_cache_clear(cache);
    } finally {
      end(true);
    }
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
    long cache = begin("kvg_cache_fork", false);
    try {
      Raw.kvg_cache_fork(cache, out);
    } finally {
      end(false);
    }
    return new KvgCache(out[0], runtime, shape);
  }

  /**
   * Saves the cache to a file.
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
   */
  public void save(java.nio.file.Path path) {
    String operation = "kvg_cache_save";
    byte[] name = Texts.terminated(operation, "path", path.toString());
    long cache = begin(operation, false);
    try {
      Raw.kvg_cache_save(cache, name, null);
    } finally {
      end(false);
    }
  }

  /**
   * Adds a saved range to the cache.
   *
   * <p>From kvgear.h, kvg_cache_extend:
   * <pre>
   * Adds a saved range to a cache: layers that it lacks, or the tokens that follow those that it holds.
   * Each saved layer must begin where the cache's ends; a range that begins in compressed tokens needs a
   * cache without uncompressed ones, so hand a sequence over in ranges that were saved one behind another.
   * </pre>
   *
   * @param path the file
   */
  public void extend(java.nio.file.Path path) {
    String operation = "kvg_cache_extend";
    byte[] name = Texts.terminated(operation, "path", path.toString());
    long cache = begin(operation, true);
    try {
      Raw.kvg_cache_extend(cache, name, null);
    } finally {
      end(true);
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
    long cache = begin("kvg_cache_stats", false);
    try {
      Raw.kvg_cache_stats(cache, layer, side.code(), stats);
    } finally {
      end(false);
    }
    return Stats.unpack(stats);
  }
}
