package org.kvgear;

import java.lang.ref.Cleaner;
import java.util.Optional;
import org.kvgear.internal.Handle;
import org.kvgear.internal.Raw;
import org.kvgear.internal.Struct;
import org.kvgear.internal.Structs.KvgPrefixStats;

/**
 * Caches of prompts that were seen, by their token ids, so that the next prompt with the same beginning need not be computed again. All
 * methods may be called from any number of threads at the same time. A store that is not closed ends when it is garbage.
 */
public final class KvgPrefix implements AutoCloseable {
  private final Handle handle;
  private final Cleaner.Cleanable cleanable;
  private final KvgRuntime runtime; // of the caches that it gives

  KvgPrefix(long pointer, KvgRuntime runtime) {
    this.runtime = runtime;
    handle = new Handle("prefix store", pointer, Raw::kvg_prefix_destroy);
    cleanable = Ends.when(this, handle);
  }

  /**
   * What was found: a cache, which the caller closes.
   *
   * @param cache a fork that holds just the beginning that was found
   * @param tokens how many tokens that are
   */
  public record Match(KvgCache cache, long tokens) implements AutoCloseable {
    @Override
    public void close() {
      cache.close();
    }
  }

  /**
   * Ends the store. It may be called at any time and more than once; calls under way end as if it had not been.
   *
   * <p>From kvgear.h, kvg_prefix_destroy:
   * <pre>
   * Ends the store and the caches in it, not those that it gave away.
   * </pre>
   */
  @Override
  public void close() {
    cleanable.clean();
  }

  /**
   * Stores a fork of a cache.
   *
   * <p>From kvgear.h, kvg_prefix_insert:
   * <pre>
   * Stores a fork of `cache` under the tokens that it holds, in place of one of the same plan and tokens.
   * If the budget does not suffice, those that were not used for longest make room; KVG_E_LIMIT if the cache
   * does not fit by itself.
   * Cost: O(segments + tokens).
   * tokens: ids of all tokens in every layer of the cache
   * </pre>
   *
   * @param tokens ids of all tokens that the cache holds, in every layer
   * @param cache the cache
   */
  public void insert(int[] tokens, KvgCache cache) {
    final String operation = "kvg_prefix_insert";
    long store = handle.enter(operation);
    try {
      cache.handle().reading(operation, c -> Raw.kvg_prefix_insert(store, tokens, c));
    } finally {
      handle.leave();
    }
  }

  /**
   * Finds the stored cache with the longest beginning in common with these tokens.
   *
   * <p>From kvgear.h, kvg_prefix_find:
   * <pre>
   * Finds the stored cache with the longest common beginning with these tokens, and gives a fork of it
   * that holds just that beginning, cut to the nearest length below where an exact cut is possible.
   * Cost: O(tokens), however many caches are stored.
   * plan: only caches of this plan are considered
   * matched: tokens that the fork holds; 0 if nothing was found
   * out: the fork, or NULL. Destroy with kvg_cache_destroy.
   * </pre>
   *
   * @param plan only caches of this plan are considered
   * @param tokens ids of a prompt
   * @return a fork that holds that beginning, or nothing
   */
  public Optional<Match> find(KvgPlan plan, int[] tokens) {
    final String operation = "kvg_prefix_find";
    long[] matched = new long[1];
    long[] out = new long[1];
    long store = handle.enter(operation);
    try {
      long of = plan.handle().enter(operation);
      try {
        Raw.kvg_prefix_find(store, of, tokens, matched, out);
      } finally {
        plan.handle().leave();
      }
    } finally {
      handle.leave();
    }
    return out[0] == 0 ? Optional.empty() : Optional.of(new Match(new KvgCache(out[0], runtime, plan.shapeAtCreation()), matched[0]));
  }

  /**
   * Drops all stored caches.
   *
   * <p>From kvgear.h, kvg_prefix_clear:
   * <pre>
   * Drops all stored caches.
   * </pre>
   */
  public void clear() {
    long store = handle.enter("kvg_prefix_clear");
    try {
      Raw.kvg_prefix_clear(store);
    } finally {
      handle.leave();
    }
  }

  /**
   * What the store holds and did.
   *
   * <p>From kvgear.h, kvg_prefix_read_stats:
   * <pre>
   * Fills in the statistics. stats-&gt;struct_size must be set.
   * </pre>
   *
   * @return the statistics
   */
  public PrefixStats stats() {
    byte[] stats = Struct.make(KvgPrefixStats.SIZE);
    long store = handle.enter("kvg_prefix_read_stats");
    try {
      Raw.kvg_prefix_read_stats(store, stats);
    } finally {
      handle.leave();
    }
    return PrefixStats.unpack(stats);
  }
}
