package org.kvgear;

import java.io.InputStream;
import java.lang.ref.Cleaner;
import java.lang.ref.Reference;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.util.Objects;
import java.util.function.LongConsumer;
import org.kvgear.internal.Handle;
import org.kvgear.internal.Loader;
import org.kvgear.internal.Log;
import org.kvgear.internal.Raw;
import org.kvgear.internal.Transfer;

/**
 * Threads, memory and backends, shared by any number of caches. All methods may be called from any number of threads.
 */
public final class KvgRuntime implements AutoCloseable {
  private final Log log;
  private final Handle handle;
  private final Cleaner.Cleanable cleanable;

  private KvgRuntime(long pointer) {
    log = new Log();
    handle = new Handle("runtime", pointer, end(log));
    cleanable = Ends.when(this, handle);
  }

  /** Static, so that what is kept for the end does not refer to the runtime. */
  private static LongConsumer end(Log log) {
    return pointer ->
        log.outsideSink(
            () -> {
              try {
                log.set(pointer, null); // a cache that lives on must not call a sink that is gone
              } finally {
                Raw.kvg_runtime_destroy(pointer);
              }
            });
  }

  /**
   * Creates a runtime on the CPU, without worker threads or a budget.
   *
   * @return the runtime
   */
  public static KvgRuntime create() {
    return create(RuntimeOptions.DEFAULT);
  }

  /**
   * Creates a runtime.
   *
   * <p>From kvgear.h, kvg_runtime_create:
   * <pre>
   * Creates a runtime. options may be NULL (all defaults).
   * KVG_E_BACKEND if the device is not to be had (the sentence says what is missing).
   * out: the runtime. Destroy with kvg_runtime_destroy.
   * </pre>
   *
   * @param options what it is to have
   * @return the runtime
   */
  public static KvgRuntime create(RuntimeOptions options) {
    Loader.load();
    long[] out = new long[1];
    Raw.kvg_runtime_create(options.pack(), out);
    return new KvgRuntime(out[0]);
  }

  /**
   * Ends the runtime's handle and removes the log sink. Caches of the runtime go on working. It may be called at any time and more
   * than once, but not by the log sink.
   *
   * <p>From kvgear.h, kvg_runtime_destroy:
   * <pre>
   * Ends the caller's handle. The runtime itself lives until its last cache is destroyed.
   * </pre>
   */
  @Override
  public void close() {
    log.refuseInSink("kvg_runtime_destroy");
    cleanable.clean();
  }

  /**
   * Creates an empty cache.
   *
   * <p>From kvgear.h, kvg_cache_create:
   * <pre>
   * Creates an empty cache.
   * out: the cache. Destroy with kvg_cache_destroy.
   * </pre>
   *
   * @param plan shape of the model and recipes of its layers
   * @return the cache
   */
  public KvgCache newCache(KvgPlan plan) {
    return open("kvg_cache_create", plan, (runtime, of, out) -> Raw.kvg_cache_create(runtime, of, out));
  }

  private interface Opening {
    void open(long runtime, long plan, long[] out);
  }

  private KvgCache open(String operation, KvgPlan plan, Opening call) {
    long[] out = new long[1];
    long runtime = handle.enter(operation);
    try {
      long of = plan.handle().enter(operation);
      try {
        call.open(runtime, of, out);
      } finally {
        plan.handle().leave();
      }
    } finally {
      handle.leave();
    }
    return new KvgCache(out[0], this, plan.shapeAtCreation());
  }

  /**
   * Makes a cache of the file that {@link KvgCache#save} wrote, with the same plan.
   *
   * <p>From kvgear.h, kvg_cache_load:
   * <pre>
   * Makes a cache of a saved one. Layers that were not saved are empty. The cache answers with the same
   * bits as the saved one, and goes on like it.
   * Cost: O(tokens); with `map` and `trust` one small step per sealed segment.
   * plan: the plan that the cache was saved with, or one of the same shape and recipes
   * path: terminated, as the system's functions take it
   * desc: may be NULL
   * out: the cache. Destroy with kvg_cache_destroy.
   * </pre>
   *
   * @param plan the plan that the cache was saved with, or one like it
   * @param path the file
   * @param options how
   * @return the cache
   */
  public KvgCache loadCache(KvgPlan plan, Path path, LoadOptions options) {
    final String operation = "kvg_cache_load";
    byte[] name = Texts.terminated(operation, "path", path.toString());
    Packed desc = options.pack();
    try {
      return open(operation, plan, (runtime, of, out) -> Raw.kvg_cache_load(runtime, of, name, desc.struct(), out));
    } finally {
      Reference.reachabilityFence(desc);
    }
  }

  /**
   * Makes a cache of a file, all of which is read and checked.
   *
   * @param plan the plan that the cache was saved with, or one like it
   * @param path the file
   * @return the cache
   */
  public KvgCache loadCache(KvgPlan plan, Path path) {
    return loadCache(plan, path, LoadOptions.DEFAULT);
  }

