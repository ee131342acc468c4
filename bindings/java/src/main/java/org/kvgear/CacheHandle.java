package org.kvgear;

import java.util.concurrent.locks.ReentrantReadWriteLock;
import org.kvgear.internal.Handle;
import org.kvgear.internal.Raw;
import org.kvgear.internal.RawConstants;

/** The handle of a cache in C, which takes many readers or one writer at a time. Must not refer to its KvgCache. */
final class CacheHandle {
  interface Call {
    void on(long cache);
  }

  interface Listing {
    void ask(long cache, long[] list, long[] needed);
  }

  private final Handle handle;
  private final ReentrantReadWriteLock lock = new ReentrantReadWriteLock();

  CacheHandle(long pointer) {
    handle = new Handle("cache", pointer, Raw::kvg_cache_destroy);
  }

  /** What ends it. */
  Handle ends() {
    return handle;
  }

  /** The handle in C, which may have ended. */
  long pointer() {
    return handle.pointer();
  }

  /** Begins a call that reads, or one that writes; {@link #end} must end it. */
  long begin(String operation, boolean writes) {
    long cache = handle.enter(operation);
    // A thread that is in a call already can only be here through a log sink or a stream, and would wait for itself.
    if (lock.isWriteLockedByCurrentThread() || lock.getReadHoldCount() > 0) {
      handle.leave();
      throw new KvgException(
          operation, RawConstants.KVG_E_STATE, "a log sink or a stream must not use the cache whose call it is called by");
    }
    if (writes) {
      lock.writeLock().lock();
    } else {
      lock.readLock().lock();
    }
    return cache;
  }

  void end(boolean wrote) {
    if (wrote) {
      lock.writeLock().unlock();
    } else {
      lock.readLock().unlock();
    }
    handle.leave();
  }

  /** Runs a call that does not change the cache. */
  void reading(String operation, Call call) {
    long cache = begin(operation, false);
    try {
      call.on(cache);
    } finally {
      end(false);
    }
  }

  /** Runs a call that changes it. */
  void writing(String operation, Call call) {
    long cache = begin(operation, true);
    try {
      call.on(cache);
    } finally {
      end(true);
    }
  }

  /** Asks for a list of numbers: for its length, and then, before anything can change it, for all of it. */
  long[] list(String operation, Listing listing) {
    long[] needed = new long[1];
    long[][] all = new long[1][];
    reading(operation, cache -> {
      listing.ask(cache, new long[0], needed);
      all[0] = new long[Math.toIntExact(needed[0])];
      if (needed[0] > 0) {
        listing.ask(cache, all[0], needed);
      }
    });
    return all[0];
  }
}