  /**
   * Makes a cache of what lies between position and limit of a buffer, which is not changed and not needed afterwards. One on Java's
   * heap is copied first.
   *
   * <p>From kvgear.h, kvg_cache_load_buffer:
   * <pre>
   * The same from a buffer, which may be longer than the saved cache and is not needed afterwards.
   * </pre>
   *
   * @param plan the plan that the cache was saved with, or one like it
   * @param data the saved cache; it may be longer
   * @param options how
   * @return the cache
   */
  public KvgCache loadCache(KvgPlan plan, ByteBuffer data, LoadOptions options) {
    Packed desc = options.pack();
    Memory memory = Memory.of(data);
    try {
      return open(
          "kvg_cache_load_buffer",
          plan,
          (runtime, of, out) -> Raw.kvg_cache_load_buffer(runtime, of, memory.address(), memory.bytes(), desc.struct(), out));
    } finally {
      Reference.reachabilityFence(desc);
      Reference.reachabilityFence(memory);
    }
  }

  /**
   * Makes a cache of what a stream gives, and reads no byte behind its end. What the stream throws ends it: the exception is of {@link
   * Status#IO}, and has what was thrown as its cause.
   *
   * <p>From kvgear.h, kvg_cache_load_stream:
   * <pre>
   * The same through a function; it is not asked for bytes behind the end of the saved cache.
   * </pre>
   *
   * <p>From kvgear.h, kvg_read_fn:
   * <pre>
   * Gives the next bytes of a saved cache.
   * Returns how many were given, 1 to `bytes`; 0 at the end; below 0 for a failure
   * </pre>
   *
   * @param plan the plan that the cache was saved with, or one like it
   * @param in the saved cache
   * @param options how
   * @return the cache
   */
  public KvgCache loadCache(KvgPlan plan, InputStream in, LoadOptions options) {
    Packed desc = options.pack();
    Objects.requireNonNull(in, "in");
    try {
      return open(
          "kvg_cache_load_stream", plan, (runtime, of, out) -> out[0] = Transfer.load(runtime, of, desc.struct(), in));
    } finally {
      Reference.reachabilityFence(desc);
    }
  }

  /**
   * Creates an empty store of caches by their tokens.
   *
   * <p>From kvgear.h, kvg_prefix_create:
   * <pre>
   * Creates an empty store.
   * budget: most bytes that it may hold, those that its caches share counted once; 0 = no limit
   * out: the store. Destroy with kvg_prefix_destroy.
   * </pre>
   *
   * @param budget most bytes that it may hold; 0 = no limit
   * @return the store
   */
  public KvgPrefix newPrefix(long budget) {
    long[] out = new long[1];
    long runtime = handle.enter("kvg_prefix_create");
    try {
      Raw.kvg_prefix_create(runtime, budget, out);
    } finally {
      handle.leave();
    }
    return new KvgPrefix(out[0], this);
  }

  /**
   * Sets the receiver of log lines, or with null removes it. It is called on any thread, one line at a time; threads that Java
   * does not know are attached as daemons for the call. It must not set the sink of this runtime or close it ({@link
   * Status#STATE}), nor use the cache whose call the line came from ({@link Status#STATE} too). What it throws goes to the thread's
   * handler of uncaught exceptions, and ends that call of it and nothing else.
   *
   * <p>From kvgear.h, kvg_runtime_set_log:
   * <pre>
   * Sets (or with NULL removes) the log sink. May be called at any time from any thread. When the
   * call returns, the former sink is not running and is never called again; so a sink must not call
   * kvg_runtime_set_log.
   * </pre>
   *
   * <p>From kvgear.h, kvg_log_fn:
   * <pre>
   * Receives log lines, one at a time; may be called from any thread that calls the library or that
   * it owns. The message is terminated, has no line break at its end and is valid during the call.
   * </pre>
   *
   * @param sink receives the lines, or null
   */
  public void setLog(LogSink sink) {
    final String operation = "kvg_runtime_set_log";
    log.refuseInSink(operation);
    long runtime = handle.enter(operation);
    try {
      log.set(runtime, sink == null ? null : (level, message) -> sink.log(LogLevel.of(level), message));
    } finally {
      handle.leave();
    }
  }

  /**
   * A line such as "cpu AVX3_ZEN4, 1 worker thread, no budget".
   *
   * <p>From kvgear.h, kvg_runtime_describe:
   * <pre>
   * Writes a line such as "cpu AVX3_ZEN4, 1 worker thread, no budget": for logs and bug reports, not
   * to be parsed.
   * needed: length with the terminator; may be NULL
   * </pre>
   *
   * @return the line
   */
  public String describe() {
    long runtime = handle.enter("kvg_runtime_describe");
    try {
      return Texts.ask((buffer, needed) -> Raw.kvg_runtime_describe(runtime, buffer, needed));
    } finally {
      handle.leave();
    }
  }

  /**
   * Bytes that the caches of this runtime hold.
   *
   * <p>From kvgear.h, kvg_runtime_memory:
   * <pre>
   * Bytes that the caches of this runtime hold now, as counted against the budget. Scratch memory of
   * a running call comes from the same allocator but is not counted; it is released before the call
   * returns.
   * </pre>
   *
   * @return the bytes
   */
  public long memory() {
    long[] bytes = new long[1];
    long runtime = handle.enter("kvg_runtime_memory");
    try {
      Raw.kvg_runtime_memory(runtime, bytes);
    } finally {
      handle.leave();
    }
    return bytes[0];
  }
}
